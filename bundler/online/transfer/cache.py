"""A shelf of files, each named by its own hash.

Files are written under names of their own, made read-only, and renamed when they are whole, so that two builds
at once can't harm one another and a file that stands on the shelf is a whole one. One that is damaged later is
noticed by whoever packs it, because packing hashes what it writes.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import FetchError
from bundler.format import hashing
from bundler.format.hashing import Sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[a-z0-9-]+-[0-9a-f]{40,64}")
_EMPTY_SHA256 = hashing.compute_sha256(b"")
_FILE_MODE = 0o444


@dataclass(frozen=True, slots=True)
class FileCache:
    """A folder of files that are named by their SHA-256 (64 lower-case hexadecimal digits)."""

    root: Path

    @classmethod
    def from_environment(cls) -> FileCache:
        """The shelf of whoever runs this: BUNDLE_CACHE, or a folder of the user's cache (XDG Base Directory)."""
        if told := os.environ.get("BUNDLE_CACHE"):
            return cls(Path(told).absolute())
        cache = os.environ.get("XDG_CACHE_HOME", "")
        return cls((Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "airgap-bundler")

    def get_path(self, sha256: str) -> Path:
        """Where a file stands, or will stand once it is here."""
        return self.root / "files" / _check_sha256(sha256)[:2] / sha256

    def find(self, sha256: str, size: int | None = None) -> Path | None:
        """Where a file stands, or None when it is not here, or not of ``size`` bytes where that is known."""
        place = self.get_path(sha256)
        if not place.is_file():
            return None
        found = place.stat().st_size
        # A crash of the machine can leave a renamed file without its content.
        emptied = not found and sha256 != _EMPTY_SHA256
        return None if emptied or size not in (None, found) else place

    def require(self, sha256: str) -> Path:
        """Where a file stands; raises FetchError when it is not here."""
        if place := self.find(sha256):
            return place
        hint = "run the build again: it brings home what is missing"
        raise FetchError(f"sha256 {sha256} is not on the shelf", where=str(self.root), hint=hint)

    def put_bytes(self, data: bytes) -> Sha256:
        """Put ``data`` here; its SHA-256."""
        sha256 = hashing.compute_sha256(data)
        if not self.find(sha256, len(data)):
            with self.temporary_path() as path:
                path.write_bytes(data)
                self.move_in(path, sha256)
        return sha256

    def copy_in(self, source: Path) -> tuple[int, Sha256]:
        """Put a copy of a file here, sharing its extents where the file system can; size in bytes and SHA-256.

        Raises OSError when it can't be read, EOFError when it shrinks meanwhile.
        """
        with self.temporary_path() as path:
            reading = hashing.open_to_read(source)
            try:
                size = os.fstat(reading).st_size
                writing = hashing.open_to_write(path)
                try:
                    with hashing.HashingCopier(max_workers=1) as copier:
                        sha256 = copier.copy(hashing.FileSource(reading), size, writing, 0).result()
                finally:
                    os.close(writing)
            finally:
                os.close(reading)
            return self.move_in(path, sha256)

    def move_in(self, path: Path, sha256: Sha256 | None = None) -> tuple[int, Sha256]:
        """Take a whole file that was written below ``root``; it is gone from ``path``. Size in bytes and SHA-256.

        ``sha256`` spares hashing it again: give what was computed from the bytes in ``path`` and nothing else.
        """
        size = path.stat().st_size
        sha256 = sha256 or hashing.compute_file_sha256(path)[1]
        if self.find(sha256, size):
            path.unlink()
        else:
            place = self.get_path(sha256)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(_FILE_MODE)
            path.replace(place)
        return size, sha256

    def remove(self, sha256: str) -> None:
        """Take a file away, if it is here."""
        self.get_path(sha256).unlink(missing_ok=True)

    def record_key(self, key: str, sha256: str) -> None:
        """Note that the file is known by another digest too; ``name`` is that, such as ``git-blob-sha1-…``."""
        with self.temporary_path() as path:
            path.write_text(_check_sha256(sha256), encoding="ascii")
            path.replace(self._get_key_path(key))

    def find_by_key(self, key: str) -> Path | None:
        """Where the file stands that is known by ``name``. A note is only a note: see whether it is that file."""
        try:
            return self.find(self._get_key_path(key).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def get_partial_path(self, digest: str) -> Path:
        """Where a file grows that a later run may go on with; ``key`` is 64 hexadecimal digits that name it."""
        return self._make_subfolder("partial") / f"{_check_sha256(digest)}.partial"

    @contextmanager
    def temporary_path(self) -> Iterator[Path]:
        """A name for a new file that no other run has; what still bears it in the end is removed."""
        path = self._make_subfolder("incoming") / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _get_key_path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not such as git-blob-sha1-…")
        return self._make_subfolder("names") / key

    def _make_subfolder(self, name: str) -> Path:
        room = self.root / name
        room.mkdir(parents=True, exist_ok=True)
        return room


def _check_sha256(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not 64 lower-case hexadecimal digits")
    return sha256

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

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9-]+-[0-9a-f]{40,64}")
_OF_NOTHING = hashing.digest_of(b"")
_MODE = 0o444


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of files that are named by their SHA-256 (64 lower-case hexadecimal digits)."""

    root: Path

    @classmethod
    def of_this_user(cls) -> Store:
        """The shelf of whoever runs this: BUNDLE_CACHE, or a folder of the user's cache (XDG Base Directory)."""
        if told := os.environ.get("BUNDLE_CACHE"):
            return cls(Path(told).absolute())
        cache = os.environ.get("XDG_CACHE_HOME", "")
        return cls((Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "airgap-bundler")

    def place_of(self, sha256: str) -> Path:
        """Where a file stands, or will stand once it is here."""
        return self.root / "files" / _checked(sha256)[:2] / sha256

    def path_of(self, sha256: str, size: int | None = None) -> Path | None:
        """Where a file stands, or None when it is not here, or not of ``size`` bytes where that is known."""
        place = self.place_of(sha256)
        if not place.is_file():
            return None
        found = place.stat().st_size
        # A crash of the machine can leave a renamed file without its content.
        emptied = not found and sha256 != _OF_NOTHING
        return None if emptied or size not in (None, found) else place

    def required(self, sha256: str) -> Path:
        """Where a file stands; raises FetchError when it is not here."""
        if place := self.path_of(sha256):
            return place
        hint = "run the build again: it brings home what is missing"
        raise FetchError(f"sha256 {sha256} is not on the shelf", where=str(self.root), hint=hint)

    def put_bytes(self, data: bytes) -> Sha256:
        """Put ``data`` here; its SHA-256."""
        sha256 = hashing.digest_of(data)
        if not self.path_of(sha256, len(data)):
            with self.fresh() as path:
                path.write_bytes(data)
                self.adopt(path, sha256)
        return sha256

    def copy_in(self, source: Path) -> tuple[int, Sha256]:
        """Put a copy of a file here, sharing its extents where the file system can; size in bytes and SHA-256.

        Raises OSError when it can't be read, EOFError when it shrinks meanwhile.
        """
        with self.fresh() as path:
            reading = hashing.open_to_read(source)
            try:
                size = os.fstat(reading).st_size
                writing = hashing.open_to_write(path)
                try:
                    with hashing.HashingCopier(workers=1) as copier:
                        sha256 = copier.copy(hashing.FileSource(reading), size, writing, 0).result()
                finally:
                    os.close(writing)
            finally:
                os.close(reading)
            return self.adopt(path, sha256)

    def adopt(self, path: Path, sha256: Sha256 | None = None) -> tuple[int, Sha256]:
        """Take a whole file that was written below ``root``; it is gone from ``path``. Size in bytes and SHA-256.

        ``sha256`` spares hashing it again: give what was computed from the bytes in ``path`` and nothing else.
        """
        size = path.stat().st_size
        sha256 = sha256 or hashing.digest_of_file(path)[1]
        if self.path_of(sha256, size):
            path.unlink()
        else:
            place = self.place_of(sha256)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(_MODE)
            path.replace(place)
        return size, sha256

    def drop(self, sha256: str) -> None:
        """Take a file away, if it is here."""
        self.place_of(sha256).unlink(missing_ok=True)

    def remember(self, name: str, sha256: str) -> None:
        """Note that the file is known by another digest too; ``name`` is that, such as ``git-blob-sha1-…``."""
        with self.fresh() as path:
            path.write_text(_checked(sha256), encoding="ascii")
            path.replace(self._name(name))

    def recalled(self, name: str) -> Path | None:
        """Where the file stands that is known by ``name``. A note is only a note: see whether it is that file."""
        try:
            return self.path_of(self._name(name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def partial(self, key: str) -> Path:
        """Where a file grows that a later run may go on with; ``key`` is 64 hexadecimal digits that name it."""
        return self._room("partial") / f"{_checked(key)}.partial"

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A name for a new file that no other run has; what still bears it in the end is removed."""
        path = self._room("incoming") / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _name(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not such as git-blob-sha1-…")
        return self._room("names") / name

    def _room(self, name: str) -> Path:
        room = self.root / name
        room.mkdir(parents=True, exist_ok=True)
        return room


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not 64 lower-case hexadecimal digits")
    return digest

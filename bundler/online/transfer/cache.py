"""The builder's cache of files, each named by its SHA-256.

Each file is written under a unique temporary name, made read-only, and renamed when it is complete. So two builds
can run at once, and a file in the cache is complete. Packing hashes what it writes, and so finds a file that was
damaged later.
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
    """A folder of files named by their SHA-256 (64 lower-case hexadecimal digits)."""

    root: Path

    @classmethod
    def from_environment(cls) -> FileCache:
        """Return the cache in BUNDLE_CACHE, or else in the user's cache folder (XDG Base Directory)."""
        if folder := os.environ.get("BUNDLE_CACHE"):
            return cls(Path(folder).absolute())
        user_cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return cls((user_cache if user_cache.is_absolute() else Path.home() / ".cache") / "airgap-bundler")

    def get_path(self, sha256: str) -> Path:
        """Return the path that a file has in the cache, whether or not it is there."""
        return self.root / "files" / _check_sha256(sha256)[:2] / sha256

    def find(self, sha256: str, size: int | None = None) -> Path | None:
        """Return the path of a file; None where the cache does not have it, or not with ``size`` bytes."""
        path = self.get_path(sha256)
        if not path.is_file():
            return None
        actual_size = path.stat().st_size
        # A crash of the machine can leave a renamed file without its content.
        is_truncated = not actual_size and sha256 != _EMPTY_SHA256
        return None if is_truncated or size not in (None, actual_size) else path

    def require(self, sha256: str) -> Path:
        """Return the path of a file; raise FetchError where the cache does not have it."""
        if path := self.find(sha256):
            return path
        hint = "run the build again: it fetches missing files"
        raise FetchError(f"the cache has no file with sha256 {sha256}", where=str(self.root), hint=hint)

    def put_bytes(self, data: bytes) -> Sha256:
        """Store ``data`` and return its SHA-256."""
        sha256 = hashing.compute_sha256(data)
        if not self.find(sha256, len(data)):
            with self.temporary_path() as path:
                path.write_bytes(data)
                self.move_in(path, sha256)
        return sha256

    def copy_in(self, source: Path) -> tuple[int, Sha256]:
        """Store a copy of a file, which shares its extents where the file system can; return its size and SHA-256.

        Raises OSError where it can't be read, EOFError where it shrinks meanwhile.
        """
        with self.temporary_path() as path:
            source_fd = hashing.open_to_read(source)
            try:
                size = os.fstat(source_fd).st_size
                target_fd = hashing.open_to_write(path)
                try:
                    with hashing.HashingCopier(max_workers=1) as copier:
                        sha256 = copier.copy(hashing.FileSource(source_fd), size, target_fd, 0).result()
                finally:
                    os.close(target_fd)
            finally:
                os.close(source_fd)
            return self.move_in(path, sha256)

    def move_in(self, path: Path, sha256: Sha256 | None = None) -> tuple[int, Sha256]:
        """Move a complete file from below ``root`` to its place; return its size in bytes and SHA-256.

        ``sha256`` saves hashing it again: it must have been computed from the bytes in ``path``.
        """
        size = path.stat().st_size
        sha256 = sha256 or hashing.compute_file_sha256(path)[1]
        if self.find(sha256, size):
            path.unlink()
        else:
            target = self.get_path(sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(_FILE_MODE)
            path.replace(target)
        return size, sha256

    def remove(self, sha256: str) -> None:
        """Remove a file, if the cache has it."""
        self.get_path(sha256).unlink(missing_ok=True)

    def record_key(self, key: str, sha256: str) -> None:
        """Record another key of a file, such as ``git-blob-sha1-…``."""
        with self.temporary_path() as path:
            path.write_text(_check_sha256(sha256), encoding="ascii")
            path.replace(self._get_key_path(key))

    def find_by_key(self, key: str) -> Path | None:
        """Return the path of the file with another key. Unverified: the caller must hash the file again."""
        try:
            return self.find(self._get_key_path(key).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def get_partial_path(self, digest: str) -> Path:
        """Return the path of an incomplete download, which a later run resumes; ``digest`` is 64 hexadecimal digits."""
        return self._make_subfolder("partial") / f"{_check_sha256(digest)}.partial"

    @contextmanager
    def temporary_path(self) -> Iterator[Path]:
        """Yield a unique path for a new file; a file that is still there in the end is removed."""
        path = self._make_subfolder("incoming") / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _get_key_path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a key such as git-blob-sha1-…")
        return self._make_subfolder("names") / key

    def _make_subfolder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _check_sha256(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not 64 lower-case hexadecimal digits")
    return sha256

"""Free space, shared blocks, and files that are written completely or not at all."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import HostError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FICLONE = 0x40049409
"""ioctl_ficlone(2): makes a file share the blocks of another."""

_SAFE_OPEN_FLAGS: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Flags to open a file that anybody may have created: do not follow a link, do not wait for a pipe."""

FREE_SPACE_MARGIN = 64 << 20
"""Bytes that must stay free for folders, journals and receipts."""

_MIN_FREE_BYTES = 1 << 20
"""Bytes; with fewer free, a failed write is reported as a full disk."""


def find_existing_folder(path: Path) -> Path:
    """Return ``path`` or its nearest parent that exists."""
    return next(folder for folder in [path, *path.absolute().parents] if folder.exists())


def require_free_space(needs: Sequence[tuple[Path, int, str]]) -> None:
    """Check the free space of disks. Needs on one disk are added up.

    Args:
        needs: a folder on the disk, the number of bytes, and what they are for.

    Raises:
        HostError: A disk has too little free space.
    """
    by_disk: dict[int, list[tuple[Path, int, str]]] = {}
    for folder, needed, purpose in needs:
        by_disk.setdefault(find_existing_folder(folder).stat().st_dev, []).append((folder, needed, purpose))
    for disk_needs in by_disk.values():
        folder = disk_needs[0][0]
        needed = sum(size for _, size, _ in disk_needs) + FREE_SPACE_MARGIN
        free = shutil.disk_usage(find_existing_folder(folder)).free
        if free < needed:
            purposes = " and ".join(purpose for _, _, purpose in disk_needs)
            raise HostError(
                f"the disk is too small: {purposes} needs {needed:,} bytes and {free:,} are free",
                where=str(folder),
                hint=f"free {needed - free:,} bytes there, or choose a folder on another disk",
            )


def is_full(folder: Path) -> bool:
    """Return whether a disk has no space for a small file, or no inode for it."""
    if hasattr(os, "statvfs"):
        stats = os.statvfs(find_existing_folder(folder))
        if stats.f_files and not stats.f_favail:
            return True
    return shutil.disk_usage(find_existing_folder(folder)).free < _MIN_FREE_BYTES


def can_share_blocks(source: Path, folder: Path) -> bool:
    """Try whether copies of ``source`` into ``folder`` can share its blocks, as on XFS and btrfs."""
    if fcntl is None or not sys.platform.startswith("linux"):
        return False
    with source.open("rb") as file, tempfile.TemporaryFile(dir=find_existing_folder(folder)) as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, file.fileno())
        except OSError:
            return False
        return True


def sync_folder(folder: Path) -> None:
    """Sync the names in ``folder`` to the disk, where the system allows that."""
    if os.name == "nt":  # can't open a folder; NTFS journals names itself
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(folder: Path) -> None:
    """Sync everything below ``folder`` to the disk. Raises OSError when the disk reports an error."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(folder, os.O_RDONLY)
        try:
            if libc.syncfs(fd):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(folder))
        finally:
            os.close(fd)
    elif hasattr(os, "sync"):
        os.sync()


@contextmanager
def replace_file(path: Path, mode: int = 0o644) -> Iterator[int]:
    """Open a descriptor for the new content of ``path``, which is replaced completely and synced, or not at all.

    The content is written beside ``path`` under a unique name. Files left there by killed runs are removed.
    """
    with draft_file(path, mode) as draft:
        yield draft.fd


@dataclass(frozen=True, slots=True)
class DraftFile:
    """A file that is being written: its descriptor and its temporary path."""

    fd: int
    path: Path


@contextmanager
def draft_file(path: Path, mode: int = 0o644) -> Iterator[DraftFile]:
    """Open a file like ``replace_file``, and give its temporary path too, so that it can be checked before it is moved."""
    _remove_leftovers(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        try:
            _try_lock(fd)
            yield DraftFile(fd, partial)
            os.fsync(fd)
        finally:
            os.close(fd)
        partial.chmod(mode)
        partial.replace(path)
    except BaseException:  # Ctrl-C too leaves nothing half-written
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a small file completely and sync it, or leave the old one unchanged."""
    with replace_file(path, mode) as fd:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]


def has_content(path: Path, data: bytes) -> bool:
    """Return whether a file exists and has exactly these bytes."""
    try:
        return not path.is_symlink() and path.read_bytes() == data
    except OSError:
        return False


def is_locked_elsewhere(fd: int) -> bool:
    """Lock a file until it is closed, and return whether another run has locked it already.

    Returns False on a system or file system without such locks.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # another run may remove it at this moment
            fd = os.open(leftover, os.O_RDONLY | _SAFE_OPEN_FLAGS)
            try:
                if _try_lock(fd):
                    leftover.unlink()
            finally:
                os.close(fd)


def _try_lock(fd: int) -> bool:
    """Lock a file. Returns False if a running program has locked it, or if there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

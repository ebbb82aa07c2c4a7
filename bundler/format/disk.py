"""How much room a disk has, and whether a copy takes any of it."""

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
"""ioctl_ficlone(2): make one file share the blocks of another."""

_SAFE_OPEN_FLAGS: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Opens what anybody may have put there: no link is followed, and no pipe waited for."""

FREE_SPACE_MARGIN = 64 << 20
"""Bytes that must stay free besides: folders, journals, receipts."""


_MIN_FREE_BYTES = 1 << 20
"""Bytes: with fewer free, a failure to write is for want of room."""


def find_existing_folder(path: Path) -> Path:
    """The nearest folder above ``path``, or itself, that exists."""
    return next(folder for folder in [path, *path.absolute().parents] if folder.exists())


def require_free_space(needs: Sequence[tuple[Path, int, str]]) -> None:
    """Raises HostError when a disk has less free than is needed of it.

    Each need is a folder on the disk, bytes, and what they are for; needs of one disk add up.
    """
    by_disk: dict[int, list[tuple[Path, int, str]]] = {}
    for folder, needed, what in needs:
        by_disk.setdefault(find_existing_folder(folder).stat().st_dev, []).append((folder, needed, what))
    for together in by_disk.values():
        folder = together[0][0]
        needed = sum(need for _, need, _ in together) + FREE_SPACE_MARGIN
        free = shutil.disk_usage(find_existing_folder(folder)).free
        if free < needed:
            what = " and ".join(what for _, _, what in together)
            raise HostError(
                f"the disk is too small: {what} needs {needed:,} bytes and {free:,} are free",
                where=str(folder),
                hint=f"free {needed - free:,} bytes there, or choose a folder on another disk",
            )


def is_full(folder: Path) -> bool:
    """Whether a disk has no room left for as much as a small file, or no place for its name."""
    if hasattr(os, "statvfs"):
        there = os.statvfs(find_existing_folder(folder))
        if there.f_files and not there.f_favail:
            return True
    return shutil.disk_usage(find_existing_folder(folder)).free < _MIN_FREE_BYTES


def can_share_blocks(source: Path, folder: Path) -> bool:
    """Whether copies of ``source`` into ``folder`` share its blocks (XFS, btrfs), found out by trying."""
    if fcntl is None or not sys.platform.startswith("linux"):
        return False
    with source.open("rb") as there, tempfile.TemporaryFile(dir=find_existing_folder(folder)) as here:
        try:
            fcntl.ioctl(here.fileno(), _FICLONE, there.fileno())
        except OSError:
            return False
        return True


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` outlast a power cut, where the system lets one do so."""
    if os.name == "nt":  # Windows can't open a folder, and journals names by itself
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(folder: Path) -> None:
    """Make everything written below ``folder`` outlast a power cut. Raises OSError when the disk says no."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(folder, os.O_RDONLY)
        try:
            if libc.syncfs(fd):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        finally:
            os.close(fd)
    elif hasattr(os, "sync"):
        os.sync()


@contextmanager
def replace_file(path: Path, mode: int = 0o644) -> Iterator[int]:
    """A descriptor to write what will stand at ``path``: it appears there whole and synced, or not at all.

    It grows beside ``path`` under a name that no other run has; what killed runs left there is removed.
    """
    with draft_file(path, mode) as draft:
        yield draft.fd


@dataclass(frozen=True, slots=True)
class DraftFile:
    """A file that is not yet what it will be: a descriptor to write it, and its name until then."""

    fd: int
    path: Path


@contextmanager
def draft_file(path: Path, mode: int = 0o644) -> Iterator[DraftFile]:
    """As ``replacing``, for what must be looked at by name, by this program or another, before it may stand there."""
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
    """Write a small file so that it is there whole and synced, or as it was before."""
    with replace_file(path, mode) as fd:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]


def has_content(path: Path, data: bytes) -> bool:
    """Whether a file is there and has exactly these bytes."""
    try:
        return not path.is_symlink() and path.read_bytes() == data
    except OSError:
        return False


def is_locked_elsewhere(fd: int) -> bool:
    """Whether another run holds this file; where none does, this one holds it until it closes it.

    Never where that can't be known: on a system, or a file system, that has no such locks.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _remove_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # another run may end, and remove it, at this moment
            fd = os.open(left, os.O_RDONLY | _SAFE_OPEN_FLAGS)
            try:
                if _try_lock(fd):
                    left.unlink()
            finally:
                os.close(fd)


def _try_lock(fd: int) -> bool:
    """Take a file for this run; False where another run, which is alive, holds it, or where that can't be known."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""How much room a disk has, and whether a copy takes any of it."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bundler.errors import HostError

_FICLONE = 0x40049409
"""ioctl_ficlone(2): make one file share the blocks of another."""

MARGIN = 64 << 20
"""Bytes that must stay free besides: folders, journals, receipts."""


def existing(path: Path) -> Path:
    """The nearest folder above ``path``, or itself, that exists."""
    return next(folder for folder in [path, *path.absolute().parents] if folder.exists())


def require(path: Path, needed: int, what: str) -> None:
    """Raises HostError when the disk that holds ``path`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(existing(path)).free
    if free < needed + MARGIN:
        raise HostError(
            f"the disk is too small: {what} needs {needed + MARGIN:,} bytes and {free:,} are free",
            where=str(path),
            hint=f"free {needed + MARGIN - free:,} bytes there, or choose a folder on another disk",
        )


def shares_blocks(source: Path, folder: Path) -> bool:
    """Whether copies of ``source`` into ``folder`` share its blocks (XFS, btrfs), found out by trying."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl  # noqa: PLC0415 (Linux alone has this ioctl, and Windows no fcntl)

    with source.open("rb") as there, tempfile.TemporaryFile(dir=existing(folder)) as here:
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

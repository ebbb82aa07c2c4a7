"""The first bytes of a file, rewritten so that whatever happens the old or the new can be had again.

A head of 64 KiB and more is not written in one piece. Its new bytes stand in a file beside the bundle, whole and
synced, before the first of them is written in place, and are removed after the last one is safe.
"""

from __future__ import annotations

import os
from pathlib import Path

from bundler.format import disk, hashing


def beside(path: Path) -> Path:
    """Where the new bytes of a file stand while they are written into it; links are followed.

    The name is one that goes with the other leftovers when a file is written anew (see disk.replacing).
    """
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name.lstrip('.')}.head.partial")


def rewrite(path: Path, head: bytes) -> None:
    """Write ``head`` over the first bytes of a file. Raises OSError; the new bytes may then be left beside it."""
    disk.write_whole(beside(path), head)
    put(path, head)
    drop(path)


def put(path: Path, head: bytes) -> None:
    """Write over the first bytes of a file, and see them safely on the disk."""
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        hashing.write_at(fd, head, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def drop(path: Path) -> None:
    """Remove the new bytes from beside a file, once they stand in it."""
    beside(path).unlink(missing_ok=True)
    disk.sync_folder(beside(path).parent)

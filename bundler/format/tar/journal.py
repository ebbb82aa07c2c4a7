"""The first bytes of a file, rewritten so that whatever happens the old or the new can be had again.

A head of 64 KiB and more is not written in one piece. Its new bytes stand in a file beside the bundle, whole and
synced, before the first of them is written in place, and are removed after the last one is safe.
"""

from __future__ import annotations

import os
from pathlib import Path

from bundler.format import disk, hashing


def get_journal_path(path: Path) -> Path:
    """Where the new bytes of a file stand while they are written into it; links are followed.

    The name is one that goes with the other leftovers when a file is written anew (see disk.replacing).
    """
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name.lstrip('.')}.head.partial")


def rewrite_head(path: Path, head: bytes) -> None:
    """Write ``head`` over the first bytes of a file. Raises OSError; the new bytes may then be left beside it."""
    disk.write_atomically(get_journal_path(path), head)
    write_head(path, head)
    remove_journal(path)


def write_head(path: Path, head: bytes) -> None:
    """Write over the first bytes of a file, and see them safely on the disk."""
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        hashing.write_at(fd, head, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_journal(path: Path) -> None:
    """Remove the new bytes from beside a file, once they stand in it."""
    get_journal_path(path).unlink(missing_ok=True)
    disk.sync_folder(get_journal_path(path).parent)

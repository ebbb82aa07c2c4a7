"""Rewriting the head of a bundle so that no interruption can lose it.

A head of 64 KiB or more can't be written atomically. Its new bytes are first written to a journal beside the bundle and
synced, then written in place. The journal is removed at the end.
"""

from __future__ import annotations

import os
from pathlib import Path

from bundler.format import disk, hashing


def get_journal_path(path: Path) -> Path:
    """Return the path of the journal of a bundle. Links are followed.

    Its name is one that ``disk.replace_file`` removes as a leftover when the bundle is written again.
    """
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name.lstrip('.')}.head.partial")


def rewrite_head(path: Path, head: bytes) -> None:
    """Write ``head`` over the first bytes of a file. After an OSError the journal may be left beside it."""
    disk.write_atomically(get_journal_path(path), head)
    write_head(path, head)
    remove_journal(path)


def write_head(path: Path, head: bytes) -> None:
    """Write over the first bytes of a file and sync them."""
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        hashing.write_at(fd, head, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_journal(path: Path) -> None:
    """Remove the journal after its bytes are in the file."""
    get_journal_path(path).unlink(missing_ok=True)
    disk.sync_folder(get_journal_path(path).parent)

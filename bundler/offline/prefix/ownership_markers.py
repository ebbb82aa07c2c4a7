"""Which folders of a prefix this program made, while no receipt says so.

A mark stands beside such a folder from before it is made until a receipt speaks of it, and from before that receipt
goes until the folder is gone. So whatever a run was killed at is known for what it is, and what somebody else keeps
in a prefix, under whatever name, is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bundler.format import disk
from bundler.format.lock import lockfile

_MARKER_PREFIX, _MARKER_SUFFIX = ".", ".made"


def get_marker(folder: Path) -> Path:
    """Where the mark of a folder stands."""
    return folder.with_name(f"{_MARKER_PREFIX}{folder.name}{_MARKER_SUFFIX}")


def add_marker(folder: Path) -> None:
    """Mark a folder that will be made, or whose receipt will go. The mark has one time: it is in layers of images."""
    mark = get_marker(folder)
    mark.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    os.close(os.open(mark, flags, 0o644))
    os.utime(mark, (lockfile.ZIP_EPOCH, lockfile.ZIP_EPOCH))
    disk.sync_folder(mark.parent)


def has_marker(folder: Path) -> bool:
    """Whether a folder is marked."""
    return get_marker(folder).is_file()


def remove_marker(folder: Path) -> None:
    """Unmark a folder of which a receipt speaks, or which is gone."""
    if os.path.lexists(get_marker(folder)):
        disk.sync_folder(folder.parent)  # after a power cut the folder must not be there again without it
        get_marker(folder).unlink()


def iter_marked(parent: Path) -> Iterator[Path]:
    """The folders of ``above`` that are marked, whether or not they are there."""
    for mark in parent.glob(f"{_MARKER_PREFIX}*{_MARKER_SUFFIX}"):
        yield mark.with_name(mark.name.removeprefix(_MARKER_PREFIX).removesuffix(_MARKER_SUFFIX))

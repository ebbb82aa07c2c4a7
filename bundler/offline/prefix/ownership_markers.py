"""Markers of the folders in a prefix that this program made, for the time in which no receipt lists them.

The marker is a file beside the folder. It is written before the folder is made and removed once a receipt lists the
folder; it is written again before that receipt is removed and stays until the folder is gone. So leftovers of a killed
run are recognized, and folders that somebody else keeps in the prefix are never taken for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bundler.format import disk
from bundler.format.lock import lockfile

_MARKER_PREFIX, _MARKER_SUFFIX = ".", ".made"


def get_marker(folder: Path) -> Path:
    """Return the path of a folder's marker."""
    return folder.with_name(f"{_MARKER_PREFIX}{folder.name}{_MARKER_SUFFIX}")


def add_marker(folder: Path) -> None:
    """Mark a folder before it is made, or before its receipt is removed.

    The marker's time is constant, since image layers contain it.
    """
    marker = get_marker(folder)
    marker.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    os.close(os.open(marker, flags, 0o644))
    os.utime(marker, (lockfile.ZIP_EPOCH, lockfile.ZIP_EPOCH))
    disk.sync_folder(marker.parent)


def has_marker(folder: Path) -> bool:
    """Return whether a folder is marked."""
    return get_marker(folder).is_file()


def remove_marker(folder: Path) -> None:
    """Unmark a folder that a receipt lists, or that is gone."""
    if os.path.lexists(get_marker(folder)):
        disk.sync_folder(folder.parent)  # after a power cut the folder must not come back unmarked
        get_marker(folder).unlink()


def iter_marked(parent: Path) -> Iterator[Path]:
    """Yield the marked folders in ``parent``, whether or not they exist."""
    for marker in parent.glob(f"{_MARKER_PREFIX}*{_MARKER_SUFFIX}"):
        yield marker.with_name(marker.name.removeprefix(_MARKER_PREFIX).removesuffix(_MARKER_SUFFIX))

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

_BEFORE, _BEHIND = ".", ".made"


def of(folder: Path) -> Path:
    """Where the mark of a folder stands."""
    return folder.with_name(f"{_BEFORE}{folder.name}{_BEHIND}")


def put(folder: Path) -> None:
    """Mark a folder that will be made, or whose receipt will go. The mark has one time: it is in layers of images."""
    mark = of(folder)
    mark.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    os.close(os.open(mark, flags, 0o644))
    os.utime(mark, (lockfile.EPOCH, lockfile.EPOCH))
    disk.sync_folder(mark.parent)


def stands(folder: Path) -> bool:
    """Whether a folder is marked."""
    return of(folder).is_file()


def drop(folder: Path) -> None:
    """Unmark a folder of which a receipt speaks, or which is gone."""
    if os.path.lexists(of(folder)):
        disk.sync_folder(folder.parent)  # after a power cut the folder must not be there again without it
        of(folder).unlink()


def marked(above: Path) -> Iterator[Path]:
    """The folders of ``above`` that are marked, whether or not they are there."""
    for mark in above.glob(f"{_BEFORE}*{_BEHIND}"):
        yield mark.with_name(mark.name.removeprefix(_BEFORE).removesuffix(_BEHIND))

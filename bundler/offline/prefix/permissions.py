"""Who else could write where this installs, and what they may have planted there.

Programs that this runs (venv, uv, pip) write by path, so that no care of ours at each write could keep a link out
that another user plants in between. What can: that no other user may write there at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bundler.errors import UnsafeError

try:
    import grp
    import pwd
except ImportError:  # Windows, where other rules hold
    grp = None  # type: ignore[assignment]
    pwd = None  # type: ignore[assignment]

_OWN_FOLDERS = ("models", "releases")
"""Folders of a prefix that only the installer writes to; ``var`` may belong to a service."""
_VENV_LINKS = ("lib64",)
_MAX_LINKS = 40
"""Links that Linux follows on one way."""


def require_exclusive_access(prefix: Path) -> None:
    """Raises UnsafeError where another user without rights could put something in the way of what is written.

    That is a prefix, or its folder of models or releases, that belongs to another, or that others may write to; a
    folder on the way to it from which others may rename away what leads there; and a link on the way, or a folder
    that a link leads through, of another. Root, and the owners and groups of the folders above the prefix, as it is
    named and as it is, are trusted.
    """
    if pwd is None:
        return
    for folder in (prefix, *(prefix / name for name in _OWN_FOLDERS)):
        if folder.is_dir() and (why := _find_other_writer(folder.stat())):
            raise UnsafeError(
                f"another user could change what is installed here: {why}", where=str(folder), hint=_SHARED_HINT
            )
    real = Path(os.path.realpath(prefix))
    above = {*prefix.parents, *real.parents}
    for place in _walk_path(prefix):
        known = place.lstat()
        owner = "" if known.st_uid in (0, os.geteuid()) else _get_user_name(known.st_uid)
        if stat.S_ISLNK(known.st_mode):
            if owner:
                raise UnsafeError(
                    f"this is a link of {owner}, who may have it lead elsewhere",
                    where=str(place),
                    hint=f"give the folder itself: --prefix {real}",
                )
        elif owner and place not in above and place != real:
            raise UnsafeError(
                f"a link leads through this folder of {owner}, who may have it lead elsewhere",
                where=str(place),
                hint=f"give the folder itself: --prefix {real}",
            )
        elif place != real and known.st_mode & stat.S_IWOTH and not known.st_mode & stat.S_ISVTX:
            raise UnsafeError(
                "anybody may write to this folder, and put another in the prefix's place",
                where=str(place),
                hint=f"chmod o-w {place}, or chmod +t {place}; or choose a --prefix elsewhere",
            )


def _walk_path(prefix: Path) -> list[Path]:
    """Every folder and link that the system passes on its way to ``prefix``, as far as they are there.

    Raises UnsafeError where links lead round in a circle.
    """
    at, left, links = Path(prefix.anchor), [*reversed(prefix.parts[1:])], 0
    passed = [at]
    while left:
        part = left.pop()
        at = at.parent if part == ".." else at / part
        if at.is_symlink():
            passed.append(at)
            links += 1
            if links > _MAX_LINKS:
                hint = "give the folder itself, or choose another --prefix"
                raise UnsafeError("the links on the way to it lead to no folder", where=str(prefix), hint=hint)
            to = at.readlink()
            left += reversed(to.parts[1:] if to.is_absolute() else to.parts)
            at = Path(to.anchor) if to.is_absolute() else at.parent
        elif at.is_dir():
            passed.append(at)
        else:
            break
    return list(dict.fromkeys(passed))


_SHARED_HINT = (
    "give it to the user who installs (chown), let nobody else write there (chmod go-w), or choose another --prefix"
)


def _find_other_writer(status: os.stat_result) -> str:
    """Who besides root and this user may write to a folder, in words; "" for nobody."""
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to {_get_user_name(status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return "anybody may write to it"
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid, status.st_uid):
        return f"its group, number {status.st_gid}, may write to it"
    return ""


def _get_user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"


def _is_private_group(group_id: int, user_id: int) -> bool:
    """Whether a group is its owner's alone, as many systems make one for each user."""
    try:
        known, name = grp.getgrgid(group_id), pwd.getpwuid(user_id).pw_name
    except KeyError:
        return group_id == user_id
    return known.gr_name == name and set(known.gr_mem) <= {name}


def refuse_unexpected_symlinks(prefix: Path, release: Path) -> None:
    """Raises UnsafeError for links among what was installed that would have it written elsewhere."""
    for place in _find_unexpected_symlinks(prefix, release):
        raise UnsafeError(
            "this is a link, and what is written would follow it",
            where=str(place),
            hint="remove it, or put the folder itself there: what is installed never leaves the prefix",
        )
    live = prefix / "current"
    if live.exists() and not live.is_symlink():
        hint = "move it away: this program keeps a link there"
        raise UnsafeError("this is no link, and must be one", where=str(live), hint=hint)


def _find_unexpected_symlinks(prefix: Path, release: Path) -> Iterator[Path]:
    for name in _OWN_FOLDERS:
        for place in (prefix / name).glob("*") if (prefix / name).is_dir() else ():
            if place.is_symlink():
                yield place
    for above, names, _ in os.walk(release):
        if Path(above) in (release / "models", release / ".work"):
            names.clear()  # links, each made anew where it is wrong; and what goes whole before anything is written
        for name in names:
            if name not in _VENV_LINKS and Path(above, name).is_symlink():
                yield Path(above, name)

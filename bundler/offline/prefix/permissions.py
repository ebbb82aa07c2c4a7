"""Checks that no other user can write to the prefix, and that it holds no unexpected links.

The programs that we run (venv, uv, pip) write by path, so a check before each write could not stop another user from
placing a link in between. The only safe prefix is one that no other user may write to.
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
except ImportError:  # Windows has other permissions
    grp = None  # type: ignore[assignment]
    pwd = None  # type: ignore[assignment]

_OWN_FOLDERS = ("models", "releases")
"""Folders of a prefix that only the installer writes to; ``var`` may belong to a service."""
_VENV_LINKS = ("lib64",)
_MAX_LINKS = 40
"""Links that Linux follows in one path."""


def require_exclusive_access(prefix: Path) -> None:
    """Raise UnsafeError if another unprivileged user could redirect or change what is installed.

    Refused are:

    - a prefix, or its folder of models or releases, that another user owns or may write to,
    - a folder on the path to it in which others may rename entries,
    - a link of another user on the path, or a folder of another user that a link leads through.

    Root is trusted, and so are the owners and groups of the folders above the prefix, with links kept and resolved.
    """
    if pwd is None:
        return
    for folder in (prefix, *(prefix / name for name in _OWN_FOLDERS)):
        if folder.is_dir() and (reason := _find_other_writer(folder.stat())):
            raise UnsafeError(
                f"another user could change what is installed here: {reason}", where=str(folder), hint=_SHARED_HINT
            )
    real_prefix = Path(os.path.realpath(prefix))
    trusted_folders = {*prefix.parents, *real_prefix.parents}
    for path in _walk_path(prefix):
        status = path.lstat()
        other_owner = "" if status.st_uid in (0, os.geteuid()) else _get_user_name(status.st_uid)
        if stat.S_ISLNK(status.st_mode):
            if other_owner:
                raise UnsafeError(
                    f"this is a link of {other_owner}, who can point it elsewhere",
                    where=str(path),
                    hint=f"give the folder itself: --prefix {real_prefix}",
                )
        elif other_owner and path not in trusted_folders and path != real_prefix:
            raise UnsafeError(
                f"a link leads through this folder of {other_owner}, who can point it elsewhere",
                where=str(path),
                hint=f"give the folder itself: --prefix {real_prefix}",
            )
        elif path != real_prefix and status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise UnsafeError(
                "anybody may write to this folder, and replace the prefix with another folder",
                where=str(path),
                hint=f"chmod o-w {path}, or chmod +t {path}; or choose a --prefix elsewhere",
            )


def _walk_path(prefix: Path) -> list[Path]:
    """Return every folder and link that the system resolves on the path to ``prefix``, as far as they exist.

    Raises:
        UnsafeError: The links form a circle.
    """
    current, parts, link_count = Path(prefix.anchor), [*reversed(prefix.parts[1:])], 0
    resolved = [current]
    while parts:
        part = parts.pop()
        current = current.parent if part == ".." else current / part
        if current.is_symlink():
            resolved.append(current)
            link_count += 1
            if link_count > _MAX_LINKS:
                hint = "give the folder itself, or choose another --prefix"
                raise UnsafeError("the links on the path to it lead to no folder", where=str(prefix), hint=hint)
            target = current.readlink()
            parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            current = Path(target.anchor) if target.is_absolute() else current.parent
        elif current.is_dir():
            resolved.append(current)
        else:
            break
    return list(dict.fromkeys(resolved))


_SHARED_HINT = (
    "give it to the user who installs (chown), let nobody else write there (chmod go-w), or choose another --prefix"
)


def _find_other_writer(status: os.stat_result) -> str:
    """Describe who besides root and this user may write to a folder; "" if nobody."""
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
    """Return whether a group has only its user as member: many systems make such a group for each user."""
    try:
        group, name = grp.getgrgid(group_id), pwd.getpwuid(user_id).pw_name
    except KeyError:
        return group_id == user_id
    return group.gr_name == name and set(group.gr_mem) <= {name}


def refuse_unexpected_symlinks(prefix: Path, release: Path) -> None:
    """Raise UnsafeError for a link among the installed folders: files would be written outside the prefix."""
    for path in _find_unexpected_symlinks(prefix, release):
        raise UnsafeError(
            "this is a link: files would be written where it leads",
            where=str(path),
            hint="remove it, or put a real folder there: everything is installed inside the prefix",
        )
    live = prefix / "current"
    if live.exists() and not live.is_symlink():
        hint = "move it elsewhere: this program keeps a link there"
        raise UnsafeError("this must be a link, but is not", where=str(live), hint=hint)


def _find_unexpected_symlinks(prefix: Path, release: Path) -> Iterator[Path]:
    for name in _OWN_FOLDERS:
        for path in (prefix / name).glob("*") if (prefix / name).is_dir() else ():
            if path.is_symlink():
                yield path
    for parent, names, _ in os.walk(release):
        if Path(parent) in (release / "models", release / ".work"):
            names.clear()  # "models" holds links, replaced if wrong; ".work" is removed before anything is written
        for name in names:
            if name not in _VENV_LINKS and Path(parent, name).is_symlink():
                yield Path(parent, name)

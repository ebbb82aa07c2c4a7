"""The guard: sets the variables that keep libraries on this host, at each start of Python, before any import.

A copy of this file is in the environment's site-packages as ``_airgap_guard.py``; a line in ``00-airgap-guard.pth``
calls `begin`. Python runs such lines whatever its options are, except ``-S``. Variables that are already set win:
``kept`` lists those with another value.

The release may be read-only for its users, so the guard also chooses where libraries write, for the user of this
process: see `_choose_cache`.
"""

import os
import stat
import sys

variables_set: list[str] = []
kept: dict[str, str] = {}
began = False

_VALUES_FILE = "_airgap_guard.env"
_STRICT = "strict"
_CACHE = "{cache}"
_CHOSEN = "BUNDLE_GUARD_CACHE"
_USER_CACHE = "XDG_CACHE_HOME"
_FOLDER = "airgap-guard"


def begin() -> None:
    """Set the variables that are not set. An error is written to standard error and Python still starts.

    With ``BUNDLE_GUARD=strict``, connections are refused too, and an error stops Python.
    """
    global began  # noqa: PLW0603 - the smoke load reads it from the module
    strict = os.environ.get("BUNDLE_GUARD") == _STRICT
    try:
        with open(os.path.join(os.path.dirname(__file__), _VALUES_FILE), encoding="utf-8") as values:
            _set_variables(values.read().splitlines())
        if strict:
            _block_connections()
        began = True
    except Exception as error:  # no error may stop every Python of the release from starting
        if sys.stderr is not None:
            sys.stderr.write(
                f"airgap guard: {error!r}; libraries may call home. Install the bundle again, or source .env.offline.\n"
            )
        if strict:
            raise SystemExit(
                "airgap guard: BUNDLE_GUARD=strict could not be set up, so Python does not start"
            ) from error


def _set_variables(lines: list[str]) -> None:
    """Set the variables of the values file: its first line is the folder ``var`` of the prefix, each other one a variable."""
    caches: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition("=")
        if value.startswith(_CACHE):
            caches[name] = value[len(_CACHE) + 1 :]
            continue
        current = os.environ.setdefault(name, value)
        if current != value:
            kept[name] = value
        else:
            variables_set.append(name)
    _set_caches(caches, lines[0])


def _set_caches(folders: dict[str, str], var: str) -> None:
    """Set the variables of cache folders.

    Values that the guard of a parent process chose are chosen again: that process may have had another user.
    """
    inherited = os.environ.get(_CHOSEN, "")
    if inherited:
        for name, folder in [*folders.items(), (_USER_CACHE, "")]:
            if os.environ.get(name) in (inherited, os.path.join(inherited, folder)):
                del os.environ[name]
    if all(name in os.environ for name in folders):
        return
    own = _get_user_cache()
    cache = _choose_cache([var, inherited, own], list(folders.values()))
    os.environ[_CHOSEN] = cache or var
    for name, folder in folders.items():
        # torch makes this folder when it is imported and fails if it can't; var exists
        os.environ.setdefault(name, os.path.join(cache, folder) if cache else var)
    if cache and cache != own and not _is_usable(own):
        os.environ.setdefault(_USER_CACHE, cache)


def _get_user_cache() -> str:
    """Return the guard's folder in this user's cache folder; "" without a home."""
    parent = os.environ.get(_USER_CACHE, "")
    if not os.path.isabs(parent):
        home = os.path.expanduser("~")
        parent = os.path.join(home, ".cache") if os.path.isabs(home) and os.path.isdir(home) else ""
    return os.path.join(parent, _FOLDER) if parent else ""


def _choose_cache(candidates: list[str], folders: list[str]) -> str:
    """Return the first folder that only this user can write to: libraries run code that they find there.

    If no candidate is such a folder, a private one in the folder for temporary files; "" if there is none either.
    """
    for cache in candidates:
        if all(_is_usable(os.path.join(cache, folder) if cache else "") for folder in folders):
            return cache
    return _make_private_folder()


def _is_usable(folder: str) -> bool:
    """Whether only this user can write to a folder, or could make it, if it does not exist yet."""
    if not folder:
        return False
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        status = os.stat(folder)
    except OSError:
        return False
    # A container's volume belongs to root; by naming it in the variable, the user says that it is theirs.
    is_named = folder == os.path.normpath(os.environ.get(_USER_CACHE, "")) and status.st_uid == 0
    return stat.S_ISDIR(status.st_mode) and (is_named or _is_ours(status)) and os.access(folder, os.W_OK | os.X_OK)


def _is_ours(status: os.stat_result) -> bool:
    """Whether only this user can write. A user's own group has the user's number and no other member."""
    if not hasattr(os, "geteuid"):
        return True  # Windows: a user's folders are closed to others
    is_shared = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != status.st_uid)
    return status.st_uid == os.geteuid() and not is_shared


def _make_private_folder() -> str:
    """Find or make a temporary folder that nobody else can enter, the same one at each start; "" if that fails.

    Others can make folders beside it, so its name is random, and only the owner and the mode of an existing folder
    say whether it is ours.
    """
    start = f"{_FOLDER}-{os.geteuid() if hasattr(os, 'geteuid') else 'user'}-"
    for parent in _list_temporary_folders():
        try:
            for name in sorted(os.listdir(parent)):
                if name.startswith(start) and _is_private(os.path.join(parent, name)):
                    return os.path.join(parent, name)
            folder = os.path.join(parent, start + os.urandom(8).hex())
            os.mkdir(folder, 0o700)
        except OSError:  # closed, full or read-only
            continue
        return folder
    return ""


def _list_temporary_folders() -> list[str]:
    """List the folders for temporary files that belong to this user or to root.

    Folders where others could replace ours come last. They are not excluded: in a container, /tmp may be such a
    volume, with no other user.
    """
    safe: list[str] = []
    shared: list[str] = []
    for folder in (os.environ.get("TMPDIR"), os.environ.get("TEMP"), os.environ.get("TMP"), "/tmp", "/var/tmp"):  # noqa: S108 - their owners are checked
        if not folder or not os.path.isabs(folder) or not os.path.isdir(folder):
            continue
        status = os.stat(folder)
        if not hasattr(os, "geteuid") or status.st_uid in (0, os.geteuid()):
            is_shared = status.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and not status.st_mode & stat.S_ISVTX
            (shared if is_shared else safe).append(folder)
    return safe + shared


def _is_private(folder: str) -> bool:
    status = os.lstat(folder)
    is_closed = not status.st_mode & 0o077 or not hasattr(os, "geteuid")
    return stat.S_ISDIR(status.st_mode) and is_closed and _is_ours(status) and os.access(folder, os.W_OK | os.X_OK)


def _block_connections() -> None:
    """Load the connection blocker from the payload, beside the environment: it is too slow for every start."""
    import importlib.util  # noqa: PLC0415 - slower than the rest of the guard

    folder = os.path.join(os.path.dirname(sys.prefix), "payload")
    spec = importlib.util.spec_from_file_location("_airgap_payload", os.path.join(folder, "__main__.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} does not exist")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    importlib.import_module(f"{module.register_package()}.network.connection_blocker").start_blocking()

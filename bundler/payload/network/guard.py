"""Sets the variables that keep libraries on this host, before any of them is imported, at every start of Python.

A copy of this file stands in the environment's site-packages as ``_airgap_guard.py``; the line in
``00-airgap-guard.pth`` calls `begin`. Python runs such lines whatever its options are, except ``-S``. Variables that
are set already win: ``kept`` tells which ones differ.

The release may be read-only for whoever uses it, so where libraries write is decided here, for the user of this
process: see `_cache_folder`.
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
    """Sets what is not set. A fault here is said on standard error and does not keep Python from starting.

    Under ``BUNDLE_GUARD=strict`` it does: who asks for that wants no start without it.
    """
    global began  # noqa: PLW0603 - a module is the one thing that the proof of a smoke load can look at
    strict = os.environ.get("BUNDLE_GUARD") == _STRICT
    try:
        with open(os.path.join(os.path.dirname(__file__), _VALUES_FILE), encoding="utf-8") as values:
            _set_variables(values.read().splitlines())
        if strict:
            _block_connections()
        began = True
    except Exception as error:  # whatever it is, it must not keep every Python of the release from starting
        if sys.stderr is not None:
            sys.stderr.write(
                f"airgap guard: {error!r}; libraries may call home. Install the bundle again, or source .env.offline.\n"
            )
        if strict:
            raise SystemExit("airgap guard: BUNDLE_GUARD=strict can not be kept, so Python does not start") from error


def _set_variables(lines: list[str]) -> None:
    """The first line is the folder ``var`` of the prefix, each other one a variable."""
    caches: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition("=")
        if value.startswith(_CACHE):
            caches[name] = value[len(_CACHE) + 1 :]
            continue
        here = os.environ.setdefault(name, value)
        if here != value:
            kept[name] = value
        else:
            variables_set.append(name)
    _set_caches(caches, lines[0])


def _set_caches(folders: dict[str, str], var: str) -> None:
    """Values that a parent process's guard chose are no wish of the user: its user may have been another."""
    before = os.environ.get(_CHOSEN, "")
    if before:
        for name, folder in [*folders.items(), (_USER_CACHE, "")]:
            if os.environ.get(name) in (before, os.path.join(before, folder)):
                del os.environ[name]
    if all(name in os.environ for name in folders):
        return
    own = _own_cache()
    cache = _cache_folder([var, before, own], list(folders.values()))
    os.environ[_CHOSEN] = cache or var
    for name, folder in folders.items():
        # var is there, and torch fails where it can not make this folder when it is imported
        os.environ.setdefault(name, os.path.join(cache, folder) if cache else var)
    if cache and cache != own and not _is_usable(own):
        os.environ.setdefault(_USER_CACHE, cache)


def _own_cache() -> str:
    """The guard's folder below this user's cache folder; "" without a home."""
    above = os.environ.get(_USER_CACHE, "")
    if not os.path.isabs(above):
        home = os.path.expanduser("~")
        above = os.path.join(home, ".cache") if os.path.isabs(home) and os.path.isdir(home) else ""
    return os.path.join(above, _FOLDER) if above else ""


def _cache_folder(wanted: list[str], folders: list[str]) -> str:
    """The first folder that this user alone can write to; libraries run code that they find there.

    Where none of ``wanted`` is such, it is a private one below the folder for temporary files; "" where this user can
    write nowhere.
    """
    for cache in wanted:
        if all(_is_usable(os.path.join(cache, folder) if cache else "") for folder in folders):
            return cache
    return _private_folder()


def _is_usable(folder: str) -> bool:
    """Whether this user can write to a folder, and nobody else can; one that is not there yet can be made so."""
    if not folder:
        return False
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        known = os.stat(folder)
    except OSError:
        return False
    # a volume of a container is root's, and the user who names it says that it is theirs
    named = folder == os.path.normpath(os.environ.get(_USER_CACHE, "")) and known.st_uid == 0
    return stat.S_ISDIR(known.st_mode) and (named or _is_ours(known)) and os.access(folder, os.W_OK | os.X_OK)


def _is_ours(known: os.stat_result) -> bool:
    """A group of the user's own, as most systems make one, has the user's number and nobody else in it."""
    if not hasattr(os, "geteuid"):
        return True  # Windows, where folders of a user are closed to others
    shared = known.st_mode & stat.S_IWOTH or (known.st_mode & stat.S_IWGRP and known.st_gid != known.st_uid)
    return known.st_uid == os.geteuid() and not shared


def _private_folder() -> str:
    """A folder for temporary files that nobody else can enter, the same one at each start; "" where none can be made.

    Others can make folders beside it, so its name can't be foreseen, and the owner and the mode of one that is there
    decide whether it is ours.
    """
    start = f"{_FOLDER}-{os.geteuid() if hasattr(os, 'geteuid') else 'user'}-"
    for above in _temporary_folders():
        try:
            for name in sorted(os.listdir(above)):
                if name.startswith(start) and _is_private(os.path.join(above, name)):
                    return os.path.join(above, name)
            made = os.path.join(above, start + os.urandom(8).hex())
            os.mkdir(made, 0o700)
        except OSError:  # closed, full or read-only
            continue
        return made
    return ""


def _temporary_folders() -> list[str]:
    """Those of this user or of root; first such where others can't put another folder in the place of ours.

    The last ones are not left out: in a container /tmp may be such a volume, with nobody else in it.
    """
    apart: list[str] = []
    shared: list[str] = []
    for folder in (os.environ.get("TMPDIR"), os.environ.get("TEMP"), os.environ.get("TMP"), "/tmp", "/var/tmp"):  # noqa: S108 - their owners are looked at
        if not folder or not os.path.isabs(folder) or not os.path.isdir(folder):
            continue
        known = os.stat(folder)
        if not hasattr(os, "geteuid") or known.st_uid in (0, os.geteuid()):
            open_to_all = known.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and not known.st_mode & stat.S_ISVTX
            (shared if open_to_all else apart).append(folder)
    return apart + shared


def _is_private(folder: str) -> bool:
    known = os.lstat(folder)
    closed = not known.st_mode & 0o077 or not hasattr(os, "geteuid")
    return stat.S_ISDIR(known.st_mode) and closed and _is_ours(known) and os.access(folder, os.W_OK | os.X_OK)


def _block_connections() -> None:
    """The rest of the payload lies beside the environment: what refuses calls is too much for every start."""
    import importlib.util  # noqa: PLC0415 - takes longer than all of the rest

    folder = os.path.join(os.path.dirname(sys.prefix), "payload")
    door = importlib.util.spec_from_file_location("_airgap_door", os.path.join(folder, "__main__.py"))
    if door is None or door.loader is None:
        raise ImportError(f"{folder} is not there")
    module = importlib.util.module_from_spec(door)
    door.loader.exec_module(module)
    importlib.import_module(f"{module.register_package()}.network.connection_blocker").start_blocking()

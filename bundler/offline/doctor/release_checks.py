"""Whether an installed release is all there, and as it was installed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from bundler.errors import ProgramError
from bundler.format.lock.lockfile import Lock
from bundler.offline import altered_files, findings, placement, smoke
from bundler.offline.environment import guard, hub_cache, installed_files, venv
from bundler.offline.environment.guard import Guard
from bundler.offline.findings import Finding
from bundler.offline.prefix import releases
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import dockerfile, env_file
from bundler.offline.trust import trusted_keys
from bundler.progress import Report

_MADE_AT_IMPORT = "TORCHINDUCTOR_CACHE_DIR"
"""torch makes this folder when it is imported, and fails where it can't."""

_RIGHT = "all there, of the right size"


def content(release: Release, locked: Lock, report: Report, *, deep: bool) -> list[Finding]:
    """The files of the models, and of all that stands beside the environment as in the bundle: there, of the right
    size and, when ``deep``, of the right bytes."""
    right = "every byte is what the bundle brought" if deep else _RIGHT
    return [
        findings.files(part.name, part.count, part.altered, right)
        for part in altered_files.content(release, locked, report, deep=deep)
    ]


def interpreter(release: Release, locked: Lock) -> Finding:
    """Whether the environment's Python starts, and is the one that the release needs."""
    if fault := venv.fault_of(release, locked):
        hint = f"install CPython {locked.target.python} on this host if it is gone, then install the same bundle again"
        return findings.critical("python", fault, where=release.python, hint=hint)
    return findings.healthy("python", f"CPython {locked.target.python} starts")


def installed_packages(release: Release, locked: Lock, report: Report, *, deep: bool) -> list[Finding]:
    """The installed packages against what their wheels' RECORDs say, and files that no wheel brought."""
    if not locked.python.packages:
        return []
    part, files = altered_files.environment(release, locked, report, deep=deep)
    right = "every byte is what the wheels brought" if deep else _RIGHT
    found = [findings.files(part.name, part.count, part.altered, right, part.packages)]
    if not part.altered:
        hint = "if nobody on this host put it there on purpose, remove it: Python may run it"
        found += [
            findings.warning("packages", f"{path.name} was brought by no wheel", where=path, hint=hint)
            for path in installed_files.strangers(release, locked, files)
        ]
    return found


def rendered(release: Release, locked: Lock) -> list[Finding]:
    """The files that the installer writes for services and for itself."""
    found: list[Finding] = []
    for name, text in (
        (env_file.ENV_FILE, env_file.env_text(locked, release.prefix)),
        (dockerfile.DOCKERFILE, dockerfile.dockerfile_text(locked, trusted_keys.remembered(release.prefix))),
    ):
        try:
            same = (release.path / name).read_bytes() == text.encode()
        except OSError as error:
            found.append(findings.critical(name, f"can't be read: {error.strerror}", where=release.path / name))
            continue
        if same:
            found.append(findings.healthy(name, "as the installer renders it"))
        else:
            hint = "installing the same bundle again renders it anew; values of your own belong in a file of your own"
            message = "is not what this version of the installer renders"
            found.append(findings.warning(name, message, where=release.path / name, hint=hint))
    return found


def hub_view(release: Release, locked: Lock) -> list[Finding]:
    """The links by which libraries find the models."""
    count = len(hub_cache.links(release, locked)) + len(hub_cache.texts(release, locked))
    if not count:
        return []
    return [findings.files("hub view", count, hub_cache.faults(release, locked), "every link leads where it must")]


def payload(release: Release, locked: Lock) -> list[Finding]:
    """What 'bundle smoke' runs inside the environment, and what the environment runs at each start."""
    differing = [*smoke.differing(release), *guard.differing(release, locked)]
    if differing:
        count = "one file is not that" if len(differing) == 1 else f"{len(differing)} files are not those"
        message = f"{count} of this version of the installer: {differing[0].name}"
        return [findings.warning("payload", message, where=differing[0], hint=findings.MEND)]
    return [findings.healthy("payload", "as this version of the installer lays it out")]


def guarded(release: Release, locked: Lock) -> list[Finding]:
    """Whether a start of the release's Python is guarded, which variables of this environment win over it, and
    whether libraries have a folder to write to: for this user, and for one who may only read."""
    try:
        found = guard.state(release, locked)
    except ProgramError:  # Python does not start, which is a finding of its own
        return []
    if not found.ran:
        where = guard.site_packages(release, locked) / guard.PATH_FILE
        return [findings.critical("guard", "does not run: libraries may call home", where=where, hint=findings.MEND)]
    hint = "unset it where the service starts, if that is not meant"
    told = [
        findings.warning("guard", f"{name}={here} is set here and wins over the release's {wanted}", hint=hint)
        for name, (here, wanted) in found.overridden.items()
    ]
    told += _caches(release, locked, found, "this user")
    if (reader := guard.state_for_reader(release)) is not None:
        told += _caches(release, locked, reader, "a user who may only read what is installed")
    return told or [findings.healthy("guard", "each start of Python sets the offline variables")]


def _caches(release: Release, locked: Lock, found: Guard, user: str) -> list[Finding]:
    """One finding for all folders that libraries write to and ``user`` can't, if any."""
    if not found.closed:
        return []
    message = f"{user} can't write where {', '.join(found.closed)} lead"
    if any(os.environ.get(name) == found.caches[name] for name in found.closed):
        hint = "unset them where the service starts, or have them lead to folders of the service's user"
    elif all(Path(found.caches[name]) == release.writable for name in found.closed):
        hint = "set XDG_CACHE_HOME to a folder of the service's user, or give it a folder for temporary files"
    else:
        hint = findings.MEND
    made_at_import = found.caches.get(_MADE_AT_IMPORT, "")
    torch = any(package.name == "torch" for package in locked.python.packages)
    if torch and _MADE_AT_IMPORT in found.closed and not Path(made_at_import).is_dir():
        message = f"{message}; torch can't be imported: it makes {made_at_import}"
        return [findings.critical("guard", message, where=made_at_import, hint=hint)]
    return [findings.warning("guard", message, where=found.caches[found.closed[0]], hint=hint)]


def leftovers(release: Release) -> list[Finding]:
    """What a run left that was killed, or has made so far if it is still at work."""
    prefix = release.prefix
    left = [*releases.unfinished(prefix), *releases.unheld_models(prefix)]
    left += [path for path in (release.work, prefix / ".current.new") if os.path.lexists(path)]
    hint = (
        "an install is at work, or one did not end: the same install goes on from it; another install, or bundle prune, "
        "removes it"
    )
    found = [
        findings.warning("leftovers", f"{path.name} belongs to no release", where=path, hint=hint) for path in left
    ]
    hint = "nothing here touches it; a prefix of its own keeps things apart"
    return found + [
        findings.warning("leftovers", f"{path.name} was not made by this program", where=path, hint=hint)
        for path in releases.strangers(prefix)
    ]


def permissions(release: Release, locked: Lock) -> list[Finding]:
    """Whether this user, and others such as a service's, can read the release."""
    entries = [*_reached(release, locked)]
    found = [
        findings.critical(
            "permissions",
            f"{path.name} can't be read by this user",
            where=path,
            hint="let it be read by the user that the service runs as",
        )
        for path in entries
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    ]
    if os.name != "nt":
        shut = [path for path in [*release.prefix.parents, *entries] if not _open_to_others(path)]
        hint = "a service of another user can't start from here: chmod o+rX, or choose a --prefix that others can reach"
        found += [
            findings.warning("permissions", f"{path} is closed to other users", where=path, hint=hint)
            for path in shut[:1]
        ]
        found += [] if shut else _closed_interpreter(release)
    return found or [findings.healthy("permissions", "this user and others can read all")]


def _closed_interpreter(release: Release) -> list[Finding]:
    """Whether other users can start the Python that the environment was made from, which may be this user's own."""
    interpreter = release.python.resolve()
    for path in _existing([*reversed(interpreter.parents), interpreter]):
        if not _open_to_others(path):
            message = f"other users can't start {interpreter}: {path} is closed to them"
            hint = "chmod o+rX, or install into another --prefix by a Python that they can start, such as the system's"
            return [findings.warning("permissions", message, where=path, hint=hint)]
    return []


def _reached(release: Release, locked: Lock) -> Iterator[Path]:
    """What a service reads, as far as it is there: folders before the files in them."""
    homes = [release.shared_models / model.home for model in locked.models]
    files = [release.shared_models / m.home / a.path[len(m.folder) :] for m, files in locked.by_model() for a in files]
    files += [release.path / one.path for one in locked.artifacts if one.kind in placement.IN_THE_RELEASE]
    folders = [release.prefix, release.path.parent, release.path, release.shared_models, *homes]
    files += [release.path / env_file.ENV_FILE, release.venv / "pyvenv.cfg"]
    yield from _existing([*folders, release.venv, *_folders_of(files), *files])


def _folders_of(files: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(file.parent for file in files))


def _existing(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in dict.fromkeys(paths) if os.path.lexists(path))


def _open_to_others(path: Path) -> bool:
    mode = path.stat().st_mode
    needed = stat.S_IXOTH | stat.S_IROTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & needed == needed

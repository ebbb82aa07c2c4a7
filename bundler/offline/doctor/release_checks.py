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
from bundler.offline.environment.guard import GuardState
from bundler.offline.findings import Finding
from bundler.offline.prefix import releases
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import dockerfile, env_file
from bundler.offline.trust import trusted_keys
from bundler.progress import Reporter

_IMPORT_TIME_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""torch makes this folder when it is imported, and fails where it can't."""

_SIZES_INTACT = "all there, of the right size"


def check_content(release: Release, lock: Lock, reporter: Reporter, *, deep: bool) -> list[Finding]:
    """The files of the models, and of all that stands beside the environment as in the bundle: there, of the right
    size and, when ``deep``, of the right bytes."""
    right = "every byte is what the bundle brought" if deep else _SIZES_INTACT
    return [
        findings.make_file_findings(part.name, part.count, part.altered, right)
        for part in altered_files.check_content(release, lock, reporter, deep=deep)
    ]


def check_interpreter(release: Release, lock: Lock) -> Finding:
    """Whether the environment's Python starts, and is the one that the release needs."""
    if fault := venv.find_interpreter_problem(release, lock):
        hint = f"install CPython {lock.target.python} on this host if it is gone, then install the same bundle again"
        return findings.make_critical("python", fault, where=release.python, hint=hint)
    return findings.make_healthy("python", f"CPython {lock.target.python} starts")


def check_packages(release: Release, lock: Lock, reporter: Reporter, *, deep: bool) -> list[Finding]:
    """The installed packages against what their wheels' RECORDs say, and files that no wheel brought."""
    if not lock.python.packages:
        return []
    part, files = altered_files.check_environment(release, lock, reporter, deep=deep)
    right = "every byte is what the wheels brought" if deep else _SIZES_INTACT
    found = [findings.make_file_findings(part.name, part.count, part.altered, right, part.packages)]
    if not part.altered:
        hint = "if nobody on this host put it there on purpose, remove it: Python may run it"
        found += [
            findings.make_warning("packages", f"{path.name} was brought by no wheel", where=path, hint=hint)
            for path in installed_files.find_unknown_files(release, lock, files)
        ]
    return found


def check_rendered_files(release: Release, lock: Lock) -> list[Finding]:
    """The files that the installer writes for services and for itself."""
    found: list[Finding] = []
    for name, text in (
        (env_file.ENV_FILE, env_file.render_env_file(lock, release.prefix)),
        (
            dockerfile.DOCKERFILE_NAME,
            dockerfile.render_dockerfile(lock, trusted_keys.read_stored_policy(release.prefix)),
        ),
    ):
        try:
            same = (release.path / name).read_bytes() == text.encode()
        except OSError as error:
            found.append(findings.make_critical(name, f"can't be read: {error.strerror}", where=release.path / name))
            continue
        if same:
            found.append(findings.make_healthy(name, "as the installer renders it"))
        else:
            hint = "installing the same bundle again renders it anew; values of your own belong in a file of your own"
            message = "is not what this version of the installer renders"
            found.append(findings.make_warning(name, message, where=release.path / name, hint=hint))
    return found


def check_hub_view(release: Release, lock: Lock) -> list[Finding]:
    """The links by which libraries find the models."""
    count = len(hub_cache.list_links(release, lock)) + len(hub_cache.list_texts(release, lock))
    if not count:
        return []
    return [
        findings.make_file_findings(
            "hub view", count, hub_cache.find_problems(release, lock), "every link leads where it must"
        )
    ]


def check_payload(release: Release, lock: Lock) -> list[Finding]:
    """What 'bundle smoke' runs inside the environment, and what the environment runs at each start."""
    differing = [*smoke.find_changed_payload(release), *guard.find_differing_files(release, lock)]
    if differing:
        count = "one file is not that" if len(differing) == 1 else f"{len(differing)} files are not those"
        message = f"{count} of this version of the installer: {differing[0].name}"
        return [findings.make_warning("payload", message, where=differing[0], hint=findings.REINSTALL_HINT)]
    return [findings.make_healthy("payload", "as this version of the installer lays it out")]


def check_guard(release: Release, lock: Lock) -> list[Finding]:
    """Whether a start of the release's Python is guarded, which variables of this environment win over it, and
    whether libraries have a folder to write to: for this user, and for one who may only read."""
    try:
        found = guard.read_state(release, lock)
    except ProgramError:  # Python does not start, which is a finding of its own
        return []
    if not found.has_run:
        where = guard.get_site_packages(release, lock) / guard.PTH_FILE
        return [
            findings.make_critical(
                "guard", "does not run: libraries may call home", where=where, hint=findings.REINSTALL_HINT
            )
        ]
    hint = "unset it where the service starts, if that is not meant"
    told = [
        findings.make_warning("guard", f"{name}={here} is set here and wins over the release's {wanted}", hint=hint)
        for name, (here, wanted) in found.overridden_variables.items()
    ]
    told += _check_caches(release, lock, found, "this user")
    if (reader := guard.read_reader_state(release)) is not None:
        told += _check_caches(release, lock, reader, "a user who may only read what is installed")
    return told or [findings.make_healthy("guard", "each start of Python sets the offline variables")]


def _check_caches(release: Release, lock: Lock, found: GuardState, user: str) -> list[Finding]:
    """One finding for all folders that libraries write to and ``user`` can't, if any."""
    if not found.unwritable:
        return []
    message = f"{user} can't write where {', '.join(found.unwritable)} lead"
    if any(os.environ.get(name) == found.caches[name] for name in found.unwritable):
        hint = "unset them where the service starts, or have them lead to folders of the service's user"
    elif all(Path(found.caches[name]) == release.writable_folder for name in found.unwritable):
        hint = "set XDG_CACHE_HOME to a folder of the service's user, or give it a folder for temporary files"
    else:
        hint = findings.REINSTALL_HINT
    made_at_import = found.caches.get(_IMPORT_TIME_CACHE, "")
    torch = any(package.name == "torch" for package in lock.python.packages)
    if torch and _IMPORT_TIME_CACHE in found.unwritable and not Path(made_at_import).is_dir():
        message = f"{message}; torch can't be imported: it makes {made_at_import}"
        return [findings.make_critical("guard", message, where=made_at_import, hint=hint)]
    return [findings.make_warning("guard", message, where=found.caches[found.unwritable[0]], hint=hint)]


def check_leftovers(release: Release) -> list[Finding]:
    """What a run left that was killed, or has made so far if it is still at work."""
    prefix = release.prefix
    left = [*releases.find_unfinished(prefix), *releases.find_unused_models(prefix)]
    left += [path for path in (release.work_folder, prefix / ".current.new") if os.path.lexists(path)]
    hint = (
        "an install is at work, or one did not end: the same install goes on from it; another install, or bundle prune, "
        "removes it"
    )
    found = [
        findings.make_warning("leftovers", f"{path.name} belongs to no release", where=path, hint=hint) for path in left
    ]
    hint = "nothing here touches it; a prefix of its own keeps things apart"
    return found + [
        findings.make_warning("leftovers", f"{path.name} was not made by this program", where=path, hint=hint)
        for path in releases.find_unknown_files(prefix)
    ]


def check_permissions(release: Release, lock: Lock) -> list[Finding]:
    """Whether this user, and others such as a service's, can read the release."""
    entries = [*_iter_service_files(release, lock)]
    found = [
        findings.make_critical(
            "permissions",
            f"{path.name} can't be read by this user",
            where=path,
            hint="let it be read by the user that the service runs as",
        )
        for path in entries
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    ]
    if os.name != "nt":
        shut = [path for path in [*release.prefix.parents, *entries] if not _is_open_to_others(path)]
        hint = "a service of another user can't start from here: chmod o+rX, or choose a --prefix that others can reach"
        found += [
            findings.make_warning("permissions", f"{path} is closed to other users", where=path, hint=hint)
            for path in shut[:1]
        ]
        found += [] if shut else _check_interpreter_access(release)
    return found or [findings.make_healthy("permissions", "this user and others can read all")]


def _check_interpreter_access(release: Release) -> list[Finding]:
    """Whether other users can start the Python that the environment was made from, which may be this user's own."""
    interpreter = release.python.resolve()
    for path in _select_existing([*reversed(interpreter.parents), interpreter]):
        if not _is_open_to_others(path):
            message = f"other users can't start {interpreter}: {path} is closed to them"
            hint = "chmod o+rX, or install into another --prefix by a Python that they can start, such as the system's"
            return [findings.make_warning("permissions", message, where=path, hint=hint)]
    return []


def _iter_service_files(release: Release, lock: Lock) -> Iterator[Path]:
    """What a service reads, as far as it is there: folders before the files in them."""
    homes = [release.shared_models / model.host_folder for model in lock.models]
    files = [
        release.shared_models / m.host_folder / a.path[len(m.folder) :]
        for m, files in lock.list_files_by_model()
        for a in files
    ]
    files += [release.path / one.path for one in lock.artifacts if one.kind in placement.RELEASE_KINDS]
    folders = [release.prefix, release.path.parent, release.path, release.shared_models, *homes]
    files += [release.path / env_file.ENV_FILE, release.venv / "pyvenv.cfg"]
    yield from _select_existing([*folders, release.venv, *_list_folders(files), *files])


def _list_folders(files: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(file.parent for file in files))


def _select_existing(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in dict.fromkeys(paths) if os.path.lexists(path))


def _is_open_to_others(path: Path) -> bool:
    mode = path.stat().st_mode
    needed = stat.S_IXOTH | stat.S_IROTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & needed == needed

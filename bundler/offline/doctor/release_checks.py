"""Checks of an installed release: its files, its environment, its guard, its permissions."""

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
from bundler.progress import Reporter, pluralize

_IMPORT_TIME_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""torch creates this folder at import, and fails if it can't."""

_SIZES_INTACT = "all there, of the right size"
_MAX_NAMED = 3


def check_content(release: Release, lock: Lock, reporter: Reporter, *, deep: bool) -> list[Finding]:
    """Check the models, and the files outside the environment: their size, and their content if ``deep``."""
    success_text = "every byte is as in the bundle" if deep else _SIZES_INTACT
    return [
        findings.make_file_findings(part.name, part.count, part.altered, success_text)
        for part in altered_files.check_content(release, lock, reporter, deep=deep)
    ]


def check_interpreter(release: Release, lock: Lock) -> Finding:
    """Check that the environment's Python starts, and is the one that the release needs."""
    if problem := venv.find_interpreter_problem(release, lock):
        hint = f"install CPython {lock.target.python} on this host if it is missing, then install the same bundle again"
        return findings.make_critical("python", problem, where=release.python, hint=hint)
    return findings.make_healthy("python", f"CPython {lock.target.python} starts")


def check_packages(release: Release, lock: Lock, reporter: Reporter, *, deep: bool) -> list[Finding]:
    """Check the installed packages against their RECORDs, and find files that belong to no wheel."""
    if not lock.python.packages:
        return []
    part, files = altered_files.check_environment(release, lock, reporter, deep=deep)
    success_text = "every byte is as in the wheels" if deep else _SIZES_INTACT
    results = [findings.make_file_findings(part.name, part.count, part.altered, success_text, part.packages)]
    if not part.altered:
        hint = "if nobody put it there on purpose, remove it: Python may run it"
        results += [
            findings.make_warning("packages", f"{path.name} belongs to no wheel", where=path, hint=hint)
            for path in installed_files.find_unknown_files(release, lock, files)
        ]
    return results


def check_rendered_files(release: Release, lock: Lock) -> list[Finding]:
    """Check the files that the installer renders."""
    policy = trusted_keys.read_stored_policy(release.prefix)
    texts = {
        env_file.ENV_FILE: env_file.render_env_file(lock, release.prefix),
        dockerfile.DOCKERFILE_NAME: dockerfile.render_dockerfile(lock, policy),
    }
    results: list[Finding] = []
    for name, text in texts.items():
        path = release.path / name
        try:
            same = path.read_bytes() == text.encode()
        except OSError as error:
            results.append(findings.make_critical(name, f"can't be read: {error.strerror}", where=path))
            continue
        if same:
            results.append(findings.make_healthy(name, "as the installer renders it"))
        else:
            hint = "install the same bundle again to render it again; keep your own values in a file of your own"
            message = "differs from what this version of the installer renders"
            results.append(findings.make_warning(name, message, where=path, hint=hint))
    return results


def check_hub_view(release: Release, lock: Lock) -> list[Finding]:
    """Check the links by which libraries find the models."""
    count = len(hub_cache.list_links(release, lock)) + len(hub_cache.list_texts(release, lock))
    if not count:
        return []
    return [
        findings.make_file_findings(
            "hub view", count, hub_cache.find_problems(release, lock), "every link leads where it must"
        )
    ]


def check_payload(release: Release, lock: Lock) -> list[Finding]:
    """Check the code that 'bundle smoke' runs inside the environment, and the guard."""
    differing = [*smoke.find_changed_payload(release), *guard.find_differing_files(release, lock)]
    if differing:
        count = pluralize(len(differing), "file")
        names = ", ".join(path.name for path in differing[:_MAX_NAMED])
        more = f" and {len(differing) - _MAX_NAMED} more" if len(differing) > _MAX_NAMED else ""
        message = f"{count} not from this version of the installer: {names}{more}"
        return [findings.make_warning("payload", message, where=differing[0], hint=findings.REINSTALL_HINT)]
    return [findings.make_healthy("payload", "as this version of the installer writes it")]


def check_guard(release: Release, lock: Lock) -> list[Finding]:
    """Check that the guard runs, which variables override it, and that libraries can write their caches.

    The caches are checked for this user, and for a user with read access alone.
    """
    try:
        state = guard.read_state(release, lock)
    except ProgramError:  # `check_interpreter` reports a Python that does not start
        return []
    if not state.has_run:
        where = guard.get_site_packages(release, lock) / guard.PTH_FILE
        message = "does not run: libraries may call home"
        return [findings.make_critical("guard", message, where=where, hint=findings.REINSTALL_HINT)]
    hint = "unless you want that, unset it where the service starts"
    results = [
        findings.make_warning("guard", f"{name}={actual} is set here and overrides the release's {expected}", hint=hint)
        for name, (actual, expected) in state.overridden_variables.items()
    ]
    results += _check_caches(release, lock, state, "this user")
    if (reader_state := guard.read_reader_state(release)) is not None:
        results += _check_caches(release, lock, reader_state, "a user with read access alone")
    return results or [findings.make_healthy("guard", "each start of Python sets the offline variables")]


def _check_caches(release: Release, lock: Lock, state: GuardState, user: str) -> list[Finding]:
    """Make one finding for all cache folders that ``user`` can't write to, if any."""
    if not state.unwritable:
        return []
    message = f"{user} can't write to the folders of {', '.join(state.unwritable)}"
    if any(os.environ.get(name) == state.caches[name] for name in state.unwritable):
        hint = "unset them where the service starts, or set them to folders of the service's user"
    elif all(Path(state.caches[name]) == release.writable_folder for name in state.unwritable):
        hint = "set XDG_CACHE_HOME to a folder of the service's user, or give it a folder for temporary files"
    else:
        hint = findings.REINSTALL_HINT
    import_time_cache = state.caches.get(_IMPORT_TIME_CACHE, "")
    has_torch = any(package.name == "torch" for package in lock.python.packages)
    if has_torch and _IMPORT_TIME_CACHE in state.unwritable and not Path(import_time_cache).is_dir():
        message = f"{message}; torch can't be imported: it creates {import_time_cache}"
        return [findings.make_critical("guard", message, where=import_time_cache, hint=hint)]
    return [findings.make_warning("guard", message, where=state.caches[state.unwritable[0]], hint=hint)]


def check_leftovers(release: Release) -> list[Finding]:
    """Find what a killed run left, or a running one has written so far."""
    prefix = release.prefix
    leftovers = [*releases.find_unfinished(prefix), *releases.find_unused_models(prefix)]
    leftovers += [path for path in (release.work_folder, prefix / ".current.new") if os.path.lexists(path)]
    hint = (
        "an install is running, or was interrupted: the same install continues from it; another install, or bundle "
        "prune, removes it"
    )
    results = [
        findings.make_warning("leftovers", f"{path.name} belongs to no release", where=path, hint=hint)
        for path in leftovers
    ]
    hint = "this program never touches it; keep other files outside the prefix"
    return results + [
        findings.make_warning("leftovers", f"{path.name} was not made by this program", where=path, hint=hint)
        for path in releases.find_unknown_files(prefix)
    ]


def check_permissions(release: Release, lock: Lock) -> list[Finding]:
    """Check that this user, and other users such as a service's, can read the release."""
    paths = [*_iter_service_files(release, lock)]
    hint = "give read access to the user that the service runs as"
    results = [
        findings.make_critical("permissions", f"this user can't read {path.name}", where=path, hint=hint)
        for path in paths
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    ]
    if os.name != "nt":
        closed = [path for path in [*release.prefix.parents, *paths] if not _is_open_to_others(path)]
        hint = "a service of another user can't start from here: chmod o+rX, or choose a --prefix that others can read"
        results += [
            findings.make_warning("permissions", f"other users can't read {path}", where=path, hint=hint)
            for path in closed[:1]
        ]
        results += [] if closed else _check_interpreter_access(release)
    return results or [findings.make_healthy("permissions", "this user and others can read everything")]


def _check_interpreter_access(release: Release) -> list[Finding]:
    """Check that other users can start the Python that the environment was created from: it may be this user's own."""
    interpreter = release.python.resolve()
    for path in _select_existing([*reversed(interpreter.parents), interpreter]):
        if not _is_open_to_others(path):
            message = f"other users can't start {interpreter}: they can't read {path}"
            hint = (
                "chmod o+rX, or install into another --prefix with a Python that they can start, such as the system's"
            )
            return [findings.make_warning("permissions", message, where=path, hint=hint)]
    return []


def _iter_service_files(release: Release, lock: Lock) -> Iterator[Path]:
    """Yield the existing folders and files that a service reads, folders before the files in them."""
    model_folders = [release.shared_models / model.host_folder for model in lock.models]
    files = [
        release.shared_models / model.host_folder / artifact.path[len(model.folder) :]
        for model, artifacts in lock.list_files_by_model()
        for artifact in artifacts
    ]
    kinds = placement.RELEASE_KINDS
    files += [release.path / artifact.path for artifact in lock.artifacts if artifact.kind in kinds]
    folders = [release.prefix, release.path.parent, release.path, release.shared_models, *model_folders]
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

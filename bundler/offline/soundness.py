"""Whether an installed release is all there, and as it was installed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from bundler.bundle import hashing
from bundler.bundle.entries import Artifact
from bundler.bundle.hashing import Advance
from bundler.bundle.lock import Lock
from bundler.errors import ProgramError
from bundler.offline import (
    emit,
    environment,
    findings,
    guard,
    hubcache,
    packages,
    place,
    recipe,
    releases,
    smoke,
    trust,
)
from bundler.offline.findings import Finding
from bundler.offline.releases import Release
from bundler.progress import Report

Placed = tuple[Artifact, Path]
"""A file of the bundle, and where it was placed."""


def content(release: Release, locked: Lock, report: Report, *, deep: bool) -> list[Finding]:
    """The files of the models, and of all that stands beside the environment as in the bundle: there, of the right
    size and, when ``deep``, of the right bytes."""
    beside = [(one, release.path / one.path) for one in locked.artifacts if one.kind in place.IN_THE_RELEASE]
    parts = [("files", beside)]
    for model, artifacts in locked.by_model():
        home = release.shared_models / model.home
        placed = [(artifact, home / artifact.path[len(model.folder) :]) for artifact in artifacts]
        parts.append((f"model {model.alias}", placed))
    found: list[Finding] = []
    for check, placed in parts:
        if placed:
            wrong = _altered(check, placed, report) if deep else filter(None, map(_fault_of_size, placed))
            right = "every byte is what the bundle brought" if deep else "all there, of the right size"
            found += findings.files(check, len(placed), wrong, right)
    return found


def interpreter(release: Release, locked: Lock) -> Finding:
    """Whether the environment's Python starts, and is the one that the release needs."""
    if fault := environment.fault_of(release, locked):
        hint = f"install CPython {locked.target.python} on this host if it is gone, then install the same bundle again"
        return findings.critical("python", fault, where=release.python, hint=hint)
    return findings.healthy("python", f"CPython {locked.target.python} starts")


def installed_packages(release: Release, locked: Lock, report: Report, *, deep: bool) -> list[Finding]:
    """The installed packages against what their wheels' RECORDs say, and files that no wheel brought."""
    if not locked.python.packages:
        return []
    files, faults = packages.recorded(release, locked)
    faults += packages.altered(files, report) if deep else packages.missing(files)
    right = "every byte is what the wheels brought" if deep else "all there, of the right size"
    wrong = ((fault.path, f"of {' and '.join(fault.packages)} {fault.message}") for fault in faults)
    found = findings.files("packages", len(files), wrong, right)
    if not faults:
        hint = "if nobody on this host put it there on purpose, remove it: Python may run it"
        found += [
            findings.warning("packages", f"{path.name} was brought by no wheel", where=path, hint=hint)
            for path in packages.strangers(release, locked, files)
        ]
    return found


def rendered(release: Release, locked: Lock) -> list[Finding]:
    """The files that the installer writes for services and for itself."""
    found: list[Finding] = []
    for name, text in (
        (emit.ENV_FILE, emit.env_text(locked, release.prefix)),
        (recipe.DOCKERFILE, recipe.dockerfile_text(locked, trust.remembered(release.prefix))),
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
    count = len(hubcache.links(release, locked)) + len(hubcache.texts(release, locked))
    if not count:
        return []
    return findings.files("hub view", count, hubcache.faults(release, locked), "every link leads where it must")


def payload(release: Release, locked: Lock) -> list[Finding]:
    """What 'bundle smoke' runs inside the environment, and what the environment runs at each start."""
    differing = [*smoke.differing(release), *guard.differing(release, locked)]
    if differing:
        count = "one file is not that" if len(differing) == 1 else f"{len(differing)} files are not those"
        message = f"{count} of this version of the installer: {differing[0].name}"
        return [findings.warning("payload", message, where=differing[0], hint=findings.MEND)]
    return [findings.healthy("payload", "as this version of the installer lays it out")]


def guarded(release: Release, locked: Lock) -> list[Finding]:
    """Whether a start of the release's Python is guarded, and which variables of this environment win over it."""
    try:
        found = guard.state(release, locked)
    except ProgramError:  # Python does not start, which is a finding of its own
        return []
    if not found.ran:
        where = guard.site_packages(release, locked) / guard.PATH_FILE
        return [findings.critical("guard", "does not run: libraries may call home", where=where, hint=findings.MEND)]
    if not found.overridden:
        return [findings.healthy("guard", "each start of Python sets the offline variables")]
    hint = "unset it where the service starts, if that is not meant"
    return [
        findings.warning("guard", f"{name}={here} is set here and wins over the release's {wanted}", hint=hint)
        for name, (here, wanted) in found.overridden.items()
    ]


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
    """Whether this user, and others such as a service's, can read the release, and write where libraries write."""
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
    if not os.access(release.writable, os.W_OK | os.X_OK):
        hint = "give it to the user that the service runs as, or set HF_HOME and the other folders elsewhere"
        message = "this user can't write where libraries keep what they make"
        found.append(findings.warning("permissions", message, where=release.writable, hint=hint))
    return found or [findings.healthy("permissions", "all can be read, and var can be written")]


def _altered(check: str, placed: list[Placed], report: Report) -> list[tuple[Path, str]]:
    with report.stage(f"check {check}", sum(artifact.size for artifact, _ in placed)) as stage:
        return [fault for fault in hashing.side_by_side(_fault_of, placed, stage.advance) if fault]


def _fault_of_size(placed: Placed) -> tuple[Path, str] | None:
    artifact, path = placed
    try:
        status = path.lstat()
    except OSError as error:
        return path, "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return path, "is no regular file, and must be one"
    if status.st_size != artifact.size:
        return path, f"has {status.st_size:,} bytes and must have {artifact.size:,}"
    return None


def _fault_of(placed: Placed, advance: Advance) -> tuple[Path, str] | None:
    artifact, path = placed
    if fault := _fault_of_size(placed):
        return fault
    try:
        _, digest = hashing.digest_of_file(path, advance)
    except (OSError, EOFError) as error:
        return path, f"can't be read: {error}"
    return None if digest == artifact.sha256 else (path, f"is damaged: sha256 {digest}, expected {artifact.sha256}")


def _reached(release: Release, locked: Lock) -> Iterator[Path]:
    """What a service reads, as far as it is there: folders before the files in them."""
    homes = [release.shared_models / model.home for model in locked.models]
    files = [release.shared_models / m.home / a.path[len(m.folder) :] for m, files in locked.by_model() for a in files]
    files += [release.path / one.path for one in locked.artifacts if one.kind in place.IN_THE_RELEASE]
    folders = [release.prefix, release.path.parent, release.path, release.shared_models, *homes]
    files += [release.path / emit.ENV_FILE, release.venv / "pyvenv.cfg"]
    yield from _existing([*folders, release.venv, *_folders_of(files), *files])


def _folders_of(files: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(file.parent for file in files))


def _existing(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in dict.fromkeys(paths) if os.path.lexists(path))


def _open_to_others(path: Path) -> bool:
    mode = path.stat().st_mode
    needed = stat.S_IXOTH | stat.S_IROTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & needed == needed

"""Which installed files are not as the bundle brought them; what doctor finds, and why a smoke load failed."""

from __future__ import annotations

import stat
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from bundler.format import hashing
from bundler.format.hashing import AdvanceCallback
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock
from bundler.offline import findings, placement
from bundler.offline.environment import installed_files
from bundler.offline.environment.installed_files import Altered, InstalledFile
from bundler.offline.prefix.releases import Release
from bundler.progress import Reporter

PlacedFile = tuple[Artifact, Path]
"""A file of the bundle, and where it was placed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a release: how many files it has, which of them are altered, and of which packages those are."""

    name: str
    count: int
    altered: tuple[Altered, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """What is wrong with it, in one line."""
        return findings.summary(self.altered, self.packages)


def content(release: Release, lock: Lock, reporter: Reporter, *, deep: bool) -> list[Part]:
    """The models, and all that stands beside the environment as in the bundle: by size, and when ``deep`` by bytes."""
    beside = [(one, release.path / one.path) for one in lock.artifacts if one.kind in placement.RELEASE_KINDS]
    parts = [("files", beside)]
    for model, artifacts in lock.list_files_by_model():
        home = release.shared_models / model.host_folder
        placed = [(artifact, home / artifact.path[len(model.folder) :]) for artifact in artifacts]
        parts.append((f"model {model.alias}", placed))
    found = []
    for name, placed in parts:
        if placed:
            altered = (
                _find_altered(name, placed, reporter) if deep else tuple(filter(None, map(_find_size_problem, placed)))
            )
            found.append(Part(name=name, count=len(placed), altered=altered))
    return found


def environment(release: Release, lock: Lock, reporter: Reporter, *, deep: bool) -> tuple[Part, list[InstalledFile]]:
    """The installed packages against what their wheels' RECORDs say, and every file that those name."""
    files, faults = installed_files.read_installed_files(release, lock)
    faults += installed_files.find_altered(files, reporter) if deep else installed_files.find_missing(files)
    owners = dict.fromkeys(name for fault in faults for name in fault.packages)
    altered = tuple(Altered(path=str(fault.path), message=fault.message) for fault in faults)
    return Part(name="packages", count=len(files), altered=altered, packages=tuple(owners)), files


def damaged(release: Release, lock: Lock, aliases: Collection[str], reporter: Reporter, *, deep: bool) -> list[Part]:
    """Parts with altered files, of all that a load of these models reads: the models, the assets and the packages."""
    models = {f"model {alias}" for alias in aliases}
    assets = release.path / "assets"
    parts = [
        replace(
            part, altered=tuple(one for one in part.altered if part.name in models or assets in Path(one.path).parents)
        )
        for part in content(release, lock, reporter, deep=deep)
    ]
    if lock.python.packages:
        parts.append(environment(release, lock, reporter, deep=deep)[0])
    return [part for part in parts if part.altered]


def _find_altered(name: str, files: list[PlacedFile], reporter: Reporter) -> tuple[Altered, ...]:
    with reporter.stage(f"check {name}", sum(artifact.size for artifact, _ in files)) as stage:
        return tuple(fault for fault in hashing.map_parallel(_find_content_problem, files, stage.advance) if fault)


def _find_size_problem(file: PlacedFile) -> Altered | None:
    artifact, path = file
    try:
        status = path.lstat()
    except OSError as error:
        message = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        return Altered(path=str(path), message=message)
    if not stat.S_ISREG(status.st_mode):
        return Altered(path=str(path), message="is no regular file, and must be one")
    if status.st_size != artifact.size:
        return Altered(path=str(path), message=f"has {status.st_size:,} bytes and must have {artifact.size:,}")
    return None


def _find_content_problem(file: PlacedFile, advance: AdvanceCallback) -> Altered | None:
    artifact, path = file
    if fault := _find_size_problem(file):
        return fault
    try:
        _, digest = hashing.compute_file_sha256(path, advance)
    except (OSError, EOFError) as error:
        return Altered(path=str(path), message=f"can't be read: {error}")
    if digest == artifact.sha256:
        return None
    return Altered(path=str(path), message=f"is damaged: sha256 {digest}, expected {artifact.sha256}")

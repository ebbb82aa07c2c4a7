"""Finds installed files that differ from the bundle, for ``doctor`` and for failed smoke loads."""

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
"""A file of the bundle, and its path on this host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a release: its number of files, the altered ones, and the packages that those belong to."""

    name: str
    count: int
    altered: tuple[Altered, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The altered files in one line."""
        return findings.format_summary(self.altered, self.packages)


def check_content(release: Release, lock: Lock, reporter: Reporter, *, deep: bool) -> list[Part]:
    """Compare the models, and the files outside the environment, with the lock: by size, or by content if ``deep``."""
    kinds = placement.RELEASE_KINDS
    files = [(artifact, release.path / artifact.path) for artifact in lock.artifacts if artifact.kind in kinds]
    files_by_part = {"files": files}
    for model, artifacts in lock.list_files_by_model():
        model_folder = release.shared_models / model.host_folder
        files_by_part[f"model {model.alias}"] = [
            (artifact, model_folder / artifact.path[len(model.folder) :]) for artifact in artifacts
        ]
    parts = []
    for name, files in files_by_part.items():
        if files:
            altered = (
                _find_altered(name, files, reporter) if deep else tuple(filter(None, map(_find_size_problem, files)))
            )
            parts.append(Part(name=name, count=len(files), altered=altered))
    return parts


def check_environment(
    release: Release, lock: Lock, reporter: Reporter, *, deep: bool
) -> tuple[Part, list[InstalledFile]]:
    """Compare the installed packages with their RECORDs; also return every file that those name."""
    files, problems = installed_files.read_installed_files(release, lock)
    problems += installed_files.find_altered(files, reporter) if deep else installed_files.find_missing(files)
    owners = dict.fromkeys(name for problem in problems for name in problem.packages)
    altered = tuple(Altered(path=str(problem.path), message=problem.message) for problem in problems)
    return Part(name="packages", count=len(files), altered=altered, packages=tuple(owners)), files


def find_damaged_parts(
    release: Release, lock: Lock, aliases: Collection[str], reporter: Reporter, *, deep: bool
) -> list[Part]:
    """Find altered files among those that loads of these models read: the models, the assets and the packages."""
    models = {f"model {alias}" for alias in aliases}
    assets = release.path / "assets"
    parts = []
    for part in check_content(release, lock, reporter, deep=deep):
        altered = [file for file in part.altered if part.name in models or assets in Path(file.path).parents]
        parts.append(replace(part, altered=tuple(altered)))
    if lock.python.packages:
        parts.append(check_environment(release, lock, reporter, deep=deep)[0])
    return [part for part in parts if part.altered]


def _find_altered(name: str, files: list[PlacedFile], reporter: Reporter) -> tuple[Altered, ...]:
    with reporter.stage(f"check {name}", sum(artifact.size for artifact, _ in files)) as stage:
        problems = hashing.map_parallel(_find_content_problem, files, stage.advance)
        return tuple(problem for problem in problems if problem)


def _find_size_problem(file: PlacedFile) -> Altered | None:
    artifact, path = file
    try:
        status = path.lstat()
    except OSError as error:
        message = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        return Altered(path=str(path), message=message)
    if not stat.S_ISREG(status.st_mode):
        return Altered(path=str(path), message="must be a regular file, but is not")
    if status.st_size != artifact.size:
        return Altered(path=str(path), message=f"has {status.st_size:,} bytes and must have {artifact.size:,}")
    return None


def _find_content_problem(file: PlacedFile, advance: AdvanceCallback) -> Altered | None:
    artifact, path = file
    if problem := _find_size_problem(file):
        return problem
    try:
        _, digest = hashing.compute_file_sha256(path, advance)
    except (OSError, EOFError) as error:
        return Altered(path=str(path), message=f"can't be read: {error}")
    if digest == artifact.sha256:
        return None
    return Altered(path=str(path), message=f"is damaged: sha256 {digest}, expected {artifact.sha256}")

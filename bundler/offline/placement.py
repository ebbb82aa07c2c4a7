"""Writes the files of a verified bundle to the disk, all or none."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bundler.errors import IntegrityError, UnsafeError
from bundler.format import disk, hashing
from bundler.format.lock.entries import ENVIRONMENT_PART, Artifact, Model
from bundler.format.scan import strict_zip
from bundler.format.tar import archive
from bundler.format.tar.archive import OpenBundle
from bundler.offline.environment import installed_files
from bundler.offline.prefix import releases
from bundler.offline.prefix.releases import Release, read_receipts
from bundler.offline.trust import pickle_policy
from bundler.offline.trust.verification import VerifiedLock
from bundler.progress import Reporter

_UNPACK_RATIO = 4
"""Installed bytes for each byte of a wheel whose directory can't be read beforehand."""

_MAX_DIRECTORY_BYTES = 4 << 20
"""Largest zip directory, in bytes, that is read before the wheel is checked: it is held in memory."""

_MAX_UNPACK_RATIO = 20
"""Upper bound of installed bytes for each byte of a wheel: before the check, its directory may state any size."""

_ENVIRONMENT_KINDS = ("requirements", "tool", "wheel")
"""Kinds of artifacts that the environment is created from."""

RELEASE_KINDS = ("installer", "asset", "app")
"""Kinds of artifacts that have the same path in the release as in the bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacementPlan:
    """What to write, and where.

    ``files`` maps names in the bundle to the paths to write; ``moves`` then rename these to their final paths.
    ``existing`` are intact files of an interrupted run. ``unknown_files`` are files in model folders that are in no
    lock. ``broken_packages`` are packages of a finished release whose files differ from their wheels.
    """

    files: dict[str, Path]
    existing: dict[str, Path] = field(default_factory=dict)
    moves: tuple[tuple[Path, Path], ...] = ()
    unknown_files: tuple[Path, ...] = ()
    broken_packages: tuple[str, ...] = ()


def make_plan(lock: VerifiedLock, release: Release, reporter: Reporter) -> PlacementPlan:
    """Plan what to write: existing files are hashed, and only those that differ are written again.

    Raises:
        UnsafeError: A folder to write into is a link.
        IntegrityError: A shared model folder belongs to another model.
    """
    base = _plan_repair(lock, release, reporter) if release.is_finished else _plan_release(lock, release, reporter)
    digests = {folder: digest for receipt in read_receipts(release.prefix) for folder, digest in receipt.homes.items()}
    plans = [base]
    for model in lock.models:
        if digests.get(model.host_folder, model.digest) != model.digest:
            hint = "this bundle was made to look like the one with that model: do not install it, and tell its builder"
            where = str(release.shared_models / model.host_folder)
            raise IntegrityError(f"{model.host_folder} holds another model", where=where, hint=hint)
        plans.append(plan_model(lock, model, release, reporter))
    return PlacementPlan(
        files={name: path for plan in plans for name, path in plan.files.items()},
        existing={name: path for plan in plans for name, path in plan.existing.items()},
        moves=tuple(move for plan in plans for move in plan.moves),
        unknown_files=tuple(path for plan in plans for path in plan.unknown_files),
        broken_packages=base.broken_packages,
    )


def _plan_repair(lock: VerifiedLock, release: Release, reporter: Reporter) -> PlacementPlan:
    """Plan the repair of a finished release, without its models."""
    files: dict[str, Path] = {}
    moves: list[tuple[Path, Path]] = []
    placed = list(_iter_release_files(lock, release))
    _add_repairs(_find_damaged(placed, "files outside the environment", reporter), files, moves)
    broken = _find_broken_packages(release, lock, reporter)
    wheels = {package.wheel for package in lock.python.packages if package.name in broken}
    wheels |= {tool.path for tool in lock.list_artifacts("tool")} if broken else set()
    files |= {path: release.work_folder / path for path in wheels}
    return PlacementPlan(files=files, moves=tuple(moves), broken_packages=tuple(broken))


def _plan_release(lock: VerifiedLock, release: Release, reporter: Reporter) -> PlacementPlan:
    """Plan the files of an unfinished release, without its models."""
    targets = {artifact.path: path for artifact, path in _iter_release_files(lock, release)}
    if ENVIRONMENT_PART not in release.find_preinstalled_parts(lock.digest):
        targets |= list_environment_files(lock, release)
    return plan_files(targets, lock, "files of an earlier run", reporter)


def _iter_release_files(lock: VerifiedLock, release: Release) -> Iterator[tuple[Artifact, Path]]:
    return ((artifact, release.path / artifact.path) for artifact in lock.artifacts if artifact.kind in RELEASE_KINDS)


def plan_files(targets: dict[str, Path], lock: VerifiedLock, description: str, reporter: Reporter) -> PlacementPlan:
    """Plan the artifacts that go to these paths: all except those that exist and are intact."""
    artifacts = {artifact.path: artifact for artifact in lock.artifacts}
    present = [(artifacts[name], path) for name, path in targets.items() if os.path.lexists(path)]
    damaged = {artifact.path for artifact, _ in _find_damaged(present, description, reporter)} if present else set()
    intact = {artifact.path: path for artifact, path in present if artifact.path not in damaged}
    return PlacementPlan(files={name: path for name, path in targets.items() if name not in intact}, existing=intact)


def plan_model(lock: VerifiedLock, model: Model, release: Release, reporter: Reporter) -> PlacementPlan:
    """Plan the files of one model.

    Raises:
        UnsafeError: A folder to write into is a link.
    """
    model_folder = release.shared_models / model.host_folder
    names = [(artifact, _get_name_in_model(model, artifact)) for artifact in lock.list_files(model)]
    if not model_folder.exists() and not model_folder.is_symlink():
        partial = releases.get_partial_path(model_folder)
        targets = {artifact.path: partial / name for artifact, name in names}
        if os.path.lexists(partial):
            _refuse_linked_folders(partial)
        plan = plan_files(targets, lock, f"{model.alias}, partly placed", reporter)
        unknown = _find_unknown_files(partial, set(targets.values()))
        return dataclasses.replace(plan, moves=((partial, model_folder),), unknown_files=tuple(unknown))
    _refuse_linked_folders(model_folder)
    files: dict[str, Path] = {}
    moves: list[tuple[Path, Path]] = []
    placed = [(artifact, model_folder / name) for artifact, name in names]
    _add_repairs(_find_damaged(placed, f"{model.alias}, already placed", reporter), files, moves)
    # A killed run may have left some of the files to write.
    unknown = _find_unknown_files(model_folder, {path for _, path in placed} | set(files.values()))
    return PlacementPlan(files=files, moves=tuple(moves), unknown_files=tuple(unknown))


def list_environment_files(lock: VerifiedLock, release: Release) -> dict[str, Path]:
    """Return the path of each file that the environment is created from."""
    artifacts = [artifact for artifact in lock.artifacts if artifact.kind in _ENVIRONMENT_KINDS]
    return {artifact.path: release.work_folder / artifact.path for artifact in artifacts}


def list_application_files(lock: VerifiedLock, release: Release) -> dict[str, Path]:
    """Return the path of each file of the application."""
    return {artifact.path: release.path / artifact.path for artifact in lock.list_artifacts("app")}


def _add_repairs(damaged: list[tuple[Artifact, Path]], files: dict[str, Path], moves: list[tuple[Path, Path]]) -> None:
    """Plan a new file beside each damaged one, to replace it atomically."""
    for artifact, path in damaged:
        files[artifact.path] = path.with_name(f".{path.name}.partial")
        moves.append((files[artifact.path], path))


def estimate_space(bundle: OpenBundle, plan: PlacementPlan, release: Release) -> int:
    """Return the bytes that the plan, and the environment created from it, need on the prefix's disk."""
    new_files = {artifact.path: artifact for artifact in bundle.lock.artifacts if artifact.path in plan.files}
    shared = (
        isinstance(bundle.where, str)
        and bundle.reader.is_seekable
        and disk.can_share_blocks(Path(bundle.where), release.prefix)
    )
    copied = 0 if shared else sum(artifact.size for artifact in new_files.values())
    available = plan.files.keys() | plan.existing.keys()
    wheels = [artifact for artifact in bundle.lock.list_artifacts("wheel") if artifact.path in available]
    return copied + sum(_estimate_unpacked_size(bundle, artifact) for artifact in wheels)


def place_files(
    bundle: OpenBundle,
    lock: VerifiedLock,
    plan: PlacementPlan,
    release: Release,
    reporter: Reporter,
    *,
    no_pickles: bool = False,
) -> None:
    """Write the planned files, and hash every byte that was written. After an error no file has its final name.

    Raises:
        IntegrityError: The bundle is damaged; the message names all damage.
        UnsafeError: The content is refused.
    """
    content_names = {member.name: member.content_member.name for member in bundle.layout.iter_artifacts()}
    extracted: dict[str, Path] = {}
    releases.mark_models(release, plan.moves)
    for name, path in plan.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        extracted.setdefault(content_names[name], path)
    sizes = {artifact.path: artifact.size for artifact in lock.artifacts}
    with reporter.stage("place", sum(sizes[name] for name in extracted)) as stage:
        archive.require_intact(bundle.extract_members(extracted, stage.advance), bundle.where)
    for name, path in plan.files.items():
        if path != extracted[content_names[name]]:
            _duplicate_file(extracted[content_names[name]], path)
    if no_pickles:
        written_paths = plan.existing | plan.files
        pickle_policy.refuse_found_pickles(
            (artifact.path, written_paths.get(artifact.path, path))
            for artifact, path in _iter_model_files(lock, release)
        )
    for path in [*plan.files.values(), *plan.existing.values()]:
        _set_metadata(path, lock.source_date_epoch)
    for path in plan.unknown_files:
        reporter.warn(f"removed {path}, which is in no bundle: a loader might have read it")
        path.unlink()
    if any(final.exists() for _, final in plan.moves):  # after a power cut a repaired file must not be empty
        disk.sync_file_system(release.prefix)
    for written, final in plan.moves:
        written.replace(final)
    _set_times(plan, lock.source_date_epoch)


def _set_metadata(path: Path, epoch: int) -> None:
    """Set mode and time where they differ: a call that changes nothing puts the file into an image's layer again."""
    status = path.stat()
    if stat.S_IMODE(status.st_mode) != 0o644:
        path.chmod(0o644)
    if status.st_mtime_ns != epoch * 10**9:
        os.utime(path, (epoch, epoch))


def _set_times(plan: PlacementPlan, epoch: int) -> None:
    """Set the time of changed folders to that of their files: a model is then the same layer in every image."""
    changed = {final if final.is_dir() else final.parent for _, final in plan.moves}
    for folder in changed | {path.parent for path in plan.unknown_files}:
        for parent, _, _ in os.walk(folder):
            os.utime(parent, (epoch, epoch))


def _iter_model_files(lock: VerifiedLock, release: Release) -> Iterator[tuple[Artifact, Path]]:
    """Yield every file of the models, and its final path."""
    for model, files in lock.list_files_by_model():
        yield from (
            (artifact, release.shared_models / model.host_folder / _get_name_in_model(model, artifact))
            for artifact in files
        )


def _get_name_in_model(model: Model, artifact: Artifact) -> str:
    return artifact.path[len(model.folder) :]


def _refuse_linked_folders(model_folder: Path) -> None:
    """Raise UnsafeError if a folder is a link: files elsewhere would be written or removed."""
    folders = [model_folder, *(Path(parent, name) for parent, names, _ in os.walk(model_folder) for name in names)]
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            hint = "put a real folder there, or remove it: the install writes its content again"
            raise UnsafeError("this must be a folder, but is a link or a file", where=str(folder), hint=hint)


def _find_damaged(
    files: list[tuple[Artifact, Path]], description: str, reporter: Reporter
) -> list[tuple[Artifact, Path]]:
    """Return the placed files that are missing or altered."""
    with reporter.stage(f"check {description}", sum(artifact.size for artifact, _ in files)) as stage:
        results = hashing.map_parallel(_is_intact, files, stage.advance)
    return [file for file, intact in zip(files, results, strict=True) if not intact]


def _is_intact(file: tuple[Artifact, Path], advance: Callable[[int], None]) -> bool:
    artifact, path = file
    if path.is_symlink() or not path.is_file() or path.stat().st_size != artifact.size:
        return False
    try:
        return hashing.compute_file_sha256(path, advance) == (artifact.size, artifact.sha256)
    except (OSError, EOFError):  # the disk can't read the file
        return False


def _find_broken_packages(release: Release, lock: VerifiedLock, reporter: Reporter) -> list[str]:
    """Find packages of an environment whose files differ from their wheels; warn about each file."""
    recorded, problems = installed_files.read_installed_files(release, lock)
    problems += installed_files.find_altered(recorded, reporter)
    for problem in problems:
        reporter.warn(f"{problem.path} {problem.message}: it is installed again from its wheel")
    return list(dict.fromkeys(name for problem in problems for name in problem.packages))


def _find_unknown_files(model_folder: Path, known: set[Path]) -> list[Path]:
    """Find files in a model's folder that do not belong there."""
    paths = (Path(parent, name) for parent, _, names in os.walk(model_folder) for name in names)
    return [path for path in paths if path not in known]


def _duplicate_file(source: Path, path: Path) -> None:
    """Make a hard link, or a copy if the file system has none: equal content is stored once."""
    try:
        path.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, path)


class _BundleWindow(io.RawIOBase):
    """Part of a bundle as a file, to read the directory of a wheel in place."""

    def __init__(self, bundle: OpenBundle, offset: int, size: int) -> None:
        super().__init__()
        self._bundle, self._start, self._size, self._offset = bundle, offset, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._offset = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        return self._offset

    def tell(self) -> int:
        return self._offset

    def read_at(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset``."""
        self.seek(offset)
        return self.read(size)

    def read(self, size: int | None = -1) -> bytes:
        remaining = max(0, self._size - self._offset)
        count = remaining if size is None or size < 0 else min(size, remaining)
        data = self._bundle.reader.read(self._start + self._offset, count)
        self._offset += len(data)
        return data


def _estimate_unpacked_size(bundle: OpenBundle, artifact: Artifact) -> int:
    """Return the bytes that a wheel takes when installed."""
    if bundle.reader.is_seekable:
        member = next(m for m in bundle.layout.iter_artifacts() if m.name == artifact.path).content_member
        try:
            window = _BundleWindow(bundle, member.content_offset, member.size)
            if member.size - strict_zip.find_directory(window.read_at, member.size) > _MAX_DIRECTORY_BYTES:
                return _UNPACK_RATIO * artifact.size
            with zipfile.ZipFile(window) as wheel:
                stated = sum(info.file_size for info in wheel.infolist())
                return min(stated, _MAX_UNPACK_RATIO * artifact.size)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, struct.error):
            return _UNPACK_RATIO * artifact.size  # damaged: `place_files` reports it with all other damage
    return _UNPACK_RATIO * artifact.size

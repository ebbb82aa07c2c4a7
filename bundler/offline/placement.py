"""Verified bytes onto the disk, all or none."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
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
"""Bytes of an installed wheel for each of its own, where they can't be counted beforehand."""

_MAX_DIRECTORY_BYTES = 4 << 20
"""Bytes of a wheel's table of contents that are counted before the wheel is checked: reading takes memory for it."""

_MAX_UNPACK_RATIO = 20
"""What a wheel can say of itself before it is checked counts up to so many bytes for each of its own."""


_ENVIRONMENT_KINDS = ("requirements", "tool", "wheel")
"""Kinds of artifacts that the environment is made from."""

RELEASE_KINDS = ("installer", "asset", "app")
"""Kinds of artifacts that stand in the release as they do in the bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacementPlan:
    """Where each file goes: ``files`` while it is written, then ``moves`` give it its name.

    ``kept`` are files that a run which did not end wrote, and that are right. ``extra`` are files in model folders
    that no lock knows; ``broken`` are packages of a release that stands here whose files are not as their wheels put
    them there.
    """

    files: dict[str, Path]
    kept: dict[str, Path] = field(default_factory=dict)
    moves: tuple[tuple[Path, Path], ...] = ()
    unknown_files: tuple[Path, ...] = ()
    broken_packages: tuple[str, ...] = ()


def make_plan(lock: VerifiedLock, release: Release, reporter: Reporter) -> PlacementPlan:
    """What is to be written. Files that are there are hashed, and only what differs is written anew.

    Raises UnsafeError where a folder to write into is a link, IntegrityError where a shared model folder
    belongs to another model.
    """
    base = _plan_mending(lock, release, reporter) if release.is_finished else _plan_release(lock, release, reporter)
    taken = {home: digest for receipt in read_receipts(release.prefix) for home, digest in receipt.homes.items()}
    plans = [base]
    for model in lock.models:
        if taken.get(model.host_folder, model.digest) != model.digest:
            hint = "it was made to look like that one: do not install it, and tell its builder"
            where = str(release.shared_models / model.host_folder)
            raise IntegrityError(f"{model.host_folder} holds another model", where=where, hint=hint)
        plans.append(plan_model(lock, model, release, reporter))
    return PlacementPlan(
        files={name: path for one in plans for name, path in one.files.items()},
        kept={name: path for one in plans for name, path in one.kept.items()},
        moves=tuple(move for one in plans for move in one.moves),
        unknown_files=tuple(path for one in plans for path in one.unknown_files),
        broken_packages=base.broken_packages,
    )


def _plan_mending(lock: VerifiedLock, release: Release, reporter: Reporter) -> PlacementPlan:
    """What differs in a release that stands here, beside its models."""
    files: dict[str, Path] = {}
    moves: list[tuple[Path, Path]] = []
    beside = [(one, release.path / one.path) for one in lock.artifacts if one.kind in RELEASE_KINDS]
    _plan_repairs(_find_damaged(beside, "what stands beside the environment", reporter), files, moves)
    broken = _find_broken_packages(release, lock, reporter)
    wheels = {package.wheel for package in lock.python.packages if package.name in broken}
    wheels |= {tool.path for tool in lock.list_artifacts("tool")} if broken else set()
    files |= {path: release.work_folder / path for path in wheels}
    return PlacementPlan(files=files, moves=tuple(moves), broken_packages=tuple(broken))


def _plan_release(lock: VerifiedLock, release: Release, reporter: Reporter) -> PlacementPlan:
    """What a release needs that is not finished, beside its models."""
    wanted = {one.path: release.path / one.path for one in lock.artifacts if one.kind in RELEASE_KINDS}
    if ENVIRONMENT_PART not in release.find_preinstalled_parts(lock.digest):
        wanted |= list_environment_files(lock, release)
    return plan_files(wanted, lock, "what an earlier run placed", reporter)


def plan_files(wanted: dict[str, Path], lock: VerifiedLock, what: str, reporter: Reporter) -> PlacementPlan:
    """What is to be written of artifacts that go to these places: all but those that are there, and right."""
    artifacts = {artifact.path: artifact for artifact in lock.artifacts}
    there = [(artifacts[name], path) for name, path in wanted.items() if os.path.lexists(path)]
    wrong = {artifact.path for artifact, _ in _find_damaged(there, what, reporter)} if there else set()
    kept = {artifact.path: path for artifact, path in there if artifact.path not in wrong}
    return PlacementPlan(files={name: path for name, path in wanted.items() if name not in kept}, kept=kept)


def plan_model(lock: VerifiedLock, model: Model, release: Release, reporter: Reporter) -> PlacementPlan:
    """What is to be written of one model. Raises UnsafeError where a folder to write into is a link."""
    home = release.shared_models / model.host_folder
    placed = [(artifact, _get_name_in_model(model, artifact)) for artifact in lock.list_files(model)]
    if not home.exists() and not home.is_symlink():
        partial = releases.get_partial_path(home)
        wanted = {artifact.path: partial / inside for artifact, inside in placed}
        if os.path.lexists(partial):
            _refuse_linked_folders(partial)
        found = plan_files(wanted, lock, f"{model.alias}, as far as it is here", reporter)
        extra = _find_unknown_files(partial, set(wanted.values()))
        return dataclasses.replace(found, moves=((partial, home),), unknown_files=tuple(extra))
    _refuse_linked_folders(home)
    files: dict[str, Path] = {}
    moves: list[tuple[Path, Path]] = []
    there = [(artifact, home / inside) for artifact, inside in placed]
    _plan_repairs(_find_damaged(there, f"{model.alias}, which is here", reporter), files, moves)
    extra = _find_unknown_files(
        home, {path for _, path in there} | set(files.values())
    )  # a killed run left some of these
    return PlacementPlan(files=files, moves=tuple(moves), unknown_files=tuple(extra))


def list_environment_files(lock: VerifiedLock, release: Release) -> dict[str, Path]:
    """Where the files go that the environment is made from."""
    return {one.path: release.work_folder / one.path for one in lock.artifacts if one.kind in _ENVIRONMENT_KINDS}


def list_application_files(lock: VerifiedLock, release: Release) -> dict[str, Path]:
    """Where the application's files go."""
    return {one.path: release.path / one.path for one in lock.list_artifacts("app")}


def _plan_repairs(damaged: list[tuple[Artifact, Path]], files: dict[str, Path], moves: list[tuple[Path, Path]]) -> None:
    """Plan a good file beside each wrong one, to take its place in one step."""
    for artifact, path in damaged:
        files[artifact.path] = path.with_name(f".{path.name}.partial")
        moves.append((files[artifact.path], path))


def estimate_space(bundle: OpenBundle, plan: PlacementPlan, release: Release) -> int:
    """Bytes that the plan and the environment made from it take on the prefix's disk."""
    plain = {a.path: a for a in bundle.lock.artifacts if a.path in plan.files}
    shared = (
        isinstance(bundle.where, str)
        and bundle.reader.is_seekable
        and disk.can_share_blocks(Path(bundle.where), release.prefix)
    )
    copied = 0 if shared else sum(artifact.size for artifact in plain.values())
    coming = plan.files.keys() | plan.kept.keys()
    wheels = [artifact for artifact in bundle.lock.list_artifacts("wheel") if artifact.path in coming]
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
    """Write what was planned, every byte hashed where it arrived.

    Raises IntegrityError that names all damage of the bundle, UnsafeError for content that is refused; then nothing
    got its final name.
    """
    holders = {member.name: member.content_member.name for member in bundle.layout.iter_artifacts()}
    first: dict[str, Path] = {}
    releases.mark_models(release, plan.moves)
    for name, path in plan.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        first.setdefault(holders[name], path)
    sizes = {artifact.path: artifact.size for artifact in lock.artifacts}
    with reporter.stage("place", sum(sizes[name] for name in first)) as stage:
        archive.require_intact(bundle.extract_members(first, stage.advance), bundle.where)
    for name, path in plan.files.items():
        if path != first[holders[name]]:
            _duplicate_file(first[holders[name]], path)
    if no_pickles:
        places = plan.kept | plan.files
        pickle_policy.refuse_found_pickles(
            (a.path, places.get(a.path, home)) for a, home in _iter_model_files(lock, release)
        )
    for path in [*plan.files.values(), *plan.kept.values()]:
        path.chmod(0o644)
        os.utime(path, (lock.source_date_epoch, lock.source_date_epoch))
    for path in plan.unknown_files:
        reporter.warn(f"{path} belongs to no bundle and is removed: a loader might have read it")
        path.unlink()
    if any(final.exists() for _, final in plan.moves):  # after a power cut what is mended must not be empty
        disk.sync_file_system(release.prefix)
    for written, final in plan.moves:
        written.replace(final)
    _set_times(plan, lock.source_date_epoch)


def _set_times(plan: PlacementPlan, epoch: int) -> None:
    """Give folders that were written to the time of their files: a model is then the same layer in every image."""
    written = {final if final.is_dir() else final.parent for _, final in plan.moves}
    for folder in written | {path.parent for path in plan.unknown_files}:
        for above, _, _ in os.walk(folder):
            os.utime(above, (epoch, epoch))


def _iter_model_files(lock: VerifiedLock, release: Release) -> Iterator[tuple[Artifact, Path]]:
    """Every file of a model, and where it stands in the end."""
    for model, files in lock.list_files_by_model():
        yield from (
            (artifact, release.shared_models / model.host_folder / _get_name_in_model(model, artifact))
            for artifact in files
        )


def _get_name_in_model(model: Model, artifact: Artifact) -> str:
    return artifact.path[len(model.folder) :]


def _refuse_linked_folders(model_folder: Path) -> None:
    """A link would have what is written, or removed, somewhere else."""
    folders = [model_folder, *(Path(above, name) for above, names, _ in os.walk(model_folder) for name in names)]
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            hint = "put the folder itself there, or remove it: the bundle brings its content again"
            raise UnsafeError("this must be a folder of its own, and is a link or a file", where=str(folder), hint=hint)


def _find_damaged(
    files: list[tuple[Artifact, Path]], description: str, reporter: Reporter
) -> list[tuple[Artifact, Path]]:
    """Those of the placed files that are missing or altered."""
    with reporter.stage(f"check {description}", sum(artifact.size for artifact, _ in files)) as stage:
        right = hashing.map_parallel(_is_intact, files, stage.advance)
    return [one for one, good in zip(files, right, strict=True) if not good]


def _is_intact(file: tuple[Artifact, Path], advance: Callable[[int], None]) -> bool:
    artifact, path = file
    if path.is_symlink() or not path.is_file() or path.stat().st_size != artifact.size:
        return False
    try:
        return hashing.compute_file_sha256(path, advance) == (artifact.size, artifact.sha256)
    except (OSError, EOFError):  # a disk that can't give it back
        return False


def _find_broken_packages(release: Release, lock: VerifiedLock, reporter: Reporter) -> list[str]:
    """The packages of an environment that are not as their wheels made them; each is told of."""
    recorded, faults = installed_files.read_installed_files(release, lock)
    faults += installed_files.find_altered(recorded, reporter)
    for fault in faults:
        reporter.warn(f"{fault.path} {fault.message}: it comes again from its wheel")
    return list(dict.fromkeys(name for fault in faults for name in fault.packages))


def _find_unknown_files(model_folder: Path, known: set[Path]) -> list[Path]:
    """Files of a model's folder that do not belong there."""
    found = (Path(above, name) for above, _, names in os.walk(model_folder) for name in names)
    return [path for path in found if path not in known]


def _duplicate_file(source: Path, path: Path) -> None:
    """Equal content is kept once: a hard link, or a copy where the file system has none."""
    try:
        path.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, path)


class _BundleWindow(io.RawIOBase):
    """Part of a bundle as a file of its own, to read a wheel's table of contents in place."""

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
        """Bytes from an offset on."""
        self.seek(offset)
        return self.read(size)

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._offset)
        data = self._bundle.reader.read(
            self._start + self._offset, left if size is None or size < 0 else min(size, left)
        )
        self._offset += len(data)
        return data


def _estimate_unpacked_size(bundle: OpenBundle, artifact: Artifact) -> int:
    """Bytes that a wheel takes once installed."""
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
            return _UNPACK_RATIO * artifact.size  # damaged: placing it names it, together with all other damage
    return _UNPACK_RATIO * artifact.size

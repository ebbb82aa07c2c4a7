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
from bundler.format.lock.entries import ENVIRONMENT, Artifact, Model
from bundler.format.scan import strict_zip
from bundler.format.tar import archive
from bundler.format.tar.archive import OpenBundle
from bundler.offline.environment import installed_files
from bundler.offline.prefix import releases
from bundler.offline.prefix.releases import Release, receipts
from bundler.offline.trust import pickle_policy
from bundler.offline.trust.verification import VerifiedLock
from bundler.progress import Report

_UNPACKED = 4
"""Bytes of an installed wheel for each of its own, where they can't be counted beforehand."""

_LARGEST_TABLE = 4 << 20
"""Bytes of a wheel's table of contents that are counted before the wheel is checked: reading takes memory for it."""

_MOST_UNPACKED = 20
"""What a wheel can say of itself before it is checked counts up to so many bytes for each of its own."""


_FOR_ENVIRONMENT = ("requirements", "tool", "wheel")
"""Kinds of artifacts that the environment is made from."""

IN_THE_RELEASE = ("installer", "asset", "app")
"""Kinds of artifacts that stand in the release as they do in the bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Where each file goes: ``files`` while it is written, then ``moves`` give it its name.

    ``kept`` are files that a run which did not end wrote, and that are right. ``extra`` are files in model folders
    that no lock knows; ``broken`` are packages of a release that stands here whose files are not as their wheels put
    them there.
    """

    files: dict[str, Path]
    kept: dict[str, Path] = field(default_factory=dict)
    moves: tuple[tuple[Path, Path], ...] = ()
    extra: tuple[Path, ...] = ()
    broken: tuple[str, ...] = ()


def plan(locked: VerifiedLock, release: Release, report: Report) -> Plan:
    """What is to be written. Files that are there are hashed, and only what differs is written anew.

    Raises UnsafeError where a folder to write into is a link, IntegrityError where a shared model folder
    belongs to another model.
    """
    base = _plan_mending(locked, release, report) if release.finished else _plan_release(locked, release, report)
    taken = {home: digest for receipt in receipts(release.prefix) for home, digest in receipt.homes.items()}
    plans = [base]
    for model in locked.models:
        if taken.get(model.home, model.digest) != model.digest:
            hint = "it was made to look like that one: do not install it, and tell its builder"
            where = str(release.shared_models / model.home)
            raise IntegrityError(f"{model.home} holds another model", where=where, hint=hint)
        plans.append(plan_model(locked, model, release, report))
    return Plan(
        files={name: path for one in plans for name, path in one.files.items()},
        kept={name: path for one in plans for name, path in one.kept.items()},
        moves=tuple(move for one in plans for move in one.moves),
        extra=tuple(path for one in plans for path in one.extra),
        broken=base.broken,
    )


def _plan_mending(locked: VerifiedLock, release: Release, report: Report) -> Plan:
    """What differs in a release that stands here, beside its models."""
    files: dict[str, Path] = {}
    moves: list[tuple[Path, Path]] = []
    beside = [(one, release.path / one.path) for one in locked.artifacts if one.kind in IN_THE_RELEASE]
    _mend(_wrong(beside, "what stands beside the environment", report), files, moves)
    broken = _broken_packages(release, locked, report)
    wheels = {package.wheel for package in locked.python.packages if package.name in broken}
    wheels |= {tool.path for tool in locked.of_kind("tool")} if broken else set()
    files |= {path: release.work / path for path in wheels}
    return Plan(files=files, moves=tuple(moves), broken=tuple(broken))


def _plan_release(locked: VerifiedLock, release: Release, report: Report) -> Plan:
    """What a release needs that is not finished, beside its models."""
    wanted = {one.path: release.path / one.path for one in locked.artifacts if one.kind in IN_THE_RELEASE}
    if ENVIRONMENT not in release.ahead(locked.digest):
        wanted |= for_environment(locked, release)
    return plan_files(wanted, locked, "what an earlier run placed", report)


def plan_files(wanted: dict[str, Path], locked: VerifiedLock, what: str, report: Report) -> Plan:
    """What is to be written of artifacts that go to these places: all but those that are there, and right."""
    artifacts = {artifact.path: artifact for artifact in locked.artifacts}
    there = [(artifacts[name], path) for name, path in wanted.items() if os.path.lexists(path)]
    wrong = {artifact.path for artifact, _ in _wrong(there, what, report)} if there else set()
    kept = {artifact.path: path for artifact, path in there if artifact.path not in wrong}
    return Plan(files={name: path for name, path in wanted.items() if name not in kept}, kept=kept)


def plan_model(locked: VerifiedLock, model: Model, release: Release, report: Report) -> Plan:
    """What is to be written of one model. Raises UnsafeError where a folder to write into is a link."""
    home = release.shared_models / model.home
    placed = [(artifact, _within(model, artifact)) for artifact in locked.files_of(model)]
    if not home.exists() and not home.is_symlink():
        partial = releases.partial_of(home)
        wanted = {artifact.path: partial / inside for artifact, inside in placed}
        if os.path.lexists(partial):
            _refuse_linked_folders(partial)
        found = plan_files(wanted, locked, f"{model.alias}, as far as it is here", report)
        extra = _strangers(partial, set(wanted.values()))
        return dataclasses.replace(found, moves=((partial, home),), extra=tuple(extra))
    _refuse_linked_folders(home)
    files: dict[str, Path] = {}
    moves: list[tuple[Path, Path]] = []
    there = [(artifact, home / inside) for artifact, inside in placed]
    _mend(_wrong(there, f"{model.alias}, which is here", report), files, moves)
    extra = _strangers(home, {path for _, path in there} | set(files.values()))  # a killed run left some of these
    return Plan(files=files, moves=tuple(moves), extra=tuple(extra))


def for_environment(locked: VerifiedLock, release: Release) -> dict[str, Path]:
    """Where the files go that the environment is made from."""
    return {one.path: release.work / one.path for one in locked.artifacts if one.kind in _FOR_ENVIRONMENT}


def for_application(locked: VerifiedLock, release: Release) -> dict[str, Path]:
    """Where the application's files go."""
    return {one.path: release.path / one.path for one in locked.of_kind("app")}


def _mend(wrong: list[tuple[Artifact, Path]], files: dict[str, Path], moves: list[tuple[Path, Path]]) -> None:
    """Plan a good file beside each wrong one, to take its place in one step."""
    for artifact, path in wrong:
        files[artifact.path] = path.with_name(f".{path.name}.partial")
        moves.append((files[artifact.path], path))


def needed(carried: OpenBundle, planned: Plan, release: Release) -> int:
    """Bytes that the plan and the environment made from it take on the prefix's disk."""
    plain = {a.path: a for a in carried.lock.artifacts if a.path in planned.files}
    shared = (
        isinstance(carried.where, str)
        and carried.carrier.seekable
        and disk.shares_blocks(Path(carried.where), release.prefix)
    )
    copied = 0 if shared else sum(artifact.size for artifact in plain.values())
    coming = planned.files.keys() | planned.kept.keys()
    wheels = [artifact for artifact in carried.lock.of_kind("wheel") if artifact.path in coming]
    return copied + sum(_unpacked(carried, artifact) for artifact in wheels)


def place(
    carried: OpenBundle,
    locked: VerifiedLock,
    planned: Plan,
    release: Release,
    report: Report,
    *,
    no_pickles: bool = False,
) -> None:
    """Write what was planned, every byte hashed where it arrived.

    Raises IntegrityError that names all damage of the bundle, UnsafeError for content that is refused; then nothing
    got its final name.
    """
    holders = {member.name: member.holder.name for member in carried.layout.artifacts()}
    first: dict[str, Path] = {}
    releases.begin_models(release, planned.moves)
    for name, path in planned.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        first.setdefault(holders[name], path)
    sizes = {artifact.path: artifact.size for artifact in locked.artifacts}
    with report.stage("place", sum(sizes[name] for name in first)) as stage:
        archive.refuse(carried.copy_out(first, stage.advance), carried.where)
    for name, path in planned.files.items():
        if path != first[holders[name]]:
            _same_again(first[holders[name]], path)
    if no_pickles:
        places = planned.kept | planned.files
        pickle_policy.refuse_content((a.path, places.get(a.path, home)) for a, home in _homes(locked, release))
    for path in [*planned.files.values(), *planned.kept.values()]:
        path.chmod(0o644)
        os.utime(path, (locked.source_date_epoch, locked.source_date_epoch))
    for path in planned.extra:
        report.warn(f"{path} belongs to no bundle and is removed: a loader might have read it")
        path.unlink()
    if any(final.exists() for _, final in planned.moves):  # after a power cut what is mended must not be empty
        disk.sync_file_system(release.prefix)
    for written, final in planned.moves:
        written.replace(final)
    _settle(planned, locked.source_date_epoch)


def _settle(planned: Plan, epoch: int) -> None:
    """Give folders that were written to the time of their files: a model is then the same layer in every image."""
    written = {final if final.is_dir() else final.parent for _, final in planned.moves}
    for folder in written | {path.parent for path in planned.extra}:
        for above, _, _ in os.walk(folder):
            os.utime(above, (epoch, epoch))


def _homes(locked: VerifiedLock, release: Release) -> Iterator[tuple[Artifact, Path]]:
    """Every file of a model, and where it stands in the end."""
    for model, files in locked.by_model():
        yield from ((artifact, release.shared_models / model.home / _within(model, artifact)) for artifact in files)


def _within(model: Model, artifact: Artifact) -> str:
    return artifact.path[len(model.folder) :]


def _refuse_linked_folders(home: Path) -> None:
    """A link would have what is written, or removed, somewhere else."""
    folders = [home, *(Path(above, name) for above, names, _ in os.walk(home) for name in names)]
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            hint = "put the folder itself there, or remove it: the bundle brings its content again"
            raise UnsafeError("this must be a folder of its own, and is a link or a file", where=str(folder), hint=hint)


def _wrong(placed: list[tuple[Artifact, Path]], what: str, report: Report) -> list[tuple[Artifact, Path]]:
    """Those of the placed files that are missing or altered."""
    with report.stage(f"check {what}", sum(artifact.size for artifact, _ in placed)) as stage:
        right = hashing.side_by_side(_is_right, placed, stage.advance)
    return [one for one, good in zip(placed, right, strict=True) if not good]


def _is_right(placed: tuple[Artifact, Path], advance: Callable[[int], None]) -> bool:
    artifact, path = placed
    if path.is_symlink() or not path.is_file() or path.stat().st_size != artifact.size:
        return False
    try:
        return hashing.digest_of_file(path, advance) == (artifact.size, artifact.sha256)
    except (OSError, EOFError):  # a disk that can't give it back
        return False


def _broken_packages(release: Release, locked: VerifiedLock, report: Report) -> list[str]:
    """The packages of an environment that are not as their wheels made them; each is told of."""
    recorded, faults = installed_files.recorded(release, locked)
    faults += installed_files.altered(recorded, report)
    for fault in faults:
        report.warn(f"{fault.path} {fault.message}: it comes again from its wheel")
    return list(dict.fromkeys(name for fault in faults for name in fault.packages))


def _strangers(home: Path, known: set[Path]) -> list[Path]:
    """Files of a model's folder that do not belong there."""
    found = (Path(above, name) for above, _, names in os.walk(home) for name in names)
    return [path for path in found if path not in known]


def _same_again(there: Path, path: Path) -> None:
    """Equal content is kept once: a hard link, or a copy where the file system has none."""
    try:
        path.hardlink_to(there)
    except OSError:
        shutil.copyfile(there, path)


class _Window(io.RawIOBase):
    """Part of a bundle as a file of its own, to read a wheel's table of contents in place."""

    def __init__(self, carried: OpenBundle, at: int, size: int) -> None:
        super().__init__()
        self._carried, self._start, self._size, self._at = carried, at, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read_at(self, at: int, size: int) -> bytes:
        """Bytes from an offset on."""
        self.seek(at)
        return self.read(size)

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = self._carried.carrier.read(self._start + self._at, left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data


def _unpacked(carried: OpenBundle, artifact: Artifact) -> int:
    """Bytes that a wheel takes once installed."""
    if carried.carrier.seekable:
        member = next(m for m in carried.layout.artifacts() if m.name == artifact.path).holder
        try:
            window = _Window(carried, member.content_at, member.size)
            if member.size - strict_zip.table_at(window.read_at, member.size) > _LARGEST_TABLE:
                return _UNPACKED * artifact.size
            with zipfile.ZipFile(window) as wheel:
                stated = sum(info.file_size for info in wheel.infolist())
                return min(stated, _MOST_UNPACKED * artifact.size)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, struct.error):
            return _UNPACKED * artifact.size  # damaged: placing it names it, together with all other damage
    return _UNPACKED * artifact.size

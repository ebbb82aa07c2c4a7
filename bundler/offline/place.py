"""Verified bytes onto the disk, all or none."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bundler.bundle import archive, disk, hashing
from bundler.bundle.archive import OpenBundle
from bundler.bundle.lock import Artifact, Lock, Model
from bundler.offline.releases import Release
from bundler.offline.verify import VerifiedLock
from bundler.progress import Report

_UNPACKED = 4
"""Bytes of an installed wheel for each of its own, where they can't be counted beforehand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Where each file goes: ``files`` while it is written, then ``moves`` give it its name.

    ``there`` are model folders that hold the right files already; ``extra`` are files in such folders
    that no lock knows.
    """

    files: dict[str, Path]
    moves: tuple[tuple[Path, Path], ...]
    there: tuple[str, ...]
    extra: tuple[Path, ...]


def plan(locked: VerifiedLock, release: Release, report: Report) -> Plan:
    """What is to be written. Model folders that are there are hashed, and only what differs is written anew."""
    files: dict[str, Path] = {}
    moves: list[tuple[Path, Path]] = []
    there: list[str] = []
    extra: list[Path] = []
    if not release.receipt.exists():
        for artifact in locked.artifacts:
            if artifact.kind in ("requirements", "tool", "wheel"):
                files[artifact.path] = release.work / artifact.path
            elif artifact.kind == "asset":
                files[artifact.path] = release.path / artifact.path
    for model in locked.models:
        home = release.shared_models / model.home
        if not home.is_dir():
            partial = home.with_name(f".{home.name}.partial")
            files |= {a.path: partial / _within(model, a) for a in locked.files_of(model)}
            moves.append((partial, home))
            continue
        wrong, strange = _differences(home, model, locked, report)
        extra += strange
        if not wrong:
            there.append(model.alias)
        for artifact in wrong:
            good = home / _within(model, artifact)
            files[artifact.path] = good.with_name(f".{good.name}.partial")
            moves.append((files[artifact.path], good))
    return Plan(files=files, moves=tuple(moves), there=tuple(there), extra=tuple(extra))


def needed(carried: OpenBundle, planned: Plan, release: Release) -> int:
    """Bytes that the plan and the environment made from it take on the prefix's disk."""
    plain = {a.path: a for a in carried.lock.artifacts if a.path in planned.files}
    shared = (
        isinstance(carried.where, str)
        and carried.carrier.seekable
        and disk.shares_blocks(Path(carried.where), release.prefix)
    )
    copied = 0 if shared else sum(artifact.size for artifact in plain.values())
    return copied + sum(_unpacked(carried, artifact) for artifact in plain.values() if artifact.kind == "wheel")


def place(carried: OpenBundle, locked: VerifiedLock, planned: Plan, release: Release, report: Report) -> None:
    """Write what was planned, every byte hashed where it arrived.

    Raises IntegrityError that names all damage of the bundle; then nothing got its final name.
    """
    holders = {member.name: member.holder.name for member in carried.layout.artifacts()}
    first: dict[str, Path] = {}
    for left in release.shared_models.glob(".*.partial"):
        shutil.rmtree(left)  # by a run that was killed
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
    for path in planned.files.values():
        path.chmod(0o644)
        os.utime(path, (locked.source_date_epoch, locked.source_date_epoch))
    for path in planned.extra:
        report.warn(f"{path} belongs to no bundle and is removed: a loader might have read it")
        path.unlink()
    for written, final in planned.moves:
        written.replace(final)


def _within(model: Model, artifact: Artifact) -> str:
    return artifact.path[len(model.folder) :]


def _differences(home: Path, model: Model, locked: Lock, report: Report) -> tuple[list[Artifact], list[Path]]:
    """The files of a placed model that are missing or altered, and those that do not belong there."""
    files = locked.files_of(model)
    known = {home / _within(model, artifact) for artifact in files}
    extra = [path for path in home.rglob("*") if path not in known and (path.is_symlink() or not path.is_dir())]
    with report.stage(f"check {model.alias}, which is here", sum(a.size for a in files)) as stage:

        def wrong(artifact: Artifact) -> bool:
            path = home / _within(model, artifact)
            if path.is_symlink() or not path.is_file():
                return True
            size, sha256 = hashing.digest_of_file(path)
            stage.advance(size)
            return (size, sha256) != (artifact.size, artifact.sha256)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [artifact for artifact, bad in zip(files, pool.map(wrong, files), strict=True) if bad], extra


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
            with zipfile.ZipFile(_Window(carried, member.content_at, member.size)) as wheel:
                return sum(info.file_size for info in wheel.infolist())
        except zipfile.BadZipFile:
            return _UNPACKED * artifact.size  # damaged: placing it names it, together with all other damage
    return _UNPACKED * artifact.size

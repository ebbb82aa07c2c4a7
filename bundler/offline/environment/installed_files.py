"""What the wheels put into the environment, and whether it still is that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from bundler.format import hashing
from bundler.format.hashing import AdvanceCallback
from bundler.format.lock.lockfile import Lock
from bundler.format.scan.wheel_record import read_record
from bundler.offline.environment import guard
from bundler.offline.prefix.releases import Release
from bundler.progress import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class Altered:
    """An installed file that is not as it was installed, and why."""

    path: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """A file that is not as the wheels put it there, and the packages that it is of."""

    packages: tuple[str, ...]
    path: Path
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledFile:
    """A file as RECORDs name it.

    ``wanted`` holds the size in bytes (-1 where none is given) and the SHA-256 ("" where none is) that each of
    ``packages`` gives it: where several bring one file, such as ``tests/__init__.py``, the last to be installed won.
    """

    path: Path
    packages: tuple[str, ...]
    expected: tuple[tuple[int, str], ...]


def read_installed_files(release: Release, lock: Lock) -> tuple[list[InstalledFile], list[FileProblem]]:
    """Every file that the packages of a lock have in the environment, and what is wrong with their RECORDs.

    See packaging.python.org, "Recording installed projects".
    """
    home = guard.get_site_packages(release, lock)
    there = {_parse_package_name(folder): folder for folder in home.glob("*.dist-info")}
    owners: dict[Path, dict[str, tuple[int, str]]] = {}
    faults: list[FileProblem] = []
    for package in lock.python.packages:
        name = canonicalize_name(package.name)
        record = there.get(name, home / f"{package.name}-{package.version}.dist-info") / "RECORD"
        try:
            for path, size, sha256 in _read_rows(record, home):
                owners.setdefault(path, {})[package.name] = (size, sha256)
        except (OSError, ValueError) as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
            faults.append(FileProblem(packages=(package.name,), path=record, message=why))
    files = [
        InstalledFile(path=path, packages=tuple(by), expected=tuple(dict.fromkeys(by.values())))
        for path, by in owners.items()
    ]
    return files, faults


def find_missing(files: list[InstalledFile]) -> list[FileProblem]:
    """Files that are not there or are of another size; reads no content."""
    return [fault for file in files if (fault := _find_size_problem(file))]


def find_altered(files: list[InstalledFile], reporter: Reporter) -> list[FileProblem]:
    """Files that are not there or are altered: every byte is hashed, on every core."""
    total = sum(file.path.stat().st_size for file in files if file.path.is_file())
    with reporter.stage("check the environment", total) as stage:
        return [fault for fault in hashing.map_parallel(_find_content_problem, files, stage.advance) if fault]


def find_unknown_files(release: Release, lock: Lock, files: list[InstalledFile]) -> list[Path]:
    """Files beside the packages that neither they nor the guard brought, and that Python might import.

    What it compiles is none.
    """
    home = guard.get_site_packages(release, lock)
    known = {file.path for file in files} | guard.render_files(release, lock).keys()
    found: list[Path] = []
    for above, folders, names in os.walk(home):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [path for name in names if (path := Path(above, name)) not in known]
    return sorted(found)


def _parse_package_name(folder: Path) -> str:
    """The package that a folder of metadata is of."""
    return canonicalize_name(folder.name.removesuffix(".dist-info").rpartition("-")[0])


def _read_rows(record_path: Path, site_packages: Path) -> list[tuple[Path, int, str]]:
    """Place, size and SHA-256 of each file that a RECORD names. Raises ValueError for what is no RECORD."""
    root = f"{site_packages.parent.parent.parent}{os.sep}"
    rows: list[tuple[Path, int, str]] = []
    for row in read_record(record_path.read_bytes()):
        place = os.path.normpath(site_packages / row.path)
        if not place.startswith(root):
            raise ValueError(f"{row.path[:100]!a} names no file of the environment")
        rows.append((Path(place), row.size, row.digest if row.algorithm == "sha256" else ""))
    if not rows:
        raise ValueError("it is empty")
    return rows


def _find_size_problem(file: InstalledFile) -> FileProblem | None:
    try:
        size = file.path.stat().st_size
    except OSError as error:
        message = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        return FileProblem(packages=file.packages, path=file.path, message=message)
    if all(wanted not in (-1, size) for wanted, _ in file.expected):
        message = f"has {size:,} bytes and must have {file.expected[0][0]:,}"
        return FileProblem(packages=file.packages, path=file.path, message=message)
    return None


def _find_content_problem(file: InstalledFile, advance: AdvanceCallback) -> FileProblem | None:
    fault = _find_size_problem(file)
    if fault or any(not sha256 for _, sha256 in file.expected):
        return fault
    try:
        _, digest = hashing.compute_file_sha256(file.path, advance)
    except (OSError, EOFError) as error:
        return FileProblem(packages=file.packages, path=file.path, message=f"can't be read: {error}")
    if all(sha256 != digest for _, sha256 in file.expected):
        return FileProblem(packages=file.packages, path=file.path, message="its content is not what was installed")
    return None

"""Compares the files in the environment with the RECORDs of its wheels."""

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
    """A file that is not as it was installed; ``message`` says how it differs."""

    path: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """A file that differs from its wheels, and the packages that it belongs to."""

    packages: tuple[str, ...]
    path: Path
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledFile:
    """A file that RECORDs list.

    ``expected`` holds pairs of size in bytes (-1 if not recorded) and SHA-256 ("" if not recorded). There are several if
    several packages install the file, such as ``tests/__init__.py``: any of them may have been installed last.
    """

    path: Path
    packages: tuple[str, ...]
    expected: tuple[tuple[int, str], ...]


def read_installed_files(release: Release, lock: Lock) -> tuple[list[InstalledFile], list[FileProblem]]:
    """Read the RECORDs of a lock's packages (packaging.python.org, "Recording installed projects").

    Returns:
        The files that they list, and the RECORDs that are missing or can't be read.
    """
    site_packages = guard.get_site_packages(release, lock)
    metadata_folders = {_parse_package_name(folder): folder for folder in site_packages.glob("*.dist-info")}
    expected: dict[Path, dict[str, tuple[int, str]]] = {}
    problems: list[FileProblem] = []
    for package in lock.python.packages:
        default_folder = site_packages / f"{package.name}-{package.version}.dist-info"
        record = metadata_folders.get(canonicalize_name(package.name), default_folder) / "RECORD"
        try:
            for path, size, sha256 in _read_rows(record, site_packages):
                expected.setdefault(path, {})[package.name] = (size, sha256)
        except (OSError, ValueError) as error:
            message = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
            problems.append(FileProblem(packages=(package.name,), path=record, message=message))
    files = [
        InstalledFile(path=path, packages=tuple(by_package), expected=tuple(dict.fromkeys(by_package.values())))
        for path, by_package in expected.items()
    ]
    return files, problems


def find_missing(files: list[InstalledFile]) -> list[FileProblem]:
    """Find files that are missing or have another size; reads no content."""
    return [problem for file in files if (problem := _find_size_problem(file))]


def find_altered(files: list[InstalledFile], reporter: Reporter) -> list[FileProblem]:
    """Find files that are missing or altered: every byte is hashed, on every core."""
    total = sum(file.path.stat().st_size for file in files if file.path.is_file())
    with reporter.stage("check the environment", total) as stage:
        problems = hashing.map_parallel(_find_content_problem, files, stage.advance)
        return [problem for problem in problems if problem]


def find_unknown_files(release: Release, lock: Lock, files: list[InstalledFile]) -> list[Path]:
    """Find files in ``site-packages`` that belong to no package nor the guard: Python might import them.

    Bytecode in ``__pycache__`` is left out.
    """
    site_packages = guard.get_site_packages(release, lock)
    known = {file.path for file in files} | guard.render_files(release, lock).keys()
    unknown: list[Path] = []
    for parent, folders, names in os.walk(site_packages):
        folders[:] = [name for name in folders if name != "__pycache__"]
        unknown += [path for name in names if (path := Path(parent, name)) not in known]
    return sorted(unknown)


def _parse_package_name(folder: Path) -> str:
    """Return the normalized name of the package that a metadata folder belongs to."""
    return canonicalize_name(folder.name.removesuffix(".dist-info").rpartition("-")[0])


def _read_rows(record_path: Path, site_packages: Path) -> list[tuple[Path, int, str]]:
    """Return path, size and SHA-256 of each file that a RECORD lists.

    Raises:
        ValueError: It is no RECORD.
    """
    root = f"{site_packages.parent.parent.parent}{os.sep}"
    rows: list[tuple[Path, int, str]] = []
    for row in read_record(record_path.read_bytes()):
        path = os.path.normpath(site_packages / row.path)
        if not path.startswith(root):
            raise ValueError(f"{row.path[:100]!a} is outside the environment")
        rows.append((Path(path), row.size, row.digest if row.algorithm == "sha256" else ""))
    if not rows:
        raise ValueError("it is empty")
    return rows


def _find_size_problem(file: InstalledFile) -> FileProblem | None:
    try:
        size = file.path.stat().st_size
    except OSError as error:
        message = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        return FileProblem(packages=file.packages, path=file.path, message=message)
    if all(expected_size not in (-1, size) for expected_size, _ in file.expected):
        message = f"has {size:,} bytes and must have {file.expected[0][0]:,}"
        return FileProblem(packages=file.packages, path=file.path, message=message)
    return None


def _find_content_problem(file: InstalledFile, advance: AdvanceCallback) -> FileProblem | None:
    problem = _find_size_problem(file)
    if problem or any(not sha256 for _, sha256 in file.expected):
        return problem
    try:
        _, digest = hashing.compute_file_sha256(file.path, advance)
    except (OSError, EOFError) as error:
        return FileProblem(packages=file.packages, path=file.path, message=f"can't be read: {error}")
    if all(sha256 != digest for _, sha256 in file.expected):
        return FileProblem(packages=file.packages, path=file.path, message="its content is not what was installed")
    return None

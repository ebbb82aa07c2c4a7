"""Reads a Python project's name, version, packages and Python version."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from bundler.errors import ManifestError
from bundler.format.lock.target import detect_target
from bundler.online.scaffold import python_pins

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
_DEVELOPMENT_NAME = re.compile(
    r"(^|[-_.])(dev|develop|development|test|tests|testing|docs?|lint|ci|build|typing)([-_.]|$)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """A project's name and version as it states them, its packages, and its minor version of Python."""

    name: str
    version: str
    python: str
    python_source: str
    """The file or machine that the version is from, for a person."""
    accelerator: str = "cpu"
    accelerator_source: str = ""
    """The requirement that names a build of PyTorch; "" if none does."""
    requirements: tuple[str, ...] = ()
    requirements_files: tuple[Path, ...] = ()
    """Files of requirements; if there are any, ``requirements`` is empty."""
    excluded: tuple[str, ...] = ()
    """What is not in the manifest, for a person."""
    open_points: tuple[str, ...] = ()
    """Contradictions that a person has to decide."""


def read_project(folder: Path) -> Project:
    """Read pyproject.toml, files of requirements and Python pins.

    Raises:
        ManifestError: pyproject.toml is malformed, or no supported Python is permitted.
    """
    document = _get_table(_read_pyproject(folder / "pyproject.toml"), "project")
    files = tuple(sorted(path for path in folder.glob("requirements*.txt") if path.is_file()))
    used = tuple(path for path in files if not _DEVELOPMENT_NAME.search(path.stem.lower()))
    excluded = [f"{path.name}: for development, as its name says" for path in files if path not in used]
    stated = [str(line) for line in document.get("dependencies") or () if isinstance(line, str)]
    if used and stated:
        names = " and ".join(path.name for path in used)
        excluded.append(f"the dependencies of pyproject.toml: the manifest uses {names}")
    requirements = [] if used else [line for line in stated if _is_portable(line)]
    if not used:
        excluded += [
            f"{_get_package_name(line)}: it comes from a URL, but a bundle takes wheels only"
            for line in set(stated) - {*requirements}
        ]
    groups = sorted(map(str, _get_table(document, "optional-dependencies")))
    if groups:
        excluded.append(f"optional groups of pyproject.toml: {', '.join(groups)}")
    python, python_source, open_points = _choose_python(document, folder)
    accelerator, accelerator_source = _find_accelerator(used, requirements)
    return Project(
        name=str(document.get("name") or folder.resolve().name),
        version=str(document.get("version") or ""),
        python=python,
        python_source=python_source,
        accelerator=accelerator,
        accelerator_source=accelerator_source,
        open_points=(*open_points, *python_pins.list_image_notes(folder, accelerator)),
        requirements=tuple(requirements),
        requirements_files=used,
        excluded=tuple(excluded),
    )


def _read_pyproject(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ManifestError(
            f"this is not TOML: {error}", where=str(path), hint="correct it, or move it away"
        ) from error


def _get_table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = document.get(name)
    return table if isinstance(table, dict) else {}


def _is_portable(line: str) -> bool:
    try:
        return Requirement(line).url is None
    except InvalidRequirement:
        return False


def _get_package_name(line: str) -> str:
    """Return the package of a requirement, without its URL, which may hold a password."""
    return re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0] or "a line"


def _choose_python(document: Mapping[str, Any], folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """Return the minor version of Python, its source, and what a person has to check.

    A pin for deployment counts first, then one for developers, then this machine's Python if it is permitted.
    """
    builder_python = detect_target().python
    stated = str(document.get("requires-python") or "")
    try:
        allowed = SpecifierSet(stated)
    except InvalidSpecifier as error:
        where = str(folder / "pyproject.toml")
        raise ManifestError(
            f"requires-python is not a range of versions: {stated!r}", where=where, hint="see PEP 440"
        ) from error
    permitted = [
        version for version in _PYTHON_VERSIONS if any(allowed.contains(f"{version}.{micro}") for micro in (0, 99))
    ]
    pins = python_pins.read_pins(folder)
    usable = [pin for pin in pins if pin.version in _PYTHON_VERSIONS]
    supported = f"this tool supports CPython {_PYTHON_VERSIONS[0]} to {_PYTHON_VERSIONS[-1]}"
    open_points = [
        f"{pin.source}: Python {pin.version}, but {supported}" for pin in pins if pin.version and pin not in usable
    ]
    open_points += [f"{pin.source}: does not say which Python" for pin in pins if not pin.version]
    if usable:
        first, *others = usable
        open_points += [
            f"{pin.source}: Python {pin.version}, not {first.version}" for pin in others if pin.version != first.version
        ]
        if stated and first.version not in permitted:
            message = f"{first.source}: Python {first.version}, which requires-python {stated} does not permit"
            open_points.append(message)
        return first.version, first.source, tuple(open_points)
    if not stated or builder_python in permitted:
        source = f"requires-python {stated}, and this machine" if stated else "as on this machine"
        return builder_python, source, tuple(open_points)
    if not permitted:
        message = f"requires-python {stated} permits no supported Python"
        raise ManifestError(message, where=str(folder), hint=supported)
    return permitted[-1], f"requires-python {stated}", tuple(open_points)


_TORCH_BUILD = re.compile(r"(?:\+|/whl/)(cpu|cu\d{2,3}|rocm\d[\d.]*\d|xpu)(?![\w.])")
"""Matches a build of PyTorch in a version (2.13.0+cu126) or in the URL of an index (/whl/cu126)."""


def _find_accelerator(files: Sequence[Path], lines: Sequence[str]) -> tuple[str, str]:
    """Return the build of PyTorch that the requirements name, and where."""
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if (match := _TORCH_BUILD.search(line)) and not line.lstrip().startswith("#"):
                return match[1], f"{path.name}:{number}"
    build = next((match[1] for line in lines if (match := _TORCH_BUILD.search(line))), "")
    return (build, "pyproject.toml") if build else ("cpu", "")

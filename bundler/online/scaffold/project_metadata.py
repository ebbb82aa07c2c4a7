"""What a Python project says of itself: its name, the packages that it needs and the Python that it runs on."""

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
    """A project's name and version as it states them, its packages, and the minor version of Python for it."""

    name: str
    version: str
    python: str
    python_source: str
    """Who says so."""
    accelerator: str = "cpu"
    accelerator_says: str = ""
    """Where the requirements name a build of PyTorch; "" where they do not."""
    requirements: tuple[str, ...] = ()
    requirements_files: tuple[Path, ...] = ()
    """Files of requirements; where there are some, ``requirements`` is empty."""
    excluded: tuple[str, ...] = ()
    """What was left out, in words."""
    look: tuple[str, ...] = ()
    """What contradicts itself and is for a person to decide, in words."""


def read_project(folder: Path) -> Project:
    """What pyproject.toml, the files of requirements and the pins of Python say; raises ManifestError."""
    document = _get_table(_read_pyproject(folder / "pyproject.toml"), "project")
    files = tuple(sorted(path for path in folder.glob("requirements*.txt") if path.is_file()))
    used = tuple(path for path in files if not _DEVELOPMENT_NAME.search(path.stem.lower()))
    beside = [f"{path.name}: not for running, as its name says" for path in files if path not in used]
    stated = [str(one) for one in document.get("dependencies") or () if isinstance(one, str)]
    if used and stated:
        beside.append(f"the dependencies of pyproject.toml: {' and '.join(path.name for path in used)} stands for them")
    kept = [] if used else [line for line in stated if _is_portable(line)]
    if not used:
        beside += [
            f"{_get_package_name(line)}: its source is an address, and only wheels travel"
            for line in set(stated) - {*kept}
        ]
    groups = sorted(map(str, _get_table(document, "optional-dependencies")))
    if groups:
        beside.append(f"optional groups of pyproject.toml: {', '.join(groups)}")
    python, says, look = _choose_python(document, folder)
    accelerator, accelerator_says = _accelerator(used, kept)
    return Project(
        name=str(document.get("name") or folder.resolve().name),
        version=str(document.get("version") or ""),
        python=python,
        python_source=says,
        accelerator=accelerator,
        accelerator_says=accelerator_says,
        look=(*look, *python_pins.notes(folder, accelerator)),
        requirements=tuple(kept),
        requirements_files=used,
        excluded=tuple(beside),
    )


def _read_pyproject(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ManifestError(f"this is not TOML: {error}", where=str(path), hint="mend it, or move it away") from error


def _get_table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _is_portable(line: str) -> bool:
    try:
        return Requirement(line).url is None
    except InvalidRequirement:
        return False


def _get_package_name(line: str) -> str:
    """The package of a line, without the address that may hold a password."""
    return re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0] or "a line"


def _choose_python(document: Mapping[str, Any], folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """The minor version of Python, who says so, and what a person has to look at.

    What is deployed goes before what developers use, and both before this machine's own, which has to be permitted.
    """
    here = detect_target().python
    stated = str(document.get("requires-python") or "")
    try:
        allowed = SpecifierSet(stated)
    except InvalidSpecifier as error:
        where = str(folder / "pyproject.toml")
        raise ManifestError(f"requires-python is not understood: {stated!r}", where=where) from error
    fitting = [one for one in _PYTHON_VERSIONS if any(allowed.contains(f"{one}.{micro}") for micro in (0, 99))]
    pins = python_pins.read(folder)
    usable = [pin for pin in pins if pin.version in _PYTHON_VERSIONS]
    known = f"this tool carries to CPython {_PYTHON_VERSIONS[0]} to {_PYTHON_VERSIONS[-1]}"
    look = [f"{pin.says}: Python {pin.version}, and {known}" for pin in pins if pin.version and pin not in usable]
    look += [f"{pin.says}: does not say which Python" for pin in pins if not pin.version]
    if usable:
        first, *others = usable
        look += [
            f"{pin.says}: Python {pin.version}, not {first.version}" for pin in others if pin.version != first.version
        ]
        if stated and first.version not in fitting:
            look.append(f"{first.says}: Python {first.version}, which requires-python {stated} does not permit")
        return first.version, first.says, tuple(look)
    if not stated or here in fitting:
        says = f"requires-python {stated}, and this machine" if stated else "as on this machine"
        return here, says, tuple(look)
    if not fitting:
        raise ManifestError(f"requires-python {stated} permits no such Python", where=str(folder), hint=known)
    return fitting[-1], f"requires-python {stated}", tuple(look)


_BUILD = re.compile(r"(?:\+|/whl/)(cpu|cu\d{2,3}|rocm\d[\d.]*\d|xpu)(?![\w.])")
"""PyTorch's builds in a version (2.13.0+cu126) or in the address of an index (/whl/cu126)."""


def _accelerator(files: Sequence[Path], lines: Sequence[str]) -> tuple[str, str]:
    """Which build of PyTorch the requirements name, and where."""
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if (found := _BUILD.search(line)) and not line.lstrip().startswith("#"):
                return found[1], f"{path.name}:{number}"
    named = next((found[1] for line in lines if (found := _BUILD.search(line))), "")
    return (named, "pyproject.toml") if named else ("cpu", "")

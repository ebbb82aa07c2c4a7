"""What a Python project says of itself: its name, the packages that it needs and the Python that it runs on."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from bundler.bundle.target import this_machine
from bundler.errors import ManifestError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MINORS = ("3.10", "3.11", "3.12", "3.13", "3.14")
_NOT_FOR_USE = re.compile(r"(^|[-_.])(dev|develop|development|test|tests|testing|docs?|lint|ci|build|typing)([-_.]|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """A project's name and version as it states them, its packages, and the minor version of Python for it."""

    name: str
    version: str
    python: str
    python_says: str
    """Who says so."""
    requirements: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """Files of requirements; where there are some, ``requirements`` is empty."""
    beside: tuple[str, ...] = ()
    """What was left out, in words."""


def read(folder: Path) -> Project:
    """What pyproject.toml, the files of requirements and .python-version say; raises ManifestError."""
    document = _table(_document(folder / "pyproject.toml"), "project")
    files = tuple(sorted(path for path in folder.glob("requirements*.txt") if path.is_file()))
    used = tuple(path for path in files if not _NOT_FOR_USE.search(path.stem.lower()))
    beside = [f"{path.name}: not for running, as its name says" for path in files if path not in used]
    stated = [str(one) for one in document.get("dependencies") or () if isinstance(one, str)]
    if used and stated:
        beside.append(f"the dependencies of pyproject.toml: {' and '.join(path.name for path in used)} stands for them")
    kept = [] if used else [line for line in stated if _can_travel(line)]
    if not used:
        beside += [
            f"{_named(line)}: its source is an address, and only wheels travel" for line in set(stated) - {*kept}
        ]
    groups = sorted(map(str, _table(document, "optional-dependencies")))
    if groups:
        beside.append(f"optional groups of pyproject.toml: {', '.join(groups)}")
    python, says = _python(document, folder)
    return Project(
        name=str(document.get("name") or folder.resolve().name),
        version=str(document.get("version") or ""),
        python=python,
        python_says=says,
        requirements=tuple(kept),
        files=used,
        beside=tuple(beside),
    )


def _document(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ManifestError(f"this is not TOML: {error}", where=str(path), hint="mend it, or move it away") from error


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _can_travel(line: str) -> bool:
    try:
        return Requirement(line).url is None
    except InvalidRequirement:
        return False


def _named(line: str) -> str:
    """The package of a line, without the address that may hold a password."""
    return re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0] or "a line"


def _python(document: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """The minor version of Python, and who says so: the machine's own where the project permits that."""
    here = this_machine().python
    stated = str(document.get("requires-python") or "")
    pin = folder / ".python-version"
    first = pin.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0] if pin.is_file() else ""
    pinned = re.match(r"(?:cpython-)?(3\.\d+)", first)
    if pinned and pinned[1] in _MINORS:
        return pinned[1], ".python-version"
    try:
        allowed = SpecifierSet(stated)
    except InvalidSpecifier as error:
        where = str(folder / "pyproject.toml")
        raise ManifestError(f"requires-python is not understood: {stated!r}", where=where) from error
    fitting = [one for one in _MINORS if any(allowed.contains(f"{one}.{micro}") for micro in (0, 99))]
    if not stated or here in fitting:
        return here, f"requires-python {stated}, and this machine" if stated else "as on this machine"
    if not fitting:
        hint = f"this tool carries to CPython {_MINORS[0]} to {_MINORS[-1]}"
        raise ManifestError(f"requires-python {stated} permits no such Python", where=str(folder), hint=hint)
    return fitting[-1], f"requires-python {stated}"

"""JSON files of a model, read so that a broken one is named and a missing value has a type."""

from __future__ import annotations

import json
from pathlib import Path

from ..results.failures import DAMAGED, CheckFailed


def document(path: Path) -> object:
    """The content of a JSON file.

    :raises CheckFailed: the file can not be read or is no JSON
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckFailed(f"{path.name} can not be read: {error.strerror or error}.", DAMAGED) from error
    except ValueError as error:
        raise CheckFailed(f"{path.name} is not a JSON file ({error}).", DAMAGED) from error


def mapping(path: Path) -> dict[str, object]:
    """The content of a JSON file that holds an object."""
    return as_mapping(document(path), path.name)


def optional_mapping(path: Path) -> dict[str, object]:
    """As `mapping`; empty where there is no such file."""
    return mapping(path) if path.is_file() else {}


def as_mapping(value: object, name: str) -> dict[str, object]:
    """`value` if it is an object; `name` is for the error."""
    if not isinstance(value, dict):
        raise CheckFailed(f"{name} should hold a JSON object and holds something else.", DAMAGED)
    return value


def integer(values: dict[str, object], *names: str) -> int | None:
    """The first of these keys that holds a whole number."""
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


def text(values: dict[str, object], name: str) -> str:
    """The string under `name`, or an empty one."""
    value = values.get(name)
    return value if isinstance(value, str) else ""

"""JSON files of a model, read so that a broken one is named and a missing value has a type."""

from __future__ import annotations

import json
from pathlib import Path

from ..results.failures import DAMAGED_HINT, CheckFailedError


def read_json(path: Path) -> object:
    """The content of a JSON file.

    :raises CheckFailed: the file can not be read or is no JSON
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckFailedError(f"{path.name} can not be read: {error.strerror or error}.", DAMAGED_HINT) from error
    except ValueError as error:
        raise CheckFailedError(f"{path.name} is not a JSON file ({error}).", DAMAGED_HINT) from error


def read_object(path: Path) -> dict[str, object]:
    """The content of a JSON file that holds an object."""
    return require_object(read_json(path), path.name)


def read_optional_object(path: Path) -> dict[str, object]:
    """As `mapping`; empty where there is no such file."""
    return read_object(path) if path.is_file() else {}


def require_object(value: object, name: str) -> dict[str, object]:
    """`value` if it is an object; `name` is for the error."""
    if not isinstance(value, dict):
        raise CheckFailedError(f"{name} should hold a JSON object and holds something else.", DAMAGED_HINT)
    return value


def get_integer(values: dict[str, object], *names: str) -> int | None:
    """The first of these keys that holds a whole number."""
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


def get_text(values: dict[str, object], name: str) -> str:
    """The string under `name`, or an empty one."""
    value = values.get(name)
    return value if isinstance(value, str) else ""

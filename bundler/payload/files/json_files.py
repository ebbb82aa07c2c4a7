"""Readers of a model's JSON files, with errors that name the file, and typed access to values."""

from __future__ import annotations

import json
from pathlib import Path

from ..results.failures import DAMAGED_HINT, CheckFailedError


def read_json(path: Path) -> object:
    """Read a JSON file.

    Raises:
        CheckFailedError: The file can not be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckFailedError(f"{path.name} can not be read: {error.strerror or error}.", DAMAGED_HINT) from error
    except ValueError as error:
        raise CheckFailedError(f"{path.name} is not a JSON file ({error}).", DAMAGED_HINT) from error


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON file that must hold an object."""
    return require_object(read_json(path), path.name)


def read_optional_object(path: Path) -> dict[str, object]:
    """Read a JSON file that must hold an object; empty if there is no such file."""
    return read_object(path) if path.is_file() else {}


def require_object(value: object, name: str) -> dict[str, object]:
    """Return `value` if it is an object; `name` is for the error."""
    if not isinstance(value, dict):
        raise CheckFailedError(f"{name} is not a JSON object.", DAMAGED_HINT)
    return value


def get_integer(values: dict[str, object], *names: str) -> int | None:
    """Return the first integer under these keys, or None."""
    candidates = (values.get(name) for name in names)
    return next((value for value in candidates if isinstance(value, int) and not isinstance(value, bool)), None)


def get_text(values: dict[str, object], name: str) -> str:
    """Return the string under `name`, or an empty one."""
    value = values.get(name)
    return value if isinstance(value, str) else ""

"""JSON files that this program writes, read back as the dataclass that they were written from.

Whatever a disk, an editor or another version did to such a file, a reader gets a value of the right type or a
DocumentError that names each wrong field.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn, TypeVar

from bundler.format import disk, documents
from bundler.format.documents import DocumentError, FieldProblem

T = TypeVar("T")

MAX_BYTES = 64 << 20
"""Bytes of a file that are read; the largest that this program writes has a few MiB."""

_MAX_DIGITS = 20
"""Digits of an integer; millions of them take hours to read before Python 3.10.7."""

_MAX_SHOWN = 5


def parse(kind: type[T], data: bytes) -> T:
    """Decode bytes of JSON as a ``kind``. Raises DocumentError."""
    if len(data) > MAX_BYTES:
        raise DocumentError([FieldProblem((), f"it has more than {MAX_BYTES:,} bytes")])
    if not data.strip():
        raise DocumentError([FieldProblem((), "it is empty")])
    try:
        text = data.decode("utf-8")  # json.loads(bytes) would accept other encodings too
        document = json.loads(text, parse_int=_parse_integer, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DocumentError([FieldProblem((), f"it is not UTF-8 text, from byte {error.start} on")]) from error
    except RecursionError as error:
        raise DocumentError([FieldProblem((), "it is nested too deeply")]) from error
    except ValueError as error:
        raise DocumentError([FieldProblem((), f"it is not JSON: {error}")]) from error
    return documents.decode(kind, document)


def read(kind: type[T], path: Path) -> T:
    """Read a JSON file as a ``kind``. Raises OSError and DocumentError."""
    with path.open("rb") as file:
        return parse(kind, file.read(MAX_BYTES + 1))


def write(path: Path, value: object) -> None:
    """Write a value as indented JSON. The file is replaced completely or not at all. Raises OSError."""
    text = json.dumps(documents.encode(value), ensure_ascii=False, indent=2) + "\n"
    disk.write_atomically(path, text.encode())


def format_problems(error: DocumentError) -> str:
    """Return the first problems of a document in one line."""
    hidden_count = len(error.problems) - _MAX_SHOWN
    return "; ".join(map(str, error.problems[:_MAX_SHOWN])) + (f"; and {hidden_count} more" if hidden_count > 0 else "")


def _parse_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer has more than {_MAX_DIGITS} digits")
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")

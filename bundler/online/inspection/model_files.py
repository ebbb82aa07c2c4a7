"""The files of a model, as inspection reads them: by name, and the small ones by content."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import ResolveError

ReadFile = Callable[[str], bytes]
"""Returns the content of one of a model's small files."""
DAMAGED_SOURCE_HINT = "the source is damaged or incomplete: fetch it again, or ask its publisher"


class UnreadableFileError(ResolveError):
    """A file is not in the format that its name says, so what it names is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileListing:
    """A model's files: those that travel, and those of its source that patterns of the manifest removed."""

    names: Collection[str]
    removed: Collection[str] = ()
    read_file: ReadFile

    def has(self, folder: PurePosixPath, name: str) -> bool:
        """Return whether a file of a folder travels."""
        return str(folder / name) in self.names

    def find_removed(self, folder: PurePosixPath, predicate: Callable[[str], bool]) -> list[str]:
        """Find the removed files of a folder for which ``predicate`` holds; it gets the name inside the folder."""
        prefix = "" if folder == PurePosixPath() else f"{folder}/"
        return sorted(
            name
            for name in self.removed
            if name not in self.names and name.startswith(prefix) and predicate(name[len(prefix) :])
        )


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the patterns, in which ``*`` also matches slashes."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_json(name: str, read_file: ReadFile) -> Any:
    """Read a JSON file; raises UnreadableFileError."""
    try:
        return json.loads(read_file(name).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{name} is not a JSON file", where=name, hint=DAMAGED_SOURCE_HINT) from error


def read_json_object(name: str, read_file: ReadFile) -> dict[str, Any]:
    """Read a JSON file that must hold an object; raises UnreadableFileError."""
    value = read_json(name, read_file)
    if not isinstance(value, dict):
        raise UnreadableFileError(f"{name} holds no JSON object", where=name, hint=DAMAGED_SOURCE_HINT)
    return value

"""What an unpickler holds while it reads: its stack, marks and memo, followed as far as strings go, and nothing done."""

from __future__ import annotations

import _compat_pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final, Protocol

MAX_LINE_BYTES = 1 << 16
"""Bytes of a line that are kept; one of so many is longer, or may be."""
_MAX_VALUES = 5_000_000
"""Values on the stack and in the memo together: more would take gigabytes of memory."""
_MAX_IMPORTS = 10_000
_REMOVED_MODULES = (
    "aifc", "asynchat", "asyncore", "audioop", "binhex", "cgi", "cgitb", "chunk", "crypt", "distutils", "formatter",
    "imghdr", "imp", "lib2to3", "macpath", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "parser", "pipes",
    "smtpd", "sndhdr", "spwd", "sunau", "symbol", "telnetlib", "uu", "xdrlib",
)  # fmt: skip
_PYTHON2_MODULES = {*_compat_pickle.IMPORT_MAPPING, *(module for module, _ in _compat_pickle.NAME_MAPPING)}
STDLIB_MODULES = {*sys.stdlib_module_names, *_PYTHON2_MODULES, *_REMOVED_MODULES}
"""Modules of Python's own library by all their names: of Python 2, which are translated while loading, and those that
the Python of a target may still have."""


class SeekableFile(Protocol):
    """A file whose position can be moved on."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int, /) -> int: ...

    def tell(self) -> int: ...


class TooLargeError(ValueError):
    """A pickle that holds more values than are followed."""


@dataclass(frozen=True, slots=True)
class PickleImport:
    """What a pickle imports; ``known`` is off where module and name could not be followed."""

    module: str
    name: str
    is_known: bool = True

    @property
    def has_valid_name(self) -> bool:
        """Whether both are such as code could have: identifiers, with dots between them."""
        return is_dotted_name(self.module) and is_dotted_name(self.name)

    @property
    def is_stdlib(self) -> bool:
        """Whether it is of Python's own library."""
        return self.module.partition(".")[0] in STDLIB_MODULES


class UnpickleFailedError(Exception):
    """The unpickler stops here with an error."""


UNKNOWN_IMPORT: Final = PickleImport("?", "?", is_known=False)
UNKNOWN: Final = object()
"""What only a run could tell: it may be a string, as what an Import names may be."""
PERSISTENT: Final = object()
"""The same, where its loader gives it for a name of its own, if it gives any; no call of it is the pickle's doing."""
NOT_TEXT: Final = object()
"""What is surely no string, and of the unpickler's own making: numbers, bytes, lists, tuples, dictionaries."""


def is_dotted_name(text: str) -> bool:
    """Whether code could have a module or an attribute of this name."""
    return all(part.isidentifier() for part in text.split("."))


@dataclass(slots=True)
class PickleMachine:
    """The stack, its marks and the memo."""

    source: IO[bytes] | SeekableFile
    stack: list[object] = field(default_factory=list)
    mark_stacks: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    imports: set[PickleImport] = field(default_factory=set)
    hidden_count: int = 0
    """Values in ``below``, and its marks."""
    uses_extensions: bool = False
    """Whether it asked the process for an import by number, which fails unless a library keeps one under it."""
    runs_code: bool = False
    """Whether what an import gave was called by now, or something put into it."""
    frame_end: int | None = None

    # What stands in the file.

    def read_exactly(self, size: int) -> bytes:
        data = self.source.read(size)
        if len(data) < size:
            raise UnpickleFailedError
        return data

    def read_number(self, size: int, *, signed: bool = False) -> int:
        found = int.from_bytes(self.read_exactly(size), "little", signed=signed)
        if found < 0:
            raise UnpickleFailedError
        return found

    def read_line(self) -> bytes:
        """A line without its end; no more than ``LONGEST_LINE`` bytes of it."""
        first = data = self.source.readline(MAX_LINE_BYTES)
        if not first:
            raise UnpickleFailedError
        while data and not data.endswith(b"\n"):
            data = self.source.readline(MAX_LINE_BYTES)
        return first.removesuffix(b"\n")

    def skip(self, size: int) -> None:
        """Past bytes that nobody looks at; the unpickler fails where there are fewer."""
        if not size:
            return
        try:
            self.source.seek(size - 1, 1)
        except (OSError, OverflowError, ValueError):  # further than any file goes
            raise UnpickleFailedError from None
        self.read_exactly(1)

    def check_frame(self, *, at_stop: bool = False) -> None:
        """What crosses the end of its frame, or stops before it, is not followed: CPython's unpickler drops the rest of
        a frame or reads on, by what kind of file it reads from."""
        if self.frame_end is None:
            return
        at = self.source.tell()
        if at > self.frame_end or (at_stop and at != self.frame_end):
            self.mark_unknown()
        if at >= self.frame_end:
            self.frame_end = None

    def mark_unknown(self) -> None:
        """From here on it may read anything."""
        self.imports.add(UNKNOWN_IMPORT)
        self.runs_code = True

    # What is done with it.

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, count: int = 1, *, min_left: int = 0) -> list[object]:
        """The topmost values, the lowest first; ``left`` must be there besides."""
        if len(self.stack) < count + min_left:
            raise UnpickleFailedError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_mark(self, *, min_left: int = 0) -> list[object]:
        if not self.mark_stacks:
            raise UnpickleFailedError
        taken, self.stack = self.stack, self.mark_stacks.pop()
        self.hidden_count -= len(self.stack) + 1
        if len(self.stack) < min_left:
            raise UnpickleFailedError
        return taken

    def store_memo(self, index: int) -> None:
        if not self.stack:
            raise UnpickleFailedError
        self.memo[index] = self.stack[-1]

    def load_memo(self, index: int) -> None:
        if index not in self.memo:
            raise UnpickleFailedError
        self.push(self.memo[index])

    def add_import(self, module: object, name: object) -> PickleImport:
        """An import by what is on the stack; the unpickler takes nothing but strings."""
        if module is NOT_TEXT or name is NOT_TEXT:
            raise UnpickleFailedError
        found = PickleImport(module, name) if isinstance(module, str) and isinstance(name, str) else UNKNOWN_IMPORT
        self.imports.add(found)
        return found

    def note_call(self, target: object, arguments: Sequence[object]) -> None:
        """An object is called with something, or takes it in by a method of its own, if it is not one of our making.

        Not where imports alone, and none of Python's own library, are given to each other: word lists read like that.
        """
        if target is PERSISTENT or target is NOT_TEXT or isinstance(target, str):
            return
        self.runs_code |= not all(one is PERSISTENT or _is_foreign(one) for one in (target, *arguments))

    def is_within_limits(self) -> bool:
        return len(self.stack) + self.hidden_count + len(self.memo) <= _MAX_VALUES and len(self.imports) <= _MAX_IMPORTS


def _is_foreign(value: object) -> bool:
    return isinstance(value, PickleImport) and value.is_known and not value.is_stdlib

"""The state of an unpickler: stack, marks and memo. Strings are followed, nothing is executed."""

from __future__ import annotations

import _compat_pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final, Protocol

MAX_LINE_BYTES = 1 << 16
"""Bytes of a line that are kept. A line of this length may be longer."""
_MAX_VALUES = 5_000_000
"""Values on the stack and in the memo; more would take gigabytes of memory."""
_MAX_IMPORTS = 10_000
_REMOVED_MODULES = (
    "aifc", "asynchat", "asyncore", "audioop", "binhex", "cgi", "cgitb", "chunk", "crypt", "distutils", "formatter",
    "imghdr", "imp", "lib2to3", "macpath", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "parser", "pipes",
    "smtpd", "sndhdr", "spwd", "sunau", "symbol", "telnetlib", "uu", "xdrlib",
)  # fmt: skip
_PYTHON2_MODULES = {*_compat_pickle.IMPORT_MAPPING, *(module for module, _ in _compat_pickle.NAME_MAPPING)}
STDLIB_MODULES = {*sys.stdlib_module_names, *_PYTHON2_MODULES, *_REMOVED_MODULES}
"""Names of standard library modules, with those of Python 2, which loading translates, and those that the Python of a
target may still have."""


class SeekableFile(Protocol):
    """A file with a position that can be moved."""

    def read(self, size: int, /) -> bytes:
        """Read at most ``size`` bytes."""

    def readline(self, size: int, /) -> bytes:
        """Read a line, at most ``size`` bytes of it."""

    def seek(self, offset: int, whence: int, /) -> int:
        """Move the position."""

    def tell(self) -> int:
        """Return the position."""


class TooLargeError(ValueError):
    """A pickle has more values or steps than are followed."""


@dataclass(frozen=True, slots=True)
class PickleImport:
    """An import of a pickle. ``is_known`` is False if module and name could not be followed."""

    module: str
    name: str
    is_known: bool = True

    @property
    def has_valid_name(self) -> bool:
        """Whether module and name could be those of code: identifiers with dots between them."""
        return is_dotted_name(self.module) and is_dotted_name(self.name)

    @property
    def is_stdlib(self) -> bool:
        """Whether it is from the standard library."""
        return self.module.partition(".")[0] in STDLIB_MODULES


class UnpickleFailedError(Exception):
    """An unpickler would stop here with an error."""


UNKNOWN_IMPORT: Final = PickleImport("?", "?", is_known=False)
UNKNOWN: Final = object()
"""A value that only a run could tell. It may be a string."""
PERSISTENT: Final = object()
"""A value that the loader supplies for a persistent id. A call of it is not the pickle's doing."""
NOT_TEXT: Final = object()
"""A value of the unpickler that is not a string: number, bytes, list, tuple or dictionary."""


def is_dotted_name(text: str) -> bool:
    """Return whether a module or attribute could have this name."""
    return all(part.isidentifier() for part in text.split("."))


@dataclass(slots=True)
class PickleMachine:
    """Stack, marks and memo of an unpickler, and what it has imported."""

    source: IO[bytes] | SeekableFile
    stack: list[object] = field(default_factory=list)
    mark_stacks: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    imports: set[PickleImport] = field(default_factory=set)
    hidden_count: int = 0
    """Values and marks in ``mark_stacks``."""
    uses_extensions: bool = False
    """Whether it imported something by the number of an extension, which fails unless a library registered it."""
    runs_code: bool = False
    """Whether an imported object was called or changed."""
    frame_end: int | None = None

    # Reading the file.

    def read_exactly(self, size: int) -> bytes:
        """Read ``size`` bytes. Raises UnpickleFailedError, like all methods, where an unpickler would fail."""
        data = self.source.read(size)
        if len(data) < size:
            raise UnpickleFailedError
        return data

    def read_number(self, size: int, *, signed: bool = False) -> int:
        """Read a little-endian number of ``size`` bytes. A negative one is an error."""
        number = int.from_bytes(self.read_exactly(size), "little", signed=signed)
        if number < 0:
            raise UnpickleFailedError
        return number

    def read_line(self) -> bytes:
        """Read a line and return it without its end, at most ``MAX_LINE_BYTES`` of it."""
        first = data = self.source.readline(MAX_LINE_BYTES)
        if not first:
            raise UnpickleFailedError
        while data and not data.endswith(b"\n"):
            data = self.source.readline(MAX_LINE_BYTES)
        return first.removesuffix(b"\n")

    def skip(self, size: int) -> None:
        """Skip ``size`` bytes."""
        if not size:
            return
        try:
            self.source.seek(size - 1, 1)
        except (OSError, OverflowError, ValueError):  # beyond the end of any file
            raise UnpickleFailedError from None
        self.read_exactly(1)

    def check_frame(self, *, at_stop: bool = False) -> None:
        """Check that no step crosses the end of its frame, and that the pickle does not stop before it.

        CPython's unpickler then drops the rest of the frame or reads on, depending on the kind of file.
        """
        if self.frame_end is None:
            return
        position = self.source.tell()
        if position > self.frame_end or (at_stop and position != self.frame_end):
            self.mark_unknown()
        if position >= self.frame_end:
            self.frame_end = None

    def mark_unknown(self) -> None:
        """Note that from here on an unpickler may read anything."""
        self.imports.add(UNKNOWN_IMPORT)
        self.runs_code = True

    # Changing the state.

    def push(self, value: object) -> None:
        """Push a value on the stack."""
        self.stack.append(value)

    def pop(self, count: int = 1, *, min_left: int = 0) -> list[object]:
        """Remove and return the topmost values, the lowest first. ``min_left`` values must be left."""
        if len(self.stack) < count + min_left:
            raise UnpickleFailedError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_mark(self, *, min_left: int = 0) -> list[object]:
        """Remove and return the values above the last mark. ``min_left`` values must be left."""
        if not self.mark_stacks:
            raise UnpickleFailedError
        taken, self.stack = self.stack, self.mark_stacks.pop()
        self.hidden_count -= len(self.stack) + 1
        if len(self.stack) < min_left:
            raise UnpickleFailedError
        return taken

    def store_memo(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        if not self.stack:
            raise UnpickleFailedError
        self.memo[index] = self.stack[-1]

    def load_memo(self, index: int) -> None:
        """Push a value of the memo on the stack."""
        if index not in self.memo:
            raise UnpickleFailedError
        self.push(self.memo[index])

    def add_import(self, module: object, name: object) -> PickleImport:
        """Note an import of what was on the stack. An unpickler accepts strings only."""
        if module is NOT_TEXT or name is NOT_TEXT:
            raise UnpickleFailedError
        imported = PickleImport(module, name) if isinstance(module, str) and isinstance(name, str) else UNKNOWN_IMPORT
        self.imports.add(imported)
        return imported

    def note_call(self, target: object, arguments: Sequence[object]) -> None:
        """Note that an object is called with arguments, or changed by them.

        It counts unless target and arguments are all known imports from outside the standard library: lists of words
        can look like that.
        """
        if target is PERSISTENT or target is NOT_TEXT or isinstance(target, str):
            return
        self.runs_code |= not all(value is PERSISTENT or _is_third_party(value) for value in (target, *arguments))

    def is_within_limits(self) -> bool:
        """Return whether the state is small enough to go on."""
        return len(self.stack) + self.hidden_count + len(self.memo) <= _MAX_VALUES and len(self.imports) <= _MAX_IMPORTS


def _is_third_party(value: object) -> bool:
    return isinstance(value, PickleImport) and value.is_known and not value.is_stdlib

"""What an unpickler holds while it reads: its stack, marks and memo, followed as far as strings go, and nothing done."""

from __future__ import annotations

import _compat_pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final, Protocol

LONGEST_LINE = 1 << 16
"""Bytes of a line that are kept; one of so many is longer, or may be."""
_MOST_VALUES = 5_000_000
"""Values on the stack and in the memo together: more would take gigabytes of memory."""
_MOST_IMPORTS = 10_000
_GONE = (
    "aifc", "asynchat", "asyncore", "audioop", "binhex", "cgi", "cgitb", "chunk", "crypt", "distutils", "formatter",
    "imghdr", "imp", "lib2to3", "macpath", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "parser", "pipes",
    "smtpd", "sndhdr", "spwd", "sunau", "symbol", "telnetlib", "uu", "xdrlib",
)  # fmt: skip
_OLD = {*_compat_pickle.IMPORT_MAPPING, *(module for module, _ in _compat_pickle.NAME_MAPPING)}
OWN = {*sys.stdlib_module_names, *_OLD, *_GONE}
"""Modules of Python's own library by all their names: of Python 2, which are translated while loading, and those that
the Python of a target may still have."""


class Readable(Protocol):
    """A file whose position can be moved on."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...

    def seek(self, at: int, whence: int, /) -> int: ...

    def tell(self) -> int: ...


class TooLargeError(ValueError):
    """A pickle that holds more values than are followed."""


@dataclass(frozen=True, slots=True)
class Import:
    """What a pickle imports; ``known`` is off where module and name could not be followed."""

    module: str
    name: str
    known: bool = True

    @property
    def named(self) -> bool:
        """Whether both are such as code could have: identifiers, with dots between them."""
        return is_name(self.module) and is_name(self.name)

    @property
    def own(self) -> bool:
        """Whether it is of Python's own library."""
        return self.module.partition(".")[0] in OWN


class Fails(Exception):
    """The unpickler stops here with an error."""


UNFOLLOWED: Final = Import("?", "?", known=False)
UNKNOWN: Final = object()
"""What only a run could tell: it may be a string, as what an Import names may be."""
GIVEN: Final = object()
"""The same, where its loader gives it for a name of its own, if it gives any; no call of it is the pickle's doing."""
NO_TEXT: Final = object()
"""What is surely no string, and of the unpickler's own making: numbers, bytes, lists, tuples, dictionaries."""


def is_name(text: str) -> bool:
    """Whether code could have a module or an attribute of this name."""
    return all(part.isidentifier() for part in text.split("."))


@dataclass(slots=True)
class Machine:
    """The stack, its marks and the memo."""

    source: IO[bytes] | Readable
    stack: list[object] = field(default_factory=list)
    below: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    imports: set[Import] = field(default_factory=set)
    covered: int = 0
    """Values in ``below``, and its marks."""
    extended: bool = False
    """Whether it asked the process for an import by number, which fails unless a library keeps one under it."""
    ran: bool = False
    """Whether what an import gave was called by now, or something put into it."""
    frame_end: int | None = None

    # What stands in the file.

    def exactly(self, size: int) -> bytes:
        data = self.source.read(size)
        if len(data) < size:
            raise Fails
        return data

    def number(self, size: int, *, signed: bool = False) -> int:
        found = int.from_bytes(self.exactly(size), "little", signed=signed)
        if found < 0:
            raise Fails
        return found

    def line(self) -> bytes:
        """A line without its end; no more than ``LONGEST_LINE`` bytes of it."""
        first = data = self.source.readline(LONGEST_LINE)
        if not first:
            raise Fails
        while data and not data.endswith(b"\n"):
            data = self.source.readline(LONGEST_LINE)
        return first.removesuffix(b"\n")

    def skip(self, size: int) -> None:
        """Past bytes that nobody looks at; the unpickler fails where there are fewer."""
        if not size:
            return
        try:
            self.source.seek(size - 1, 1)
        except (OSError, OverflowError, ValueError):  # further than any file goes
            raise Fails from None
        self.exactly(1)

    def keep_to_frame(self, *, stops: bool = False) -> None:
        """What crosses the end of its frame, or stops before it, is not followed: CPython's unpickler drops the rest of
        a frame or reads on, by what kind of file it reads from."""
        if self.frame_end is None:
            return
        at = self.source.tell()
        if at > self.frame_end or (stops and at != self.frame_end):
            self.lose_track()
        if at >= self.frame_end:
            self.frame_end = None

    def lose_track(self) -> None:
        """From here on it may read anything."""
        self.imports.add(UNFOLLOWED)
        self.ran = True

    # What is done with it.

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, count: int = 1, *, left: int = 0) -> list[object]:
        """The topmost values, the lowest first; ``left`` must be there besides."""
        if len(self.stack) < count + left:
            raise Fails
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_mark(self, *, left: int = 0) -> list[object]:
        if not self.below:
            raise Fails
        taken, self.stack = self.stack, self.below.pop()
        self.covered -= len(self.stack) + 1
        if len(self.stack) < left:
            raise Fails
        return taken

    def remember(self, at: int) -> None:
        if not self.stack:
            raise Fails
        self.memo[at] = self.stack[-1]

    def recall(self, at: int) -> None:
        if at not in self.memo:
            raise Fails
        self.push(self.memo[at])

    def imported(self, module: object, name: object) -> Import:
        """An import by what is on the stack; the unpickler takes nothing but strings."""
        if module is NO_TEXT or name is NO_TEXT:
            raise Fails
        found = Import(module, name) if isinstance(module, str) and isinstance(name, str) else UNFOLLOWED
        self.imports.add(found)
        return found

    def acts_on(self, target: object, given: Sequence[object]) -> None:
        """An object is called with something, or takes it in by a method of its own, if it is not one of our making.

        Not where imports alone, and none of Python's own library, are given to each other: word lists read like that.
        """
        if target is GIVEN or target is NO_TEXT or isinstance(target, str):
            return
        self.ran |= not all(one is GIVEN or _is_foreign(one) for one in (target, *given))

    def fits(self) -> bool:
        return len(self.stack) + self.covered + len(self.memo) <= _MOST_VALUES and len(self.imports) <= _MOST_IMPORTS


def _is_foreign(one: object) -> bool:
    return isinstance(one, Import) and one.known and not one.own

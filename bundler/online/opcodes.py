"""What a pickle asks for, read as CPython's own unpickler reads it, and nothing of it done.

``pickletools`` refuses what the unpickler takes, such as numbers in another base, and then shows nothing of what
follows. The stack is followed as far as strings go: what an import names may be put together there.
Source: Modules/_pickle.c and Lib/pickle.py of CPython 3.10 to 3.14.
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Final, Protocol

LONGEST_TEXT = 512
"""Bytes of a string that are kept; no name that is imported is longer."""
_LONGEST_LINE = 1 << 16
_LONGEST_NUMBER = 1000
_MOST_VALUES = 5_000_000
"""Values on the stack and in the memo together: more would take gigabytes of memory."""
_MOST_IMPORTS = 10_000
_WHOLE = re.compile(rb"[+-]?(0[xX][\da-fA-F_]+|0[oObB]?[\d_]+|[\d_]*)")
_REAL = re.compile(rb"[\d._eE+-]*|[+-]?(inf(inity)?|nan)", re.IGNORECASE)
"""All that C and Python take for numbers, and some that they don't; what is none is no pickle's."""
_SPACE = b" \t\n\r\v\f"


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


@dataclass(frozen=True, slots=True)
class Read:
    """What an unpickler would import, and whether it would come to the pickle's end.

    ``extended``: it asks the process for an import by number, which fails unless a library keeps one under it.
    """

    imports: frozenset[Import]
    ended: bool
    extended: bool = False


class _Fails(Exception):
    """The unpickler stops here with an error."""


_UNFOLLOWED: Final = Import("?", "?", known=False)
_UNKNOWN: Final = object()
"""What only a run could tell: it may be a string."""
_NO_TEXT: Final = object()


@dataclass(slots=True)
class _Machine:
    """The stack, its marks and the memo."""

    source: IO[bytes] | Readable
    stack: list[object] = field(default_factory=list)
    below: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    imports: set[Import] = field(default_factory=set)
    covered: int = 0
    """Values in ``below``, and its marks."""
    extended: bool = False
    frame_end: int | None = None

    # What stands in the file.

    def exactly(self, size: int) -> bytes:
        data = self.source.read(size)
        if len(data) < size:
            raise _Fails
        return data

    def number(self, size: int, *, signed: bool = False) -> int:
        found = int.from_bytes(self.exactly(size), "little", signed=signed)
        if found < 0:
            raise _Fails
        return found

    def line(self) -> bytes | None:
        """A line without its end; None for one that is longer than any name."""
        first = data = self.source.readline(_LONGEST_LINE)
        if not first:
            raise _Fails
        while not data.endswith(b"\n"):
            data = self.source.readline(_LONGEST_LINE)
            if not data:
                break
            first = b""
        return first.removesuffix(b"\n") if first else None

    def skip(self, size: int) -> None:
        """Past bytes that nobody looks at; the unpickler fails where there are fewer."""
        if not size:
            return
        try:
            self.source.seek(size - 1, 1)
        except (OSError, OverflowError, ValueError):  # further than any file goes
            raise _Fails from None
        self.exactly(1)

    def keep_to_frame(self, *, stops: bool = False) -> None:
        """What crosses the end of its frame, or stops before it, is not followed: CPython's unpickler drops the rest of
        a frame or reads on, by what kind of file it reads from."""
        if self.frame_end is None:
            return
        at = self.source.tell()
        if at > self.frame_end or (stops and at != self.frame_end):
            self.imports.add(_UNFOLLOWED)
        if at >= self.frame_end:
            self.frame_end = None

    # What is done with it.

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, count: int = 1, *, left: int = 0) -> list[object]:
        """The topmost values, the lowest first; ``left`` must be there besides."""
        if len(self.stack) < count + left:
            raise _Fails
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_mark(self, *, left: int = 0) -> list[object]:
        if not self.below:
            raise _Fails
        taken, self.stack = self.stack, self.below.pop()
        self.covered -= len(self.stack) + 1
        if len(self.stack) < left:
            raise _Fails
        return taken

    def remember(self, at: int) -> None:
        if not self.stack:
            raise _Fails
        self.memo[at] = self.stack[-1]

    def recall(self, at: int) -> None:
        if at not in self.memo:
            raise _Fails
        self.push(self.memo[at])

    def imported(self, module: object, name: object) -> None:
        """An import by what is on the stack; the unpickler takes nothing but strings."""
        if module is _NO_TEXT or name is _NO_TEXT:
            raise _Fails
        if isinstance(module, str) and isinstance(name, str):
            self.imports.add(Import(module, name))
        else:
            self.imports.add(_UNFOLLOWED)

    def fits(self) -> bool:
        return len(self.stack) + self.covered + len(self.memo) <= _MOST_VALUES and len(self.imports) <= _MOST_IMPORTS


def read(source: IO[bytes] | Readable) -> Read:
    """What the pickle at the source's position imports; the source then stands behind it.

    Raises TooLargeError, and OSError where the source can't be read.
    """
    machine = _Machine(source)
    code = b""
    try:
        while (code := machine.exactly(1)) != b"." and (step := _STEPS.get(code)) is not None:
            step(machine)
            machine.keep_to_frame()
            if not machine.fits():
                raise TooLargeError("holds more values than are followed")
        if code == b".":
            machine.keep_to_frame(stops=True)
    except _Fails:
        code = b""
    ended = code == b"." and bool(machine.stack)
    return Read(frozenset(machine.imports), ended=ended, extended=machine.extended)


def read_all(source: IO[bytes] | Readable) -> Iterator[Read]:
    """The pickle at the source's position and those behind it, until one does not come to its end."""
    ended = True
    while ended:
        found = read(source)
        ended = found.ended
        yield found


Step = Callable[[_Machine], None]


def _pushes(value: object, size: int = 0) -> Step:
    def step(machine: _Machine) -> None:
        machine.skip(size)
        machine.push(value)

    return step


def _replaces(count: int, left: int = 0, *, pushes: bool = True) -> Step:
    def step(machine: _Machine) -> None:
        machine.pop(count, left=left)
        if pushes:
            machine.push(_UNKNOWN)

    return step


def _from_mark(left: int = 0, *, pushes: bool = False) -> Step:
    def step(machine: _Machine) -> None:
        machine.pop_mark(left=left)
        if pushes:
            machine.push(_NO_TEXT)

    return step


def _counted(width: int, decode: Callable[[bytes], object] | None) -> Step:
    """Bytes behind their count; text where ``decode`` makes it so."""

    def step(machine: _Machine) -> None:
        size = machine.number(width, signed=width == 4 and decode is _old_text)  # BINSTRING alone has a sign
        if decode is None or size > LONGEST_TEXT:
            machine.skip(size)
            machine.push(_NO_TEXT if decode is None else _UNKNOWN)
        else:
            machine.push(decode(machine.exactly(size)))

    return step


def _line(decode: Callable[[bytes], object]) -> Step:
    def step(machine: _Machine) -> None:
        found = machine.line()
        machine.push(_UNKNOWN if found is None else decode(found))

    return step


def _old_text(data: bytes) -> object:
    return data.decode("ascii") if data.isascii() else _UNKNOWN  # who loads says which encoding


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except ValueError:
        raise _Fails from None


def _escaped(data: bytes) -> object:
    if len(data) > LONGEST_TEXT:
        return _UNKNOWN
    try:
        return data.decode("raw-unicode-escape")
    except ValueError:
        raise _Fails from None


def _quoted(data: bytes) -> object:
    if len(data) < 2 or data[:1] != data[-1:] or data[:1] not in (b"'", b'"'):
        raise _Fails
    if len(data) > LONGEST_TEXT:
        return _UNKNOWN
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know stands for itself
            return _old_text(codecs.escape_decode(data[1:-1])[0])
    except ValueError:
        raise _Fails from None


def _number(form: re.Pattern[bytes]) -> Step:
    def step(machine: _Machine) -> None:
        found = machine.line()
        # C's functions stop at a zero byte and let pass what follows
        if found is not None and not form.fullmatch(found.partition(b"\0")[0].strip(_SPACE).removesuffix(b"L")):
            raise _Fails
        machine.push(_NO_TEXT)

    return step


def _memo_number(machine: _Machine) -> int:
    found = machine.line()
    if found is None or len(found) > _LONGEST_NUMBER:
        machine.imports.add(_UNFOLLOWED)  # it may be read or not, by the limits that the process has
        raise _Fails
    try:
        return int(found.partition(b"\0")[0])
    except ValueError:
        raise _Fails from None


def _name(machine: _Machine, encoding: str) -> str:
    found = machine.line()
    try:
        name = "?" if found is None else found.decode(encoding)
        return name if len(name) <= LONGEST_TEXT else "?"
    except UnicodeDecodeError:
        raise _Fails from None


def _global(machine: _Machine) -> None:
    if not (module := _name(machine, "utf-8")):
        raise _Fails
    machine.imported(module, _name(machine, "utf-8"))
    machine.push(_UNKNOWN)


def _inst(machine: _Machine) -> None:
    module = _name(machine, "ascii")
    machine.imported(module, _name(machine, "ascii"))  # Python's own does so before it looks for the mark
    machine.pop_mark()
    machine.push(_UNKNOWN)


def _stack_global(machine: _Machine) -> None:
    module, name = machine.pop(2)
    machine.imported(module, name)
    machine.push(_UNKNOWN)


def _extension(width: int) -> Step:
    """A number that a registry of the process has an import for."""

    def step(machine: _Machine) -> None:
        machine.number(width)
        machine.extended = True
        machine.push(_UNKNOWN)

    return step


def _mark(machine: _Machine) -> None:
    machine.below.append(machine.stack)
    machine.covered += len(machine.stack) + 1
    machine.stack = []


def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _dup(machine: _Machine) -> None:
    (top,) = machine.pop()
    machine.stack += [top, top]


def _obj(machine: _Machine) -> None:
    if not machine.pop_mark():
        raise _Fails
    machine.push(_UNKNOWN)


def _proto(machine: _Machine) -> None:
    if machine.number(1) > 5:
        raise _Fails


def _frame(machine: _Machine) -> None:
    size = machine.number(8)
    if machine.frame_end is not None:  # a frame in a frame
        machine.imports.add(_UNFOLLOWED)
    machine.frame_end = machine.source.tell() + size


def _long(width: int) -> Step:
    def step(machine: _Machine) -> None:
        machine.skip(machine.number(width, signed=width == 4))
        machine.push(_NO_TEXT)

    return step


def _put(width: int) -> Step:
    return lambda machine: machine.remember(machine.number(width) if width else _memo_number(machine))


def _get(width: int) -> Step:
    return lambda machine: machine.recall(machine.number(width) if width else _memo_number(machine))


_STEPS: Mapping[bytes, Step] = {
    b"(": _mark, b"0": _pop, b"1": _from_mark(), b"2": _dup,
    b"I": _number(_WHOLE), b"L": _number(_WHOLE), b"F": _number(_REAL), b"S": _line(_quoted), b"V": _line(_escaped),
    b"N": _pushes(_NO_TEXT), b"\x88": _pushes(_NO_TEXT), b"\x89": _pushes(_NO_TEXT),
    b"J": _pushes(_NO_TEXT, 4), b"K": _pushes(_NO_TEXT, 1), b"M": _pushes(_NO_TEXT, 2), b"G": _pushes(_NO_TEXT, 8),
    b"\x8a": _long(1), b"\x8b": _long(4),
    b"T": _counted(4, _old_text), b"U": _counted(1, _old_text),
    b"X": _counted(4, _text), b"\x8c": _counted(1, _text), b"\x8d": _counted(8, _text),
    b"B": _counted(4, None), b"C": _counted(1, None), b"\x8e": _counted(8, None), b"\x96": _counted(8, None),
    b"]": _pushes(_NO_TEXT), b"}": _pushes(_NO_TEXT), b")": _pushes(_NO_TEXT), b"\x8f": _pushes(_NO_TEXT),
    b"l": _from_mark(pushes=True), b"d": _from_mark(pushes=True), b"t": _from_mark(pushes=True),
    b"\x91": _from_mark(pushes=True), b"e": _from_mark(1), b"u": _from_mark(1), b"\x90": _from_mark(1),
    b"a": _replaces(1, 1, pushes=False), b"s": _replaces(2, 1, pushes=False), b"b": _replaces(1, 1, pushes=False),
    b"\x85": _replaces(1), b"\x86": _replaces(2), b"\x87": _replaces(3),
    b"R": _replaces(2), b"\x81": _replaces(2), b"\x92": _replaces(3), b"o": _obj, b"Q": _replaces(1),
    b"P": _line(lambda _: _UNKNOWN), b"c": _global, b"i": _inst, b"\x93": _stack_global,
    b"\x82": _extension(1), b"\x83": _extension(2), b"\x84": _extension(4),
    b"g": _get(0), b"h": _get(1), b"j": _get(4), b"p": _put(0), b"q": _put(1), b"r": _put(4),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"\x80": _proto, b"\x95": _frame,
    b"\x97": _pushes(_UNKNOWN), b"\x98": _replaces(1),
}  # fmt: skip
"""What each opcode does; any other ends an unpickler. STOP is read by ``read``."""

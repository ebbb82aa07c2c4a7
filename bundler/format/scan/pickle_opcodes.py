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
from dataclasses import dataclass
from typing import IO

from bundler.format.scan import pickle_machine
from bundler.format.scan.pickle_machine import (
    GIVEN,
    LONGEST_LINE,
    NO_TEXT,
    UNKNOWN,
    Fails,
    Import,
    Machine,
    Readable,
    TooLargeError,
)

MOST_STEPS = 50_000_000
"""More of a file are not followed: it would take minutes, and hours for a file that is made to."""
LONGEST_TEXT = 512
"""Bytes of a string that are kept; no name that is imported is longer."""
_LONGEST_NUMBER = 1000
_DIGITS = re.compile(rb"[+-]?[\d_]*")
_WHOLE = re.compile(rb"[+-]?(0[xX][\da-fA-F_]+|0[oObB]?[\d_]+|[\d_]*)")
_REAL = re.compile(rb"[\d._eE+-]*|[+-]?(inf(inity)?|nan)", re.IGNORECASE)
"""All that C and Python take for numbers, and some that they don't; what is none is no pickle's."""
_SPACE = b" \t\n\r\v\f"


@dataclass(frozen=True, slots=True)
class Read:
    """What an unpickler would import, and whether it would come to the pickle's end.

    ``extended`` and ``ran`` are what Machine says of them; ``steps`` is how many were followed.
    """

    imports: frozenset[Import]
    ended: bool
    extended: bool = False
    ran: bool = False
    steps: int = 0


def read(source: IO[bytes] | Readable, most: int = MOST_STEPS) -> Read:
    """What the pickle at the source's position imports; the source then stands behind it. ``most``: steps followed.

    Raises TooLargeError, and OSError where the source can't be read.
    """
    machine = Machine(source)
    code, steps = b"", 1
    try:
        while (code := machine.exactly(1)) != b"." and (step := _STEPS.get(code)) is not None:
            steps += 1
            if steps > most:
                raise TooLargeError("goes on for more steps than are followed")
            step(machine)
            machine.keep_to_frame()
            if not machine.fits():
                raise TooLargeError("holds more values than are followed")
        if code == b".":
            machine.keep_to_frame(stops=True)
    except Fails:
        code = b""
    ended = code == b"." and bool(machine.stack)
    return Read(frozenset(machine.imports), ended=ended, extended=machine.extended, ran=machine.ran, steps=steps)


def read_all(source: IO[bytes] | Readable) -> Iterator[Read]:
    """The pickle at the source's position and those behind it, until one does not come to its end."""
    ended, left = True, MOST_STEPS
    while ended:
        found = read(source, left)
        ended, left = found.ended, left - found.steps
        yield found


Step = Callable[[Machine], None]


def _pushes(value: object, size: int = 0) -> Step:
    def step(machine: Machine) -> None:
        machine.skip(size)
        machine.push(value)

    return step


def _replaces(count: int, value: object = UNKNOWN) -> Step:
    def step(machine: Machine) -> None:
        machine.pop(count)
        machine.push(value)

    return step


def _calls(count: int) -> Step:
    def step(machine: Machine) -> None:
        target, *given = machine.pop(count)
        machine.acts_on(target, given)
        machine.push(UNKNOWN)

    return step


def _changes(count: int) -> Step:
    def step(machine: Machine) -> None:
        given = machine.pop(count, left=1)
        machine.acts_on(machine.stack[-1], given)

    return step


def _changes_by_all(machine: Machine) -> None:
    given = machine.pop_mark(left=1)
    machine.acts_on(machine.stack[-1], given)


def _gathers(machine: Machine) -> None:
    machine.pop_mark()
    machine.push(NO_TEXT)


def _counted(width: int, decode: Callable[[bytes], object] | None) -> Step:
    """Bytes behind their count; text where ``decode`` makes it so."""

    def step(machine: Machine) -> None:
        size = machine.number(width, signed=width == 4 and decode is _old_text)  # BINSTRING alone has a sign
        if decode is None or size > LONGEST_TEXT:
            machine.skip(size)
            machine.push(NO_TEXT if decode is None else UNKNOWN)
        else:
            machine.push(decode(machine.exactly(size)))

    return step


def _line(decode: Callable[[bytes], object]) -> Step:
    def step(machine: Machine) -> None:
        machine.push(decode(machine.line()))

    return step


def _old_text(data: bytes) -> object:
    return data.decode("ascii") if data.isascii() else UNKNOWN  # who loads says which encoding


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except ValueError:
        raise Fails from None


def _escaped(data: bytes) -> object:
    if len(data) > LONGEST_TEXT:
        return UNKNOWN
    try:
        return data.decode("raw-unicode-escape")
    except ValueError:
        raise Fails from None


def _quoted(data: bytes) -> object:
    if len(data) < 2 or data[:1] not in (b"'", b'"') or (data[:1] != data[-1:] and len(data) < LONGEST_LINE):
        raise Fails
    if len(data) > LONGEST_TEXT:
        return UNKNOWN
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know stands for itself
            return _old_text(codecs.escape_decode(data[1:-1])[0])
    except ValueError:
        raise Fails from None


def _number(form: re.Pattern[bytes]) -> Step:
    def step(machine: Machine) -> None:
        found = machine.line()
        # C's functions stop at a zero byte and let pass what follows
        whole = len(found) < LONGEST_LINE
        if whole and not form.fullmatch(found.partition(b"\0")[0].strip(_SPACE).removesuffix(b"L")):
            raise Fails
        machine.push(NO_TEXT)

    return step


def _memo_number(machine: Machine) -> int:
    found = machine.line()
    digits = found.partition(b"\0")[0].strip(_SPACE)
    if not _DIGITS.fullmatch(digits):
        raise Fails
    if len(found) > _LONGEST_NUMBER:
        machine.lose_track()  # it may be read or not, by the limits that the process has
        raise Fails
    try:
        return int(digits)
    except ValueError:
        raise Fails from None


def _name(machine: Machine, encoding: str) -> object:
    """A line that names something; UNKNOWN for a longer one than is kept that could be a name yet."""
    found = machine.line()
    try:
        name = found.decode(encoding, "ignore" if len(found) >= LONGEST_LINE else "strict")
    except UnicodeDecodeError:
        raise Fails from None
    if len(name) <= LONGEST_TEXT:
        return name
    return UNKNOWN if pickle_machine.is_name(name.removesuffix(".")) else "?"


def _global(machine: Machine) -> None:
    if not (module := _name(machine, "utf-8")):
        raise Fails
    machine.push(machine.imported(module, _name(machine, "utf-8")))


def _inst(machine: Machine) -> None:
    module = _name(machine, "ascii")
    machine.imported(module, _name(machine, "ascii"))  # Python's own does so before it looks for the mark
    machine.pop_mark()
    machine.ran = True
    machine.push(UNKNOWN)


def _stack_global(machine: Machine) -> None:
    module, name = machine.pop(2)
    machine.push(machine.imported(module, name))


def _extension(width: int) -> Step:
    """A number that a registry of the process has an import for."""

    def step(machine: Machine) -> None:
        machine.number(width)
        machine.extended = True
        machine.push(UNKNOWN)

    return step


def _mark(machine: Machine) -> None:
    machine.below.append(machine.stack)
    machine.covered += len(machine.stack) + 1
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _dup(machine: Machine) -> None:
    (top,) = machine.pop()
    machine.stack += [top, top]


def _obj(machine: Machine) -> None:
    if not (taken := machine.pop_mark()):
        raise Fails
    machine.acts_on(taken[0], [NO_TEXT])
    machine.push(UNKNOWN)


def _proto(machine: Machine) -> None:
    if machine.number(1) > 5:
        raise Fails


def _frame(machine: Machine) -> None:
    size = machine.number(8)
    if machine.frame_end is not None:  # a frame in a frame
        machine.lose_track()
    machine.frame_end = machine.source.tell() + size


def _long(width: int) -> Step:
    def step(machine: Machine) -> None:
        machine.skip(machine.number(width, signed=width == 4))
        machine.push(NO_TEXT)

    return step


def _put(width: int) -> Step:
    return lambda machine: machine.remember(machine.number(width) if width else _memo_number(machine))


def _get(width: int) -> Step:
    return lambda machine: machine.recall(machine.number(width) if width else _memo_number(machine))


_STEPS: Mapping[bytes, Step] = {
    b"(": _mark, b"0": _pop, b"1": _pop_mark, b"2": _dup,
    b"I": _number(_WHOLE), b"L": _number(_WHOLE), b"F": _number(_REAL), b"S": _line(_quoted), b"V": _line(_escaped),
    b"N": _pushes(NO_TEXT), b"\x88": _pushes(NO_TEXT), b"\x89": _pushes(NO_TEXT),
    b"J": _pushes(NO_TEXT, 4), b"K": _pushes(NO_TEXT, 1), b"M": _pushes(NO_TEXT, 2), b"G": _pushes(NO_TEXT, 8),
    b"\x8a": _long(1), b"\x8b": _long(4),
    b"T": _counted(4, _old_text), b"U": _counted(1, _old_text),
    b"X": _counted(4, _text), b"\x8c": _counted(1, _text), b"\x8d": _counted(8, _text),
    b"B": _counted(4, None), b"C": _counted(1, None), b"\x8e": _counted(8, None), b"\x96": _counted(8, None),
    b"]": _pushes(NO_TEXT), b"}": _pushes(NO_TEXT), b")": _pushes(NO_TEXT), b"\x8f": _pushes(NO_TEXT),
    b"l": _gathers, b"d": _gathers, b"t": _gathers, b"\x91": _gathers,
    b"a": _changes(1), b"s": _changes(2), b"b": _changes(1),
    b"e": _changes_by_all, b"u": _changes_by_all, b"\x90": _changes_by_all,
    b"\x85": _replaces(1, NO_TEXT), b"\x86": _replaces(2, NO_TEXT), b"\x87": _replaces(3, NO_TEXT),
    b"R": _calls(2), b"\x81": _calls(2), b"\x92": _calls(3), b"o": _obj, b"Q": _replaces(1, GIVEN),
    b"P": _line(lambda _: GIVEN), b"c": _global, b"i": _inst, b"\x93": _stack_global,
    b"\x82": _extension(1), b"\x83": _extension(2), b"\x84": _extension(4),
    b"g": _get(0), b"h": _get(1), b"j": _get(4), b"p": _put(0), b"q": _put(1), b"r": _put(4),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"\x80": _proto, b"\x95": _frame,
    b"\x97": _pushes(UNKNOWN), b"\x98": _replaces(1),
}  # fmt: skip
"""What each opcode does; any other ends an unpickler. STOP is read by ``read``."""

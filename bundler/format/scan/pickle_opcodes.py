"""What a pickle would import, read as CPython's unpickler reads it, without executing anything.

``pickletools`` refuses things that the unpickler accepts, such as numbers in another base, and then shows nothing of
the rest. Strings on the stack are followed, because imports can take their names from there.

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
    MAX_LINE_BYTES,
    NOT_TEXT,
    PERSISTENT,
    UNKNOWN,
    PickleImport,
    PickleMachine,
    SeekableFile,
    TooLargeError,
    UnpickleFailedError,
)

MAX_STEPS = 50_000_000
"""Opcodes of a file that are followed; more would take minutes, and hours for a hostile file."""
MAX_TEXT_BYTES = 512
"""Bytes of a string that are kept; no imported name is longer."""
_MAX_NUMBER_BYTES = 1000
_DIGITS = re.compile(rb"[+-]?[\d_]*")
_INTEGER = re.compile(rb"[+-]?(0[xX][\da-fA-F_]+|0[oObB]?[\d_]+|[\d_]*)")
_FLOAT = re.compile(rb"[\d._eE+-]*|[+-]?(inf(inity)?|nan)", re.IGNORECASE)
"""Everything that C and Python accept as a number, and a bit more. Anything else is not from a pickle."""
_WHITESPACE = b" \t\n\r\v\f"


@dataclass(frozen=True, slots=True)
class PickleTrace:
    """What an unpickler would import, and whether it would reach the end of the pickle.

    ``uses_extensions`` and ``runs_code`` are those of `PickleMachine`. ``steps`` is the number of opcodes followed.
    """

    imports: frozenset[PickleImport]
    is_complete: bool
    uses_extensions: bool = False
    runs_code: bool = False
    steps: int = 0


def trace_pickle(source: IO[bytes] | SeekableFile, max_steps: int = MAX_STEPS) -> PickleTrace:
    """Follow the pickle at the position of ``source``, up to its end.

    Raises:
        TooLargeError: The pickle has more than ``max_steps`` opcodes, or too many values.
        OSError: The source can't be read.
    """
    machine = PickleMachine(source)
    code, steps = b"", 1
    try:
        while (code := machine.read_exactly(1)) != b"." and (step := _STEPS.get(code)) is not None:
            steps += 1
            if steps > max_steps:
                raise TooLargeError("has more opcodes than are followed")
            step(machine)
            machine.check_frame()
            if not machine.is_within_limits():
                raise TooLargeError("has more values than are followed")
        if code == b".":
            machine.check_frame(at_stop=True)
    except UnpickleFailedError:
        code = b""
    is_complete = code == b"." and bool(machine.stack)
    return PickleTrace(
        frozenset(machine.imports),
        is_complete=is_complete,
        uses_extensions=machine.uses_extensions,
        runs_code=machine.runs_code,
        steps=steps,
    )


def trace_pickles(source: IO[bytes] | SeekableFile) -> Iterator[PickleTrace]:
    """Follow the pickle at the position of ``source`` and those after it, until one does not reach its end."""
    is_complete, steps_left = True, MAX_STEPS
    while is_complete:
        trace = trace_pickle(source, steps_left)
        is_complete, steps_left = trace.is_complete, steps_left - trace.steps
        yield trace


Step = Callable[[PickleMachine], None]


def _push_value(value: object, size: int = 0) -> Step:
    def step(machine: PickleMachine) -> None:
        machine.skip(size)
        machine.push(value)

    return step


def _replace_top(count: int, value: object = UNKNOWN) -> Step:
    def step(machine: PickleMachine) -> None:
        machine.pop(count)
        machine.push(value)

    return step


def _call_target(count: int) -> Step:
    def step(machine: PickleMachine) -> None:
        target, *arguments = machine.pop(count)
        machine.note_call(target, arguments)
        machine.push(UNKNOWN)

    return step


def _change_target(count: int) -> Step:
    def step(machine: PickleMachine) -> None:
        arguments = machine.pop(count, min_left=1)
        machine.note_call(machine.stack[-1], arguments)

    return step


def _change_with_marked(machine: PickleMachine) -> None:
    arguments = machine.pop_mark(min_left=1)
    machine.note_call(machine.stack[-1], arguments)


def _collect_marked(machine: PickleMachine) -> None:
    machine.pop_mark()
    machine.push(NOT_TEXT)


def _read_counted(width: int, decode: Callable[[bytes], object] | None) -> Step:
    """Return the step for bytes after their count. ``decode`` makes them text."""

    def step(machine: PickleMachine) -> None:
        size = machine.read_number(width, signed=width == 4 and decode is _decode_ascii)  # only BINSTRING has a sign
        if decode is None or size > MAX_TEXT_BYTES:
            machine.skip(size)
            machine.push(NOT_TEXT if decode is None else UNKNOWN)
        else:
            machine.push(decode(machine.read_exactly(size)))

    return step


def _read_line(decode: Callable[[bytes], object]) -> Step:
    def step(machine: PickleMachine) -> None:
        machine.push(decode(machine.read_line()))

    return step


def _decode_ascii(data: bytes) -> object:
    return data.decode("ascii") if data.isascii() else UNKNOWN  # the loader chooses the encoding


def _decode_utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except ValueError:
        raise UnpickleFailedError from None


def _decode_escaped(data: bytes) -> object:
    if len(data) > MAX_TEXT_BYTES:
        return UNKNOWN
    try:
        return data.decode("raw-unicode-escape")
    except ValueError:
        raise UnpickleFailedError from None


def _decode_quoted(data: bytes) -> object:
    if len(data) < 2 or data[:1] not in (b"'", b'"') or (data[:1] != data[-1:] and len(data) < MAX_LINE_BYTES):
        raise UnpickleFailedError
    if len(data) > MAX_TEXT_BYTES:
        return UNKNOWN
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape is kept as it is
            return _decode_ascii(codecs.escape_decode(data[1:-1])[0])
    except ValueError:
        raise UnpickleFailedError from None


def _read_number(pattern: re.Pattern[bytes]) -> Step:
    def step(machine: PickleMachine) -> None:
        line = machine.read_line()
        # C's functions stop at a zero byte and ignore the rest
        is_whole_line = len(line) < MAX_LINE_BYTES
        if is_whole_line and not pattern.fullmatch(line.partition(b"\0")[0].strip(_WHITESPACE).removesuffix(b"L")):
            raise UnpickleFailedError
        machine.push(NOT_TEXT)

    return step


def _read_memo_index(machine: PickleMachine) -> int:
    line = machine.read_line()
    digits = line.partition(b"\0")[0].strip(_WHITESPACE)
    if not _DIGITS.fullmatch(digits):
        raise UnpickleFailedError
    if len(line) > _MAX_NUMBER_BYTES:
        machine.mark_unknown()  # whether it can be read depends on limits of the process
        raise UnpickleFailedError
    try:
        return int(digits)
    except ValueError:
        raise UnpickleFailedError from None


def _read_name(machine: PickleMachine, encoding: str) -> object:
    """Read a line with a name. Returns UNKNOWN if it is too long to keep and could still be a name."""
    line = machine.read_line()
    try:
        name = line.decode(encoding, "ignore" if len(line) >= MAX_LINE_BYTES else "strict")
    except UnicodeDecodeError:
        raise UnpickleFailedError from None
    if len(name) <= MAX_TEXT_BYTES:
        return name
    return UNKNOWN if pickle_machine.is_dotted_name(name.removesuffix(".")) else "?"


def _import_global(machine: PickleMachine) -> None:
    if not (module := _read_name(machine, "utf-8")):
        raise UnpickleFailedError
    machine.push(machine.add_import(module, _read_name(machine, "utf-8")))


def _make_instance(machine: PickleMachine) -> None:
    module = _read_name(machine, "ascii")
    machine.add_import(module, _read_name(machine, "ascii"))  # CPython imports before it searches the mark
    machine.pop_mark()
    machine.runs_code = True
    machine.push(UNKNOWN)


def _import_from_stack(machine: PickleMachine) -> None:
    module, name = machine.pop(2)
    machine.push(machine.add_import(module, name))


def _import_extension(width: int) -> Step:
    """Return the step for an import by a number that the process has registered."""

    def step(machine: PickleMachine) -> None:
        machine.read_number(width)
        machine.uses_extensions = True
        machine.push(UNKNOWN)

    return step


def _push_mark(machine: PickleMachine) -> None:
    machine.mark_stacks.append(machine.stack)
    machine.hidden_count += len(machine.stack) + 1
    machine.stack = []


def _pop(machine: PickleMachine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: PickleMachine) -> None:
    machine.pop_mark()


def _duplicate_top(machine: PickleMachine) -> None:
    (top,) = machine.pop()
    machine.stack += [top, top]


def _make_object(machine: PickleMachine) -> None:
    if not (values := machine.pop_mark()):
        raise UnpickleFailedError
    machine.note_call(values[0], [NOT_TEXT])
    machine.push(UNKNOWN)


def _check_protocol(machine: PickleMachine) -> None:
    if machine.read_number(1) > 5:
        raise UnpickleFailedError


def _begin_frame(machine: PickleMachine) -> None:
    size = machine.read_number(8)
    if machine.frame_end is not None:  # nested frames
        machine.mark_unknown()
    machine.frame_end = machine.source.tell() + size


def _skip_long(width: int) -> Step:
    def step(machine: PickleMachine) -> None:
        machine.skip(machine.read_number(width, signed=width == 4))
        machine.push(NOT_TEXT)

    return step


def _store_memo(width: int) -> Step:
    return lambda machine: machine.store_memo(machine.read_number(width) if width else _read_memo_index(machine))


def _load_memo(width: int) -> Step:
    return lambda machine: machine.load_memo(machine.read_number(width) if width else _read_memo_index(machine))


_STEPS: Mapping[bytes, Step] = {
    b"(": _push_mark, b"0": _pop, b"1": _pop_mark, b"2": _duplicate_top,
    b"I": _read_number(_INTEGER), b"L": _read_number(_INTEGER), b"F": _read_number(_FLOAT), b"S": _read_line(_decode_quoted), b"V": _read_line(_decode_escaped),
    b"N": _push_value(NOT_TEXT), b"\x88": _push_value(NOT_TEXT), b"\x89": _push_value(NOT_TEXT),
    b"J": _push_value(NOT_TEXT, 4), b"K": _push_value(NOT_TEXT, 1), b"M": _push_value(NOT_TEXT, 2), b"G": _push_value(NOT_TEXT, 8),
    b"\x8a": _skip_long(1), b"\x8b": _skip_long(4),
    b"T": _read_counted(4, _decode_ascii), b"U": _read_counted(1, _decode_ascii),
    b"X": _read_counted(4, _decode_utf8), b"\x8c": _read_counted(1, _decode_utf8), b"\x8d": _read_counted(8, _decode_utf8),
    b"B": _read_counted(4, None), b"C": _read_counted(1, None), b"\x8e": _read_counted(8, None), b"\x96": _read_counted(8, None),
    b"]": _push_value(NOT_TEXT), b"}": _push_value(NOT_TEXT), b")": _push_value(NOT_TEXT), b"\x8f": _push_value(NOT_TEXT),
    b"l": _collect_marked, b"d": _collect_marked, b"t": _collect_marked, b"\x91": _collect_marked,
    b"a": _change_target(1), b"s": _change_target(2), b"b": _change_target(1),
    b"e": _change_with_marked, b"u": _change_with_marked, b"\x90": _change_with_marked,
    b"\x85": _replace_top(1, NOT_TEXT), b"\x86": _replace_top(2, NOT_TEXT), b"\x87": _replace_top(3, NOT_TEXT),
    b"R": _call_target(2), b"\x81": _call_target(2), b"\x92": _call_target(3), b"o": _make_object, b"Q": _replace_top(1, PERSISTENT),
    b"P": _read_line(lambda _: PERSISTENT), b"c": _import_global, b"i": _make_instance, b"\x93": _import_from_stack,
    b"\x82": _import_extension(1), b"\x83": _import_extension(2), b"\x84": _import_extension(4),
    b"g": _load_memo(0), b"h": _load_memo(1), b"j": _load_memo(4), b"p": _store_memo(0), b"q": _store_memo(1), b"r": _store_memo(4),
    b"\x94": lambda machine: machine.store_memo(len(machine.memo)),
    b"\x80": _check_protocol, b"\x95": _begin_frame,
    b"\x97": _push_value(UNKNOWN), b"\x98": _replace_top(1),
}  # fmt: skip
"""The step of each opcode. Any other one ends an unpickler. `trace_pickle` handles STOP."""

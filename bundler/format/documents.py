"""Conversion of parsed JSON or YAML to dataclasses, with errors that name the wrong field.

A frozen dataclass describes a document completely. ``decode`` checks a parsed document against it and reports every
problem at once. ``encode`` is the reverse. ``make_json_schema`` describes it to an editor. A constructor checks what
types can't say and raises InvalidValueError; text that checks itself, such as a digest, is a subclass of ``str``.
``decode_leniently`` continues where ``decode`` stops: it also checks values that have wrong parts.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")
FieldPath = tuple["str | int", ...]

MAX_INTEGER = 2**53 - 1
"""The largest integer that JSON numbers hold exactly in every language (RFC 8785, RFC 7493)."""


class InvalidValueError(ValueError):
    """A constructor got a wrong value. ``field`` is the wrong field, "" for the whole value.

    ``reads`` names other fields that the check depends on. If one of them is wrong, this error may only be a
    consequence, and is not reported.
    """

    def __init__(self, message: str, field: str = "", *, reads: Collection[str] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.reads = frozenset([field, *reads])

    @property
    def errors(self) -> tuple[InvalidValueError, ...]:
        """The errors that were raised together."""
        return (self,)


class _InvalidValuesError(InvalidValueError):
    """More than one error of one value."""

    def __init__(self, errors: Collection[InvalidValueError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self._errors = tuple(errors)

    @property
    def errors(self) -> tuple[InvalidValueError, ...]:
        """The errors that were raised together."""
        return self._errors


class UnsafeValueError(InvalidValueError):
    """A wrong value that would do harm if it were used."""


@dataclasses.dataclass(frozen=True, slots=True)
class FieldProblem:
    """One problem of a document, and the path of the field that has it."""

    path: FieldPath
    message: str
    is_unsafe: bool = False

    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.message}" if self.path else self.message


@dataclasses.dataclass(frozen=True, slots=True)
class TextPosition:
    """The line of a value in the text of its document, and how it is written there ("" unless it is a scalar)."""

    line: int
    text: str = ""


class DocumentError(ValueError):
    """A document is wrong. ``problems`` has every reason."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def format_path(path: FieldPath) -> str:
    """Format the path of a field as a person would write it: ``models[0].alias``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def describe_field(text: str, **options: Any) -> Any:
    """Make a dataclass field with a description, which the JSON schema shows."""
    return dataclasses.field(metadata={"about": text}, **options)


def allow_unknown_keys(kind: type[T]) -> type[T]:
    """Mark a dataclass whose unknown keys ``decode`` ignores: a newer version may have written them.

    Do not use it for documents that decide whom to trust: an unknown key may forbid something.
    """
    _KINDS_WITH_UNKNOWN_KEYS.add(kind)
    return kind


_KINDS_WITH_UNKNOWN_KEYS: set[type] = set()


def decode(kind: type[T], document: object) -> T:
    """Convert a document to a ``kind``. Raises DocumentError, which names every wrong field."""
    problems = _Problems()
    value = _decode(kind, document, (), problems)
    if problems:
        raise DocumentError(problems)
    return typing.cast("T", value)


def decode_leniently(
    kind: type[T], document: object, positions: dict[FieldPath, TextPosition]
) -> tuple[T, list[FieldProblem]]:
    """Convert a document to a ``kind`` as far as possible, and list every problem.

    Wrong parts are replaced by blank ones, so that the rest is checked in the same run.

    Args:
        kind: a dataclass.
        document: mappings, lists and scalars.
        positions: the position of each value in the text. The value of a misspelled key is checked as the value of
            the key that was probably meant, whose path is added here.

    Returns:
        The value, which is good for more checks only if there are problems, and the problems.
    """
    problems = _Problems(positions)
    return typing.cast("T", _decode(kind, document, (), problems)), [*problems]


def raise_together(errors: Iterable[InvalidValueError]) -> None:
    """Raise all errors of a value at once; do nothing if there are none."""
    collected = tuple(errors)
    if collected:
        raise collected[0] if len(collected) == 1 else _InvalidValuesError(collected)


def collect_errors(function: Callable[[], object]) -> Iterator[InvalidValueError]:
    """Yield the errors that a call raises."""
    try:
        function()
    except InvalidValueError as error:
        yield from error.errors


def encode(value: object) -> Any:
    """Convert a value to mappings, lists, strings, numbers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    return str(value) if isinstance(value, str) else value


def iter_strings(document: object, path: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    """Yield every string of a document, keys included, with its path."""
    if isinstance(document, str):
        yield path, document
    elif isinstance(document, Mapping):
        for name, value in document.items():
            yield (*path, name), name
            yield from iter_strings(value, (*path, name))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from iter_strings(value, (*path, number))


def make_json_schema(kind: type) -> dict[str, Any]:
    """Make the JSON Schema (draft 2020-12) of the documents that ``decode`` reads as ``kind``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_make_schema(kind)}


class _Problems(list[FieldProblem]):
    """The problems of a document. With positions, decoding is lenient: it continues after a problem."""

    def __init__(self, positions: dict[FieldPath, TextPosition] | None = None) -> None:
        super().__init__()
        self.is_lenient = positions is not None
        self.positions = positions if positions is not None else {}

    def get_text(self, path: FieldPath, document: object) -> str:
        """Return a scalar as it is written: YAML reads 3.10 as the number 3.1."""
        position = self.positions.get(path)
        return position.text if position and position.text else str(document)

    def copy_positions(self, source: FieldPath, target: FieldPath) -> None:
        """Copy the positions below one path to another path."""
        size = len(source)
        self.positions |= {
            (*target, *path[size:]): position for path, position in self.positions.items() if path[:size] == source
        }


def _decode(kind: Any, document: object, path: FieldPath, problems: _Problems) -> Any:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(kind, document, path, problems)
    if origin is Literal:
        return _decode_choice(get_args(kind), document, path, problems)
    if origin is tuple:
        return _decode_list(get_args(kind)[0], document, path, problems)
    if origin is not None and issubclass(origin, Mapping):
        return _decode_mapping(get_args(kind)[1], document, path, problems)
    if dataclasses.is_dataclass(kind):
        return _decode_object(typing.cast("type", kind), document, path, problems)
    if issubclass(kind, str) and kind is not str:
        return _decode_text(kind, document, path, problems)
    if kind is float and type(document) is int and abs(document) <= _MAX_EXACT_INTEGER:
        return float(document)
    # to Python a bool is an int, to a person it is not
    if not isinstance(document, kind) or (kind is int and isinstance(document, bool)):
        text = problems.get_text(path, document)
        problems.append(FieldProblem(path, f"must be {_TYPE_NAMES[kind]}, not {_describe_value(document, text)}"))
        is_scalar = document is not None and not isinstance(document, list | Mapping)
        return text if kind is str and is_scalar else _make_blank(kind)
    if isinstance(document, int) and abs(document) > MAX_INTEGER:
        problems.append(FieldProblem(path, f"must be at most {MAX_INTEGER}"))
        return _make_blank(kind)
    return document


_MAX_PROBLEMS = 100
"""Problems of one document after which checking stops: a hostile one could have millions."""

_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}

_MAX_EXACT_INTEGER = 1 << 53
"""Up to here a float represents every integer exactly."""

_MIN_SIMILARITY = 0.8
"""How similar an unknown key must be to a known one (difflib's ratio) for its value to be checked as that one's."""


def _describe_value(document: object, text: str = "") -> str:
    if document is None:
        return "empty"
    if isinstance(document, Mapping):
        return "a mapping"
    if isinstance(document, list):
        return "a list"
    name = "true or false" if isinstance(document, bool) else _TYPE_NAMES.get(type(document), type(document).__name__)
    return f"{name} ({(text or str(document))[:40]})"


def _decode_union(kind: Any, document: object, path: FieldPath, problems: _Problems) -> Any:
    options = [option for option in get_args(kind) if option is not type(None)]
    if document is None and len(options) < len(get_args(kind)):
        return None
    shaped = [o for o in options if dataclasses.is_dataclass(o) == isinstance(document, Mapping)]
    return _decode((shaped or options)[0], document, path, problems)


def _decode_choice(choices: tuple[Any, ...], document: object, path: FieldPath, problems: _Problems) -> Any:
    if not any(document == choice and type(document) is type(choice) for choice in choices):
        text = problems.get_text(path, document)
        problems.append(
            FieldProblem(path, f"must be one of {', '.join(map(str, choices))}, not {_describe_value(document, text)}")
        )
        return choices[0]
    return document


def _decode_text(kind: type[str], document: object, path: FieldPath, problems: _Problems) -> Any:
    if not isinstance(document, str):
        text = problems.get_text(path, document)
        problems.append(FieldProblem(path, f"must be a string, not {_describe_value(document, text)}"))
        return _make_blank(kind)
    try:
        return kind(document)
    except InvalidValueError as error:
        problems.append(FieldProblem(path, str(error), isinstance(error, UnsafeValueError)))
        return document


def _decode_list(kind: Any, document: object, path: FieldPath, problems: _Problems) -> Any:
    if not isinstance(document, list):
        problems.append(FieldProblem(path, f"must be a list, not {_describe_value(document)}"))
        return ()
    return tuple(
        _decode(kind, item, (*path, n), problems) for n, item in enumerate(document) if len(problems) < _MAX_PROBLEMS
    )


def _decode_mapping(kind: Any, document: object, path: FieldPath, problems: _Problems) -> Any:
    if not isinstance(document, Mapping):
        problems.append(FieldProblem(path, f"must be a mapping, not {_describe_value(document)}"))
        return {}
    problems += [FieldProblem((*path, str(k)), "is not a name") for k in document if not isinstance(k, str)][
        :_MAX_PROBLEMS
    ]
    return {k: _decode(kind, v, (*path, str(k)), problems) for k, v in document.items()}


def _decode_object(kind: type, document: object, path: FieldPath, problems: _Problems) -> Any:
    if not isinstance(document, Mapping):
        problems.append(FieldProblem(path, f"must be a mapping, not {_describe_value(document)}"))
        return _make_unchecked(kind, {})
    before = len(problems)
    keys, invalid = _match_keys(kind, document, path, problems)
    given: dict[str, Any] = {}
    hints = _get_type_hints(kind)
    for name, key in keys.items():
        count = len(problems)
        given[name] = _decode(hints[name], document[key], (*path, name), problems)
        if len(problems) > count:
            invalid.add(name)
    missing = [name for name, f in _get_fields(kind).items() if name not in keys and _is_required(f)]
    problems += [
        FieldProblem((*path, name), "is required") for name in missing if not (problems.is_lenient and name in invalid)
    ]
    invalid |= {*missing}
    if len(problems) > before and not problems.is_lenient:
        return None
    try:
        if len(problems) == before:
            return kind(**given)
        getattr(_make_unchecked(kind, given), "__post_init__", _check_nothing)()
    except InvalidValueError as raised:
        for error in raised.errors:
            if not error.reads & invalid:
                field_path = (*path, error.field) if error.field else path
                problems.append(FieldProblem(field_path, str(error), isinstance(error, UnsafeValueError)))
    return _make_unchecked(kind, given)


def _match_keys(
    kind: type, document: Mapping[Any, Any], path: FieldPath, problems: _Problems
) -> tuple[dict[str, str], set[str]]:
    """Return each given field with its key in the mapping, and the fields that an unknown key may mean."""
    fields = _get_fields(kind)
    keys = {name: name for name in fields if name in document}
    if len(keys) == len(document):
        return keys, set()
    possibly_meant: set[str] = set()
    for name in document:
        if name in fields or kind in _KINDS_WITH_UNKNOWN_KEYS or len(problems) >= _MAX_PROBLEMS:
            continue
        near = difflib.get_close_matches(str(name)[:100], fields, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(fields))}"
        problems.append(FieldProblem((*path, str(name)), f"unknown key; {advice}"))
        if near and near[0] not in keys:
            if (
                problems.is_lenient
                and difflib.SequenceMatcher(None, str(name)[:100], near[0]).ratio() >= _MIN_SIMILARITY
            ):
                keys[near[0]] = name
                problems.copy_positions((*path, str(name)), (*path, near[0]))
            else:
                possibly_meant.add(near[0])
    return keys, possibly_meant


@functools.cache
def _get_fields(kind: type) -> Mapping[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(kind)}


def _check_nothing() -> None:
    """Accept any value: the check of a type that has none."""


def _make_unchecked(kind: type, given: Mapping[str, Any]) -> Any:
    """Make a value without its own checks, with blanks for missing fields. It is good for more checks only."""
    value: Any = object.__new__(kind)
    for name, f in _get_fields(kind).items():
        if name in given:
            content = given[name]
        elif f.default_factory is not dataclasses.MISSING:
            content = f.default_factory()
        else:
            content = _make_blank(_get_type_hints(kind)[name]) if f.default is dataclasses.MISSING else f.default
        object.__setattr__(value, name, content)
    return value


def _make_blank(kind: Any) -> Any:
    """Return what replaces a wrong or missing value."""
    origin = get_origin(kind)
    if origin is Literal:
        return get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return _make_unchecked(typing.cast("type", kind), {})
    if origin in (typing.Union, types.UnionType):
        return None
    if origin is None:
        return "" if issubclass(kind, str) else kind()
    return () if origin is tuple else {}


@functools.cache
def _get_type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _make_schema(kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [_make_schema(o) for o in get_args(kind) if o is not type(None)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if origin is tuple:
        return {"type": "array", "items": _make_schema(get_args(kind)[0])}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _make_schema(get_args(kind)[1])}
    if not dataclasses.is_dataclass(kind):
        names = {int: "integer", float: "number", bool: "boolean"}
        return {"type": "string" if issubclass(kind, str) else names[kind]}
    hints = _get_type_hints(typing.cast("type", kind))
    properties = {
        f.name: _make_schema(hints[f.name]) | ({"description": f.metadata["about"]} if "about" in f.metadata else {})
        for f in dataclasses.fields(kind)
    }
    required = [f.name for f in dataclasses.fields(kind) if _is_required(f)]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

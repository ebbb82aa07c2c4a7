"""Untyped document to typed values, naming the wrong field.

A frozen dataclass is the whole description of a document: ``decode`` checks a parsed JSON or YAML
document against it and reports every fault at once, ``encode`` turns values back, and ``schema``
describes it to an editor. What the types can't say, a checking constructor says by raising
``Invalid``. ``examine`` goes on where ``decode`` stops: it also checks what is built on wrong parts.
``Invalid``; a type of text that checks itself, such as a digest, is a subclass of ``str`` that does so.
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
"""What a JSON number holds exactly in every language; RFC 8785 and I-JSON (RFC 7493) end there."""


class InvalidValueError(ValueError):
    """Raised by a checking constructor: what is wrong, and in which of its fields ("" for the whole).

    ``reads`` names other fields that the check depends on: where one of them is wrong, this fault may only follow.
    """

    def __init__(self, message: str, field: str = "", *, reads: Collection[str] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.reads = frozenset([field, *reads])

    @property
    def errors(self) -> tuple[InvalidValueError, ...]:
        """What was raised together."""
        return (self,)


class _InvalidValuesError(InvalidValueError):
    """More than one fault of one value."""

    def __init__(self, found: Collection[InvalidValueError]) -> None:
        super().__init__("; ".join(map(str, found)))
        self._found = tuple(found)

    @property
    def every(self) -> tuple[InvalidValueError, ...]:
        return self._found


class UnsafeValueError(InvalidValueError):
    """Raised where a value is not only wrong and would do harm if it were believed."""


@dataclasses.dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with a document, and where."""

    path: FieldPath
    message: str
    is_unsafe: bool = False

    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.message}" if self.path else self.message


@dataclasses.dataclass(frozen=True, slots=True)
class TextPosition:
    """Where a value stands in the text of its document, and how it is written there ("" unless it is a scalar)."""

    line: int
    text: str = ""


class DocumentError(ValueError):
    """Everything that is wrong with a document."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def format_path(path: FieldPath) -> str:
    """A field's place as a person would write it: ``models[0].alias``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def describe_field(text: str, **options: Any) -> Any:
    """A dataclass field with a sentence that says what it is (shown in the schema)."""
    return dataclasses.field(metadata={"about": text}, **options)


def allow_unknown_keys(kind: type[T]) -> type[T]:
    """Mark a dataclass that ``decode`` reads without the keys it does not know: a newer version may have written them.

    Never for what decides whom to trust: there an unknown key may be the one that forbids something.
    """
    _KINDS_WITH_UNKNOWN_KEYS.add(kind)
    return kind


_KINDS_WITH_UNKNOWN_KEYS: set[type] = set()


def decode(kind: type[T], document: object) -> T:
    """``document`` as a ``kind``; raises Faults, which names every wrong field."""
    faults = _Problems()
    value = _decode(kind, document, (), faults)
    if faults:
        raise DocumentError(faults)
    return typing.cast("T", value)


def decode_leniently(
    kind: type[T], document: object, places: dict[FieldPath, TextPosition]
) -> tuple[T, list[FieldProblem]]:
    """``document`` as a ``kind`` as far as that goes, and every fault of it.

    Wrong parts are replaced by blank ones, so that the rest is checked in the same run; with faults, the value is only
    good for more checks. The value of a misspelt key counts as that of the key which was meant; ``places`` then gets
    the places of that one too.
    """
    faults = _Problems(places)
    return typing.cast("T", _decode(kind, document, (), faults)), [*faults]


def raise_problems(found: Iterable[InvalidValueError]) -> None:
    """Raise all the faults of a value together; nothing where there is none."""
    every = tuple(found)
    if every:
        raise every[0] if len(every) == 1 else _InvalidValuesError(every)


def collect_errors(function: Callable[[], object]) -> Iterator[InvalidValueError]:
    """The faults that a call raises."""
    try:
        function()
    except InvalidValueError as invalid:
        yield from invalid.errors


def encode(value: object) -> Any:
    """A value as a document of mappings, lists, strings, integers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {get_key(f): encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    return str(value) if isinstance(value, str) else value


def iter_strings(document: object, path: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    """Every string of a document, keys too, and where it stands."""
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
    """JSON Schema (draft 2020-12) of the documents that ``decode`` reads as ``kind``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_make_schema(kind)}


def get_key(field: dataclasses.Field[Any]) -> str:
    """A field's name in a document."""
    return field.name


class _Problems(list[FieldProblem]):
    """Faults that were found; with ``places`` the search goes on behind each."""

    def __init__(self, places: dict[FieldPath, TextPosition] | None = None) -> None:
        super().__init__()
        self.goes_on = places is not None
        self.places = places if places is not None else {}

    def written(self, path: FieldPath, document: object) -> str:
        """A scalar as its text has it: YAML reads 3.10 as the number 3.1."""
        place = self.places.get(path)
        return place.text if place and place.text else str(document)

    def adopt(self, written: FieldPath, meant: FieldPath) -> None:
        """Take what stands under one key as if it stood under another."""
        size = len(written)
        self.places |= {(*meant, *at[size:]): place for at, place in self.places.items() if at[:size] == written}


def _decode(kind: Any, document: object, path: FieldPath, faults: _Problems) -> Any:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(kind, document, path, faults)
    if origin is Literal:
        return _decode_choice(get_args(kind), document, path, faults)
    if origin is tuple:
        return _decode_list(get_args(kind)[0], document, path, faults)
    if origin is not None and issubclass(origin, Mapping):
        return _decode_mapping(get_args(kind)[1], document, path, faults)
    if dataclasses.is_dataclass(kind):
        return _decode_object(typing.cast("type", kind), document, path, faults)
    if issubclass(kind, str) and kind is not str:
        return _decode_text(kind, document, path, faults)
    if kind is float and type(document) is int and abs(document) <= _MAX_EXACT_INTEGER:
        return float(document)
    # bool is an int to Python and never one to a person
    if not isinstance(document, kind) or (kind is int and isinstance(document, bool)):
        text = faults.written(path, document)
        faults.append(FieldProblem(path, f"must be {_TYPE_NAMES[kind]}, not {_describe_value(document, text)}"))
        is_scalar = document is not None and not isinstance(document, list | Mapping)
        return text if kind is str and is_scalar else _make_blank(kind)
    if isinstance(document, int) and abs(document) > MAX_INTEGER:
        faults.append(FieldProblem(path, f"must be at most {MAX_INTEGER}"))
        return _make_blank(kind)
    return document


_MAX_PROBLEMS = 100
"""Faults of one document after which no more are looked for: a hostile one could hold millions."""

_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}

_MAX_EXACT_INTEGER = 1 << 53
"""Up to here a float holds every integer."""

_MIN_SIMILARITY = 0.8
"""How like a key another must be (difflib's ratio) to be checked as if it were that one."""


def _describe_value(document: object, text: str = "") -> str:
    if document is None:
        return "empty"
    if isinstance(document, Mapping):
        return "a mapping"
    if isinstance(document, list):
        return "a list"
    name = "true or false" if isinstance(document, bool) else _TYPE_NAMES.get(type(document), type(document).__name__)
    return f"{name} ({(text or str(document))[:40]})"


def _decode_union(kind: Any, document: object, path: FieldPath, faults: _Problems) -> Any:
    options = [option for option in get_args(kind) if option is not type(None)]
    if document is None and len(options) < len(get_args(kind)):
        return None
    shaped = [o for o in options if dataclasses.is_dataclass(o) == isinstance(document, Mapping)]
    return _decode((shaped or options)[0], document, path, faults)


def _decode_choice(choices: tuple[Any, ...], document: object, path: FieldPath, faults: _Problems) -> Any:
    if not any(document == choice and type(document) is type(choice) for choice in choices):
        text = faults.written(path, document)
        faults.append(
            FieldProblem(path, f"must be one of {', '.join(map(str, choices))}, not {_describe_value(document, text)}")
        )
        return choices[0]
    return document


def _decode_text(kind: type[str], document: object, path: FieldPath, faults: _Problems) -> Any:
    if not isinstance(document, str):
        text = faults.written(path, document)
        faults.append(FieldProblem(path, f"must be a string, not {_describe_value(document, text)}"))
        return _make_blank(kind)
    try:
        return kind(document)
    except InvalidValueError as invalid:
        faults.append(FieldProblem(path, str(invalid), isinstance(invalid, UnsafeValueError)))
        return document


def _decode_list(kind: Any, document: object, path: FieldPath, faults: _Problems) -> Any:
    if not isinstance(document, list):
        faults.append(FieldProblem(path, f"must be a list, not {_describe_value(document)}"))
        return ()
    return tuple(
        _decode(kind, item, (*path, n), faults) for n, item in enumerate(document) if len(faults) < _MAX_PROBLEMS
    )


def _decode_mapping(kind: Any, document: object, path: FieldPath, faults: _Problems) -> Any:
    if not isinstance(document, Mapping):
        faults.append(FieldProblem(path, f"must be a mapping, not {_describe_value(document)}"))
        return {}
    faults += [FieldProblem((*path, str(k)), "is not a name") for k in document if not isinstance(k, str)][
        :_MAX_PROBLEMS
    ]
    return {k: _decode(kind, v, (*path, str(k)), faults) for k, v in document.items()}


def _decode_object(kind: type, document: object, path: FieldPath, faults: _Problems) -> Any:
    if not isinstance(document, Mapping):
        faults.append(FieldProblem(path, f"must be a mapping, not {_describe_value(document)}"))
        return _make_unchecked(kind, {})
    before = len(faults)
    keys, wrong = _match_keys(kind, document, path, faults)
    given: dict[str, Any] = {}
    hints = _get_type_hints(kind)
    for name, written in keys.items():
        count = len(faults)
        given[name] = _decode(hints[name], document[written], (*path, name), faults)
        if len(faults) > count:
            wrong.add(name)
    missing = [name for name, f in _get_fields(kind).items() if name not in keys and _is_required(f)]
    faults += [FieldProblem((*path, name), "is required") for name in missing if not (faults.goes_on and name in wrong)]
    wrong |= {*missing}
    if len(faults) > before and not faults.goes_on:
        return None
    try:
        if len(faults) == before:
            return kind(**given)
        getattr(_make_unchecked(kind, given), "__post_init__", _check_nothing)()
    except InvalidValueError as invalid:
        for one in invalid.errors:
            if not one.reads & wrong:
                there = (*path, one.field) if one.field else path
                faults.append(FieldProblem(there, str(one), isinstance(one, UnsafeValueError)))
    return _make_unchecked(kind, given)


def _match_keys(
    kind: type, document: Mapping[Any, Any], path: FieldPath, faults: _Problems
) -> tuple[dict[str, str], set[str]]:
    """The fields that a mapping gives, each with the key that it stands under, and those that a wrong key may mean."""
    fields = _get_fields(kind)
    keys = {name: name for name in fields if name in document}
    if len(keys) == len(document):
        return keys, set()
    doubtful: set[str] = set()
    for name in document:
        if name in fields or kind in _KINDS_WITH_UNKNOWN_KEYS or len(faults) >= _MAX_PROBLEMS:
            continue
        near = difflib.get_close_matches(str(name)[:100], fields, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(fields))}"
        faults.append(FieldProblem((*path, str(name)), f"unknown key; {advice}"))
        if near and near[0] not in keys:
            if faults.goes_on and difflib.SequenceMatcher(None, str(name)[:100], near[0]).ratio() >= _MIN_SIMILARITY:
                keys[near[0]] = name
                faults.adopt((*path, str(name)), (*path, near[0]))
            else:
                doubtful.add(near[0])
    return keys, doubtful


@functools.cache
def _get_fields(kind: type) -> Mapping[str, dataclasses.Field[Any]]:
    return {get_key(f): f for f in dataclasses.fields(kind)}


def _check_nothing() -> None:
    """What a type has whose values are all right."""


def _make_unchecked(kind: type, given: Mapping[str, Any]) -> Any:
    """A value made without its own checks, blank where nothing is given: good for nothing but more checks."""
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
    """What stands for a value that is wrong or missing."""
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
        get_key(f): _make_schema(hints[f.name])
        | ({"description": f.metadata["about"]} if "about" in f.metadata else {})
        for f in dataclasses.fields(kind)
    }
    required = [get_key(f) for f in dataclasses.fields(kind) if _is_required(f)]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

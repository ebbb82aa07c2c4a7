"""Untyped document to typed values, naming the wrong field.

A frozen dataclass is the whole description of a document: ``decode`` checks a parsed JSON or YAML
document against it and reports every fault at once, ``encode`` turns values back, and ``schema``
describes it to an editor. What the types can't say, a checking constructor says by raising
``Invalid``; a type of text that checks itself, such as a digest, is a subclass of ``str`` that does so.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")
Where = tuple["str | int", ...]


class Invalid(ValueError):
    """Raised by a checking constructor: what is wrong, and in which of its fields ("" for the whole)."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Unsafe(Invalid):
    """Raised where a value is not only wrong and would do harm if it were believed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a document, and where."""

    where: Where
    message: str
    unsafe: bool = False

    def __str__(self) -> str:
        return f"{spelled(self.where)}: {self.message}" if self.where else self.message


class Faults(ValueError):
    """Everything that is wrong with a document."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def spelled(where: Where) -> str:
    """A field's place as a person would write it: ``models[0].alias``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")


def about(text: str, **options: Any) -> Any:
    """A dataclass field with a sentence that says what it is (shown in the schema)."""
    return dataclasses.field(metadata={"about": text}, **options)


def allow_unknown_keys(kind: type[T]) -> type[T]:
    """Mark a dataclass that ``decode`` reads without the keys it does not know: a newer version may have written them.

    Never for what decides whom to trust: there an unknown key may be the one that forbids something.
    """
    _OPEN.add(kind)
    return kind


_OPEN: set[type] = set()


def decode(kind: type[T], document: object) -> T:
    """``document`` as a ``kind``; raises Faults, which names every wrong field."""
    faults: list[Fault] = []
    value = _decode(kind, document, (), faults)
    if faults:
        raise Faults(faults)
    return typing.cast("T", value)


def encode(value: object) -> Any:
    """A value as a document of mappings, lists, strings, integers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key(f): encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    return str(value) if isinstance(value, str) else value


def strings(document: object, where: Where = ()) -> Iterator[tuple[Where, str]]:
    """Every string of a document, keys too, and where it stands."""
    if isinstance(document, str):
        yield where, document
    elif isinstance(document, Mapping):
        for name, value in document.items():
            yield (*where, name), name
            yield from strings(value, (*where, name))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from strings(value, (*where, number))


def schema(kind: type) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the documents that ``decode`` reads as ``kind``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(kind)}


def key(field: dataclasses.Field[Any]) -> str:
    """A field's name in a document."""
    return field.name


def _decode(kind: Any, document: object, where: Where, faults: list[Fault]) -> Any:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(kind, document, where, faults)
    if origin is Literal:
        return _decode_choice(get_args(kind), document, where, faults)
    if origin is tuple:
        return _decode_list(get_args(kind)[0], document, where, faults)
    if origin is not None and issubclass(origin, Mapping):
        return _decode_mapping(get_args(kind)[1], document, where, faults)
    if dataclasses.is_dataclass(kind):
        return _decode_object(typing.cast("type", kind), document, where, faults)
    if issubclass(kind, str) and kind is not str:
        return _decode_text(kind, document, where, faults)
    if kind is float and type(document) is int and abs(document) <= _LARGEST_EXACT:
        return float(document)
    # bool is an int to Python and never one to a person
    if not isinstance(document, kind) or (kind is int and isinstance(document, bool)):
        faults.append(Fault(where, f"must be {_NAMES[kind]}, not {_named(document)}"))
    return document


_ENOUGH = 100
"""Faults of one document after which no more are looked for: a hostile one could hold millions."""

_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}

_LARGEST_EXACT = 1 << 53
"""Up to here a float holds every integer."""


def _named(document: object) -> str:
    if document is None:
        return "empty"
    if isinstance(document, Mapping):
        return "a mapping"
    if isinstance(document, list):
        return "a list"
    name = "true or false" if isinstance(document, bool) else _NAMES.get(type(document), type(document).__name__)
    return f"{name} ({str(document)[:40]})"


def _decode_union(kind: Any, document: object, where: Where, faults: list[Fault]) -> Any:
    options = [option for option in get_args(kind) if option is not type(None)]
    if document is None and len(options) < len(get_args(kind)):
        return None
    shaped = [o for o in options if dataclasses.is_dataclass(o) == isinstance(document, Mapping)]
    return _decode((shaped or options)[0], document, where, faults)


def _decode_choice(choices: tuple[Any, ...], document: object, where: Where, faults: list[Fault]) -> Any:
    if not any(document == choice and type(document) is type(choice) for choice in choices):
        faults.append(Fault(where, f"must be one of {', '.join(map(str, choices))}, not {_named(document)}"))
    return document


def _decode_text(kind: type[str], document: object, where: Where, faults: list[Fault]) -> Any:
    if not isinstance(document, str):
        faults.append(Fault(where, f"must be a string, not {_named(document)}"))
        return document
    try:
        return kind(document)
    except Invalid as invalid:
        faults.append(Fault(where, str(invalid), isinstance(invalid, Unsafe)))
        return document


def _decode_list(kind: Any, document: object, where: Where, faults: list[Fault]) -> Any:
    if not isinstance(document, list):
        faults.append(Fault(where, f"must be a list, not {_named(document)}"))
        return ()
    return tuple(_decode(kind, item, (*where, n), faults) for n, item in enumerate(document) if len(faults) < _ENOUGH)


def _decode_mapping(kind: Any, document: object, where: Where, faults: list[Fault]) -> Any:
    if not isinstance(document, Mapping):
        faults.append(Fault(where, f"must be a mapping, not {_named(document)}"))
        return {}
    faults += [Fault((*where, str(k)), "is not a name") for k in document if not isinstance(k, str)][:_ENOUGH]
    return {k: _decode(kind, v, (*where, str(k)), faults) for k, v in document.items()}


def _decode_object(kind: type, document: object, where: Where, faults: list[Fault]) -> Any:
    if not isinstance(document, Mapping):
        faults.append(Fault(where, f"must be a mapping, not {_named(document)}"))
        return None
    fields = {key(f): f for f in dataclasses.fields(kind)}
    hints = _hints(kind)
    before = len(faults)
    for name in document:
        if name not in fields and kind not in _OPEN and len(faults) < _ENOUGH:
            near = difflib.get_close_matches(str(name)[:100], fields, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(fields))}"
            faults.append(Fault((*where, str(name)), f"unknown key; {advice}"))
    given = {
        f.name: _decode(hints[f.name], document[name], (*where, name), faults)
        for name, f in fields.items()
        if name in document
    }
    missing = [name for name, f in fields.items() if name not in document and _required(f)]
    faults += [Fault((*where, name), "is required") for name in missing]
    if len(faults) > before:
        return None
    try:
        return kind(**given)
    except Invalid as invalid:
        there = (*where, invalid.field) if invalid.field else where
        faults.append(Fault(there, str(invalid), isinstance(invalid, Unsafe)))
        return None


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _schema(kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [_schema(o) for o in get_args(kind) if o is not type(None)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(kind)[0])}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(get_args(kind)[1])}
    if not dataclasses.is_dataclass(kind):
        names = {int: "integer", float: "number", bool: "boolean"}
        return {"type": "string" if issubclass(kind, str) else names[kind]}
    hints = _hints(typing.cast("type", kind))
    properties = {
        key(f): _schema(hints[f.name]) | ({"description": f.metadata["about"]} if "about" in f.metadata else {})
        for f in dataclasses.fields(kind)
    }
    required = [key(f) for f in dataclasses.fields(kind) if _required(f)]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

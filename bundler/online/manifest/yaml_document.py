"""A YAML file as a document, with the line of each of its values, and every fault of its own at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from bundler.errors import ManifestError
from bundler.format.documents import FieldPath, FieldProblem, TextPosition

_MAPPING = "tag:yaml.org,2002:map"
_LIST = "tag:yaml.org,2002:seq"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What a file says: mappings with keys that are strings, lists, scalars; and where each value stands."""

    value: Any
    places: dict[FieldPath, TextPosition]
    faults: tuple[tuple[int, FieldProblem], ...]
    """What is wrong with the YAML itself, each with its line."""

    def described(self, faults: Iterable[FieldProblem]) -> list[str]:
        """These faults and those of the YAML itself for a person, a line each, in the order of the file."""
        found = [*self.faults, *((self._line(fault.path), fault) for fault in faults)]
        return [f"  line {line}: {fault}" for line, fault in sorted(found, key=lambda one: one[0])]

    def _line(self, where: FieldPath) -> int:
        while where and where not in self.places:
            where = where[:-1]
        return self.places[where].line if where in self.places else 1


def read(text: bytes, where: str) -> Document:
    """Read one document; raises ManifestError where the text is not YAML, since nothing behind that place can be told."""
    hint = "mend that line first: nothing behind it can be read"
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        builder = _Builder(loader)
        value = builder.build(root, (), ()) if root else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}" if mark else where
        raise ManifestError(f"this is not YAML: {getattr(error, 'problem', error)}", where=place, hint=hint) from error
    except RecursionError as error:
        raise ManifestError("this YAML has more levels than can be read", where=where) from error
    return Document(value=value, places=builder.places, faults=tuple(builder.faults))


@dataclass(slots=True)
class _Builder:
    """Makes values of YAML's nodes. A node that can't be one is a fault, and what stands beside it is read."""

    loader: yaml.SafeLoader
    places: dict[FieldPath, TextPosition] = field(default_factory=dict)
    faults: list[tuple[int, FieldProblem]] = field(default_factory=list)

    def build(self, node: yaml.Node, where: FieldPath, above: tuple[int, ...]) -> Any:
        """The value of a node; ``above`` are the nodes that it stands in."""
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        self.places.setdefault(where, TextPosition(node.start_mark.line + 1, text))
        if id(node) in above:
            return self._wrong(node, where, "this YAML makes no sense: it holds itself", None)
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            if node.tag != _MAPPING:
                return self._wrong(node, where, f"nothing here is of the kind {node.tag}", {})
            return self._mapping(node, where, above)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != _LIST:
                return self._wrong(node, where, f"nothing here is of the kind {node.tag}", [])
            return [self.build(one, (*where, n), above) for n, one in enumerate(node.value)]
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, where: FieldPath, above: tuple[int, ...]) -> dict[str, Any]:
        merged = self._merged(node, where, above)
        own: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._wrong(key, where, "a key must be a word", None)
                continue
            name = str(key.value)  # as it is written: `on` and `1.0` are names like all others
            place, line = (*where, name), key.start_mark.line + 1
            if name in own:
                self._wrong(key, place, f"stands twice, first in line {first[name]}", None)
                continue
            first[name] = line
            self.places[place] = TextPosition(line, value.value if isinstance(value, yaml.ScalarNode) else "")
            own[name] = self.build(value, place, above)
        return merged | own

    def _merged(self, node: yaml.MappingNode, where: FieldPath, above: tuple[int, ...]) -> dict[str, Any]:
        """What ``<<`` brings in; of several mappings the first that has a key says what it is."""
        found: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(one, yaml.MappingNode) and id(one) not in above:
                        found = self._mapping(one, where, (*above, id(one))) | found
                    else:
                        self._wrong(key, (*where, "<<"), "must be a mapping, or a list of mappings", None)
        return found

    def _scalar(self, node: yaml.Node, where: FieldPath) -> Any:
        try:
            return self.loader.construct_object(node)
        except ValueError:  # a date of a thirteenth month
            kind = node.tag.rpartition(":")[2]
            return self._wrong(node, where, f"is read as a {kind} and is none: write it in quotes", str(node.value))
        except yaml.YAMLError:
            return self._wrong(node, where, f"nothing here is of the kind {node.tag}", str(node.value))

    def _wrong(self, node: yaml.Node, where: FieldPath, message: str, value: Any) -> Any:
        self.faults.append((node.start_mark.line + 1, FieldProblem(where, message)))
        return value

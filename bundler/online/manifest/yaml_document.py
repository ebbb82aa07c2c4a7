"""Parses YAML into a document that knows the line of each value, and lists all problems of the YAML at once."""

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
    """A parsed file: mappings with string keys, lists and scalars, and the place of each value."""

    value: Any
    places: dict[FieldPath, TextPosition]
    problems: tuple[tuple[int, FieldProblem], ...]
    """Problems of the YAML itself, each with its line."""

    def format_problems(self, problems: Iterable[FieldProblem]) -> list[str]:
        """Return a line of text for each problem, those of the YAML itself too, in the order of the file."""
        numbered = [*self.problems, *((self._find_line(problem.path), problem) for problem in problems)]
        return [f"  line {line}: {problem}" for line, problem in sorted(numbered, key=lambda pair: pair[0])]

    def _find_line(self, path: FieldPath) -> int:
        """Return the line of a value, or of the nearest value that contains it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path].line if path in self.places else 1


def parse_document(text: bytes, where: str) -> Document:
    """Parse one document.

    Raises:
        ManifestError: The text is not YAML; the lines after that place can't be read. ``where`` names the file.
    """
    hint = "correct that line first: the lines after it can't be read"
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
        raise ManifestError("this YAML is nested too deeply", where=where, hint="remove levels of nesting") from error
    return Document(value=value, places=builder.places, problems=tuple(builder.problems))


@dataclass(slots=True)
class _Builder:
    """Makes values from YAML nodes. A node that has no value is a problem; the nodes beside it are still read."""

    loader: yaml.SafeLoader
    places: dict[FieldPath, TextPosition] = field(default_factory=dict)
    problems: list[tuple[int, FieldProblem]] = field(default_factory=list)

    def build(self, node: yaml.Node, path: FieldPath, parents: tuple[int, ...]) -> Any:
        """Return the value of a node; ``parents`` are the ids of the nodes that contain it."""
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        self.places.setdefault(path, TextPosition(node.start_mark.line + 1, text))
        if id(node) in parents:
            return self._add_problem(node, path, "this YAML contains itself", None)
        parents = (*parents, id(node))
        if isinstance(node, yaml.MappingNode):
            if node.tag != _MAPPING:
                return self._add_problem(node, path, f"no value here can have the tag {node.tag}", {})
            return self._build_mapping(node, path, parents)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != _LIST:
                return self._add_problem(node, path, f"no value here can have the tag {node.tag}", [])
            return [self.build(item, (*path, n), parents) for n, item in enumerate(node.value)]
        return self._build_scalar(node, path)

    def _build_mapping(self, node: yaml.MappingNode, path: FieldPath, parents: tuple[int, ...]) -> dict[str, Any]:
        merged = self._build_merged(node, path, parents)
        own: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._add_problem(key, path, "a key must be text", None)
                continue
            name = str(key.value)  # as written: `on` and `1.0` are names too
            value_path, line = (*path, name), key.start_mark.line + 1
            if name in own:
                self._add_problem(key, value_path, f"is given twice, first in line {first_lines[name]}", None)
                continue
            first_lines[name] = line
            self.places[value_path] = TextPosition(line, value.value if isinstance(value, yaml.ScalarNode) else "")
            own[name] = self.build(value, value_path, parents)
        return merged | own

    def _build_merged(self, node: yaml.MappingNode, path: FieldPath, parents: tuple[int, ...]) -> dict[str, Any]:
        """Return the mapping that ``<<`` adds; of several mappings the first one with a key gives its value."""
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(source, yaml.MappingNode) and id(source) not in parents:
                        merged = self._build_mapping(source, path, (*parents, id(source))) | merged
                    else:
                        self._add_problem(key, (*path, "<<"), "must be a mapping, or a list of mappings", None)
        return merged

    def _build_scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        try:
            return self.loader.construct_object(node)
        except ValueError:  # a date of a thirteenth month
            kind = node.tag.rpartition(":")[2]
            return self._add_problem(
                node, path, f"looks like a {kind} but is not a valid one: write it in quotes", str(node.value)
            )
        except yaml.YAMLError:
            return self._add_problem(node, path, f"no value here can have the tag {node.tag}", str(node.value))

    def _add_problem(self, node: yaml.Node, path: FieldPath, message: str, value: Any) -> Any:
        self.problems.append((node.start_mark.line + 1, FieldProblem(path, message)))
        return value

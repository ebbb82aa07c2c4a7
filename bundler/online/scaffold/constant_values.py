"""Finds the strings that names in Python code can have. The syntax tree is read, never run."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_MAX_TEXTS = 50
"""Most strings of one expression; a product of more would be a guess."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """The strings that an expression can give, and the environment variable that it reads first ("" for none)."""

    texts: tuple[str, ...] = ()
    variable: str = ""


Constants = Mapping[str, Value]
"""Values by name. A name whose value is unknown has no texts, and hides the same name of an outer scope."""


def find_value(node: ast.expr | None, constants: Constants) -> Value:
    """Return the value of an expression; it has no texts if only a run could tell."""
    if isinstance(node, ast.Constant):
        return Value(texts=(node.value,)) if isinstance(node.value, str) else Value()
    if isinstance(node, ast.Name | ast.Attribute):
        return constants.get(ast.unparse(node), Value())
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        parts = [find_value(element, constants) for element in node.elts]
        return _merge_values(parts) if all(part.texts for part in parts) else Value()
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):  # os.environ.get("X") or "default"
        return Value(
            texts=find_value(node.values[-1], constants).texts, variable=find_value(node.values[0], constants).variable
        )
    if isinstance(node, ast.IfExp):
        return _merge_values([find_value(node.body, constants), find_value(node.orelse, constants)])
    if isinstance(node, ast.JoinedStr):
        return _concatenate(
            [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values], constants
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _concatenate([node.left, node.right], constants)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
        return Value(variable=_get_first(find_value(node.slice, constants)))
    return _find_call_value(node, constants) if isinstance(node, ast.Call) else Value()


def _find_call_value(call: ast.Call, constants: Constants) -> Value:
    """Return an environment variable with its default, or the default of a dataclass or pydantic field."""
    function = ast.unparse(call.func)
    arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    if function.endswith(("environ.get", "getenv")):
        default = call.args[1] if len(call.args) > 1 else arguments.get("default")
        name = _get_first(find_value(call.args[0] if call.args else arguments.get("key"), constants))
        return Value(texts=find_value(default, constants).texts, variable=name)
    if function.rpartition(".")[2] in ("Field", "field"):
        return find_value(arguments.get("default", call.args[0] if call.args else None), constants)
    return Value()


def find_scope_constants(
    nodes: Iterable[ast.stmt], outer: Constants, parameters: Constants | None = None
) -> dict[str, Value]:
    """Return the constants of a scope and of the scopes around it; a name that is bound twice has both values."""
    constants = {**outer, **(parameters or {})}
    bound = {name: [value] for name, value in (parameters or {}).items()}
    for node in _iter_scope(nodes):
        for target, value in _find_bindings(node):
            name = ast.unparse(target)
            bound.setdefault(name, []).append(find_value(value, constants))
            constants[name] = _merge_values(bound[name])
    return constants


def list_parameters(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    """Return the parameters of a function, each with its default."""
    ordinary = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(ordinary) - len(arguments.defaults))
    return [
        *zip(ordinary, [*missing, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]


def _iter_scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes and their children in order, except those inside functions and classes."""
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield node
            yield from _iter_scope(ast.iter_child_nodes(node))


def _find_bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield what a node binds: each target with its value, or with the list that it iterates over."""
    if isinstance(node, ast.Assign):
        yield from ((target, node.value) for target in node.targets)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield node.target, node.iter


def _merge_values(parts: Iterable[Value]) -> Value:
    values = [*parts]
    texts = dict.fromkeys(text for value in values for text in value.texts)
    variable = next((value.variable for value in values if value.variable), "")
    return Value(texts=tuple(texts)[:_MAX_TEXTS], variable=variable)


def _concatenate(parts: Iterable[ast.expr], constants: Constants) -> Value:
    parts_texts = [find_value(part, constants).texts for part in parts]
    texts = itertools.islice(itertools.product(*parts_texts), _MAX_TEXTS) if all(parts_texts) else ()
    return Value(texts=tuple("".join(combination) for combination in texts))


def _get_first(value: Value) -> str:
    return value.texts[0] if value.texts else ""

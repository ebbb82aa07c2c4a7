"""Which strings the names in a piece of Python stand for, read from its syntax tree and never run."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_MOST = 50
"""Strings that one expression may stand for; a product of many would be a guess."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """The strings that an expression may give, and the environment variable that it reads first ("" for none)."""

    texts: tuple[str, ...] = ()
    variable: str = ""


Known = Mapping[str, Value]
"""What names stand for. One that stands for nothing known is there with no texts, and hides the same name outside."""


def value_of(node: ast.expr | None, known: Known) -> Value:
    """What an expression stands for; no texts where only a run could tell."""
    if isinstance(node, ast.Constant):
        return Value(texts=(node.value,)) if isinstance(node.value, str) else Value()
    if isinstance(node, ast.Name | ast.Attribute):
        return known.get(ast.unparse(node), Value())
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        parts = [value_of(one, known) for one in node.elts]
        return _together(parts) if all(part.texts for part in parts) else Value()
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):  # os.environ.get("X") or "default"
        return Value(texts=value_of(node.values[-1], known).texts, variable=value_of(node.values[0], known).variable)
    if isinstance(node, ast.IfExp):
        return _together([value_of(node.body, known), value_of(node.orelse, known)])
    if isinstance(node, ast.JoinedStr):
        return _joined([one.value if isinstance(one, ast.FormattedValue) else one for one in node.values], known)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined([node.left, node.right], known)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
        return Value(variable=_first(value_of(node.slice, known)))
    return _of_call(node, known) if isinstance(node, ast.Call) else Value()


def _of_call(call: ast.Call, known: Known) -> Value:
    """A variable of the environment with its default, or the default of a field."""
    function = ast.unparse(call.func)
    given = {one.arg: one.value for one in call.keywords if one.arg}
    if function.endswith(("environ.get", "getenv")):
        default = call.args[1] if len(call.args) > 1 else given.get("default")
        name = _first(value_of(call.args[0] if call.args else given.get("key"), known))
        return Value(texts=value_of(default, known).texts, variable=name)
    if function.rpartition(".")[2] in ("Field", "field"):
        return value_of(given.get("default", call.args[0] if call.args else None), known)
    return Value()


def scope_of(nodes: Iterable[ast.stmt], outer: Known, parameters: Known | None = None) -> dict[str, Value]:
    """What the names that statements bind stand for, and those of outside; of several values a name may have any."""
    known = {**outer, **(parameters or {})}
    bound = {name: [value] for name, value in (parameters or {}).items()}
    for node in _own(nodes):
        for target, value in _bindings(node):
            name = ast.unparse(target)
            bound.setdefault(name, []).append(value_of(value, known))
            known[name] = _together(bound[name])
    return known


def parameters(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    """The parameters of a function, each with its default."""
    ordinary = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(ordinary) - len(arguments.defaults))
    return [
        *zip(ordinary, [*missing, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]


def _own(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes in their order with all that is inside them, except other functions and classes."""
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield node
            yield from _own(ast.iter_child_nodes(node))


def _bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The targets that a node gives a value, or each of a list of values."""
    if isinstance(node, ast.Assign):
        yield from ((target, node.value) for target in node.targets)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield node.target, node.iter


def _together(parts: Iterable[Value]) -> Value:
    found = [*parts]
    texts = dict.fromkeys(text for part in found for text in part.texts)
    variable = next((part.variable for part in found if part.variable), "")
    return Value(texts=tuple(texts)[:_MOST], variable=variable)


def _joined(parts: Iterable[ast.expr], known: Known) -> Value:
    found = [value_of(part, known).texts for part in parts]
    texts = itertools.islice(itertools.product(*found), _MOST) if all(found) else ()
    return Value(texts=tuple("".join(one) for one in texts))


def _first(value: Value) -> str:
    return value.texts[0] if value.texts else ""

"""Which models a project's code asks for, read from its syntax trees and never run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

_TELLING = re.compile(r"model|embed|rerank|llm|encoder|tokenizer|checkpoint", re.IGNORECASE)
"""Names of variables that say what their values are."""
_ELSE = re.compile(r"(?i)(^|[_.-])(key|token|secret|password|url|uri|host|endpoint|api|type|class|dim|device)s?$")
"""The ends of such names whose values are something else all the same."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHORT_ID = re.compile(r"(?=.*[-\d])[A-Za-z][A-Za-z0-9._-]{2,95}")
_FILE = re.compile(r"\.(py|json|ya?ml|toml|txt|md|sh|csv|onnx|gguf|pt|pth|bin|safetensors|log|png|jpe?g|zip|gz|so)$")
_NO_ORGANISATION = re.compile(
    r"(models?|checkpoints?|outputs?|data|results|weights|saved[_-]models?|paths?|tmp|vendor|text|application|image|"
    r"audio|video|anthropic|azure|bedrock|gemini|groq|ollama|openrouter|vertex_ai)/.*|"
    r"openai/(gpt-(?!oss)|text-embedding|o\d|chatgpt|dall-e).*",
    re.IGNORECASE,
)
"""Folders and kinds of content, and services that name their models in the same form."""

_FIRST_MODELS = re.compile(
    r"(?!.*-(nli|quora|msmarco|wikipedia)-)((albert|bert|distilbert|distilroberta|camembert|roberta|xlm|xlnet|t5)-.+|"
    r"transfo-xl-.+|openai-gpt|ctrl|(distil)?gpt2.*)",
    re.IGNORECASE,
)
"""Models of the hub's first days, whose names have no organisation; sentence-transformers leaves them as they are."""

_FACTORIES: Mapping[str, tuple[int, str, str]] = {
    "from_pretrained": (0, "pretrained_model_name_or_path", ""),
    "from_finetuned": (0, "model_name_or_path", ""),
    "SentenceTransformer": (0, "model_name_or_path", "sentence-transformers"),
    "CrossEncoder": (0, "model_name_or_path", "cross-encoder"),
    "SparseEncoder": (0, "model_name_or_path", "sparse-encoder"),
    "BGEM3FlagModel": (0, "model_name_or_path", ""),
    "FlagModel": (0, "model_name_or_path", ""),
    "FlagICLModel": (0, "model_name_or_path", ""),
    "FlagLLMModel": (0, "model_name_or_path", ""),
    "FlagReranker": (0, "model_name_or_path", ""),
    "FlagLLMReranker": (0, "model_name_or_path", ""),
    "HuggingFaceEmbeddings": (9, "model_name", "sentence-transformers"),
    "HuggingFaceBgeEmbeddings": (9, "model_name", "sentence-transformers"),
    "HuggingFaceCrossEncoder": (9, "model_name", "cross-encoder"),
    "HuggingFaceEmbedding": (0, "model_name", ""),
    "pipeline": (1, "model", ""),
    "snapshot_download": (0, "repo_id", ""),
    "hf_hub_download": (0, "repo_id", ""),
    "load_dataset": (0, "path", ""),
}
"""What loads models: which argument names one, by place and by name, and who is meant where it names nobody."""
_OTHER_KEYWORDS = ("model_name_or_path", "model_name", "model_id", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """A model that a project names: its hub id or a folder, where that stands, and by whom or what it is asked for."""

    name: str
    where: str
    how: str
    dataset: bool = False
    revision: str = ""
    file: str = ""
    """The one file of the repository that is asked for; "" for the model as a whole."""
    variable: str = ""
    """The environment variable that it stands in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unclear:
    """A place that loads a model which only a run of the program could name."""

    where: str
    how: str


def tells(name: str) -> bool:
    """Whether a variable's name says that its value is a model."""
    spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return bool(_TELLING.search(spelled)) and not _ELSE.search(spelled)


def is_hub_id(value: str) -> bool:
    """Whether a value can be ORG/NAME on the hub, rather than a path, a kind of content or a service's model."""
    return bool(_HUB_ID.fullmatch(value)) and not is_file(value) and not _NO_ORGANISATION.fullmatch(value)


def hub_id(value: str, organisation: str = "") -> str:
    """The hub id that a loader makes of a name; "" where it is none. ``organisation`` is meant where it names nobody."""
    if "/" in value or not _SHORT_ID.fullmatch(value) or is_file(value):
        return value if is_hub_id(value) else ""
    return value if not organisation or _FIRST_MODELS.fullmatch(value) else f"{organisation}/{value}"


def sources(path: PurePosixPath, text: str) -> Iterator[tuple[str, str]]:
    """The pieces of Python in a file, each with the start of the words that say where it stands.

    Raises ValueError where a notebook is none.
    """
    if path.suffix != ".ipynb":
        yield f"{path}:", text
        return
    try:
        cells = json.loads(text)["cells"]
        for number, cell in enumerate(cells, 1):
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                plain = ["pass" if line.startswith(("%", "!")) else line for line in lines]
                yield f"{path}, cell {number}:", "\n".join(plain)
    except (KeyError, TypeError) as error:
        raise ValueError("it is no notebook") from error


def constants(tree: ast.Module) -> dict[str, str]:
    """The strings that names of a module stand for, its defaults of environment variables among them."""
    known: dict[str, str] = {}
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        value = getattr(node, "value", None)
        if value is not None and (text := _text(value, known)) is not None:
            known |= {target.id: text for target in targets if isinstance(target, ast.Name)}
    return known


def found_in(
    tree: ast.Module, place: str, modules: Mapping[str, Mapping[str, str]], known: dict[str, str]
) -> list[Mention | Unclear]:
    """What a piece of Python asks for, line by line.

    ``place`` begins the words for where; ``modules`` are the constants of the project's files by their stems.
    ``known`` are constants from before this piece; its own are added.
    """
    renamed: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            there = modules.get((node.module or "").rpartition(".")[2], {})
            for alias in node.names:
                renamed[alias.asname or alias.name] = alias.name
                if alias.name in there:
                    known[alias.asname or alias.name] = there[alias.name]
    known |= constants(tree)
    found: list[Mention | Unclear] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += _called(node, place, known, renamed)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.arguments):
            found += _told(node, place, known)
    return sorted(found, key=lambda one: int(one.where.rpartition(":")[2]))


def _called(
    call: ast.Call, place: str, known: Mapping[str, str], renamed: Mapping[str, str]
) -> Iterator[Mention | Unclear]:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    name = renamed.get(name, name)
    if name not in _FACTORIES:
        return
    position, keyword, organisation = _FACTORIES[name]
    given = {one.arg: one.value for one in call.keywords if one.arg}
    value = next((given[key] for key in (keyword, *_OTHER_KEYWORDS) if key in given), None)
    if value is None and len(call.args) > position:
        value = call.args[position]
    if value is None:
        return
    where = f"{place}{call.lineno}"
    text = _text(value, known)
    if text is None:
        yield Unclear(where=where, how=name)
        return
    filename = given.get("filename", call.args[1] if len(call.args) > 1 else None)
    yield Mention(
        name=hub_id(text, organisation) or text,
        where=where,
        how=name,
        dataset=name == "load_dataset" or _text(given.get("repo_type"), known) == "dataset",
        revision=_text(given.get("revision"), known) or "",
        file=(_text(filename, known) or "") if name == "hf_hub_download" else "",
        variable=_variable(value),
    )


def _told(node: ast.Assign | ast.AnnAssign | ast.arguments, place: str, known: Mapping[str, str]) -> Iterator[Mention]:
    """Models that stand in a variable, a field or a default whose name says so."""
    pairs: list[tuple[str, ast.expr | None]] = []
    if isinstance(node, ast.arguments):
        ordinary = [*node.posonlyargs, *node.args]
        pairs += [(arg.arg, value) for arg, value in zip(reversed(ordinary), reversed(node.defaults), strict=False)]
        pairs += [(arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
    else:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            pairs.append((target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", ""), node.value))
    for name, value in pairs:
        text = _text(value, known) if value is not None and not isinstance(value, ast.Name) else None
        if value is not None and text is not None and tells(name) and (is_hub_id(text) or is_path(text)):
            yield Mention(name=text, where=f"{place}{value.lineno}", how=name, variable=_variable(value))


def is_file(value: str) -> bool:
    """Whether a value's ending says that it is a file and so no model."""
    return bool(_FILE.search(value))


def is_path(value: str) -> bool:
    """Whether a value can mean nothing but a folder."""
    return value.startswith(("./", "../", "/", "~/")) and not is_file(value)


def loads(how: str) -> bool:
    """Whether a model is asked for by what loads or fetches it, rather than by a variable."""
    return how in _FACTORIES


def _text(node: ast.expr | None, known: Mapping[str, str]) -> str | None:
    """The string that an expression stands for; None where only a run could tell."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):  # os.environ.get("X") or "default"
        return _text(node.values[-1], known)
    if _variable(node) and isinstance(node, ast.Call) and len(node.args) > 1:
        return _text(node.args[1], known)
    return None


def _variable(node: ast.expr | None) -> str:
    """The environment variable that an expression reads; "" for any other."""
    if isinstance(node, ast.BoolOp):
        return _variable(node.values[0])
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.func, ast.Attribute | ast.Name):
        return ""
    if not ast.unparse(node.func).endswith(("environ.get", "getenv")):
        return ""
    name = node.args[0]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""

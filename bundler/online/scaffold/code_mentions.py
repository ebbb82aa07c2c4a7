"""Which models a project's code asks for, read from its syntax trees and never run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from bundler.online.scaffold import constant_values, data_mentions, served_models
from bundler.online.scaffold.constant_values import Known, Value
from bundler.online.scaffold.data_mentions import Data
from bundler.online.scaffold.served_models import Served, Server

_MODEL_WORDS = re.compile(r"model|embed|rerank|llm|encoder|tokenizer|checkpoint", re.IGNORECASE)
"""Names of variables that say what their values are."""
_OTHER_ENDINGS = re.compile(
    r"(?i)(^|[_.-])(key|token|secret|password|url|uri|host|endpoint|api|type|class|dim|device)s?$"
)
"""The ends of such names whose values are something else all the same."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHORT_HUB_ID = re.compile(r"(?=.*[-\d])[A-Za-z][A-Za-z0-9._-]{2,95}")
_FILE_ENDING = re.compile(
    r"\.(py|json|ya?ml|toml|txt|md|sh|csv|onnx|gguf|pt|pth|bin|safetensors|log|png|jpe?g|zip|gz|so)$"
)
_NOT_AN_ORGANIZATION = re.compile(
    r"(models?|checkpoints?|outputs?|data|results|weights|saved[_-]models?|paths?|tmp|vendor|text|application|image|"
    r"audio|video|anthropic|azure|bedrock|gemini|groq|ollama|openrouter|vertex_ai)/.*|"
    r"openai/(gpt-(?!oss)|text-embedding|o\d|chatgpt|dall-e).*",
    re.IGNORECASE,
)
"""Folders and kinds of content, and services that name their models in the same form."""

_LEGACY_MODELS = re.compile(
    r"(?!.*-(nli|quora|msmarco|wikipedia)-)((albert|bert|distilbert|distilroberta|camembert|roberta|xlm|xlnet|t5)-.+|"
    r"transfo-xl-.+|openai-gpt|ctrl|(distil)?gpt2.*)",
    re.IGNORECASE,
)
"""Models of the hub's first days, whose names have no organisation; sentence-transformers leaves them as they are."""

_MODEL_LOADERS: Mapping[str, tuple[int, str, str]] = {
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
_MODEL_KEYWORDS = ("model_name_or_path", "model_name", "model_id", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """A model that a project names: its hub id or a folder, where that stands, and by whom or what it is asked for."""

    name: str
    where: str
    symbol: str
    dataset: bool = False
    revision: str = ""
    file: str = ""
    """The one file of the repository that is asked for; "" for the model as a whole."""
    variable: str = ""
    """The environment variable that it stands in."""
    default: bool = False
    """Whether it is the default of a parameter, which another value may replace, and which nothing here may load."""
    group: str = ""
    """What stands together with it: a class, a file's table. Empty for what loads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnresolvedMention:
    """A place that loads a model, or data, which only a run of the program could name."""

    where: str
    symbol: str
    variable: str = ""


Finding = Mention | UnresolvedMention | Data | Served | Server


def is_model_variable(name: str) -> bool:
    """Whether a variable's name says that its value is a model."""
    spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return bool(_MODEL_WORDS.search(spelled)) and not _OTHER_ENDINGS.search(spelled)


def is_hub_id(value: str) -> bool:
    """Whether a value can be ORG/NAME on the hub, rather than a path, a kind of content or a service's model."""
    return bool(_HUB_ID.fullmatch(value)) and not is_file(value) and not _NOT_AN_ORGANIZATION.fullmatch(value)


def make_hub_id(value: str, organization: str = "") -> str:
    """The hub id that a loader makes of a name; "" where it is none. ``organisation`` is meant where it names nobody."""
    if "/" in value or not _SHORT_HUB_ID.fullmatch(value) or is_file(value):
        return value if is_hub_id(value) else ""
    return value if not organization or _LEGACY_MODELS.fullmatch(value) else f"{organization}/{value}"


def split_cells(path: PurePosixPath, text: str) -> Iterator[tuple[str, str]]:
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


@dataclass(slots=True)
class Names:
    """What the names of a file stand for: strings, and what was imported under them."""

    values: dict[str, Value] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def find_constants(tree: ast.Module, outer: Known) -> dict[str, Value]:
    """The strings that names of a module stand for, its defaults of environment variables and classes among them."""
    known = constant_values.scope_of(tree.body, outer)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            known |= {f"{node.name}.{name}": value for name, value in _attributes(node, known).items()}
    for node in tree.body:  # settings = Settings()
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            start = f"{ast.unparse(node.value.func)}."
            of_class = {name.removeprefix(start): one for name, one in known.items() if name.startswith(start)}
            for target in node.targets:
                known |= {f"{ast.unparse(target)}.{name}": one for name, one in of_class.items()}
    return known


def find_mentions(
    tree: ast.Module, location: str, constants_by_module: Mapping[str, Mapping[str, Value]], names: Names
) -> list[Finding]:
    """What a piece of Python asks for, line by line.

    ``place`` begins the words for where; ``modules`` are the constants of the project's files by their stems.
    ``names`` are those from before this piece; its own are added.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                names.origins[local] = alias.name if alias.asname else local
                names.values |= _below(
                    alias.asname or alias.name, constants_by_module.get(alias.name.rpartition(".")[2], {})
                )
        elif isinstance(node, ast.ImportFrom):
            there = constants_by_module.get((node.module or "").rpartition(".")[2], {})
            for alias in node.names:
                local = alias.asname or alias.name
                names.origins[local] = f"{node.module or ''}.{alias.name}"
                inside = {key: value for key, value in there.items() if f"{key}.".startswith(f"{alias.name}.")}
                names.values |= {local + key.removeprefix(alias.name): value for key, value in inside.items()}
                names.values |= _below(local, constants_by_module.get(alias.name, {}))
    names.values = find_constants(tree, names.values)
    reader = _Reader(place=location, origins=names.origins)
    reader.block(tree.body, names.values, location)
    return sorted(reader.found, key=lambda one: int(one.where.rpartition(":")[2]))


def _below(name: str, there: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{name}.{key}": value for key, value in there.items()}


def _attributes(node: ast.ClassDef, known: Known) -> dict[str, Value]:
    """What the attributes of a class stand for, those that its methods give to ``self`` among them."""
    own = constant_values.scope_of(node.body, known)
    found = {name: value for name, value in own.items() if value is not known.get(name)}
    for one in node.body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = _inside(one, known)
            found |= {
                name.removeprefix("self."): value
                for name, value in inside.items()
                if name.startswith("self.") and (value.texts or value.variable) and value is not known.get(name)
            }
    return found


def _inside(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, outer: Known) -> dict[str, Value]:
    """What names stand for inside a function: its parameters are what their defaults are."""
    first = {
        arg.arg: constant_values.value_of(default, outer) for arg, default in constant_values.parameters(function.args)
    }
    if isinstance(function, ast.Lambda):
        return {**outer, **first}
    return constant_values.scope_of(function.body, outer, first)


@dataclass(slots=True)
class _Reader:
    place: str
    origins: Mapping[str, str]
    found: list[Finding] = field(default_factory=list)

    def block(self, nodes: Iterable[ast.AST], known: Known, group: str) -> None:
        """Read statements or expressions of one scope, then the scopes inside them."""
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                self._class(node, known, group)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                self._function(node, known, group)
            else:
                if isinstance(node, ast.Call):
                    self.found += self._called(node, known)
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    self.found += self._assigned(node, known, group)
                self.block(ast.iter_child_nodes(node), known, group)

    def _class(self, node: ast.ClassDef, known: Known, group: str) -> None:
        own = constant_values.scope_of(node.body, known)
        attributes = _attributes(node, known)
        methods = dict(known)
        for start in ("self", "cls", node.name):
            methods |= _below(start, attributes)
        for one in node.body:
            is_method = isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            self.block([one], methods if is_method else own, f"{group}{node.name}")

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, known: Known, group: str) -> None:
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        pairs = [(arg, default) for arg, default in constant_values.parameters(node.args) if default is not None]
        self.block([*decorators, *(default for _, default in pairs)], known, group)
        for arg, default in pairs:
            self.found += self._told(arg.arg, default, known, "", default=True)
        inside = _inside(node, known)
        # a name that is bound here and stands for nothing must not be taken for one of outside
        self.block([node.body] if isinstance(node, ast.Lambda) else node.body, inside, f"{group}{node.lineno}")

    def _called(self, call: ast.Call, known: Known) -> Iterator[Finding]:
        where, origin = f"{self.place}{call.lineno}", self._origin(call.func)
        variable = constant_values.value_of(call, known).variable
        if variable and (purpose := served_models.address(variable, "")) is not None:
            yield Server(purpose=purpose, group=served_models.ENVIRONMENT, where=where, name=variable)
        name = origin.rpartition(".")[2]
        if (asked := data_mentions.asked(origin, call, known)) is not None:
            found = data_mentions.meant(origin, asked)
            yield from (replace(one, where=where) for one in found)
            if not found:
                yield UnresolvedMention(where=where, symbol=".".join(origin.split(".")[-2:]))
        elif name in _MODEL_LOADERS:
            yield from _of_factory(name, call, where, known)
        elif served_models.is_client(origin):
            for one in call.keywords:
                if one.arg in _MODEL_KEYWORDS:
                    value = constant_values.value_of(one.value, known)
                    yield Served(names=value.texts, variable=value.variable, where=where, how=name)

    def _origin(self, function: ast.expr) -> str:
        """What is called, by its full name where that was imported."""
        if not isinstance(function, ast.Attribute | ast.Name):
            return ""
        first, dot, rest = ast.unparse(function).partition(".")
        return f"{self.origins.get(first, first)}{dot}{rest}"

    def _assigned(self, node: ast.Assign | ast.AnnAssign, known: Known, group: str) -> Iterator[Finding]:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            if node.value is None or not name:
                continue
            given = constant_values.value_of(node.value, known)
            address = served_models.address(name, next(iter(given.texts), "://" if given.variable else ""))
            if address is not None and given != Value():
                yield Server(purpose=address, group=group, where=f"{self.place}{node.lineno}", name=name)
            yield from self._told(name, node.value, known, group)

    def _told(
        self, name: str, value: ast.expr, known: Known, group: str, *, default: bool = False
    ) -> Iterator[Mention]:
        """Models that stand in a variable, a field or a default whose name says so."""
        if not is_model_variable(name) or isinstance(value, ast.Name | ast.Attribute | ast.List | ast.Tuple | ast.Set):
            return
        given = constant_values.value_of(value, known)
        for text in given.texts:
            if is_hub_id(text) or is_path(text):
                where = f"{self.place}{value.lineno}"
                yield Mention(
                    name=text, where=where, symbol=name, variable=given.variable, default=default, group=group
                )


def _of_factory(name: str, call: ast.Call, where: str, known: Known) -> Iterator[Mention | UnresolvedMention]:
    position, keyword, organisation = _MODEL_LOADERS[name]
    given = {one.arg: one.value for one in call.keywords if one.arg}
    value = next((given[key] for key in (keyword, *_MODEL_KEYWORDS) if key in given), None)
    if value is None and len(call.args) > position:
        value = call.args[position]
    if value is None:
        return
    asked = constant_values.value_of(value, known)
    if not asked.texts and not (isinstance(value, ast.Constant) and value.value is None):
        yield UnresolvedMention(where=where, symbol=name, variable=asked.variable)
    filename = given.get("filename", call.args[1] if len(call.args) > 1 else None)
    for text in asked.texts:
        yield Mention(
            name=make_hub_id(text, organisation) or text,
            where=where,
            symbol=name,
            dataset=name == "load_dataset"
            or "dataset" in constant_values.value_of(given.get("repo_type"), known).texts,
            revision="".join(constant_values.value_of(given.get("revision"), known).texts[:1]),
            file="".join(constant_values.value_of(filename, known).texts[:1]) if name == "hf_hub_download" else "",
            variable=asked.variable,
        )


def is_file(value: str) -> bool:
    """Whether a value's ending says that it is a file and so no model."""
    return bool(_FILE_ENDING.search(value))


def is_path(value: str) -> bool:
    """Whether a value can mean nothing but a folder."""
    return value.startswith(("./", "../", "/", "~/")) and not is_file(value)


def is_loading_function(symbol: str) -> bool:
    """Whether a model is asked for by what loads or fetches it, rather than by a variable."""
    return symbol in _MODEL_LOADERS

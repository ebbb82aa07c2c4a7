"""Finds the models that a project's code loads. Syntax trees are read, never run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from bundler.online.scaffold import constant_values, data_mentions, served_models
from bundler.online.scaffold.constant_values import Constants, Value
from bundler.online.scaffold.data_mentions import DataMention
from bundler.online.scaffold.served_models import ServedModel, Server

_MODEL_WORDS = re.compile(r"model|embed|rerank|llm|encoder|tokenizer|checkpoint", re.IGNORECASE)
"""Matches names of variables that hold a model."""
_OTHER_ENDINGS = re.compile(
    r"(?i)(^|[_.-])(key|token|secret|password|url|uri|host|endpoint|api|type|class|dim|device)s?$"
)
"""Matches the ends of such names whose values are no models all the same."""

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
"""Folders, MIME types, and services that name their models in the same form."""

_LEGACY_MODELS = re.compile(
    r"(?!.*-(nli|quora|msmarco|wikipedia)-)((albert|bert|distilbert|distilroberta|camembert|roberta|xlm|xlnet|t5)-.+|"
    r"transfo-xl-.+|openai-gpt|ctrl|(distil)?gpt2.*)",
    re.IGNORECASE,
)
"""Old models of the hub, whose names have no organization; sentence-transformers adds none to them."""

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
"""Functions that load models: position and name of the argument with the model, and the default organization."""
_MODEL_KEYWORDS = ("model_name_or_path", "model_name", "model_id", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """A model in a project's files: its hub id or folder, the location, and the function or variable that has it."""

    name: str
    location: str
    symbol: str
    is_dataset: bool = False
    revision: str = ""
    file: str = ""
    """The only file of the repository that is loaded; "" for the whole model."""
    variable: str = ""
    """The environment variable that holds it."""
    is_default: bool = False
    """Whether it is the default of a parameter: another value may replace it, or nothing may load it."""
    group: str = ""
    """The class, or the table of a file, that it is part of; "" for a function that loads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnresolvedMention:
    """A call that loads a model or data whose name only a run of the program could tell."""

    location: str
    symbol: str
    variable: str = ""


Finding = Mention | UnresolvedMention | DataMention | ServedModel | Server


def is_model_variable(name: str) -> bool:
    """Return whether a variable's name says that its value is a model."""
    spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return bool(_MODEL_WORDS.search(spelled)) and not _OTHER_ENDINGS.search(spelled)


def is_hub_id(value: str) -> bool:
    """Return whether a value can be ORG/NAME on the hub, and not a path, a MIME type or a model of a service."""
    return bool(_HUB_ID.fullmatch(value)) and not is_file(value) and not _NOT_AN_ORGANIZATION.fullmatch(value)


def make_hub_id(value: str, organization: str = "") -> str:
    """Return the hub id that a loader makes from a name; "" if it is none.

    ``organization`` is the loader's default, for a name without one.
    """
    if "/" in value or not _SHORT_HUB_ID.fullmatch(value) or is_file(value):
        return value if is_hub_id(value) else ""
    return value if not organization or _LEGACY_MODELS.fullmatch(value) else f"{organization}/{value}"


def split_cells(path: PurePosixPath, text: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces of Python in a file, each with the beginning of its location (without the line).

    Raises:
        ValueError: A notebook is malformed.
    """
    if path.suffix != ".ipynb":
        yield f"{path}:", text
        return
    try:
        cells = json.loads(text)["cells"]
        for number, cell in enumerate(cells, 1):
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                python_lines = ["pass" if line.startswith(("%", "!")) else line for line in lines]
                yield f"{path}, cell {number}:", "\n".join(python_lines)
    except (KeyError, TypeError) as error:
        raise ValueError("this is not a notebook") from error


@dataclass(slots=True)
class Names:
    """The names of a file: the values of some, and the full names of what was imported."""

    values: dict[str, Value] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def find_constants(tree: ast.Module, outer: Constants) -> dict[str, Value]:
    """Return the constants of a module, with defaults of environment variables and attributes of classes."""
    constants = constant_values.find_scope_constants(tree.body, outer)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            constants |= {f"{node.name}.{name}": value for name, value in _find_attributes(node, constants).items()}
    for node in tree.body:  # settings = Settings()
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            start = f"{ast.unparse(node.value.func)}."
            attributes = {
                name.removeprefix(start): value for name, value in constants.items() if name.startswith(start)
            }
            for target in node.targets:
                constants |= {f"{ast.unparse(target)}.{name}": value for name, value in attributes.items()}
    return constants


def find_mentions(
    tree: ast.Module, location: str, constants_by_module: Mapping[str, Mapping[str, Value]], names: Names
) -> list[Finding]:
    """Return what a piece of Python loads, in the order of its lines.

    Args:
        tree: The syntax tree of the piece.
        location: The beginning of each finding's location; see `split_cells`.
        constants_by_module: The constants of the project's files, by file stem.
        names: The names of earlier pieces of the same file; those of this piece are added.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                names.origins[local] = alias.name if alias.asname else local
                names.values |= _add_prefix(
                    alias.asname or alias.name, constants_by_module.get(alias.name.rpartition(".")[2], {})
                )
        elif isinstance(node, ast.ImportFrom):
            module_constants = constants_by_module.get((node.module or "").rpartition(".")[2], {})
            for alias in node.names:
                local = alias.asname or alias.name
                names.origins[local] = f"{node.module or ''}.{alias.name}"
                imported = {
                    name: value for name, value in module_constants.items() if f"{name}.".startswith(f"{alias.name}.")
                }
                names.values |= {local + name.removeprefix(alias.name): value for name, value in imported.items()}
                names.values |= _add_prefix(local, constants_by_module.get(alias.name, {}))
    names.values = find_constants(tree, names.values)
    reader = _Reader(location=location, origins=names.origins)
    reader.read_nodes(tree.body, names.values, location)
    return sorted(reader.findings, key=lambda finding: int(finding.location.rpartition(":")[2]))


def _add_prefix(prefix: str, constants: Constants) -> dict[str, Value]:
    return {f"{prefix}.{name}": value for name, value in constants.items()}


def _find_attributes(node: ast.ClassDef, constants: Constants) -> dict[str, Value]:
    """Return the values of a class's attributes, with those that its methods set on ``self``."""
    own = constant_values.find_scope_constants(node.body, constants)
    attributes = {name: value for name, value in own.items() if value is not constants.get(name)}
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = _find_function_constants(statement, constants)
            attributes |= {
                name.removeprefix("self."): value
                for name, value in inside.items()
                if name.startswith("self.") and (value.texts or value.variable) and value is not constants.get(name)
            }
    return attributes


def _find_function_constants(
    function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, outer: Constants
) -> dict[str, Value]:
    """Return the constants inside a function; a parameter has the value of its default."""
    defaults = {
        arg.arg: constant_values.find_value(default, outer)
        for arg, default in constant_values.list_parameters(function.args)
    }
    if isinstance(function, ast.Lambda):
        return {**outer, **defaults}
    return constant_values.find_scope_constants(function.body, outer, defaults)


@dataclass(slots=True)
class _Reader:
    """Collects the findings of one piece of Python."""

    location: str
    origins: Mapping[str, str]
    findings: list[Finding] = field(default_factory=list)

    def read_nodes(self, nodes: Iterable[ast.AST], constants: Constants, group: str) -> None:
        """Read the statements or expressions of a scope, and the scopes inside them."""
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                self._read_class(node, constants, group)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                self._read_function(node, constants, group)
            else:
                if isinstance(node, ast.Call):
                    self.findings += self._read_call(node, constants)
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    self.findings += self._read_assignment(node, constants, group)
                self.read_nodes(ast.iter_child_nodes(node), constants, group)

    def _read_class(self, node: ast.ClassDef, constants: Constants, group: str) -> None:
        own = constant_values.find_scope_constants(node.body, constants)
        attributes = _find_attributes(node, constants)
        method_constants = dict(constants)
        for start in ("self", "cls", node.name):
            method_constants |= _add_prefix(start, attributes)
        for statement in node.body:
            is_method = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
            self.read_nodes([statement], method_constants if is_method else own, f"{group}{node.name}")

    def _read_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, constants: Constants, group: str
    ) -> None:
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        pairs = [(arg, default) for arg, default in constant_values.list_parameters(node.args) if default is not None]
        self.read_nodes([*decorators, *(default for _, default in pairs)], constants, group)
        for arg, default in pairs:
            self.findings += self._find_named_models(arg.arg, default, constants, "", is_default=True)
        inside = _find_function_constants(node, constants)
        # A name of this scope without a known value hides the same name of an outer scope.
        self.read_nodes([node.body] if isinstance(node, ast.Lambda) else node.body, inside, f"{group}{node.lineno}")

    def _read_call(self, call: ast.Call, constants: Constants) -> Iterator[Finding]:
        location, origin = f"{self.location}{call.lineno}", self._find_origin(call.func)
        variable = constant_values.find_value(call, constants).variable
        if variable and (purpose := served_models.find_server_purpose(variable, "")) is not None:
            yield Server(purpose=purpose, group=served_models.ENVIRONMENT, location=location, name=variable)
        name = origin.rpartition(".")[2]
        if (data := data_mentions.find_data_mentions(origin, call, constants)) is not None:
            yield from (replace(mention, location=location) for mention in data)
            if not data:
                yield UnresolvedMention(location=location, symbol=".".join(origin.split(".")[-2:]))
        elif name in _MODEL_LOADERS:
            yield from _read_model_loader(name, call, location, constants)
        elif served_models.is_client(origin):
            for keyword in call.keywords:
                if keyword.arg in _MODEL_KEYWORDS:
                    value = constant_values.find_value(keyword.value, constants)
                    yield ServedModel(names=value.texts, variable=value.variable, location=location, client=name)

    def _find_origin(self, function: ast.expr) -> str:
        """Return the full name of the function that is called; its own name if it was not imported."""
        if not isinstance(function, ast.Attribute | ast.Name):
            return ""
        first, dot, rest = ast.unparse(function).partition(".")
        return f"{self.origins.get(first, first)}{dot}{rest}"

    def _read_assignment(self, node: ast.Assign | ast.AnnAssign, constants: Constants, group: str) -> Iterator[Finding]:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            if node.value is None or not name:
                continue
            value = constant_values.find_value(node.value, constants)
            text = next(iter(value.texts), "://" if value.variable else "")
            purpose = served_models.find_server_purpose(name, text)
            if purpose is not None and value != Value():
                yield Server(purpose=purpose, group=group, location=f"{self.location}{node.lineno}", name=name)
            yield from self._find_named_models(name, node.value, constants, group)

    def _find_named_models(
        self, name: str, value: ast.expr, constants: Constants, group: str, *, is_default: bool = False
    ) -> Iterator[Mention]:
        """Yield the models in a variable, a field or a default whose name says that it holds one."""
        if not is_model_variable(name) or isinstance(value, ast.Name | ast.Attribute | ast.List | ast.Tuple | ast.Set):
            return
        constant = constant_values.find_value(value, constants)
        for text in constant.texts:
            if is_hub_id(text) or is_path(text):
                yield Mention(
                    name=text,
                    location=f"{self.location}{value.lineno}",
                    symbol=name,
                    variable=constant.variable,
                    is_default=is_default,
                    group=group,
                )


def _read_model_loader(
    name: str, call: ast.Call, location: str, constants: Constants
) -> Iterator[Mention | UnresolvedMention]:
    position, parameter, organization = _MODEL_LOADERS[name]
    arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    value = next((arguments[key] for key in (parameter, *_MODEL_KEYWORDS) if key in arguments), None)
    if value is None and len(call.args) > position:
        value = call.args[position]
    if value is None:
        return
    model = constant_values.find_value(value, constants)
    if not model.texts and not (isinstance(value, ast.Constant) and value.value is None):
        yield UnresolvedMention(location=location, symbol=name, variable=model.variable)
    filename = arguments.get("filename", call.args[1] if len(call.args) > 1 else None)
    for text in model.texts:
        yield Mention(
            name=make_hub_id(text, organization) or text,
            location=location,
            symbol=name,
            is_dataset=name == "load_dataset"
            or "dataset" in constant_values.find_value(arguments.get("repo_type"), constants).texts,
            revision="".join(constant_values.find_value(arguments.get("revision"), constants).texts[:1]),
            file="".join(constant_values.find_value(filename, constants).texts[:1])
            if name == "hf_hub_download"
            else "",
            variable=model.variable,
        )


def is_file(value: str) -> bool:
    """Return whether a value ends like a file, so that it is no model."""
    return bool(_FILE_ENDING.search(value))


def is_path(value: str) -> bool:
    """Return whether a value can only be the path of a folder."""
    return value.startswith(("./", "../", "/", "~/")) and not is_file(value)


def is_loading_function(symbol: str) -> bool:
    """Return whether a symbol is a function that loads models, and not a variable."""
    return symbol in _MODEL_LOADERS

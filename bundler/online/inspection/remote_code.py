"""Python code that a model brings along: which files run, what they import, and what they fetch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import UnsafeError
from bundler.format.lock.entries import REPO_TYPES, RepoType
from bundler.online.inspection import references
from bundler.online.inspection.references import ReadFile, Reference, UnreadableFileError

_HUB_FUNCTIONS: Mapping[str, RepoType] = {
    "from_pretrained": "model",
    "hf_hub_download": "model",
    "snapshot_download": "model",
    "cached_file": "model",
    "load_dataset": "dataset",
    "load_dataset_builder": "dataset",
    "get_kernel": "kernel",
}
_REPO_ARGUMENTS = ("repo_id", "pretrained_model_name_or_path", "path_or_repo_id", "path")
_DATASET_BUILDERS = frozenset(
    [
        "arrow", "audiofolder", "csv", "generator", "hdf5", "imagefolder", "json", "pandas", "parquet", "pdffolder",
        "spark", "sql", "text", "videofolder", "webdataset", "xml",
    ]
)  # fmt: skip
"""Readers of local files that load_dataset takes by name, where another name would be a dataset."""
_RELATIVE_IMPORTS = (
    re.compile(r"^\s*import\s+\.(\S+)\s*$", re.MULTILINE),
    re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE),
)
"""How transformers finds the other files of a module (its dynamic_module_utils): by the line, not by the syntax."""


class TrustDecisionMissingError(UnsafeError):
    """Code that came with a model would run, and nobody has said whether it may.

    ``foreign`` is what of it stands in other repositories: ``listing`` says the same with all of its files.
    """

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", external_references: Sequence[Reference] = ()
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.external_references = tuple(external_references)

    def with_files(self, files: Iterable[str]) -> TrustDecisionMissingError:
        """The same error with these files besides, a line each."""
        lines = [*str(self).splitlines(), *(f"  {file}" for file in files)]
        return TrustDecisionMissingError("\n".join(dict.fromkeys(lines)), where=self.where, hint=self.hint)


def require_trust_decision(alias: str, names: Sequence[str], read_file: ReadFile) -> None:
    """Refuse a model with code of its own where nobody has said whether it may run; raises UntoldError."""
    if not (found := references.find_code(names, read_file)):
        return
    why = "; ".join(dict.fromkeys(f"{one.file}: {one.reason}" for one in found))
    files = list_running_files([one.module for one in found if not one.repo], names, read_file)
    files += sorted({f"{one.module} of {one.repo}" for one in found if one.repo})
    said = f"{alias} brings code of its own, which would run on the host ({why}):"
    raise TrustDecisionMissingError(
        "\n".join([said, *(f"  {file}" for file in files)]),
        where=f"models: {alias}",
        hint="read these files; then give the model 'trust_remote_code: true' in the manifest, "
        "or 'trust_remote_code: false' where the libraries can load it without",
        external_references=[one for one in found if one.repo],
    )


def list_running_files(modules: Iterable[str], names: Sequence[str], read_file: ReadFile, repo: str = "") -> list[str]:
    """The files that run when these modules are imported, a line each; ``of``: the repository that they are of."""
    there, missing = find_running_files(modules, names, read_file)
    where = f" of {repo}" if repo else ""
    return [*(f"{name}{where}" for name in there), *(f"{name}{where} (not among its files)" for name in missing)]


def find_running_files(
    modules: Iterable[str], names: Sequence[str], read_file: ReadFile
) -> tuple[list[str], list[str]]:
    """The files that run when these modules are imported, as far as they import one another, and those not there."""
    waiting, found, missing = list(dict.fromkeys(modules)), [], []
    while waiting:
        name = waiting.pop(0)
        if name in found or name in missing:
            continue
        if name not in names:
            missing.append(name)
            continue
        found.append(name)
        text = read_file(name).decode("utf-8", "replace")
        for pattern in _RELATIVE_IMPORTS:
            waiting += [str(PurePosixPath(name).parent / f"{other}.py") for other in sorted(pattern.findall(text))]
    return found, missing


def find_imported_packages(name: str, read_file: ReadFile) -> set[str]:
    """The top-level packages that a file can't be imported without, as transformers looks for them.

    Imports in a ``try`` or below an ``if is_…_available()`` are optional to it. Raises UnreadableError for what
    is no Python, or newer than the Python that runs this.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _is_availability_check(node.test)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(_parse_python(name, read_file))
    return found


def find_hub_calls(name: str, read_file: ReadFile, config: Mapping[str, Any]) -> Iterator[Reference]:
    """What a file fetches from the hub when it runs: named in the call, or in config.json under a name in the call."""
    for node in ast.walk(_parse_python(name, read_file)):
        if not isinstance(node, ast.Call) or (called := _get_last_name(node.func)) not in _HUB_FUNCTIONS:
            continue
        named = {word.arg: word.value for word in node.keywords if word.arg}
        subject = node.args[0] if node.args else next((named[key] for key in _REPO_ARGUMENTS if key in named), None)
        repo, repo_type = _find_repo_id(subject, config), _get_repo_type(called, named)
        if not repo or repo_type is None or (repo_type == "dataset" and repo in _DATASET_BUILDERS):
            continue
        reason = f"line {node.lineno} calls {called}"
        revision = _get_revision(called, named)
        yield Reference(file=name, reason=reason, repo=repo, revision=revision, repo_type=repo_type, is_guess=True)


def _get_repo_type(function: str, keywords: Mapping[str, ast.expr]) -> RepoType | None:
    """What a call fetches; None for what can't be carried, such as a Space."""
    told = keywords.get("repo_type")
    if not isinstance(told, ast.Constant) or told.value is None:
        return _HUB_FUNCTIONS[function]
    return next((one for one in REPO_TYPES if one == told.value), None)


def _get_revision(function: str, keywords: Mapping[str, ast.expr]) -> str:
    """The revision that a call names; a version of a kernel is the branch of that number."""
    told = {key: word.value for key, word in keywords.items() if isinstance(word, ast.Constant)}
    version, revision = told.get("version"), told.get("revision")
    if function == "get_kernel" and isinstance(version, int):
        return f"v{version}"
    return revision if isinstance(revision, str) else ""


def _find_repo_id(argument: ast.expr | None, config: Mapping[str, Any]) -> str:
    """The hub id that an argument stands for, where that can be told; else ""."""
    value: Any = None
    if isinstance(argument, ast.Constant):
        value = argument.value
    elif isinstance(argument, ast.Attribute) and isinstance(argument.value, ast.Name | ast.Attribute):
        value = config.get(argument.attr) if _get_last_name(argument.value) in ("config", "cfg") else None
    return value if references.is_repo_id(value, allow_bare=True) else ""


def _get_last_name(function: ast.expr) -> str:
    """The last name of ``a.b.c``."""
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_availability_check(test: ast.expr) -> bool:
    calls = [node.func for node in ast.walk(test) if isinstance(node, ast.Call)]
    return any(_get_last_name(one).startswith("is_") and _get_last_name(one).endswith("available") for one in calls)


def _parse_python(name: str, read_file: ReadFile) -> ast.Module:
    try:
        return ast.parse(read_file(name))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{name} is no Python that can be read here: {error}", where=name) from error

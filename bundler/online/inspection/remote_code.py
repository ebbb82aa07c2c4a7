"""Python code that belongs to a model: which files run, what they import, and what they fetch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import UnsafeError
from bundler.format.lock.entries import REPO_TYPES, RepoType
from bundler.online.inspection import references
from bundler.online.inspection.model_files import ReadFile, UnreadableFileError
from bundler.online.inspection.references import Reference

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
"""Readers of local files that load_dataset knows by name; any other name is a dataset."""
_RELATIVE_IMPORTS = (
    re.compile(r"^\s*import\s+\.(\S+)\s*$", re.MULTILINE),
    re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE),
)
"""How transformers finds the other files of a module (its dynamic_module_utils): line by line, not by syntax."""


class TrustDecisionMissingError(UnsafeError):
    """Code of a model would run, and the manifest does not say whether it may.

    ``external_references`` is the code that is in other repositories; `with_files` adds its files to the message.
    """

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", external_references: Sequence[Reference] = ()
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.external_references = tuple(external_references)

    def with_files(self, files: Iterable[str]) -> TrustDecisionMissingError:
        """Return the same error with these files added, one a line."""
        lines = [*str(self).splitlines(), *(f"  {file}" for file in files)]
        return TrustDecisionMissingError("\n".join(dict.fromkeys(lines)), where=self.where, hint=self.hint)


def require_trust_decision(alias: str, names: Sequence[str], read_file: ReadFile) -> None:
    """Raise TrustDecisionMissingError for a model that has code of its own."""
    if not (code := references.find_code(names, read_file)):
        return
    reasons = "; ".join(dict.fromkeys(f"{reference.file}: {reference.reason}" for reference in code))
    external = [reference for reference in code if reference.repo]
    files = list_running_files([reference.module for reference in code if not reference.repo], names, read_file)
    files += sorted({f"{reference.module} of {reference.repo}" for reference in external})
    message = f"{alias} has code of its own, which would run on the host ({reasons}):"
    raise TrustDecisionMissingError(
        "\n".join([message, *(f"  {file}" for file in files)]),
        where=f"models: {alias}",
        hint="read these files; then give the model 'trust_remote_code: true' in the manifest, "
        "or 'trust_remote_code: false' where the libraries can load it without this code",
        external_references=external,
    )


def list_running_files(modules: Iterable[str], names: Sequence[str], read_file: ReadFile, repo: str = "") -> list[str]:
    """List the files that run when these modules are imported, as text for a person; ``repo`` is where they are."""
    running, missing = find_running_files(modules, names, read_file)
    origin = f" of {repo}" if repo else ""
    return [*(f"{name}{origin}" for name in running), *(f"{name}{origin} (not among its files)" for name in missing)]


def find_running_files(
    modules: Iterable[str], names: Sequence[str], read_file: ReadFile
) -> tuple[list[str], list[str]]:
    """Find the files that run when these modules are imported, by their relative imports.

    Returns:
        The files that the model has, and those that it lacks.
    """
    queue, running, missing = list(dict.fromkeys(modules)), [], []
    while queue:
        name = queue.pop(0)
        if name in running or name in missing:
            continue
        if name not in names:
            missing.append(name)
            continue
        running.append(name)
        text = read_file(name).decode("utf-8", "replace")
        for pattern in _RELATIVE_IMPORTS:
            queue += [str(PurePosixPath(name).parent / f"{module}.py") for module in sorted(pattern.findall(text))]
    return running, missing


def find_imported_packages(name: str, read_file: ReadFile) -> set[str]:
    """Find the top-level packages that a file can't be imported without, as transformers looks for them.

    Imports in a ``try`` or below an ``if is_…_available()`` are optional. Raises UnreadableFileError where a file is
    not Python, or is for a newer Python than the one that runs this.
    """
    packages: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _is_availability_check(node.test)):
            return
        if isinstance(node, ast.Import):
            packages.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            packages.add(node.module.partition(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(_parse_python(name, read_file))
    return packages


def find_hub_calls(name: str, read_file: ReadFile, config: Mapping[str, Any]) -> Iterator[Reference]:
    """Find what a file fetches from the hub when it runs.

    The call has the id itself, or an attribute of the configuration: ``config.NAME``, which config.json gives.
    """
    for node in ast.walk(_parse_python(name, read_file)):
        if not isinstance(node, ast.Call) or (function := _get_last_name(node.func)) not in _HUB_FUNCTIONS:
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        by_keyword = next((keywords[key] for key in _REPO_ARGUMENTS if key in keywords), None)
        repo = _find_repo_id(node.args[0] if node.args else by_keyword, config)
        repo_type = _get_repo_type(function, keywords)
        if not repo or repo_type is None or (repo_type == "dataset" and repo in _DATASET_BUILDERS):
            continue
        reason = f"line {node.lineno} calls {function}"
        revision = _get_revision(function, keywords)
        yield Reference(file=name, reason=reason, repo=repo, revision=revision, repo_type=repo_type, is_guess=True)


def _get_repo_type(function: str, keywords: Mapping[str, ast.expr]) -> RepoType | None:
    """Return the type of repository that a call fetches; None where a bundle can't carry it, such as a Space."""
    argument = keywords.get("repo_type")
    if not isinstance(argument, ast.Constant) or argument.value is None:
        return _HUB_FUNCTIONS[function]
    return next((repo_type for repo_type in REPO_TYPES if repo_type == argument.value), None)


def _get_revision(function: str, keywords: Mapping[str, ast.expr]) -> str:
    """Return the revision that a call names; version 2 of a kernel is its branch v2."""
    constants = {key: value.value for key, value in keywords.items() if isinstance(value, ast.Constant)}
    version, revision = constants.get("version"), constants.get("revision")
    if function == "get_kernel" and isinstance(version, int):
        return f"v{version}"
    return revision if isinstance(revision, str) else ""


def _find_repo_id(argument: ast.expr | None, config: Mapping[str, Any]) -> str:
    """Return the hub id that an argument stands for; "" where only a run of the code would show it."""
    value: Any = None
    if isinstance(argument, ast.Constant):
        value = argument.value
    elif isinstance(argument, ast.Attribute) and isinstance(argument.value, ast.Name | ast.Attribute):
        value = config.get(argument.attr) if _get_last_name(argument.value) in ("config", "cfg") else None
    return value if references.is_repo_id(value, allow_bare=True) else ""


def _get_last_name(function: ast.expr) -> str:
    """Return ``c`` of ``a.b.c``."""
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_availability_check(test: ast.expr) -> bool:
    names = [_get_last_name(node.func) for node in ast.walk(test) if isinstance(node, ast.Call)]
    return any(name.startswith("is_") and name.endswith("available") for name in names)


def _parse_python(name: str, read_file: ReadFile) -> ast.Module:
    try:
        return ast.parse(read_file(name))
    except (SyntaxError, ValueError, RecursionError) as error:
        message = f"{name} is not Python that this Python can read: {error}"
        raise UnreadableFileError(message, where=name, hint="run the build with a newer Python") from error

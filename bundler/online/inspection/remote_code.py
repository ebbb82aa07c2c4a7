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
from bundler.online.inspection.references import Read, Reference, UnreadableError

_FETCHES: Mapping[str, RepoType] = {
    "from_pretrained": "model",
    "hf_hub_download": "model",
    "snapshot_download": "model",
    "cached_file": "model",
    "load_dataset": "dataset",
    "load_dataset_builder": "dataset",
    "get_kernel": "kernel",
}
_SUBJECTS = ("repo_id", "pretrained_model_name_or_path", "path_or_repo_id", "path")
_BUILDERS = frozenset(
    [
        "arrow", "audiofolder", "csv", "generator", "hdf5", "imagefolder", "json", "pandas", "parquet", "pdffolder",
        "spark", "sql", "text", "videofolder", "webdataset", "xml",
    ]
)  # fmt: skip
"""Readers of local files that load_dataset takes by name, where another name would be a dataset."""
_RELATIVE = (
    re.compile(r"^\s*import\s+\.(\S+)\s*$", re.MULTILINE),
    re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE),
)
"""How transformers finds the other files of a module (its dynamic_module_utils): by the line, not by the syntax."""


class UntoldError(UnsafeError):
    """Code that came with a model would run, and nobody has said whether it may.

    ``foreign`` is what of it stands in other repositories: ``listing`` says the same with all of its files.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "", foreign: Sequence[Reference] = ()) -> None:
        super().__init__(message, where=where, hint=hint)
        self.foreign = tuple(foreign)

    def listing(self, files: Iterable[str]) -> UntoldError:
        """The same error with these files besides, a line each."""
        lines = [*str(self).splitlines(), *(f"  {file}" for file in files)]
        return UntoldError("\n".join(dict.fromkeys(lines)), where=self.where, hint=self.hint)


def refuse_untold(alias: str, names: Sequence[str], read: Read) -> None:
    """Refuse a model with code of its own where nobody has said whether it may run; raises UntoldError."""
    if not (found := references.code(names, read)):
        return
    why = "; ".join(dict.fromkeys(f"{one.file}: {one.reason}" for one in found))
    files = listed([one.module for one in found if not one.repo], names, read)
    files += sorted({f"{one.module} of {one.repo}" for one in found if one.repo})
    said = f"{alias} brings code of its own, which would run on the host ({why}):"
    raise UntoldError(
        "\n".join([said, *(f"  {file}" for file in files)]),
        where=f"models: {alias}",
        hint="read these files; then give the model 'trust_remote_code: true' in the manifest, "
        "or 'trust_remote_code: false' where the libraries can load it without",
        foreign=[one for one in found if one.repo],
    )


def listed(modules: Iterable[str], names: Sequence[str], read: Read, of: str = "") -> list[str]:
    """The files that run when these modules are imported, a line each; ``of``: the repository that they are of."""
    there, missing = running(modules, names, read)
    where = f" of {of}" if of else ""
    return [*(f"{name}{where}" for name in there), *(f"{name}{where} (not among its files)" for name in missing)]


def running(modules: Iterable[str], names: Sequence[str], read: Read) -> tuple[list[str], list[str]]:
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
        text = read(name).decode("utf-8", "replace")
        for pattern in _RELATIVE:
            waiting += [str(PurePosixPath(name).parent / f"{other}.py") for other in sorted(pattern.findall(text))]
    return found, missing


def packages(name: str, read: Read) -> set[str]:
    """The top-level packages that a file can't be imported without, as transformers looks for them.

    Imports in a ``try`` or below an ``if is_…_available()`` are optional to it. Raises UnreadableError for what
    is no Python, or newer than the Python that runs this.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _asks_what_is_there(node.test)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(_tree(name, read))
    return found


def fetched(name: str, read: Read, configuration: Mapping[str, Any]) -> Iterator[Reference]:
    """What a file fetches from the hub when it runs: named in the call, or in config.json under a name in the call."""
    for node in ast.walk(_tree(name, read)):
        if not isinstance(node, ast.Call) or (called := _called(node.func)) not in _FETCHES:
            continue
        named = {word.arg: word.value for word in node.keywords if word.arg}
        subject = node.args[0] if node.args else next((named[key] for key in _SUBJECTS if key in named), None)
        repo, repo_type = _repo(subject, configuration), _repo_type(called, named)
        if not repo or repo_type is None or (repo_type == "dataset" and repo in _BUILDERS):
            continue
        reason = f"line {node.lineno} calls {called}"
        revision = _revision(called, named)
        yield Reference(file=name, reason=reason, repo=repo, revision=revision, repo_type=repo_type, guess=True)


def _repo_type(called: str, named: Mapping[str, ast.expr]) -> RepoType | None:
    """What a call fetches; None for what can't be carried, such as a Space."""
    told = named.get("repo_type")
    if not isinstance(told, ast.Constant) or told.value is None:
        return _FETCHES[called]
    return next((one for one in REPO_TYPES if one == told.value), None)


def _revision(called: str, named: Mapping[str, ast.expr]) -> str:
    """The revision that a call names; a version of a kernel is the branch of that number."""
    told = {key: word.value for key, word in named.items() if isinstance(word, ast.Constant)}
    version, revision = told.get("version"), told.get("revision")
    if called == "get_kernel" and isinstance(version, int):
        return f"v{version}"
    return revision if isinstance(revision, str) else ""


def _repo(subject: ast.expr | None, configuration: Mapping[str, Any]) -> str:
    """The hub id that an argument stands for, where that can be told; else ""."""
    value: Any = None
    if isinstance(subject, ast.Constant):
        value = subject.value
    elif isinstance(subject, ast.Attribute) and isinstance(subject.value, ast.Name | ast.Attribute):
        value = configuration.get(subject.attr) if _called(subject.value) in ("config", "cfg") else None
    return value if references.is_repo_id(value, bare=True) else ""


def _called(function: ast.expr) -> str:
    """The last name of ``a.b.c``."""
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _asks_what_is_there(test: ast.expr) -> bool:
    calls = [node.func for node in ast.walk(test) if isinstance(node, ast.Call)]
    return any(_called(one).startswith("is_") and _called(one).endswith("available") for one in calls)


def _tree(name: str, read: Read) -> ast.Module:
    try:
        return ast.parse(read(name))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{name} is no Python that can be read here: {error}", where=name) from error

"""Formats the manifest that ``bundle init`` writes, from the findings in a project."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.format import paths
from bundler.format.lock.platforms import PLATFORMS
from bundler.format.lock.target import detect_target
from bundler.online.scaffold import code_mentions
from bundler.online.scaffold.code_mentions import Mention
from bundler.online.scaffold.project_metadata import Project

_MAX_LISTED = 12
_DEFAULT_PLATFORM = "linux-x86_64"
_DEFAULT_LIBC = "glibc-2.28"
"""Wheels of PyTorch need it, and no supported distribution has an older one."""
_PLAIN_SCALAR = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_YAML_KEYWORD = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|none")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundModel:
    """A model for the manifest: its alias, its source, and the places in the project that name it."""

    alias: str
    source: str
    """``repo``, ``dataset`` or ``path``."""
    name: str
    mentions: tuple[Mention, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that code loads; () if some code loads the whole model."""
        files = [mention.file for mention in self.mentions if code_mentions.is_loading_function(mention.symbol)]
        return tuple(dict.fromkeys(files)) if files and all(files) else ()

    @property
    def revisions(self) -> tuple[str, ...]:
        """The revisions that code asks for."""
        return tuple(dict.fromkeys(mention.revision for mention in self.mentions if mention.revision))

    @property
    def locations(self) -> str:
        """The first three places that name it."""
        more = f" and {len(self.mentions) - 3} more" if len(self.mentions) > 3 else ""
        return ", ".join(f"{mention.location} {mention.symbol}" for mention in self.mentions[:3]) + more

    @property
    def is_reranker(self) -> bool:
        """Whether FlagEmbedding loads it as a reranker; its files do not say so."""
        return any(mention.symbol == "FlagReranker" for mention in self.mentions)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundData:
    """Data of a library for the manifest, and the places in the project that load it."""

    library: str
    names: tuple[str, ...]
    locations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaffold:
    """A manifest that ``bundle init`` wrote, and the report on it."""

    path: Path
    project: Project
    models: tuple[FoundModel, ...]
    assets: tuple[FoundData, ...]
    variables: tuple[tuple[str, str], ...]
    """Names of environment variables, each with the alias of the model that it names."""
    open_points: tuple[str, ...]
    """What a person has to check."""

    @property
    def text(self) -> str:
        """The findings with their places, what a person has to check, and the next command."""
        project = self.project
        packages = (
            " and ".join(path.name for path in project.requirements_files)
            or f"{len(project.requirements)} from pyproject.toml"
        )
        lines = [
            str(self.path),
            f"Python {project.python}: {project.python_source}",
            f"packages: {packages if project.requirements_files or project.requirements else 'none were found'}",
            f"models: {len(self.models) or 'none were found'}",
        ]
        lines += [f"  {model.source} {model.name}: {model.locations}" for model in self.models]
        lines += [
            f"assets: {data.library} {', '.join(data.names)}: {', '.join(data.locations[:3])}" for data in self.assets
        ]
        lines += [f"variable: {name} is the folder of {alias}" for name, alias in self.variables]
        lines += [f"left out: {line}" for line in project.excluded]
        lines += [f"look at: {line}" for line in self.open_points[:_MAX_LISTED]]
        if len(self.open_points) > _MAX_LISTED:
            lines.append(f"look at: {len(self.open_points) - _MAX_LISTED} more places of these kinds")
        return "\n".join([*lines, f"next: bundle lock {shlex.quote(str(self.path))}"])

    @property
    def document(self) -> dict[str, object]:
        """The same as JSON for a program."""
        return {
            "manifest": str(self.path),
            "python": self.project.python,
            "requirements": [*self.project.requirements],
            "requirements_files": [path.name for path in self.project.requirements_files],
            "models": [
                {
                    "alias": model.alias,
                    model.source: model.name,
                    "found": [f"{mention.location} {mention.symbol}" for mention in model.mentions],
                }
                for model in self.models
            ],
            "assets": [{data.library: [*data.names], "found": [*data.locations]} for data in self.assets],
            "variables": dict(self.variables),
            "left_out": [*self.project.excluded],
            "look_at": [*self.open_points],
        }


def format_manifest(scaffold: Scaffold) -> str:
    """Return the text of the manifest."""
    parts = [
        _format_head(scaffold),
        _format_target(scaffold.project),
        _format_python(scaffold),
        _format_models(scaffold.models),
        _format_assets(scaffold.assets),
    ]
    return "\n".join([*(line for part in parts for line in part), *_format_env(scaffold.variables), ""])


def _format_head(scaffold: Scaffold) -> Iterable[str]:
    project = scaffold.project
    name = re.sub(r"[^a-z0-9._-]+", "-", project.name.lower()).strip("-._")[:100]
    version = project.version if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", project.version) else "1.0"
    yield "# Made from the project's files; docs/manifest.md explains every key. Check it, then run: bundle lock"
    for line in scaffold.open_points[:_MAX_LISTED]:
        yield f"# look at {_format_comment(line)}"
    yield f"name: {_format_scalar(name if name and not paths.find_path_problem(name) else 'project')}"
    yield f"version: {json.dumps(version if not paths.find_path_problem(version) else '1.0')}"


def _format_target(project: Project) -> Iterable[str]:
    """Yield the target with an old C library: that of this machine may be too new for the host."""
    builder = detect_target().platform_info
    if builder.system is PLATFORMS[_DEFAULT_PLATFORM].system:
        platform, reason = builder.name, "as this machine"
    else:
        platform, reason = _DEFAULT_PLATFORM, f"this machine is {builder.name}"
    yield "target: # the isolated host"
    yield f'  python: "{project.python}" # {_format_comment(project.python_source)}'
    yield f"  platform: {platform} # {reason}; {', '.join(name for name in PLATFORMS if name != platform)}"
    yield f"  libc: {_DEFAULT_LIBC} # the oldest that a host may have: RHEL 8, Debian 10, Ubuntu 20.04; musl-1.2: Alpine"
    note = (
        f": {_format_comment(project.accelerator_source)} names it"
        if project.accelerator_source
        else "; others: cu126, cu128, rocm6.4"
    )
    yield f"  accelerator: {project.accelerator} # build of PyTorch{note}"


def _format_python(scaffold: Scaffold) -> Iterable[str]:
    project = scaffold.project
    if not project.requirements and not project.requirements_files:
        return
    yield "python:"
    if project.requirements_files:
        names = ", ".join(
            _format_scalar(make_relative_path(path, scaffold.path.parent)) for path in project.requirements_files
        )
        yield f"  requirements_files: [{names}]"
    else:
        yield "  requirements: # dependencies of pyproject.toml"
        yield from (f"    - {_format_scalar(line)}" for line in project.requirements)
    yield from (f"  # left out: {_format_comment(line)}" for line in project.excluded)


def _format_models(models: Sequence[FoundModel]) -> Iterable[str]:
    if models:
        yield "models:"
    for model in models:
        for mention in model.mentions[:_MAX_LISTED]:
            yield f"  # {_format_comment(mention.location)} {_format_comment(mention.symbol)}"
        yield f"  - {model.source}: {_format_scalar(model.name)}"
        if model.source == "path" or model.name.rpartition("/")[2] != model.alias:
            yield f"    alias: {_format_scalar(model.alias)}"
        if model.revisions:
            yield f"    revision: {_format_scalar(model.revisions[0])}"
        if model.files and model.source != "path":
            yield f"    include: [{', '.join(map(_format_scalar, model.files))}] # only the files that code loads"
        if model.files and model.source == "repo":
            yield "    loader: files"
        elif model.is_reranker:
            yield "    loader: flag-reranker"


def _format_assets(assets: Sequence[FoundData]) -> Iterable[str]:
    if assets:
        yield "assets:"
    for data in assets:
        yield from (f"  # {_format_comment(location)}" for location in data.locations[:_MAX_LISTED])
        yield f"  - {data.library}: [{', '.join(map(_format_scalar, data.names))}]"


def _format_env(variables: Sequence[tuple[str, str]]) -> Iterable[str]:
    if variables:
        yield "env: # variables that name a model; on the host each has the path of the model's folder"
    for name, alias in variables:
        yield f'  {name}: "{{model:{alias}}}"'


def _format_scalar(text: str) -> str:
    """Return a text as YAML that reads it back unchanged; JSON strings do."""
    return (
        text
        if _PLAIN_SCALAR.fullmatch(text) and not _YAML_KEYWORD.fullmatch(text)
        else json.dumps(text, ensure_ascii=False)
    )


def _format_comment(text: str) -> str:
    """Return a text for a comment: on one line, without control characters."""
    return paths.escape(text).replace("\n", " ").replace("\t", " ")


def make_relative_path(path: Path, folder: Path) -> str:
    """Return a path relative to the manifest's folder."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()

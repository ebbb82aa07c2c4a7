"""The manifest that init drafts, out of what was found in a project."""

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
from bundler.online.scaffold.data_mentions import Library
from bundler.online.scaffold.project_metadata import Project

_MAX_SHOWN = 12
_USUAL = "linux-x86_64"
_OLD_ENOUGH = "glibc-2.28"
"""Wheels of PyTorch need it, and no distribution that is still supported is older."""
_PLAIN_SCALAR = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_YAML_KEYWORD = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|none")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundModel:
    """A model for the manifest: its alias, where its files come from, and the places that ask for it."""

    alias: str
    source: str
    """``repo``, ``dataset`` or ``path``."""
    name: str
    mentions: tuple[Mention, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are asked for where nobody asks for the whole."""
        named = [one.file for one in self.mentions if code_mentions.is_loading_function(one.symbol)]
        return tuple(dict.fromkeys(named)) if named and all(named) else ()

    @property
    def revisions(self) -> tuple[str, ...]:
        """The revisions that are asked for."""
        return tuple(dict.fromkeys(one.revision for one in self.mentions if one.revision))

    @property
    def locations(self) -> str:
        """Where it is asked for, the first three places."""
        more = f" and {len(self.mentions) - 3} more" if len(self.mentions) > 3 else ""
        return ", ".join(f"{one.where} {one.symbol}" for one in self.mentions[:3]) + more

    @property
    def is_reranker(self) -> bool:
        """Whether FlagEmbedding loads it as a reranker, which its files do not tell."""
        return any(one.symbol == "FlagReranker" for one in self.mentions)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundData:
    """Data of a library for the manifest, and the places that ask for it."""

    library: Library
    names: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaffold:
    """A manifest that was written, and what is to be said of it."""

    path: Path
    project: Project
    models: tuple[FoundModel, ...]
    assets: tuple[FoundData, ...]
    variables: tuple[tuple[str, str], ...]
    """Names of environment variables and the aliases of the models that they name."""
    open_points: tuple[str, ...]
    """What a person has to look at, in words."""

    @property
    def text(self) -> str:
        """What was found and where, what is left to a person, and the next command."""
        said = self.project
        packages = (
            " and ".join(path.name for path in said.requirements_files)
            or f"{len(said.requirements)} from pyproject.toml"
        )
        lines = [
            str(self.path),
            f"Python {said.python}: {said.python_source}",
            f"packages: {packages if said.requirements_files or said.requirements else 'none were found'}",
            f"models: {len(self.models) or 'none were found'}",
        ]
        lines += [f"  {model.source} {model.name}: {model.locations}" for model in self.models]
        lines += [f"assets: {one.library} {', '.join(one.names)}: {', '.join(one.places[:3])}" for one in self.assets]
        lines += [f"variable: {name} is the folder of {alias}" for name, alias in self.variables]
        lines += [f"left out: {line}" for line in said.excluded]
        lines += [f"look at: {line}" for line in self.open_points[:_MAX_SHOWN]]
        if len(self.open_points) > _MAX_SHOWN:
            lines.append(f"look at: {len(self.open_points) - _MAX_SHOWN} more places of these kinds")
        return "\n".join([*lines, f"next: bundle lock {shlex.quote(str(self.path))}"])

    @property
    def document(self) -> dict[str, object]:
        """The same for a program."""
        return {
            "manifest": str(self.path),
            "python": self.project.python,
            "requirements": [*self.project.requirements],
            "requirements_files": [path.name for path in self.project.requirements_files],
            "models": [
                {
                    "alias": model.alias,
                    model.source: model.name,
                    "found": [f"{one.where} {one.symbol}" for one in model.mentions],
                }
                for model in self.models
            ],
            "assets": [{one.library: [*one.names], "found": [*one.places]} for one in self.assets],
            "variables": dict(self.variables),
            "left_out": [*self.project.excluded],
            "look_at": [*self.open_points],
        }


def text_of(made: Scaffold) -> str:
    """The manifest."""
    parts = [
        _format_head(made),
        _target(made.project),
        _format_python(made),
        _format_models(made.models),
        _data(made.assets),
    ]
    return "\n".join([*(line for part in parts for line in part), *_format_env(made.variables), ""])


def _format_head(scaffold: Scaffold) -> Iterable[str]:
    said = scaffold.project
    name = re.sub(r"[^a-z0-9._-]+", "-", said.name.lower()).strip("-._")[:100]
    version = said.version if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", said.version) else "1.0"
    yield "# What the project's files say; docs/manifest.md has every key. Look it through, then: bundle lock"
    for line in scaffold.open_points[:_MAX_SHOWN]:
        yield f"# look at {_format_comment(line)}"
    yield f"name: {_format_scalar(name if name and not paths.find_path_problem(name) else 'project')}"
    yield f"version: {json.dumps(version if not paths.find_path_problem(version) else '1.0')}"


def _target(said: Project) -> Iterable[str]:
    """The host as most are: it must not be this machine unseen, whose C library may be too new for the host."""
    here = detect_target().platform_info
    is_usual = here.system is PLATFORMS[_USUAL].system
    platform, why = (here.name, "as this machine") if is_usual else (_USUAL, f"this machine is {here.name}")
    yield "target: # the isolated host"
    yield f'  python: "{said.python}" # {_format_comment(said.python_source)}'
    yield f"  platform: {platform} # {why}; {', '.join(one for one in PLATFORMS if one != platform)}"
    yield f"  libc: {_OLD_ENOUGH} # the oldest that a host may have: RHEL 8, Debian 10, Ubuntu 20.04; musl-1.2: Alpine"
    why = (
        f": {_format_comment(said.accelerator_says)} names it"
        if said.accelerator_says
        else "; others: cu126, cu128, rocm6.4"
    )
    yield f"  accelerator: {said.accelerator} # which build of PyTorch{why}"


def _format_python(scaffold: Scaffold) -> Iterable[str]:
    said = scaffold.project
    if not said.requirements and not said.requirements_files:
        return
    yield "python:"
    if said.requirements_files:
        names = ", ".join(_format_scalar(relative(path, scaffold.path.parent)) for path in said.requirements_files)
        yield f"  requirements_files: [{names}]"
    else:
        yield "  requirements: # dependencies of pyproject.toml"
        yield from (f"    - {_format_scalar(line)}" for line in said.requirements)
    yield from (f"  # left out: {_format_comment(line)}" for line in said.excluded)


def _format_models(models: Sequence[FoundModel]) -> Iterable[str]:
    if models:
        yield "models:"
    for model in models:
        for one in model.mentions[:_MAX_SHOWN]:
            yield f"  # {_format_comment(one.where)} {_format_comment(one.symbol)}"
        yield f"  - {model.source}: {_format_scalar(model.name)}"
        if model.source == "path" or model.name.rpartition("/")[2] != model.alias:
            yield f"    alias: {_format_scalar(model.alias)}"
        if model.revisions:
            yield f"    revision: {_format_scalar(model.revisions[0])}"
        if model.files and model.source != "path":
            yield f"    include: [{', '.join(map(_format_scalar, model.files))}] # the files that are asked for, and no others"
        if model.files and model.source == "repo":
            yield "    loader: files"
        elif model.is_reranker:
            yield "    loader: flag-reranker"


def _data(assets: Sequence[FoundData]) -> Iterable[str]:
    if assets:
        yield "assets:"
    for one in assets:
        yield from (f"  # {_format_comment(place)}" for place in one.places[:_MAX_SHOWN])
        yield f"  - {one.library}: [{', '.join(map(_format_scalar, one.names))}]"


def _format_env(variables: Sequence[tuple[str, str]]) -> Iterable[str]:
    if variables:
        yield "env: # variables that name a model: on the host they name its folder"
    for name, alias in variables:
        yield f'  {name}: "{{model:{alias}}}"'


def _format_scalar(text: str) -> str:
    """A string of YAML that is read back as it is (JSON's are)."""
    return (
        text
        if _PLAIN_SCALAR.fullmatch(text) and not _YAML_KEYWORD.fullmatch(text)
        else json.dumps(text, ensure_ascii=False)
    )


def _format_comment(text: str) -> str:
    """Words for a comment, which must not end before its line does."""
    return paths.escape(text).replace("\n", " ").replace("\t", " ")


def relative(place: Path, beside: Path) -> str:
    """A place as the manifest beside it names it."""
    return Path(os.path.relpath(place.resolve(), beside.resolve())).as_posix()

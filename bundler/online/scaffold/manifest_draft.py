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
from bundler.format.lock.target import PLATFORMS, this_machine
from bundler.online.scaffold import code_mentions
from bundler.online.scaffold.code_mentions import Mention
from bundler.online.scaffold.data_mentions import Library
from bundler.online.scaffold.project_metadata import Project

_MOST_SHOWN = 12
_USUAL = "linux-x86_64"
_OLD_ENOUGH = "glibc-2.28"
"""Wheels of PyTorch need it, and no distribution that is still supported is older."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_NOT_A_STRING = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A model for the manifest: its alias, where its files come from, and the places that ask for it."""

    alias: str
    source: str
    """``repo``, ``dataset`` or ``path``."""
    name: str
    mentions: tuple[Mention, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are asked for where nobody asks for the whole."""
        named = [one.file for one in self.mentions if code_mentions.loads(one.how)]
        return tuple(dict.fromkeys(named)) if named and all(named) else ()

    @property
    def revisions(self) -> tuple[str, ...]:
        """The revisions that are asked for."""
        return tuple(dict.fromkeys(one.revision for one in self.mentions if one.revision))

    @property
    def places(self) -> str:
        """Where it is asked for, the first three places."""
        more = f" and {len(self.mentions) - 3} more" if len(self.mentions) > 3 else ""
        return ", ".join(f"{one.where} {one.how}" for one in self.mentions[:3]) + more

    @property
    def reranks(self) -> bool:
        """Whether FlagEmbedding loads it as a reranker, which its files do not tell."""
        return any(one.how == "FlagReranker" for one in self.mentions)


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
    models: tuple[Found, ...]
    assets: tuple[FoundData, ...]
    variables: tuple[tuple[str, str], ...]
    """Names of environment variables and the aliases of the models that they name."""
    open: tuple[str, ...]
    """What a person has to look at, in words."""

    @property
    def words(self) -> str:
        """What was found and where, what is left to a person, and the next command."""
        said = self.project
        packages = " and ".join(path.name for path in said.files) or f"{len(said.requirements)} from pyproject.toml"
        lines = [
            str(self.path),
            f"Python {said.python}: {said.python_says}",
            f"packages: {packages if said.files or said.requirements else 'none were found'}",
            f"models: {len(self.models) or 'none were found'}",
        ]
        lines += [f"  {model.source} {model.name}: {model.places}" for model in self.models]
        lines += [f"assets: {one.library} {', '.join(one.names)}: {', '.join(one.places[:3])}" for one in self.assets]
        lines += [f"variable: {name} is the folder of {alias}" for name, alias in self.variables]
        lines += [f"left out: {line}" for line in said.beside]
        lines += [f"look at: {line}" for line in self.open[:_MOST_SHOWN]]
        if len(self.open) > _MOST_SHOWN:
            lines.append(f"look at: {len(self.open) - _MOST_SHOWN} more places of these kinds")
        return "\n".join([*lines, f"next: bundle lock {shlex.quote(str(self.path))}"])

    @property
    def document(self) -> dict[str, object]:
        """The same for a program."""
        return {
            "manifest": str(self.path),
            "python": self.project.python,
            "requirements": [*self.project.requirements],
            "requirements_files": [path.name for path in self.project.files],
            "models": [
                {
                    "alias": model.alias,
                    model.source: model.name,
                    "found": [f"{one.where} {one.how}" for one in model.mentions],
                }
                for model in self.models
            ],
            "assets": [{one.library: [*one.names], "found": [*one.places]} for one in self.assets],
            "variables": dict(self.variables),
            "left_out": [*self.project.beside],
            "look_at": [*self.open],
        }


def text_of(made: Scaffold) -> str:
    """The manifest."""
    parts = [_head(made), _target(made.project), _python(made), _models(made.models), _data(made.assets)]
    return "\n".join([*(line for part in parts for line in part), *_env(made.variables), ""])


def _head(made: Scaffold) -> Iterable[str]:
    said = made.project
    name = re.sub(r"[^a-z0-9._-]+", "-", said.name.lower()).strip("-._")[:100]
    version = said.version if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", said.version) else "1.0"
    yield "# What the project's files say; docs/manifest.md has every key. Look it through, then: bundle lock"
    for line in made.open[:_MOST_SHOWN]:
        yield f"# look at {_shown(line)}"
    yield f"name: {_scalar(name if name and not paths.fault_of(name) else 'project')}"
    yield f"version: {json.dumps(version if not paths.fault_of(version) else '1.0')}"


def _target(said: Project) -> Iterable[str]:
    """The host as most are: it must not be this machine unseen, whose C library may be too new for the host."""
    here = this_machine().platform
    platform, why = (here, "as this machine") if here.startswith("linux-") else (_USUAL, f"this machine is {here}")
    yield "target: # the isolated host"
    yield f'  python: "{said.python}" # {_shown(said.python_says)}'
    yield f"  platform: {platform} # {why}; {', '.join(one for one in PLATFORMS if one != platform)}"
    yield f"  libc: {_OLD_ENOUGH} # the oldest that a host may have: RHEL 8, Debian 10, Ubuntu 20.04; musl-1.2: Alpine"
    why = f": {_shown(said.accelerator_says)} names it" if said.accelerator_says else "; others: cu126, cu128, rocm6.4"
    yield f"  accelerator: {said.accelerator} # which build of PyTorch{why}"


def _python(made: Scaffold) -> Iterable[str]:
    said = made.project
    if not said.requirements and not said.files:
        return
    yield "python:"
    if said.files:
        names = ", ".join(_scalar(relative(path, made.path.parent)) for path in said.files)
        yield f"  requirements_files: [{names}]"
    else:
        yield "  requirements: # dependencies of pyproject.toml"
        yield from (f"    - {_scalar(line)}" for line in said.requirements)
    yield from (f"  # left out: {_shown(line)}" for line in said.beside)


def _models(models: Sequence[Found]) -> Iterable[str]:
    if models:
        yield "models:"
    for model in models:
        for one in model.mentions[:_MOST_SHOWN]:
            yield f"  # {_shown(one.where)} {_shown(one.how)}"
        yield f"  - {model.source}: {_scalar(model.name)}"
        if model.source == "path" or model.name.rpartition("/")[2] != model.alias:
            yield f"    alias: {_scalar(model.alias)}"
        if model.revisions:
            yield f"    revision: {_scalar(model.revisions[0])}"
        if model.files and model.source != "path":
            yield f"    include: [{', '.join(map(_scalar, model.files))}] # the files that are asked for, and no others"
        if model.files and model.source == "repo":
            yield "    loader: files"
        elif model.reranks:
            yield "    loader: flag-reranker"


def _data(assets: Sequence[FoundData]) -> Iterable[str]:
    if assets:
        yield "assets:"
    for one in assets:
        yield from (f"  # {_shown(place)}" for place in one.places[:_MOST_SHOWN])
        yield f"  - {one.library}: [{', '.join(map(_scalar, one.names))}]"


def _env(variables: Sequence[tuple[str, str]]) -> Iterable[str]:
    if variables:
        yield "env: # variables that name a model: on the host they name its folder"
    for name, alias in variables:
        yield f'  {name}: "{{model:{alias}}}"'


def _scalar(text: str) -> str:
    """A string of YAML that is read back as it is (JSON's are)."""
    return (
        text if _PLAIN.fullmatch(text) and not _NOT_A_STRING.fullmatch(text) else json.dumps(text, ensure_ascii=False)
    )


def _shown(text: str) -> str:
    """Words for a comment, which must not end before its line does."""
    return paths.shown(text).replace("\n", " ").replace("\t", " ")


def relative(place: Path, beside: Path) -> str:
    """A place as the manifest beside it names it."""
    return Path(os.path.relpath(place.resolve(), beside.resolve())).as_posix()

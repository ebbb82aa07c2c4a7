"""A manifest to start from: what a project's files say of its packages and models, with the place of each finding."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bundler.bundle import envfile, paths
from bundler.errors import HostError, ManifestError, UsageError
from bundler.online import manifest, mentions, project, settings
from bundler.online.manifest import Asked
from bundler.online.mentions import Mention, Unclear
from bundler.online.project import Project

_ASIDE = frozenset(
    ["venv", "env", "node_modules", "__pycache__", "site-packages", "build", "dist", "tests", "test", "docs"]
)
"""Folders that hold nothing which runs on the host."""
_LARGEST = 4 << 20
"""Bytes of a file that is read; sources and settings are smaller."""
_MOST_SHOWN = 12
_MARKS = ("config.json", "modules.json", "adapter_config.json", "*.safetensors", "*.gguf")
"""What tells the folder of a model from any other."""
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
        named = [one.file for one in self.mentions if mentions.loads(one.how)]
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
class Scaffold:
    """A manifest that was written, and what is to be said of it."""

    path: Path
    project: Project
    models: tuple[Found, ...]
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
            "variables": dict(self.variables),
            "left_out": [*self.project.beside],
            "look_at": [*self.open],
        }


@dataclass(slots=True)
class _Seen:
    """What was found so far."""

    folder: Path
    mentions: list[Mention] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


def write(folder: Path, out: Path | None) -> Scaffold:
    """Write the manifest of a project; ``out`` is its file, by default bundle.yaml in the folder.

    Nothing is run and nothing is asked of a network. Raises UsageError where the file is there already, HostError
    where the folder is not, ManifestError where there is nothing to carry or a file can't be understood.
    """
    path = out or folder / "bundle.yaml"
    if path.exists() or path.is_symlink():
        raise UsageError("it is there already", where=str(path), hint="give another name with -o, or move it away")
    for place in (folder, path.parent):
        if not place.is_dir():
            raise HostError("there is no such folder", where=str(place), hint="create it, or name the project's folder")
    made = _scaffold(folder, path)
    if not made.models and not made.project.requirements and not made.project.files:
        raise ManifestError(
            "no packages and no models were found",
            where=str(folder),
            hint="name the folder that holds requirements.txt or pyproject.toml and the code; else write the manifest "
            "by hand, from one in manifests/ (docs/manifest.md)",
        )
    text = _text(made)
    _checked(text, path)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return made


def _checked(text: str, path: Path) -> Asked:
    """The manifest as ``bundle lock`` will read it."""
    return manifest.read(text.encode(), path)


def _scaffold(folder: Path, path: Path) -> Scaffold:
    said = project.read(folder)
    seen = _Seen(folder)
    _look(seen)
    models = _merged(seen, path.parent)
    variables = {
        one.variable: model.alias
        for model in models
        for one in model.mentions
        if one.variable and not envfile.fault_of(one.variable, f"{{model:{model.alias}}}")
    }
    for file in said.files:
        seen.open += list(_not_packages(file, folder))
    return Scaffold(
        path=path, project=said, models=models, variables=tuple(sorted(variables.items())), open=tuple(seen.open)
    )


def _look(seen: _Seen) -> None:
    """Read every source and every file of settings; what can't be understood is kept in words."""
    parsed: list[tuple[PurePosixPath, str, ast.Module]] = []
    for path in _files(seen.folder):
        name = PurePosixPath(path.relative_to(seen.folder).as_posix())
        text = path.read_text(encoding="utf-8", errors="replace")
        if name.suffix not in (".py", ".ipynb"):
            seen.mentions += settings.named_in(name, text)
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what others wrote
                parsed += [(name, place, ast.parse(piece)) for place, piece in mentions.sources(name, text)]
        except (SyntaxError, ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            seen.open.append(f"{name}{line}: can't be read as Python, so models that it names are not here")
    modules: dict[str, dict[str, str]] = {}
    for name, _, tree in parsed:
        modules.setdefault(name.stem, {}).update(mentions.constants(tree))
    known: dict[PurePosixPath, dict[str, str]] = {}
    for name, place, tree in parsed:
        for one in mentions.found_in(tree, place, modules, known.setdefault(name, {})):
            if isinstance(one, Unclear):
                seen.open.append(f"{one.where}: {one.how} gets a name that only a run of the program can tell")
            else:
                seen.mentions.append(one)


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _ASIDE and not name.startswith(".") and not Path(place, name, "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            path = Path(place, name)
            wanted = (
                name.endswith((".py", ".ipynb")) or settings.is_env(name) or settings.is_config(PurePosixPath(name))
            )
            if wanted and path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
                yield path


def _merged(seen: _Seen, beside: Path) -> tuple[Found, ...]:
    """One model for all that ask for it; what is neither on a hub nor here is kept in words."""
    asked: dict[tuple[str, str], list[Mention]] = {}
    for one in seen.mentions:
        if local := _local(one, seen.folder):
            asked.setdefault(("path", _relative(local, beside)), []).append(one)
        elif mentions.hub_id(one.name) and not (one.dataset and "/" not in one.name):
            asked.setdefault(("dataset" if one.dataset else "repo", one.name), []).append(one)
        elif not one.dataset:
            seen.open.append(f"{one.where}: {one.how} names a folder that is not here, or no model of the hub")
    for (source, name), by in asked.items():
        if len(revisions := sorted({one.revision for one in by if one.revision})) > 1:
            seen.open.append(f"{name}: asked for at {' and '.join(revisions)}; a bundle carries one of them ({source})")
    taken: set[str] = set()
    return tuple(
        Found(alias=_alias(source, name, taken), source=source, name=name, mentions=tuple(by))
        for (source, name), by in asked.items()
    )


def _local(one: Mention, folder: Path) -> Path | None:
    """The folder here with a model's files that is meant: seen from the project's folder, or from that of the file."""
    if one.dataset or not one.name.isprintable() or not 0 < len(one.name) < paths.LONGEST_NAME:
        return None
    name = Path(one.name).expanduser() if one.name.startswith("~/") else Path(one.name)
    for start in (folder, (folder / one.where.partition(":")[0].partition(",")[0]).parent):
        place = start / name
        if _holds_a_model(place):
            return place
    return None


def _holds_a_model(place: Path) -> bool:
    """Whether a folder is one of a model: a project's own folder, which may hold secrets, must not become one."""
    return place.is_dir() and any(True for mark in _MARKS for _ in place.glob(mark))


def _relative(place: Path, beside: Path) -> str:
    return Path(os.path.relpath(place.resolve(), beside.resolve())).as_posix()


def _alias(source: str, name: str, taken: set[str]) -> str:
    """A name on the host that no other model here has: the last part of its own, with more before it if need be."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-") for part in name.split("/")]
    last = parts[-1] if re.match(r"[A-Za-z0-9]", parts[-1]) and not paths.fault_of(parts[-1]) else "model"
    tries = [last, f"{last}-data" if source == "dataset" else "-".join(part for part in parts[-2:] if part)]
    tries += [f"{last}-{number}" for number in range(2, 1000)]
    found = next(one for one in tries if paths.folded(one) not in taken and re.fullmatch(r"[A-Za-z0-9].{0,99}", one))
    taken.add(paths.folded(found))
    return found


def _not_packages(path: Path, folder: Path) -> Iterator[str]:
    """Lines of a file of requirements that name a folder or a repository, where only wheels can travel."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if re.match(r"\s*(-e\b|--editable\b|\.|/|git\+|https?:|file:)", line) or " @ " in line:
            yield f"{path.relative_to(folder)}:{number}: names a folder or an address, and only wheels travel"


def _text(made: Scaffold) -> str:
    return "\n".join([*_head(made), *_python(made), *_models(made.models), *_env(made.variables), ""])


def _head(made: Scaffold) -> Iterable[str]:
    said = made.project
    name = re.sub(r"[^a-z0-9._-]+", "-", said.name.lower()).strip("-._")[:100]
    version = said.version if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", said.version) else "1.0"
    yield "# What the project's files say; docs/manifest.md has every key. Look it through, then: bundle lock"
    for line in made.open[:_MOST_SHOWN]:
        yield f"# look at {_shown(line)}"
    yield f"name: {_scalar(name if name and not paths.fault_of(name) else 'project')}"
    yield f"version: {json.dumps(version if not paths.fault_of(version) else '1.0')}"
    yield "target: # what is left out is that of this machine: platform, libc, accelerator"
    yield f'  python: "{said.python}" # {_shown(said.python_says)}'


def _python(made: Scaffold) -> Iterable[str]:
    said = made.project
    if not said.requirements and not said.files:
        return
    yield "python:"
    if said.files:
        names = ", ".join(_scalar(_relative(path, made.path.parent)) for path in said.files)
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

"""A manifest to start from: what a project's files say of its packages and models, with the place of each finding."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bundler.errors import HostError, ManifestError, UsageError
from bundler.format import paths
from bundler.format.lock import env_values
from bundler.online.manifest import schema
from bundler.online.manifest.schema import LoadedManifest
from bundler.online.scaffold import code_mentions, manifest_draft, project_metadata, settings_files
from bundler.online.scaffold.code_mentions import Finding, Mention, Names, UnresolvedMention
from bundler.online.scaffold.constant_values import Value
from bundler.online.scaffold.data_mentions import Data
from bundler.online.scaffold.manifest_draft import FoundData, FoundModel, Scaffold
from bundler.online.scaffold.served_models import ENVIRONMENT, Served, Server

_SKIPPED_FOLDERS = frozenset(
    ["venv", "env", "node_modules", "__pycache__", "site-packages", "build", "dist", "tests", "test", "docs"]
)
"""Folders that hold nothing which runs on the host."""
_MAX_FILE_BYTES = 4 << 20
"""Bytes of a file that is read; sources and settings are smaller."""
_MODEL_MARKERS = ("config.json", "modules.json", "adapter_config.json", "*.safetensors", "*.gguf")
"""What tells the folder of a model from any other."""


@dataclass(slots=True)
class _ProjectScan:
    """What was found so far."""

    folder: Path
    mentions: list[Mention] = field(default_factory=list)
    unclear: list[UnresolvedMention] = field(default_factory=list)
    data: list[Data] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    open_points: list[str] = field(default_factory=list)

    def add(self, found: Iterable[Finding]) -> None:
        """Keep what a file says."""
        for one in found:
            if isinstance(one, Mention):
                self.mentions.append(one)
            elif isinstance(one, UnresolvedMention):
                self.unclear.append(one)
            elif isinstance(one, Data):
                self.data.append(one)
            elif isinstance(one, Served):
                self.served.append(one)
            else:
                self.servers.append(one)


def write_manifest(folder: Path, output: Path | None) -> Scaffold:
    """Write the manifest of a project; ``out`` is its file, by default bundle.yaml in the folder.

    Nothing is run and nothing is asked of a network. Raises UsageError where the file is there already, HostError
    where the folder is not, ManifestError where there is nothing to carry or a file can't be understood.
    """
    path = output or folder / "bundle.yaml"
    if path.exists() or path.is_symlink():
        raise UsageError("it is there already", where=str(path), hint="give another name with -o, or move it away")
    for place in (folder, path.parent):
        if not place.is_dir():
            raise HostError("there is no such folder", where=str(place), hint="create it, or name the project's folder")
    made = _make_scaffold(folder, path)
    if not (made.models or made.assets or made.project.requirements or made.project.requirements_files):
        raise ManifestError(
            "no packages and no models were found",
            where=str(folder),
            hint="name the folder that holds requirements.txt or pyproject.toml and the code; else write the manifest "
            "by hand, from one in manifests/ (docs/manifest.md)",
        )
    text = manifest_draft.text_of(made)
    _check_manifest(text, path)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return made


def _check_manifest(text: str, path: Path) -> LoadedManifest:
    """The manifest as ``bundle lock`` will read it."""
    return schema.parse_manifest(text.encode(), path)


def _make_scaffold(folder: Path, path: Path) -> Scaffold:
    said = project_metadata.read_project(folder)
    seen = _ProjectScan(folder)
    _scan_project(seen)
    seen.open_points += said.look
    models = _merge_mentions(seen, path.parent)
    named = [(one, model.alias) for model in models for one in model.mentions if one.variable]
    named.sort(key=lambda pair: pair[0].symbol == pair[0].variable)  # a setting goes before a default in code
    variables = {
        one.variable: alias
        for one, alias in named
        if not env_values.find_env_problem(one.variable, f"{{model:{alias}}}")
    }
    for file in said.requirements_files:
        seen.open_points += list(_find_unportable_lines(file, folder))
    return Scaffold(
        path=path,
        project=said,
        models=models,
        assets=tuple(_assets(seen)),
        variables=tuple(sorted(variables.items())),
        open_points=tuple(seen.open_points),
    )


def _scan_project(files: _ProjectScan) -> None:
    """Read every source and every file of settings; what can't be understood is kept in words."""
    parsed: list[tuple[PurePosixPath, str, ast.Module]] = []
    modules: dict[str, dict[str, Value]] = {}
    for path in _list_files(files.folder):
        name = PurePosixPath(path.relative_to(files.folder).as_posix())
        text = path.read_text(encoding="utf-8", errors="replace")
        if name.suffix not in (".py", ".ipynb"):
            files.add(settings_files.find_mentions(name, text))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what others wrote
                pieces = [(name, place, ast.parse(piece)) for place, piece in code_mentions.split_cells(name, text)]
            for _, _, tree in pieces:
                modules.setdefault(name.stem, {}).update(code_mentions.find_constants(tree, {}))
            parsed += pieces
        except (SyntaxError, ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            files.open_points.append(f"{name}{line}: can't be read as Python, so models that it names are not here")
    known: dict[PurePosixPath, Names] = {}
    for name, place, tree in parsed:
        try:
            files.add(code_mentions.find_mentions(tree, place, modules, known.setdefault(name, Names())))
        except RecursionError:  # an expression of a thousand parts
            files.open_points.append(f"{name}: can't be read as Python, so models that it names are not here")
    told = {one.variable for one in files.mentions if one.variable}
    files.open_points += [
        f"{one.where}: {one.symbol} gets a name that only a run of the program can tell"
        for one in files.unclear
        if one.variable not in told
    ]


def _list_files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS
            and not name.startswith(".")
            and not Path(place, name, "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            path = Path(place, name)
            wanted = (
                name.endswith((".py", ".ipynb"))
                or settings_files.is_env_file(name)
                or settings_files.is_config_file(PurePosixPath(name))
            )
            if wanted and path.is_file() and not path.is_symlink() and path.stat().st_size <= _MAX_FILE_BYTES:
                yield path


def _merge_mentions(files: _ProjectScan, base_folder: Path) -> tuple[FoundModel, ...]:
    """One model for all that ask for it; what is neither on a hub nor here is kept in words."""
    asked: dict[tuple[str, str], list[Mention]] = {}
    for one in _carried(files):
        if local := _find_local_model(one, files.folder):
            asked.setdefault(("path", manifest_draft.relative(local, base_folder)), []).append(one)
        elif code_mentions.make_hub_id(one.name) and not (one.dataset and "/" not in one.name):
            asked.setdefault(("dataset" if one.dataset else "repo", one.name), []).append(one)
        elif not one.dataset:
            files.open_points.append(
                f"{one.where}: {one.symbol} names a folder that is not here, or no model of the hub"
            )
    for (source, name), by in asked.items():
        if len(revisions := sorted({one.revision for one in by if one.revision})) > 1:
            files.open_points.append(
                f"{name}: asked for at {' and '.join(revisions)}; a bundle carries one of them ({source})"
            )
    taken: set[str] = set()
    return tuple(
        FoundModel(alias=_make_alias(source, name, taken), source=source, name=name, mentions=tuple(by))
        for (source, name), by in asked.items()
    )


def _carried(files: _ProjectScan) -> Iterator[Mention]:
    """The mentions whose model this program loads; what a server loads, or nothing here, is kept in words."""
    loaders = [one for one in files.mentions if code_mentions.is_loading_function(one.symbol)]
    loaded = {one.name for one in loaders}
    variables = {one.variable for one in loaders} | {one.variable for one in files.unclear}
    used = loaded | {one.name for one in files.mentions if not one.default and not _server_of(one, files)}
    for one in files.mentions:
        if one in loaders or one.name in loaded or (one.variable and one.variable in variables):
            yield one
        elif by := _server_of(one, files):
            files.open_points.append(
                f"{one.where}: {one.symbol} names a model of a server ({by}), so it is not carried; list it under models: "
                "if the host has to serve it"
            )
        elif one.default and one.name not in used:
            files.open_points.append(
                f"{one.where}: {one.symbol} is {one.name} by default, and nothing here is seen to load it"
            )
        else:
            yield one


def _server_of(one: Mention, files: _ProjectScan) -> str:
    """The place that tells that a server runs the model of a mention; "" where none does."""
    for call in files.served:
        if one.name in call.names or (one.variable and one.variable == call.variable):
            return f"{call.where} {call.how}"
    for server in files.servers:
        beside = server.group == one.group and server.runs(one.symbol)
        if beside or (one.variable and server.group == ENVIRONMENT and server.runs(one.variable)):
            return f"{server.where} {server.name}"
    return ""


def _assets(files: _ProjectScan) -> Iterator[FoundData]:
    """Data of each library, all names in one entry; what no entry can name is kept in words."""
    for library in dict.fromkeys(one.library for one in files.data):
        found = [one for one in files.data if one.library == library and one.known]
        if found:
            names = dict.fromkeys(one.name for one in found)
            places = dict.fromkeys(f"{one.where} {one.how}" for one in found)
            yield FoundData(library=library, names=tuple(names), places=tuple(places))
    for one in files.data:
        if not one.known:
            what = (
                "a collection: list the packages that are used" if one.library == "nltk" else "no encoding known here"
            )
            files.open_points.append(f"{one.where}: {one.how} asks for {one.name!r}, {what} (assets: {one.library})")


def _find_local_model(mention: Mention, folder: Path) -> Path | None:
    """The folder here with a model's files that is meant: seen from the project's folder, or from that of the file."""
    if mention.dataset or not mention.name.isprintable() or not 0 < len(mention.name) < paths.MAX_NAME_BYTES:
        return None
    name = Path(mention.name).expanduser() if mention.name.startswith("~/") else Path(mention.name)
    for start in (folder, (folder / mention.where.partition(":")[0].partition(",")[0]).parent):
        place = start / name
        if _is_model_folder(place):
            return place
    return None


def _is_model_folder(folder: Path) -> bool:
    """Whether a folder is one of a model: a project's own folder, which may hold secrets, must not become one."""
    return folder.is_dir() and any(True for mark in _MODEL_MARKERS for _ in folder.glob(mark))


def _make_alias(source: str, name: str, used_aliases: set[str]) -> str:
    """A name on the host that no other model here has: the last part of its own, with more before it if need be."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-") for part in name.split("/")]
    last = parts[-1] if re.match(r"[A-Za-z0-9]", parts[-1]) and not paths.find_path_problem(parts[-1]) else "model"
    tries = [last, f"{last}-data" if source == "dataset" else "-".join(part for part in parts[-2:] if part)]
    tries += [f"{last}-{number}" for number in range(2, 1000)]
    found = next(
        one for one in tries if paths.fold_name(one) not in used_aliases and re.fullmatch(r"[A-Za-z0-9].{0,99}", one)
    )
    used_aliases.add(paths.fold_name(found))
    return found


def _find_unportable_lines(path: Path, folder: Path) -> Iterator[str]:
    """Lines of a file of requirements that name a folder or a repository, where only wheels can travel."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if re.match(r"\s*(-e\b|--editable\b|\.|/|git\+|https?:|file:)", line) or " @ " in line:
            yield f"{path.relative_to(folder)}:{number}: names a folder or an address, and only wheels travel"

"""Writes a first manifest from a project's files, with the place of each finding."""

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
from bundler.online.assets.asset_spec import PROVIDERS
from bundler.online.manifest import loading
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.scaffold import code_mentions, manifest_draft, project_metadata, settings_files
from bundler.online.scaffold.code_mentions import Finding, Mention, Names, UnresolvedMention
from bundler.online.scaffold.constant_values import Value
from bundler.online.scaffold.data_mentions import DataMention
from bundler.online.scaffold.manifest_draft import FoundData, FoundModel, Scaffold
from bundler.online.scaffold.served_models import ENVIRONMENT, ServedModel, Server

_SKIPPED_FOLDERS = frozenset(
    ["venv", "env", "node_modules", "__pycache__", "site-packages", "build", "dist", "tests", "test", "docs"]
)
"""Folders without files that run on the host."""
_MAX_FILE_BYTES = 4 << 20
"""Largest source or settings file that is read."""
_MODEL_MARKERS = ("config.json", "modules.json", "adapter_config.json", "*.safetensors", "*.gguf")
"""Files that only the folder of a model has."""


@dataclass(slots=True)
class _ProjectScan:
    """The findings so far."""

    folder: Path
    mentions: list[Mention] = field(default_factory=list)
    unresolved: list[UnresolvedMention] = field(default_factory=list)
    data: list[DataMention] = field(default_factory=list)
    served: list[ServedModel] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    open_points: list[str] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        """Add the findings of a file."""
        for finding in findings:
            if isinstance(finding, Mention):
                self.mentions.append(finding)
            elif isinstance(finding, UnresolvedMention):
                self.unresolved.append(finding)
            elif isinstance(finding, DataMention):
                self.data.append(finding)
            elif isinstance(finding, ServedModel):
                self.served.append(finding)
            else:
                self.servers.append(finding)


def write_manifest(folder: Path, output: Path | None) -> Scaffold:
    """Write the manifest of a project. No code is run and no network is used.

    Args:
        folder: The project's folder.
        output: The file to write; by default ``bundle.yaml`` in the folder.

    Raises:
        UsageError: The file exists already.
        HostError: A folder does not exist.
        ManifestError: There are no packages and no models, or a file of the project is malformed.
    """
    path = output or folder / "bundle.yaml"
    if path.exists() or path.is_symlink():
        raise UsageError("this file exists already", where=str(path), hint="give another name with -o, or move it away")
    for required_folder in (folder, path.parent):
        if not required_folder.is_dir():
            raise HostError(
                "there is no such folder", where=str(required_folder), hint="create it, or name the project's folder"
            )
    scaffold = _make_scaffold(folder, path)
    project = scaffold.project
    if not (scaffold.models or scaffold.assets or project.requirements or project.requirements_files):
        raise ManifestError(
            "no packages and no models were found",
            where=str(folder),
            hint="name the folder that has requirements.txt or pyproject.toml and the code; else write the manifest "
            "by hand, from one in manifests/ (docs/manifest.md)",
        )
    text = manifest_draft.format_manifest(scaffold)
    _check_manifest(text, path)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return scaffold


def _check_manifest(text: str, path: Path) -> LoadedManifest:
    """Check the manifest as ``bundle lock`` will."""
    return loading.parse_manifest(text.encode(), path)


def _make_scaffold(folder: Path, path: Path) -> Scaffold:
    project = project_metadata.read_project(folder)
    scan = _ProjectScan(folder)
    _scan_project(scan)
    scan.open_points += project.open_points
    models = _merge_mentions(scan, path.parent)
    aliases = [(mention, model.alias) for model in models for mention in model.mentions if mention.variable]
    aliases.sort(key=lambda pair: pair[0].symbol == pair[0].variable)  # the last one counts: settings after code
    variables = {
        mention.variable: alias
        for mention, alias in aliases
        if not env_values.find_env_problem(mention.variable, f"{{model:{alias}}}")
    }
    for file in project.requirements_files:
        scan.open_points += list(_find_unportable_lines(file, folder))
    return Scaffold(
        path=path,
        project=project,
        models=models,
        assets=tuple(_merge_data(scan)),
        variables=tuple(sorted(variables.items())),
        open_points=tuple(scan.open_points),
    )


def _scan_project(scan: _ProjectScan) -> None:
    """Read every source and settings file; a file that can't be read becomes an open point."""
    parsed: list[tuple[PurePosixPath, str, ast.Module]] = []
    modules: dict[str, dict[str, Value]] = {}
    for path in _list_files(scan.folder):
        name = PurePosixPath(path.relative_to(scan.folder).as_posix())
        text = path.read_text(encoding="utf-8", errors="replace")
        if name.suffix not in (".py", ".ipynb"):
            scan.add(settings_files.find_mentions(name, text))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the project's code
                pieces = [
                    (name, location, ast.parse(piece)) for location, piece in code_mentions.split_cells(name, text)
                ]
            for _, _, tree in pieces:
                modules.setdefault(name.stem, {}).update(code_mentions.find_constants(tree, {}))
            parsed += pieces
        except (SyntaxError, ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            scan.open_points.append(f"{name}{line}: can't be parsed as Python, so its models are missing here")
    names_by_file: dict[PurePosixPath, Names] = {}
    for name, location, tree in parsed:
        try:
            scan.add(code_mentions.find_mentions(tree, location, modules, names_by_file.setdefault(name, Names())))
        except RecursionError:  # an expression of a thousand parts
            scan.open_points.append(f"{name}: can't be parsed as Python, so its models are missing here")
    resolved_variables = {mention.variable for mention in scan.mentions if mention.variable}
    scan.open_points += [
        f"{mention.location}: {mention.symbol} gets a name that only a run of the program can tell"
        for mention in scan.unresolved
        if mention.variable not in resolved_variables
    ]


def _list_files(folder: Path) -> Iterator[Path]:
    """Yield the Python, notebook and settings files of a project."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS
            and not name.startswith(".")
            and not Path(parent, name, "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            path = Path(parent, name)
            is_relevant = (
                name.endswith((".py", ".ipynb"))
                or settings_files.is_env_file(name)
                or settings_files.is_config_file(PurePosixPath(name))
            )
            if is_relevant and path.is_file() and not path.is_symlink() and path.stat().st_size <= _MAX_FILE_BYTES:
                yield path


def _merge_mentions(scan: _ProjectScan, base_folder: Path) -> tuple[FoundModel, ...]:
    """Return each model once, with all of its mentions; a name that is no model becomes an open point."""
    mentions_by_model: dict[tuple[str, str], list[Mention]] = {}
    for mention in _select_loaded_mentions(scan):
        if local := _find_local_model(mention, scan.folder):
            key = ("path", manifest_draft.make_relative_path(local, base_folder))
            mentions_by_model.setdefault(key, []).append(mention)
        elif code_mentions.make_hub_id(mention.name) and not (mention.is_dataset and "/" not in mention.name):
            key = ("dataset" if mention.is_dataset else "repo", mention.name)
            mentions_by_model.setdefault(key, []).append(mention)
        elif not mention.is_dataset:
            scan.open_points.append(
                f"{mention.location}: {mention.symbol} names a folder that does not exist here, or no model of the hub"
            )
    for (source, name), mentions in mentions_by_model.items():
        if len(revisions := sorted({mention.revision for mention in mentions if mention.revision})) > 1:
            scan.open_points.append(
                f"{name}: code asks for revisions {' and '.join(revisions)}; a bundle takes one of them ({source})"
            )
    used_aliases: set[str] = set()
    return tuple(
        FoundModel(alias=_make_alias(source, name, used_aliases), source=source, name=name, mentions=tuple(mentions))
        for (source, name), mentions in mentions_by_model.items()
    )


def _select_loaded_mentions(scan: _ProjectScan) -> Iterator[Mention]:
    """Yield the mentions of models that the project itself loads; the others become open points."""
    load_calls = [mention for mention in scan.mentions if code_mentions.is_loading_function(mention.symbol)]
    loaded_names = {mention.name for mention in load_calls}
    variables = {mention.variable for mention in load_calls} | {mention.variable for mention in scan.unresolved}
    used_names = loaded_names | {
        mention.name for mention in scan.mentions if not mention.is_default and not _find_server(mention, scan)
    }
    for mention in scan.mentions:
        is_loaded = mention in load_calls or mention.name in loaded_names
        if is_loaded or (mention.variable and mention.variable in variables):
            yield mention
        elif server := _find_server(mention, scan):
            scan.open_points.append(
                f"{mention.location}: {mention.symbol} names a model of a server ({server}), so it is not in the manifest; "
                "list it under models: if the host has to serve it"
            )
        elif mention.is_default and mention.name not in used_names:
            scan.open_points.append(
                f"{mention.location}: {mention.symbol} is {mention.name} by default, and no code that loads it was found"
            )
        else:
            yield mention


def _find_server(mention: Mention, scan: _ProjectScan) -> str:
    """Return the place that shows that a server runs the model of a mention; "" if there is none."""
    for call in scan.served:
        if mention.name in call.names or (mention.variable and mention.variable == call.variable):
            return f"{call.location} {call.client}"
    for server in scan.servers:
        is_in_group = server.group == mention.group and server.runs(mention.symbol)
        if is_in_group or (mention.variable and server.group == ENVIRONMENT and server.runs(mention.variable)):
            return f"{server.location} {server.name}"
    return ""


def _merge_data(scan: _ProjectScan) -> Iterator[FoundData]:
    """Yield the data of each library; a name that a manifest can't have becomes an open point."""
    for library in dict.fromkeys(mention.library for mention in scan.data):
        if mentions := [mention for mention in scan.data if mention.library == library and mention.is_known]:
            names = dict.fromkeys(mention.name for mention in mentions)
            locations = dict.fromkeys(f"{mention.location} {mention.symbol}" for mention in mentions)
            yield FoundData(library=library, names=tuple(names), locations=tuple(locations))
    for mention in scan.data:
        if not mention.is_known:
            reason = PROVIDERS[mention.library].unknown_name
            scan.open_points.append(
                f"{mention.location}: {mention.symbol} asks for {mention.name!r}, {reason} (assets: {mention.library})"
            )


def _find_local_model(mention: Mention, folder: Path) -> Path | None:
    """Return the model's folder that is meant, relative to the project or to the file; None if there is none."""
    if mention.is_dataset or not mention.name.isprintable() or not 0 < len(mention.name) < paths.MAX_NAME_BYTES:
        return None
    name = Path(mention.name).expanduser() if mention.name.startswith("~/") else Path(mention.name)
    for start in (folder, (folder / mention.location.partition(":")[0].partition(",")[0]).parent):
        path = start / name
        if _is_model_folder(path):
            return path
    return None


def _is_model_folder(folder: Path) -> bool:
    """Return whether a folder has a model; any other folder of a project may hold secrets."""
    return folder.is_dir() and any(True for marker in _MODEL_MARKERS for _ in folder.glob(marker))


def _make_alias(source: str, name: str, used_aliases: set[str]) -> str:
    """Return an alias that no other model has: the last part of its name, with more in front if that is taken."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-") for part in name.split("/")]
    last = parts[-1] if re.match(r"[A-Za-z0-9]", parts[-1]) and not paths.find_path_problem(parts[-1]) else "model"
    candidates = [last, f"{last}-data" if source == "dataset" else "-".join(part for part in parts[-2:] if part)]
    candidates += [f"{last}-{number}" for number in range(2, 1000)]
    alias = next(
        name
        for name in candidates
        if paths.fold_name(name) not in used_aliases and re.fullmatch(r"[A-Za-z0-9].{0,99}", name)
    )
    used_aliases.add(paths.fold_name(alias))
    return alias


def _find_unportable_lines(path: Path, folder: Path) -> Iterator[str]:
    """Yield, for a person, the lines of a requirements file that name a folder, a repository or a URL."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if re.match(r"\s*(-e\b|--editable\b|\.|/|git\+|https?:|file:)", line) or " @ " in line:
            yield f"{path.relative_to(folder)}:{number}: names a folder or a URL, but a bundle takes wheels only"

"""Which loader a model's files call for, and whether every file that it reads travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bundler.errors import ResolveError
from bundler.online.inspection import loaders, model_files, required_files
from bundler.online.inspection.loaders import Loader
from bundler.online.inspection.model_files import FileListing, UnreadableFileError

_MAX_LISTED_FILES = 8
_FILES_HINT = "'loader: files' carries any files without a smoke load"
_LOADER_HINT = f"name the model's 'loader' if one fits; {_FILES_HINT}"


def detect_loader(alias: str, files: FileListing) -> str:
    """Return the loader that a model's files call for.

    Raises:
        ResolveError: no loader fits, or patterns of the manifest removed the files that tell: the files left would
            pass for those of another loader.
    """
    for position, loader in enumerate(loaders.REGISTRY):
        _require_marker_files(alias, loader, loaders.REGISTRY[position + 1 :], files)
        if _has_marker(loader, files) or (loader.recognizes is not None and loader.recognizes(files)):
            return loader.name
    if "config.json" in files.names:
        return _detect_from_config(alias, files)
    names = sorted(files.names)
    listed = ", ".join(names[:_MAX_LISTED_FILES]) + (" …" if len(names) > _MAX_LISTED_FILES else "")
    raise ResolveError(
        f"no loader is known for the files of {alias}: {listed}",
        where=f"models: {alias}",
        hint=f"a sentence-transformers model has a modules.json; {_FILES_HINT}",
    )


def check_files(name: str, alias: str, files: FileListing) -> None:
    """Raise ResolveError that names every file which the loader reads and which does not travel.

    An optional file is missed only where the source has it.
    """
    loader = loaders.BY_NAME[name]
    if not loader.is_smoke_loaded:
        return
    missing = required_files.find_missing_files(loader, files)
    if not missing:
        return
    listed = "; ".join(f"{file} ({reason})" for file, reason in missing.items())
    raise ResolveError(
        f"{alias} lacks files that {name} needs: {listed}",
        where=f"models: {alias}",
        hint=f"{required_files.suggest_fix(missing, files)}; {_FILES_HINT}",
    )


def _has_marker(loader: Loader, files: FileListing) -> bool:
    return any(name in files.names for name in loader.marker_files)


def _require_marker_files(alias: str, loader: Loader, others: Sequence[Loader], files: FileListing) -> None:
    """Raise ResolveError that names the marker files of a loader which a pattern removed."""
    removed = [name for name in loader.marker_files if name in files.removed and name not in files.names]
    if not removed:
        return
    alternative = next((other for other in others if _has_marker(other, files)), loaders.TRANSFORMERS)
    condition = f", {loader.use_without_markers}" if loader.use_without_markers else ""
    raise ResolveError(
        f"{alias} is a model for {loader.name}, and include or exclude removes {' and '.join(removed)}",
        where=f"models: {alias}",
        hint=f"drop the pattern, or name another loader: 'loader: {alternative.name}'{condition}",
    )


def _detect_from_config(alias: str, files: FileListing) -> str:
    """Return the loader for a model of transformers alone, by its config.json."""
    try:
        config = model_files.read_json_object("config.json", files.read_file)
    except UnreadableFileError as error:
        raise _make_unknown_error(alias, f"its {error}") from error
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if not architecture:
        raise _make_unknown_error(alias, "its config.json names no architecture")
    loader = _find_by_architecture(architecture)
    if loader is None or any(f"{modality}_config" in config for modality in ("vision", "audio")):
        raise _make_unknown_error(alias, f"there is no smoke load for its architecture {architecture}")
    if problem := _find_config_problem(loader, config):
        raise _make_unknown_error(alias, f"its architecture {architecture} {problem}")
    return loader.name


def _find_by_architecture(architecture: str) -> Loader | None:
    """Return the loader with the longest suffix that fits; the first in the registry if two have it."""
    found, longest = None, ""
    for loader in loaders.REGISTRY:
        for suffix in loader.architecture_suffixes:
            if architecture.endswith(suffix) and len(suffix) > len(longest):
                found, longest = loader, suffix
    return found


def _find_config_problem(loader: Loader, config: Mapping[str, Any]) -> str:
    return "is an encoder with a decoder" if config.get("is_encoder_decoder") else loader.find_config_problem(config)


def _make_unknown_error(alias: str, reason: str) -> ResolveError:
    return ResolveError(f"no loader is known for {alias}: {reason}", where=f"models: {alias}", hint=_LOADER_HINT)

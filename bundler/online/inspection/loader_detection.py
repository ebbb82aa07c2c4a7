"""Which loader a model's files call for, and whether all that it reads travels."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from bundler.errors import ResolveError
from bundler.online.inspection import required_files
from bundler.online.inspection.required_files import M3_HEADS, ReadFile

_DEFAULT_LABEL_COUNT = 2
_LOADERS_BY_ARCHITECTURE = (
    ("ForCausalLM", "causal-lm"),
    ("LMHeadModel", "causal-lm"),
    ("ForSequenceClassification", "cross-encoder"),
    ("ForMaskedLM", "transformers"),
    ("ForPreTraining", "transformers"),
    ("Model", "transformers"),
)
"""The end of a class name in config.json, and the loader that it calls for; the first that fits is taken."""
_LOADER_HINT = "name the model's 'loader' if one fits; 'loader: files' carries any files without a smoke load"


def detect_loader(alias: str, files: Sequence[str], read_file: ReadFile, removed: Collection[str] = ()) -> str:
    """The loader that a model's files call for.

    ``removed`` are files of the source that patterns of the manifest keep from travelling. Raises ResolveError when
    no loader is known, or when what tells is among them: the files left would pass for those of another loader.
    """
    _require_marker_files(alias, files, removed)
    if any(name in files for name in M3_HEADS):  # before modules.json, which BGE-M3 has too for its dense vectors alone
        return "flag-embedding-m3"
    if "modules.json" in files:
        return "cross-encoder" if required_files.is_cross_encoder(files, read_file) else "sentence-transformers"
    if "config.json" in files:
        return _detect_from_config(alias, _read_json_object(alias, "config.json", read_file))
    shown = ", ".join(list(files)[:8]) + (" …" if len(files) > 8 else "")
    raise ResolveError(
        f"no loader is known for the files of {alias}: {shown}",
        where=f"models: {alias}",
        hint="a sentence-transformers model has a modules.json; 'loader: files' carries any files without a smoke load",
    )


def _require_marker_files(alias: str, files: Sequence[str], removed: Collection[str]) -> None:
    """Raises ResolveError that names the files by which a loader is seen and which a pattern removed."""
    has_head = any(name in files for name in M3_HEADS)
    for loader, marks, instead in (
        ("flag-embedding-m3", M3_HEADS, "sentence-transformers" if "modules.json" in files else "transformers"),
        ("sentence-transformers", () if has_head else ("modules.json",), "transformers"),
    ):
        if lost := [name for name in marks if name in removed and name not in files]:
            only = ", if dense vectors are all that is wanted" if marks == M3_HEADS else ""
            raise ResolveError(
                f"{alias} is a model for {loader}, and include or exclude removes {' and '.join(lost)}",
                where=f"models: {alias}",
                hint=f"drop the pattern, or name another loader: 'loader: {instead}'{only}",
            )


def check_files(
    loader: str, alias: str, files: Sequence[str], read_file: ReadFile, removed: Collection[str] = ()
) -> None:
    """Raises ResolveError that names every file which the loader will ask for and which does not travel.

    ``removed`` as for `detected`: what a loader takes where it is there is missed only where the source has it.
    """
    if loader == "files":
        return
    seen = required_files.FileListing(names=frozenset(files), removed=frozenset(removed), read_file=read_file)
    lacking = required_files.find_missing_files(loader, seen)
    if not lacking:
        return
    raise ResolveError(
        f"{alias} lacks files that {loader} needs: {'; '.join(f'{name} ({why})' for name, why in lacking.items())}",
        where=f"models: {alias}",
        hint=f"{required_files.suggest_fix(lacking, seen)}; 'loader: files' carries any files without a smoke load",
    )


def _read_json_object(alias: str, name: str, read_file: ReadFile) -> dict[str, Any]:
    try:
        found = json.loads(read_file(name).decode("utf-8-sig"))
    except ValueError as error:
        raise _make_unknown_error(alias, f"its {name} is not a JSON file") from error
    if not isinstance(found, dict):
        raise _make_unknown_error(alias, f"its {name} holds no JSON object")
    return found


def _make_unknown_error(alias: str, reason: str) -> ResolveError:
    return ResolveError(f"no loader is known for {alias}: {reason}", where=f"models: {alias}", hint=_LOADER_HINT)


def _detect_from_config(alias: str, config: dict[str, Any]) -> str:
    """The loader for a model of transformers alone, by what its config.json says."""
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not architecture:
        raise _make_unknown_error(alias, "its config.json names no architecture")
    loader = next((loader for end, loader in _LOADERS_BY_ARCHITECTURE if architecture.endswith(end)), "")
    if not loader or any(f"{sense}_config" in config for sense in ("vision", "audio")):
        raise _make_unknown_error(alias, f"there is no smoke load for its architecture {architecture}")
    if config.get("is_encoder_decoder"):
        raise _make_unknown_error(alias, f"its architecture {architecture} is an encoder with a decoder")
    if loader == "transformers" and config.get("vocab_size") is None:
        raise _make_unknown_error(alias, f"its architecture {architecture} does not read text")
    if loader == "cross-encoder" and (labels := _count_labels(config)) != 1:
        raise _make_unknown_error(alias, f"its architecture {architecture} has {labels} labels, and a reranker has one")
    return loader


def _count_labels(config: dict[str, Any]) -> int:
    """How many numbers a model gives for a text; what transformers takes where config.json does not say."""
    names = config.get("id2label")
    if isinstance(names, dict):
        return len(names)
    return int(config.get("num_labels", _DEFAULT_LABEL_COUNT))

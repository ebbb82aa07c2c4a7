"""What a loader reads of a model's files: the files it needs, and those whose absence silently changes what it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import ResolveError
from bundler.online.inspection import loaders, model_files
from bundler.online.inspection.loaders import Loader
from bundler.online.inspection.model_files import DAMAGED_SOURCE_HINT, FileListing, ReadFile, UnreadableFileError

_VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "tekken.json",
    "tiktoken.model",
)
_PAIRED_FILES = {"vocab.json": "merges.txt"}
"""Vocabularies that are incomplete without another file."""
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers looks for them, each as one file or as an index of shards."""
_WEIGHT_FILE = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")
_MODULES_WITHOUT_FILES = ("Normalize",)
"""Modules of sentence-transformers that modules.json lists and that have no files."""
_ROUTER_MODULES = ("Router", "Asym")
_MODULE_CONFIGS = {
    "CNN": "cnn_config.json",
    "LSTM": "lstm_config.json",
    "StaticEmbedding": "tokenizer.json",
    "WordEmbeddings": "wordembedding_config.json",
}
"""The configuration of modules that have no config.json."""
_MODULES_WITH_WEIGHTS = (
    *("CNN", "Dense", "LSTM", "LayerNorm", "SparseAutoEncoder", "StaticEmbedding", "WeightedLayerPooling"),
    "WordEmbeddings",
)
"""Modules of sentence-transformers with weights of their own, in one file."""
_SHARD_REASON = "a shard of the weights"
_REMOVED_REASON = "read where it exists, and the source has it"

MissingFile = tuple[str, str]
"""The name of a file that does not travel, and what the loader reads it for."""


def find_missing_files(loader: Loader, files: FileListing) -> dict[str, str]:
    """Find the files that a loader reads and that do not travel, each with what the file is for.

    Raises ResolveError where a file that lists others can't be read.
    """
    if loader.reads_modules(files):
        missing = _check_modules(files)
    else:
        missing = _check_transformer(PurePosixPath(), loader, files)
    missing += [(name, reason) for name, reason in loader.required_files.items() if name not in files.names]
    reasons: dict[str, str] = {}
    for name, reason in missing:
        reasons.setdefault(name, reason)
    return reasons


def suggest_fix(missing: Mapping[str, str], files: FileListing) -> str:
    """Say what to do about missing files."""
    folders = [PurePosixPath(name).parent for name, reason in missing.items() if reason == _SHARD_REASON]
    incomplete = sorted(
        {str(folder / "model*.safetensors*") for folder in folders if _has_all_bin_weights(folder, files)}
    )
    if incomplete:
        patterns = ", ".join(f'"{pattern}"' for pattern in incomplete)
        return f"its pytorch_model.bin is complete: 'exclude: [{patterns}]' takes that instead"
    if removed := [name for name in missing if name in files.removed]:
        return f"let include and exclude keep {', '.join(removed)}"
    problem = "no set of its weights is complete" if folders else "the source is not complete"
    return f"{problem}: fetch it again, or use another revision of it"


def _has_all_bin_weights(folder: PurePosixPath, files: FileListing) -> bool:
    """Return whether transformers would find all weights if there were no safetensors."""
    name = _WEIGHT_FILES[1]
    index = f"{name}.index.json"
    if files.has(folder, name) or not files.has(folder, index):
        return files.has(folder, name)
    return all(files.has(folder, shard) for shard in read_shards(str(folder / index), files.read_file))


def read_shards(index: str, read_file: ReadFile) -> set[str]:
    """Read which files an index of weights names; raises ResolveError where it is not such an index."""
    try:
        return {str(name) for name in dict(model_files.read_json(index, read_file)["weight_map"]).values()}
    except (UnreadableFileError, ValueError, TypeError, KeyError) as error:
        raise ResolveError(f"its {index} does not say where the weights are", hint=DAMAGED_SOURCE_HINT) from error


def _check_modules(files: FileListing) -> list[MissingFile]:
    """Find what a model of sentence-transformers lacks, by its modules.json."""
    if "modules.json" not in files.names:
        return [("modules.json", "says how the sentence is pooled")]
    missing = _find_removed_optional(PurePosixPath(), loaders.SENTENCE_TRANSFORMERS, files)
    for module in _read_modules(files.read_file):
        missing += _check_module(str(module["type"]), PurePosixPath(str(module["path"])), files)
    return missing


def _check_module(
    class_path: str, folder: PurePosixPath, files: FileListing, *, referrer: str = "modules.json"
) -> list[MissingFile]:
    name = class_path.rpartition(".")[2]
    if name in _MODULES_WITHOUT_FILES:
        return []
    if name == "Transformer":
        return _check_transformer(folder, loaders.SENTENCE_TRANSFORMERS, files)
    if name in _ROUTER_MODULES:
        return _check_router(folder, files)
    missing: list[MissingFile] = []
    config = _MODULE_CONFIGS.get(name, "config.json")
    if not files.has(folder, config):
        missing.append((str(folder / config), f"{referrer} names a {name} there"))
    if name in _MODULES_WITH_WEIGHTS and not any(files.has(folder, weights) for weights in _WEIGHT_FILES):
        missing += _list_missing_weights(folder, f"the weights of a {name}", files)
    if folder != PurePosixPath():  # every file there belongs to the module
        missing += [(file, _REMOVED_REASON) for file in files.find_removed(folder, _is_config_or_vocabulary)]
    return missing


def _is_config_or_vocabulary(name: str) -> bool:
    return name.endswith((".json", ".txt", ".model")) and not name.endswith(".index.json")


def _check_router(folder: PurePosixPath, files: FileListing) -> list[MissingFile]:
    """Find what the modules behind a router lack; older versions call it Asym and its list config.json."""
    lists = [name for name in ("router_config.json", "config.json") if files.has(folder, name)]
    if not lists:
        return [(str(folder / "router_config.json"), "modules.json names a router there")]
    types = model_files.read_json_object(str(folder / lists[0]), files.read_file).get("types")
    missing: list[MissingFile] = []
    for subfolder, class_path in types.items() if isinstance(types, dict) else ():
        missing += _check_module(str(class_path), folder / str(subfolder), files, referrer="the router")
    return missing


def _check_transformer(folder: PurePosixPath, loader: Loader, files: FileListing) -> list[MissingFile]:
    missing: list[MissingFile] = []
    if not files.has(folder, "config.json"):
        missing.append((str(folder / "config.json"), "the shape of the model"))
    return (
        missing
        + _check_tokenizer(folder, files)
        + _check_weights(folder, files)
        + _find_removed_optional(folder, loader, files)
    )


def _find_removed_optional(folder: PurePosixPath, loader: Loader, files: FileListing) -> list[MissingFile]:
    """Find optional files of the loader that a pattern removed."""
    removed = files.find_removed(folder, lambda name: model_files.matches_any(name, loader.optional_files))
    return [(name, _REMOVED_REASON) for name in removed]


def _check_tokenizer(folder: PurePosixPath, files: FileListing) -> list[MissingFile]:
    """Find what a tokenizer lacks; tokenizer.json is complete by itself."""
    if files.has(folder, "tokenizer.json"):
        return []
    names = (*_VOCABULARY_FILES, *_PAIRED_FILES.values())
    missing = [(name, _REMOVED_REASON) for name in files.find_removed(folder, lambda name: name in names)]
    vocabularies = [name for name in _VOCABULARY_FILES if files.has(folder, name)]
    if not vocabularies:
        return [(str(folder / "tokenizer.json"), "without a vocabulary every word is unknown"), *missing]
    unpaired = [name for name in vocabularies if name in _PAIRED_FILES and not files.has(folder, _PAIRED_FILES[name])]
    if unpaired == vocabularies and not _has_custom_tokenizer(folder, files):
        reason = f"{unpaired[0]} is no vocabulary without it where there is no tokenizer.json"
        missing = [(str(folder / _PAIRED_FILES[unpaired[0]]), reason), *missing]
    return missing


def _has_custom_tokenizer(folder: PurePosixPath, files: FileListing) -> bool:
    """Return whether the model's own code is its tokenizer: which files that reads is unknown."""
    name = "tokenizer_config.json"
    if not files.has(folder, name):
        return False
    return "auto_map" in model_files.read_json_object(str(folder / name), files.read_file)


def _check_weights(folder: PurePosixPath, files: FileListing) -> list[MissingFile]:
    """Find what the weights lack; transformers takes the first set that it sees a part of, and then no other."""
    for name in _WEIGHT_FILES:
        if files.has(folder, name):
            return []
        if files.has(folder, f"{name}.index.json"):
            shards = sorted(read_shards(str(folder / f"{name}.index.json"), files.read_file))
            return [(str(folder / shard), _SHARD_REASON) for shard in shards if not files.has(folder, shard)]
    return _list_missing_weights(folder, "the weights", files)


def _list_missing_weights(folder: PurePosixPath, description: str, files: FileListing) -> list[MissingFile]:
    """List the weights that patterns removed, or their usual name where the source has none."""
    removed = files.find_removed(folder, lambda name: bool(_WEIGHT_FILE.fullmatch(name)))
    return [(name, description) for name in removed or [str(folder / _WEIGHT_FILES[0])]]


def _read_modules(read_file: ReadFile) -> list[dict[str, Any]]:
    """Read modules.json; raises ResolveError where it is not a list of modules with a type and a path."""
    modules = model_files.read_json("modules.json", read_file)
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and {"type", "path"} <= module.keys() for module in modules
    ):
        message = "its modules.json is not a list of modules, each with a type and a path"
        raise ResolveError(message, hint=DAMAGED_SOURCE_HINT)
    return modules

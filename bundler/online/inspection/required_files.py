"""What a loader reads of a model's files: what it can't do without, and what it takes in silence where it is there."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import ResolveError

ReadFile = Callable[[str], bytes]
"""Gives the content of one of a model's small files."""

M3_HEADS = ("colbert_linear.pt", "sparse_linear.pt")
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
"""Vocabularies that are no use without another file."""
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*"),
)
_MODULE_CONFIGS = ("config_sentence_transformers.json", "sentence_*_config.json")
OPTIONAL_FILES: Mapping[str, tuple[str, ...]] = {
    "sentence-transformers": (
        *(*_TOKENIZER_FILES, *_MODULE_CONFIGS),
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    ),
    "cross-encoder": (*_TOKENIZER_FILES, *_MODULE_CONFIGS, "modules.json"),
    "causal-lm": (*_TOKENIZER_FILES, "generation_config.json"),
    "transformers": _TOKENIZER_FILES,
    "flag-embedding-m3": _TOKENIZER_FILES,
    "flag-reranker": _TOKENIZER_FILES,
}
"""What each loader takes where it is there, and without which it does something else and says nothing."""
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers looks for them, each whole or as an index of shards."""
_WEIGHT_FILE = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")
_MODULES_WITHOUT_FILES = ("Normalize",)
"""Modules of sentence-transformers that have a name in modules.json and no files."""
_ROUTER_MODULES = ("Router", "Asym")
_MODULE_SETTINGS = {
    "CNN": "cnn_config.json",
    "LSTM": "lstm_config.json",
    "StaticEmbedding": "tokenizer.json",
    "WordEmbeddings": "wordembedding_config.json",
}
"""What modules that have no config.json are made from."""
_MODULES_WITH_WEIGHTS = (
    *("CNN", "Dense", "LSTM", "LayerNorm", "SparseAutoEncoder", "StaticEmbedding", "WeightedLayerPooling"),
    "WordEmbeddings",
)
"""Modules of sentence-transformers with weights of their own, in one file."""
_BROKEN_HINT = "the source is damaged or unfinished: fetch it again, or ask whoever made it"
_SHARD_REASON = "a shard of the weights"
_REMOVED_REASON = "read where it is there, and the source has it"

MissingFile = tuple[str, str]
"""A file that does not travel, and why it should."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileListing:
    """A model's files: those that travel, and those of its source that patterns of the manifest removed."""

    names: Collection[str]
    removed: Collection[str]
    read_file: ReadFile

    def has(self, folder: PurePosixPath, name: str) -> bool:
        """Whether a file of a folder travels."""
        return str(folder / name) in self.names

    def find_removed(self, folder: PurePosixPath, predicate: Callable[[str], bool]) -> list[str]:
        """What patterns removed of a folder, of the files whose names inside of it fit."""
        start = "" if folder == PurePosixPath() else f"{folder}/"
        return sorted(
            name
            for name in self.removed
            if name not in self.names and name.startswith(start) and predicate(name[len(start) :])
        )


def find_missing_files(loader: str, files: FileListing) -> dict[str, str]:
    """The files that a loader reads and that do not travel, each with what it is for.

    Raises ResolveError where a list of files can't be read.
    """
    modular = loader == "sentence-transformers" or (
        loader == "cross-encoder" and is_cross_encoder(files.names, files.read_file)
    )
    found = _check_modules(files) if modular else _check_transformer(PurePosixPath(), loader, files)
    if loader == "flag-embedding-m3":
        why = "without it the sparse and ColBERT vectors are random"
        found += [(name, why) for name in M3_HEADS if name not in files.names]
    reasons: dict[str, str] = {}
    for name, why in found:
        reasons.setdefault(name, why)
    return reasons


def is_cross_encoder(names: Collection[str], read_file: ReadFile) -> bool:
    """Whether a model's modules.json is that of a reranker: newer versions of sentence-transformers give them one too.

    Raises ResolveError where the file that tells can't be read.
    """
    name = "config_sentence_transformers.json"
    return {name, "modules.json"} <= {*names} and _read_json_object(name, read_file).get("model_type") == "CrossEncoder"


def suggest_fix(missing: Mapping[str, str], files: FileListing) -> str:
    """What to do about the files that are lacking."""
    folders = [PurePosixPath(name).parent for name, why in missing.items() if why == _SHARD_REASON]
    half = sorted({str(folder / "model*.safetensors*") for folder in folders if _has_all_bin_weights(folder, files)})
    if half:
        named = ", ".join(f'"{pattern}"' for pattern in half)
        return f"its pytorch_model.bin is whole: 'exclude: [{named}]' takes that instead"
    if removed := [name for name in missing if name in files.removed]:
        return f"let include and exclude keep {', '.join(removed)}"
    what = "no set of its weights is whole" if folders else "the source is not complete"
    return f"{what}: fetch it again, or take another revision of it"


def _has_all_bin_weights(folder: PurePosixPath, files: FileListing) -> bool:
    """Whether transformers would find all weights if there were no safetensors."""
    name = _WEIGHT_FILES[1]
    index = f"{name}.index.json"
    if files.has(folder, name) or not files.has(folder, index):
        return files.has(folder, name)
    return all(files.has(folder, one) for one in read_shards(str(folder / index), files.read_file))


def read_shards(index: str, read_file: ReadFile) -> set[str]:
    """The files that an index of weights names; raises ResolveError where it is no such index."""
    try:
        return {str(name) for name in dict(json.loads(read_file(index))["weight_map"]).values()}
    except (ValueError, TypeError, KeyError) as error:
        raise ResolveError(f"its {index} does not say where the weights are", hint=_BROKEN_HINT) from error


def _check_modules(files: FileListing) -> list[MissingFile]:
    """What a model of sentence-transformers lacks, by what its modules.json names."""
    if "modules.json" not in files.names:
        return [("modules.json", "says how the sentence is pooled")]
    found = _find_removed_optional(PurePosixPath(), "sentence-transformers", files)
    for module in _read_modules(files.read_file):
        found += _check_module(str(module["type"]), PurePosixPath(str(module["path"])), files)
    return found


def _check_module(
    kind: str, folder: PurePosixPath, files: FileListing, *, referrer: str = "modules.json"
) -> list[MissingFile]:
    kind = kind.rpartition(".")[2]
    if kind in _MODULES_WITHOUT_FILES:
        return []
    if kind == "Transformer":
        return _check_transformer(folder, "sentence-transformers", files)
    if kind in _ROUTER_MODULES:
        return _check_router(folder, files)
    found: list[MissingFile] = []
    settings = _MODULE_SETTINGS.get(kind, "config.json")
    if not files.has(folder, settings):
        found.append((str(folder / settings), f"{referrer} names a {kind} there"))
    if kind in _MODULES_WITH_WEIGHTS and not any(files.has(folder, name) for name in _WEIGHT_FILES):
        found += _list_missing_weights(folder, f"the weights of a {kind}", files)
    if folder != PurePosixPath():  # all that is read there is its own
        found += [(name, _REMOVED_REASON) for name in files.find_removed(folder, _is_config_or_vocabulary)]
    return found


def _is_config_or_vocabulary(name: str) -> bool:
    return name.endswith((".json", ".txt", ".model")) and not name.endswith(".index.json")


def _check_router(folder: PurePosixPath, files: FileListing) -> list[MissingFile]:
    """What the modules behind a router lack; it was called Asym, and its list of them config.json, once."""
    lists = [name for name in ("router_config.json", "config.json") if files.has(folder, name)]
    if not lists:
        return [(str(folder / "router_config.json"), "modules.json names a router there")]
    types = _read_json_object(str(folder / lists[0]), files.read_file).get("types")
    found: list[MissingFile] = []
    for place, kind in types.items() if isinstance(types, dict) else ():
        found += _check_module(str(kind), folder / str(place), files, referrer="the router")
    return found


def _check_transformer(folder: PurePosixPath, loader: str, files: FileListing) -> list[MissingFile]:
    found: list[MissingFile] = []
    if not files.has(folder, "config.json"):
        found.append((str(folder / "config.json"), "the shape of the model"))
    return (
        found
        + _check_tokenizer(folder, files)
        + _check_weights(folder, files)
        + _find_removed_optional(folder, loader, files)
    )


def _find_removed_optional(folder: PurePosixPath, loader: str, files: FileListing) -> list[MissingFile]:
    """What the loader would take if a pattern had not removed it."""
    return [
        (name, _REMOVED_REASON)
        for name in files.find_removed(folder, lambda inside: _matches_any(inside, OPTIONAL_FILES[loader]))
    ]


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_tokenizer(folder: PurePosixPath, files: FileListing) -> list[MissingFile]:
    """What a tokenizer lacks; tokenizer.json is whole by itself."""
    if files.has(folder, "tokenizer.json"):
        return []
    found = [
        (name, _REMOVED_REASON)
        for name in files.find_removed(folder, lambda name: name in (*_VOCABULARY_FILES, *_PAIRED_FILES.values()))
    ]
    there = [name for name in _VOCABULARY_FILES if files.has(folder, name)]
    if not there:
        return [(str(folder / "tokenizer.json"), "without a vocabulary every word is unknown"), *found]
    alone = [name for name in there if name in _PAIRED_FILES and not files.has(folder, _PAIRED_FILES[name])]
    if alone == there and not _has_custom_tokenizer(folder, files):
        why = f"{alone[0]} is no vocabulary without it where there is no tokenizer.json"
        found = [(str(folder / _PAIRED_FILES[alone[0]]), why), *found]
    return found


def _has_custom_tokenizer(folder: PurePosixPath, files: FileListing) -> bool:
    """Whether the model's own code is its tokenizer, which knows best what it reads."""
    name = "tokenizer_config.json"
    return files.has(folder, name) and "auto_map" in _read_json_object(str(folder / name), files.read_file)


def _check_weights(folder: PurePosixPath, files: FileListing) -> list[MissingFile]:
    """What the weights lack; transformers takes the first set that it sees a part of, and then no other."""
    for name in _WEIGHT_FILES:
        if files.has(folder, name):
            return []
        if files.has(folder, f"{name}.index.json"):
            named = sorted(read_shards(str(folder / f"{name}.index.json"), files.read_file))
            return [(str(folder / one), _SHARD_REASON) for one in named if not files.has(folder, one)]
    return _list_missing_weights(folder, "the weights", files)


def _list_missing_weights(folder: PurePosixPath, description: str, files: FileListing) -> list[MissingFile]:
    """The weights that patterns removed, or what they are called where the source has none."""
    lost = files.find_removed(folder, lambda name: bool(_WEIGHT_FILE.fullmatch(name)))
    return [(name, description) for name in lost or [str(folder / _WEIGHT_FILES[0])]]


def _read_modules(read_file: ReadFile) -> list[dict[str, Any]]:
    """What modules.json names; raises ResolveError where it is not a list of modules with a type and a path."""
    try:
        found = json.loads(read_file("modules.json"))
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and {"type", "path"} <= one.keys() for one in found
    ):
        raise ResolveError("its modules.json is not a list of modules, each with a type and a path", hint=_BROKEN_HINT)
    return found


def _read_json_object(name: str, read_file: ReadFile) -> dict[str, Any]:
    try:
        found = json.loads(read_file(name).decode("utf-8-sig"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ResolveError(f"its {name} holds no JSON object", hint=_BROKEN_HINT)
    return found

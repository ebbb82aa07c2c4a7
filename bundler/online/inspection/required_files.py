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

Read = Callable[[str], bytes]
"""Gives the content of one of a model's small files."""

M3_HEADS = ("colbert_linear.pt", "sparse_linear.pt")
_VOCABULARIES = (
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
_PAIRS = {"vocab.json": "merges.txt"}
"""Vocabularies that are no use without another file."""
_WORDS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*"),
)
_OF_MODULES = ("config_sentence_transformers.json", "sentence_*_config.json")
TAKEN: Mapping[str, tuple[str, ...]] = {
    "sentence-transformers": (
        *(*_WORDS, *_OF_MODULES),
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    ),
    "cross-encoder": (*_WORDS, *_OF_MODULES, "modules.json"),
    "causal-lm": (*_WORDS, "generation_config.json"),
    "transformers": _WORDS,
    "flag-embedding-m3": _WORDS,
    "flag-reranker": _WORDS,
}
"""What each loader takes where it is there, and without which it does something else and says nothing."""
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers looks for them, each whole or as an index of shards."""
_OF_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")
_FILELESS = ("Normalize",)
"""Modules of sentence-transformers that have a name in modules.json and no files."""
_ROUTERS = ("Router", "Asym")
_SETTINGS = {
    "CNN": "cnn_config.json",
    "LSTM": "lstm_config.json",
    "StaticEmbedding": "tokenizer.json",
    "WordEmbeddings": "wordembedding_config.json",
}
"""What modules that have no config.json are made from."""
_WEIGHTED = (
    *("CNN", "Dense", "LSTM", "LayerNorm", "SparseAutoEncoder", "StaticEmbedding", "WeightedLayerPooling"),
    "WordEmbeddings",
)
"""Modules of sentence-transformers with weights of their own, in one file."""
_BROKEN = "the source is damaged or unfinished: fetch it again, or ask whoever made it"
_SHARD = "a shard of the weights"
_LOST = "read where it is there, and the source has it"

Fault = tuple[str, str]
"""A file that does not travel, and why it should."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A model's files: those that travel, and those of its source that patterns of the manifest removed."""

    names: Collection[str]
    removed: Collection[str]
    read: Read

    def has(self, folder: PurePosixPath, name: str) -> bool:
        """Whether a file of a folder travels."""
        return str(folder / name) in self.names

    def lost(self, folder: PurePosixPath, fits: Callable[[str], bool]) -> list[str]:
        """What patterns removed of a folder, of the files whose names inside of it fit."""
        start = "" if folder == PurePosixPath() else f"{folder}/"
        return sorted(
            name
            for name in self.removed
            if name not in self.names and name.startswith(start) and fits(name[len(start) :])
        )


def lacking(loader: str, seen: Seen) -> dict[str, str]:
    """The files that a loader reads and that do not travel, each with what it is for.

    Raises ResolveError where a list of files can't be read.
    """
    modular = loader == "sentence-transformers" or (
        loader == "cross-encoder" and is_cross_encoder(seen.names, seen.read)
    )
    found = _of_modules(seen) if modular else _of_transformer(PurePosixPath(), loader, seen)
    if loader == "flag-embedding-m3":
        why = "without it the sparse and ColBERT vectors are random"
        found += [(name, why) for name in M3_HEADS if name not in seen.names]
    reasons: dict[str, str] = {}
    for name, why in found:
        reasons.setdefault(name, why)
    return reasons


def is_cross_encoder(names: Collection[str], read: Read) -> bool:
    """Whether a model's modules.json is that of a reranker: newer versions of sentence-transformers give them one too.

    Raises ResolveError where the file that tells can't be read.
    """
    name = "config_sentence_transformers.json"
    return {name, "modules.json"} <= {*names} and _object(name, read).get("model_type") == "CrossEncoder"


def way_out(lacking: Mapping[str, str], seen: Seen) -> str:
    """What to do about the files that are lacking."""
    folders = [PurePosixPath(name).parent for name, why in lacking.items() if why == _SHARD]
    half = sorted({str(folder / "model*.safetensors*") for folder in folders if _is_whole_as_bin(folder, seen)})
    if half:
        named = ", ".join(f'"{pattern}"' for pattern in half)
        return f"its pytorch_model.bin is whole: 'exclude: [{named}]' takes that instead"
    if removed := [name for name in lacking if name in seen.removed]:
        return f"let include and exclude keep {', '.join(removed)}"
    what = "no set of its weights is whole" if folders else "the source is not complete"
    return f"{what}: fetch it again, or take another revision of it"


def _is_whole_as_bin(folder: PurePosixPath, seen: Seen) -> bool:
    """Whether transformers would find all weights if there were no safetensors."""
    name = _WEIGHTS[1]
    index = f"{name}.index.json"
    if seen.has(folder, name) or not seen.has(folder, index):
        return seen.has(folder, name)
    return all(seen.has(folder, one) for one in shards(str(folder / index), seen.read))


def shards(index: str, read: Read) -> set[str]:
    """The files that an index of weights names; raises ResolveError where it is no such index."""
    try:
        return {str(name) for name in dict(json.loads(read(index))["weight_map"]).values()}
    except (ValueError, TypeError, KeyError) as error:
        raise ResolveError(f"its {index} does not say where the weights are", hint=_BROKEN) from error


def _of_modules(seen: Seen) -> list[Fault]:
    """What a model of sentence-transformers lacks, by what its modules.json names."""
    if "modules.json" not in seen.names:
        return [("modules.json", "says how the sentence is pooled")]
    found = _taken(PurePosixPath(), "sentence-transformers", seen)
    for module in _listed(seen.read):
        found += _of_module(str(module["type"]), PurePosixPath(str(module["path"])), seen)
    return found


def _of_module(kind: str, folder: PurePosixPath, seen: Seen, *, by: str = "modules.json") -> list[Fault]:
    kind = kind.rpartition(".")[2]
    if kind in _FILELESS:
        return []
    if kind == "Transformer":
        return _of_transformer(folder, "sentence-transformers", seen)
    if kind in _ROUTERS:
        return _of_router(folder, seen)
    found: list[Fault] = []
    settings = _SETTINGS.get(kind, "config.json")
    if not seen.has(folder, settings):
        found.append((str(folder / settings), f"{by} names a {kind} there"))
    if kind in _WEIGHTED and not any(seen.has(folder, name) for name in _WEIGHTS):
        found += _no_weights(folder, f"the weights of a {kind}", seen)
    if folder != PurePosixPath():  # all that is read there is its own
        found += [(name, _LOST) for name in seen.lost(folder, _is_small)]
    return found


def _is_small(name: str) -> bool:
    return name.endswith((".json", ".txt", ".model")) and not name.endswith(".index.json")


def _of_router(folder: PurePosixPath, seen: Seen) -> list[Fault]:
    """What the modules behind a router lack; it was called Asym, and its list of them config.json, once."""
    lists = [name for name in ("router_config.json", "config.json") if seen.has(folder, name)]
    if not lists:
        return [(str(folder / "router_config.json"), "modules.json names a router there")]
    types = _object(str(folder / lists[0]), seen.read).get("types")
    found: list[Fault] = []
    for place, kind in types.items() if isinstance(types, dict) else ():
        found += _of_module(str(kind), folder / str(place), seen, by="the router")
    return found


def _of_transformer(folder: PurePosixPath, loader: str, seen: Seen) -> list[Fault]:
    found: list[Fault] = []
    if not seen.has(folder, "config.json"):
        found.append((str(folder / "config.json"), "the shape of the model"))
    return found + _of_words(folder, seen) + _of_weights(folder, seen) + _taken(folder, loader, seen)


def _taken(folder: PurePosixPath, loader: str, seen: Seen) -> list[Fault]:
    """What the loader would take if a pattern had not removed it."""
    return [(name, _LOST) for name in seen.lost(folder, lambda inside: _matches(inside, TAKEN[loader]))]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _of_words(folder: PurePosixPath, seen: Seen) -> list[Fault]:
    """What a tokenizer lacks; tokenizer.json is whole by itself."""
    if seen.has(folder, "tokenizer.json"):
        return []
    found = [(name, _LOST) for name in seen.lost(folder, lambda name: name in (*_VOCABULARIES, *_PAIRS.values()))]
    there = [name for name in _VOCABULARIES if seen.has(folder, name)]
    if not there:
        return [(str(folder / "tokenizer.json"), "without a vocabulary every word is unknown"), *found]
    alone = [name for name in there if name in _PAIRS and not seen.has(folder, _PAIRS[name])]
    if alone == there and not _has_tokenizer_of_its_own(folder, seen):
        why = f"{alone[0]} is no vocabulary without it where there is no tokenizer.json"
        found = [(str(folder / _PAIRS[alone[0]]), why), *found]
    return found


def _has_tokenizer_of_its_own(folder: PurePosixPath, seen: Seen) -> bool:
    """Whether the model's own code is its tokenizer, which knows best what it reads."""
    name = "tokenizer_config.json"
    return seen.has(folder, name) and "auto_map" in _object(str(folder / name), seen.read)


def _of_weights(folder: PurePosixPath, seen: Seen) -> list[Fault]:
    """What the weights lack; transformers takes the first set that it sees a part of, and then no other."""
    for name in _WEIGHTS:
        if seen.has(folder, name):
            return []
        if seen.has(folder, f"{name}.index.json"):
            named = sorted(shards(str(folder / f"{name}.index.json"), seen.read))
            return [(str(folder / one), _SHARD) for one in named if not seen.has(folder, one)]
    return _no_weights(folder, "the weights", seen)


def _no_weights(folder: PurePosixPath, what: str, seen: Seen) -> list[Fault]:
    """The weights that patterns removed, or what they are called where the source has none."""
    lost = seen.lost(folder, lambda name: bool(_OF_WEIGHTS.fullmatch(name)))
    return [(name, what) for name in lost or [str(folder / _WEIGHTS[0])]]


def _listed(read: Read) -> list[dict[str, Any]]:
    """What modules.json names; raises ResolveError where it is not a list of modules with a type and a path."""
    try:
        found = json.loads(read("modules.json"))
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and {"type", "path"} <= one.keys() for one in found
    ):
        raise ResolveError("its modules.json is not a list of modules, each with a type and a path", hint=_BROKEN)
    return found


def _object(name: str, read: Read) -> dict[str, Any]:
    try:
        found = json.loads(read(name).decode("utf-8-sig"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ResolveError(f"its {name} holds no JSON object", hint=_BROKEN)
    return found

"""What each loader needs of a model's files, asked before they travel."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import ResolveError

Read = Callable[[str], bytes]
"""Gives the content of one of a model's small files."""

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
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FILELESS = ("Normalize",)
"""Modules of sentence-transformers that have a name in modules.json and no files."""
_ROUTERS = ("Router", "Asym")


M3_HEADS = ("colbert_linear.pt", "sparse_linear.pt")
_TWO_LABELS = 2
_BY_ARCHITECTURE = (
    ("ForCausalLM", "causal-lm"),
    ("LMHeadModel", "causal-lm"),
    ("ForSequenceClassification", "cross-encoder"),
    ("ForMaskedLM", "transformers"),
    ("ForPreTraining", "transformers"),
    ("Model", "transformers"),
)
"""The end of a class name in config.json, and the loader that it calls for; the first that fits is taken."""
_BROKEN = "the source is damaged or unfinished: fetch it again, or ask whoever made it"
_UNPROVED = "name the model's 'loader' if one fits; 'loader: files' carries any files without a smoke load"


def detected(alias: str, files: Sequence[str], read: Read, removed: Collection[str] = ()) -> str:
    """The loader that a model's files call for.

    ``removed`` are files of the source that patterns of the manifest keep from travelling. Raises ResolveError when
    no loader is known, or when what tells is among them: the files left would pass for those of another loader.
    """
    _require_marks(alias, files, removed)
    if any(name in files for name in M3_HEADS):  # before modules.json, which BGE-M3 has too for its dense vectors alone
        return "flag-embedding-m3"
    if "modules.json" in files:
        return "cross-encoder" if _saved_as_cross_encoder(alias, files, read) else "sentence-transformers"
    if "config.json" in files:
        return _of_configuration(alias, _object(alias, "config.json", read))
    shown = ", ".join(list(files)[:8]) + (" …" if len(files) > 8 else "")
    raise ResolveError(
        f"no loader is known for the files of {alias}: {shown}",
        where=f"models: {alias}",
        hint="a sentence-transformers model has a modules.json; 'loader: files' carries any files without a smoke load",
    )


def _require_marks(alias: str, files: Sequence[str], removed: Collection[str]) -> None:
    """Raises ResolveError that names the files by which a loader is seen and which a pattern removed."""
    for loader, marks, instead in (
        ("flag-embedding-m3", M3_HEADS, "sentence-transformers" if "modules.json" in files else "transformers"),
        ("sentence-transformers", ("modules.json",), "transformers"),
    ):
        if lost := [name for name in marks if name in removed and name not in files]:
            only = ", if dense vectors are all that is wanted" if marks == M3_HEADS else ""
            raise ResolveError(
                f"{alias} is a model for {loader}, and include or exclude removes {' and '.join(lost)}",
                where=f"models: {alias}",
                hint=f"drop the pattern, or name another loader: 'loader: {instead}'{only}",
            )


def check(loader: str, alias: str, files: Sequence[str], read: Read) -> None:
    """Raises ResolveError that names every file which the loader will ask for and which is not there."""
    if loader == "files":
        return
    if loader == "sentence-transformers":
        found = _missing_of_sentence_transformers(files, read)
    else:
        found = _missing_of_transformer(PurePosixPath(), files, read)
    if loader == "flag-embedding-m3":
        found += [
            (name, "without it the sparse and ColBERT vectors are random") for name in M3_HEADS if name not in files
        ]
    missing = [f"{name} ({why})" for name, why in found]
    if missing:
        raise ResolveError(
            f"{alias} lacks files that {loader} needs: {'; '.join(missing)}",
            where=f"models: {alias}",
            hint="complete the source, or change include and exclude, which may have removed them",
        )


def licence(files: Sequence[str], read: Read) -> str:
    """The licence that a model card states in its first lines; "" where there is none."""
    if "README.md" not in files:
        return ""
    head = read("README.md")[:65536].decode("utf-8", "replace")
    if not head.startswith("---"):
        return ""
    for line in head.split("---", 2)[1].splitlines():
        if line.startswith("license:"):
            return line.partition(":")[2].strip().strip("'\"")
    return ""


def _object(alias: str, name: str, read: Read) -> dict[str, Any]:
    try:
        found = json.loads(read(name).decode("utf-8-sig"))
    except ValueError as error:
        raise _unknown(alias, f"its {name} is not a JSON file") from error
    if not isinstance(found, dict):
        raise _unknown(alias, f"its {name} holds no JSON object")
    return found


def _unknown(alias: str, why: str) -> ResolveError:
    return ResolveError(f"no loader is known for {alias}: {why}", where=f"models: {alias}", hint=_UNPROVED)


def _saved_as_cross_encoder(alias: str, files: Sequence[str], read: Read) -> bool:
    """Newer versions of sentence-transformers give rerankers a modules.json too."""
    name = "config_sentence_transformers.json"
    return name in files and _object(alias, name, read).get("model_type") == "CrossEncoder"


def _of_configuration(alias: str, values: dict[str, Any]) -> str:
    """The loader for a model of transformers alone, by what its config.json says."""
    named = values.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not architecture:
        raise _unknown(alias, "its config.json names no architecture")
    loader = next((loader for end, loader in _BY_ARCHITECTURE if architecture.endswith(end)), "")
    if not loader or any(f"{sense}_config" in values for sense in ("vision", "audio")):
        raise _unknown(alias, f"there is no smoke load for its architecture {architecture}")
    if values.get("is_encoder_decoder"):
        raise _unknown(alias, f"its architecture {architecture} is an encoder with a decoder")
    if loader == "transformers" and values.get("vocab_size") is None:
        raise _unknown(alias, f"its architecture {architecture} does not read text")
    if loader == "cross-encoder" and (labels := _labels(values)) != 1:
        raise _unknown(alias, f"its architecture {architecture} has {labels} labels, and a reranker has one")
    return loader


def _labels(values: dict[str, Any]) -> int:
    """How many numbers a model gives for a text; what transformers takes where config.json does not say."""
    names = values.get("id2label")
    if isinstance(names, dict):
        return len(names)
    return int(values.get("num_labels", _TWO_LABELS))


def _modules(read: Read) -> list[dict[str, Any]]:
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


def _shards(index: str, read: Read) -> set[str]:
    """The files that an index of weights names; raises ResolveError where it is no such index."""
    try:
        return {str(name) for name in dict(json.loads(read(index))["weight_map"]).values()}
    except (ValueError, TypeError, KeyError) as error:
        raise ResolveError(f"its {index} does not say where the weights are", hint=_BROKEN) from error


def _missing_of_sentence_transformers(files: Sequence[str], read: Read) -> list[tuple[str, str]]:
    if "modules.json" not in files:
        return [("modules.json", "says how the sentence is pooled")]
    missing: list[tuple[str, str]] = []
    for module in _modules(read):
        kind, folder = str(module["type"]).rpartition(".")[2], PurePosixPath(str(module["path"]))
        if kind == "Transformer":
            missing += _missing_of_transformer(folder, files, read)
        elif kind in _ROUTERS:
            missing += _missing_of_router(folder, files, read)
        elif kind not in _FILELESS and str(folder / "config.json") not in files:
            missing.append((str(folder / "config.json"), f"modules.json names a {kind} there"))
    return missing


def _missing_of_router(folder: PurePosixPath, files: Sequence[str], read: Read) -> list[tuple[str, str]]:
    """What the modules behind a router lack; it was called Asym, and its list of them config.json, once."""
    lists = [name for name in ("router_config.json", "config.json") if str(folder / name) in files]
    if not lists:
        return [(str(folder / "router_config.json"), "modules.json names a router there")]
    types = _object(str(folder), str(folder / lists[0]), read).get("types")
    missing: list[tuple[str, str]] = []
    for place, kind in types.items() if isinstance(types, dict) else ():
        if str(kind).endswith(".Transformer"):
            missing += _missing_of_transformer(folder / str(place), files, read)
        elif not str(kind).endswith(_FILELESS) and not any(n.startswith(f"{folder / str(place)}/") for n in files):
            missing.append((str(folder / str(place) / "config.json"), f"the router names a {kind} there"))
    return missing


def _missing_of_transformer(folder: PurePosixPath, files: Sequence[str], read: Read) -> list[tuple[str, str]]:
    missing = []
    if str(folder / "config.json") not in files:
        missing.append((str(folder / "config.json"), "the shape of the model"))
    if not any(str(folder / name) in files for name in _VOCABULARIES):
        missing.append((str(folder / "tokenizer.json"), "without a vocabulary every word is unknown"))
    shards = [f"{name}.index.json" for name in _WEIGHTS if str(folder / f"{name}.index.json") in files]
    if shards:
        named = _shards(str(folder / shards[0]), read)
        missing += [
            (str(folder / name), "a shard of the weights") for name in sorted(named) if str(folder / name) not in files
        ]
    elif not any(str(folder / name) in files for name in _WEIGHTS):
        missing.append((str(folder / _WEIGHTS[0]), "the weights"))
    return missing

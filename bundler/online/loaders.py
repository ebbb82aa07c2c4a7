"""What each loader needs of a model's files, asked before they travel."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from bundler.errors import ResolveError

Read = Callable[[str], bytes]
"""Gives the content of one of a model's small files."""

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FILELESS = ("Normalize",)
"""Modules of sentence-transformers that have a name in modules.json and no files."""


def detected(alias: str, files: Sequence[str]) -> str:
    """The loader that a model's files call for; raises ResolveError when they call for none that is known."""
    if "modules.json" in files:
        return "sentence-transformers"
    shown = ", ".join(list(files)[:8]) + (" …" if len(files) > 8 else "")
    raise ResolveError(
        f"no loader is known for the files of {alias}: {shown}",
        where=f"models: {alias}",
        hint="a sentence-transformers model has a modules.json; 'loader: files' carries any files without a smoke load",
    )


def check(loader: str, alias: str, files: Sequence[str], read: Read) -> None:
    """Raises ResolveError that names every file which the loader will ask for and which is not there."""
    if loader == "files":
        return
    missing = [f"{name} ({why})" for name, why in _missing_of_sentence_transformers(files, read)]
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


def _missing_of_sentence_transformers(files: Sequence[str], read: Read) -> list[tuple[str, str]]:
    if "modules.json" not in files:
        return [("modules.json", "says how the sentence is pooled")]
    missing: list[tuple[str, str]] = []
    for module in json.loads(read("modules.json")):
        kind, folder = str(module["type"]).rpartition(".")[2], PurePosixPath(str(module["path"]))
        if kind == "Transformer":
            missing += _missing_of_transformer(folder, files, read)
        elif kind not in _FILELESS and str(folder / "config.json") not in files:
            missing.append((str(folder / "config.json"), f"modules.json names a {kind} there"))
    return missing


def _missing_of_transformer(folder: PurePosixPath, files: Sequence[str], read: Read) -> list[tuple[str, str]]:
    missing = []
    if str(folder / "config.json") not in files:
        missing.append((str(folder / "config.json"), "the shape of the model"))
    if not any(str(folder / name) in files for name in _VOCABULARIES):
        missing.append((str(folder / "tokenizer.json"), "without a vocabulary every word is unknown"))
    shards = [f"{name}.index.json" for name in _WEIGHTS if str(folder / f"{name}.index.json") in files]
    if shards:
        named = set(json.loads(read(str(folder / shards[0])))["weight_map"].values())
        missing += [
            (str(folder / name), "a shard of the weights") for name in sorted(named) if str(folder / name) not in files
        ]
    elif not any(str(folder / name) in files for name in _WEIGHTS):
        missing.append((str(folder / _WEIGHTS[0]), "the weights"))
    return missing

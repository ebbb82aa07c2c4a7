"""What the files of a sentence-transformers model promise, read before any library gets to guess."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..results.failures import DAMAGED, NOT_THIS_MODEL, REBUILD, CheckFailed, listed
from . import vocabulary
from .json_files import as_mapping, document, integer, optional_mapping, text
from .tensor_files import INDEXES, WHOLE, weight_files, whole

ANY_WEIGHTS = (*WHOLE, *INDEXES, "adapter_model.safetensors", "adapter_model.bin")

# What each type of module can not do without; of each group, one file is enough. A Normalize has no folder at all.
_NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Transformer": (("config.json", "adapter_config.json"), ANY_WEIGHTS),
    "Pooling": (("config.json",),),
    "Dense": (("config.json",), WHOLE),
    "LayerNorm": (("config.json",), WHOLE),
    "WeightedLayerPooling": (("config.json",), WHOLE),
    "CNN": (("cnn_config.json", "config.json"), WHOLE),
    "LSTM": (("lstm_config.json", "config.json"), WHOLE),
    "StaticEmbedding": (("tokenizer.json",), WHOLE),
    "WordEmbeddings": (("wordembedding_config.json", "config.json"), WHOLE),
    "BoW": (("config.json",),),
    "WordWeights": (("config.json",),),
    "Router": (("router_config.json",),),
    "Asym": (("router_config.json", "config.json"),),
    "Normalize": (),
    "Dropout": (),
}
_LEGACY_MODES = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_KEEPS_WIDTH = ("Normalize", "Dropout", "LayerNorm", "WeightedLayerPooling", "WordWeights")
_SENTENCE = ("", "sentence_embedding")


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One line of modules.json: the class without its package, and the folder of its files."""

    kind: str
    reference: str
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Promises:
    """A model as its files describe it; ``width`` is None where no file says it."""

    modules: tuple[Module, ...]
    normalised: bool
    width: int | None
    width_source: str


def read(folder: Path) -> Promises:
    """What the model in `folder` promises, once every file that it needs is there.

    :raises CheckFailed: modules.json or a file of a module is missing, cut short or broken
    """
    modules = _modules(folder)
    for module in modules:
        _complete(module, folder)
    width, source = _width(modules, folder)
    return Promises(modules=modules, normalised=_normalised(modules), width=width, width_source=source)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """A model of transformers alone, as its files describe it.

    ``width`` is that of its inner states and ``vocabulary_size`` the number of its logits; None where config.json does
    not say it. ``tokens`` is None for a tokenizer that needs no file.
    """

    tokens: vocabulary.Vocabulary | None
    width: int | None
    vocabulary_size: int | None


def plain(folder: Path) -> Plain:
    """What config.json, weights and tokenizer in `folder` promise, once they are there.

    :raises CheckFailed: one of them is missing, cut short or broken
    """
    if not (folder / "config.json").is_file():
        raise CheckFailed("config.json is missing, which says how the model is built.", REBUILD)
    values = configuration(folder)
    files = weight_files(folder)
    if not files:
        raise CheckFailed(f"The weights are missing: there is none of {listed((*WHOLE, *INDEXES), 4)}.", REBUILD)
    for path in files:
        whole(path)
    return Plain(tokens=vocabulary.promised(folder), width=_hidden(values), vocabulary_size=_logits(values))


def unsaid(folder: Path) -> list[str]:
    """Files whose absence changes what the model does without making it wrong for certain."""
    warnings = []
    if not any(folder.glob("**/sentence_*_config.json")):
        warnings.append(
            "sentence_bert_config.json is not there: how much of a long text is read was taken from the tokenizer."
        )
    if not (folder / "config_sentence_transformers.json").is_file():
        warnings.append("config_sentence_transformers.json is not there: prompts, if the model had any, are lost.")
    return warnings


def _modules(folder: Path) -> tuple[Module, ...]:
    path = folder / "modules.json"
    if not path.is_file():
        raise CheckFailed(
            "modules.json is missing: sentence-transformers would guess how to make one vector of a text (mean "
            "pooling, no normalisation) and give other vectors without a word.",
            REBUILD,
        )
    entries = document(path)
    if not isinstance(entries, list) or not entries:
        raise CheckFailed("modules.json lists no modules.", DAMAGED)
    return tuple(_module(as_mapping(entry, "Each entry of modules.json"), folder) for entry in entries)


def _module(entry: dict[str, object], folder: Path) -> Module:
    reference = text(entry, "type")
    place = (folder / text(entry, "path")).resolve()
    if not reference:
        raise CheckFailed("An entry of modules.json does not name its type.", DAMAGED)
    if not place.is_relative_to(folder.resolve()):
        raise CheckFailed(f"modules.json points out of the model's folder: {text(entry, 'path')}.", DAMAGED)
    return Module(kind=reference.rpartition(".")[2], reference=reference, folder=place)


def _complete(module: Module, folder: Path) -> None:
    needs = _NEEDS.get(module.kind)
    inside = module.folder != folder.resolve()
    shown = f"{module.folder.name}/" if inside else ""
    if needs is None and inside and not module.folder.is_dir():
        raise CheckFailed(f"modules.json promises a module {module.kind} in {shown}, which is not there.", REBUILD)
    for group in needs or ():
        if not any((module.folder / name).is_file() for name in group):
            names = [f"{shown}{name}" for name in group]
            missing = f"{names[0]} is missing" if len(names) == 1 else f"there is none of {listed(names)}"
            raise CheckFailed(
                f"modules.json promises a module {module.kind}, and what it needs is not there: {missing}.", REBUILD
            )
    for path in weight_files(module.folder):
        whole(path)


def _normalised(modules: tuple[Module, ...]) -> bool:
    """Whether the last thing done to a vector is to bring it to length one."""
    last = [module for module in modules if module.kind != "Dropout"][-1]
    if last.kind != "Normalize":
        return False
    return text(optional_mapping(last.folder / "config.json"), "module_input_name") in _SENTENCE


def _width(modules: tuple[Module, ...], folder: Path) -> tuple[int | None, str]:
    """The last promise about the width, and the file that makes it."""
    width: int | None = None
    source = ""
    for module in modules:
        if module.kind in _KEEPS_WIDTH:
            continue
        path = module.folder / "config.json"
        values = optional_mapping(path)
        if module.kind == "Transformer":
            width = _hidden(values)
        elif module.kind == "Pooling":
            width = _pooled(values)
        elif module.kind == "Dense":
            width = integer(values, "out_features")
        else:
            width = None
        source = path.relative_to(folder.resolve()).as_posix()
    return width, source


def _hidden(values: dict[str, object]) -> int | None:
    nested = values.get("text_config")
    if isinstance(nested, dict):
        return _hidden(nested)
    return integer(values, "hidden_size", "d_model", "dim", "n_embd")


def _logits(values: dict[str, object]) -> int | None:
    nested = values.get("text_config")
    return _logits(nested) if isinstance(nested, dict) else integer(values, "vocab_size")


def _pooled(values: dict[str, object]) -> int:
    """Pooling in several ways at once puts the vectors one after the other."""
    each = integer(values, "embedding_dimension", "word_embedding_dimension")
    if each is None:
        raise CheckFailed("The configuration of the Pooling module does not say how wide a vector is.", NOT_THIS_MODEL)
    modes = values.get("pooling_mode")
    if isinstance(modes, list):
        return each * len(modes)
    if isinstance(modes, str):
        return each
    return each * max(1, sum(1 for mode in _LEGACY_MODES if values.get(f"pooling_mode_{mode}")))


def configuration(folder: Path) -> dict[str, object]:
    """The config.json of the transformers model in `folder`; empty for an adapter, which goes by that of its base."""
    return optional_mapping(folder / "config.json")

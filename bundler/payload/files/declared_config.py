"""What the files of a model declare, read before a library can replace missing values by guesses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..results.failures import DAMAGED_HINT, MISMATCH_HINT, REBUILD_HINT, CheckFailedError, format_list
from . import vocabulary
from .json_files import get_integer, get_text, read_json, read_optional_object, require_object
from .tensor_files import INDEX_FILES, SINGLE_FILES, check_weight_file, find_weight_files

WEIGHT_FILES = (*SINGLE_FILES, *INDEX_FILES, "adapter_model.safetensors", "adapter_model.bin")

# What each type of module needs; one file of each group is enough. A Normalize module has no folder.
_REQUIRED_FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "Transformer": (("config.json", "adapter_config.json"), WEIGHT_FILES),
    "Pooling": (("config.json",),),
    "Dense": (("config.json",), SINGLE_FILES),
    "LayerNorm": (("config.json",), SINGLE_FILES),
    "WeightedLayerPooling": (("config.json",), SINGLE_FILES),
    "CNN": (("cnn_config.json", "config.json"), SINGLE_FILES),
    "LSTM": (("lstm_config.json", "config.json"), SINGLE_FILES),
    "StaticEmbedding": (("tokenizer.json",), SINGLE_FILES),
    "WordEmbeddings": (("wordembedding_config.json", "config.json"), SINGLE_FILES),
    "BoW": (("config.json",),),
    "WordWeights": (("config.json",),),
    "Router": (("router_config.json",),),
    "Asym": (("router_config.json", "config.json"),),
    "Normalize": (),
    "Dropout": (),
}
_LEGACY_MODES = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_WIDTH_KEEPING_KINDS = ("Normalize", "Dropout", "LayerNorm", "WeightedLayerPooling", "WordWeights")
_SENTENCE_INPUTS = ("", "sentence_embedding")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredModule:
    """One entry of modules.json: its class without and with the package, and the folder of its files."""

    kind: str
    class_path: str
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceModelConfig:
    """A sentence-transformers model as its files describe it; ``width`` is None if no file declares it."""

    modules: tuple[DeclaredModule, ...]
    is_normalized: bool
    width: int | None
    width_source: str


def read_sentence_model(folder: Path) -> SentenceModelConfig:
    """Read what the sentence-transformers model in `folder` declares, and check that its files are complete.

    Raises:
        CheckFailedError: modules.json or a file of a module is missing, cut short or damaged.
    """
    modules = _read_modules(folder)
    for module in modules:
        _check_module_files(module, folder)
    width, source = _find_width(modules, folder)
    return SentenceModelConfig(modules=modules, is_normalized=_is_normalized(modules), width=width, width_source=source)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersModelConfig:
    """A transformers model as its files describe it.

    ``width`` is that of the hidden states and ``vocabulary_size`` the number of logits; None if config.json does not
    declare them. ``token_vocabulary`` is None for a tokenizer that needs no file.
    """

    token_vocabulary: vocabulary.Vocabulary | None
    width: int | None
    vocabulary_size: int | None


def read_transformers_model(folder: Path) -> TransformersModelConfig:
    """Read what config.json and the tokenizer in `folder` declare, and check that they and the weights are complete.

    Raises:
        CheckFailedError: One of them is missing, cut short or damaged.
    """
    if not (folder / "config.json").is_file():
        raise CheckFailedError("config.json is missing, which describes the model's architecture.", REBUILD_HINT)
    config = read_config(folder)
    files = find_weight_files(folder)
    if not files:
        raise CheckFailedError(
            f"The weights are missing: none of {format_list((*SINGLE_FILES, *INDEX_FILES), 4)} exists.", REBUILD_HINT
        )
    for path in files:
        check_weight_file(path)
    return TransformersModelConfig(
        token_vocabulary=vocabulary.read_vocabulary(folder),
        width=_get_hidden_size(config),
        vocabulary_size=_get_vocabulary_size(config),
    )


def list_absence_warnings(folder: Path) -> list[str]:
    """List warnings about missing files without which the model may behave differently."""
    warnings = []
    if not any(folder.glob("**/sentence_*_config.json")):
        warnings.append(
            "sentence_bert_config.json is missing: the maximum length of a text was taken from the tokenizer."
        )
    if not (folder / "config_sentence_transformers.json").is_file():
        warnings.append("config_sentence_transformers.json is missing: if the model has prompts, they are lost.")
    return warnings


def _read_modules(folder: Path) -> tuple[DeclaredModule, ...]:
    path = folder / "modules.json"
    if not path.is_file():
        raise CheckFailedError(
            "modules.json is missing: sentence-transformers would guess how to make a vector of a text (mean pooling, no "
            "normalization) and silently give other vectors.",
            REBUILD_HINT,
        )
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise CheckFailedError("modules.json lists no modules.", DAMAGED_HINT)
    return tuple(_parse_module(require_object(entry, "Each entry of modules.json"), folder) for entry in entries)


def _parse_module(entry: dict[str, object], folder: Path) -> DeclaredModule:
    class_path = get_text(entry, "type")
    module_folder = (folder / get_text(entry, "path")).resolve()
    if not class_path:
        raise CheckFailedError("An entry of modules.json has no type.", DAMAGED_HINT)
    if not module_folder.is_relative_to(folder.resolve()):
        raise CheckFailedError(
            f"modules.json names a path outside the model's folder: {get_text(entry, 'path')}.", DAMAGED_HINT
        )
    return DeclaredModule(kind=class_path.rpartition(".")[2], class_path=class_path, folder=module_folder)


def _check_module_files(module: DeclaredModule, folder: Path) -> None:
    required_files = _REQUIRED_FILES.get(module.kind)
    has_subfolder = module.folder != folder.resolve()
    prefix = f"{module.folder.name}/" if has_subfolder else ""
    if required_files is None and has_subfolder and not module.folder.is_dir():
        raise CheckFailedError(
            f"modules.json declares a module {module.kind} in {prefix}, which does not exist.", REBUILD_HINT
        )
    for group in required_files or ():
        if not any((module.folder / name).is_file() for name in group):
            names = [f"{prefix}{name}" for name in group]
            missing = f"{names[0]} is missing" if len(names) == 1 else f"none of {format_list(names)} exists"
            raise CheckFailedError(f"modules.json declares a module {module.kind}, but {missing}.", REBUILD_HINT)
    for path in find_weight_files(module.folder):
        check_weight_file(path)


def _is_normalized(modules: tuple[DeclaredModule, ...]) -> bool:
    """Whether the last step gives each vector the length 1."""
    last = [module for module in modules if module.kind != "Dropout"][-1]
    if last.kind != "Normalize":
        return False
    return get_text(read_optional_object(last.folder / "config.json"), "module_input_name") in _SENTENCE_INPUTS


def _find_width(modules: tuple[DeclaredModule, ...], folder: Path) -> tuple[int | None, str]:
    """Find the width that the last module declares, and the file that declares it."""
    width: int | None = None
    source = ""
    for module in modules:
        if module.kind in _WIDTH_KEEPING_KINDS:
            continue
        path = module.folder / "config.json"
        values = read_optional_object(path)
        if module.kind == "Transformer":
            width = _get_hidden_size(values)
        elif module.kind == "Pooling":
            width = _get_pooled_width(values)
        elif module.kind == "Dense":
            width = get_integer(values, "out_features")
        else:
            width = None
        source = path.relative_to(folder.resolve()).as_posix()
    return width, source


def _get_hidden_size(config: dict[str, object]) -> int | None:
    nested = config.get("text_config")
    if isinstance(nested, dict):
        return _get_hidden_size(nested)
    return get_integer(config, "hidden_size", "d_model", "dim", "n_embd")


def _get_vocabulary_size(config: dict[str, object]) -> int | None:
    nested = config.get("text_config")
    return _get_vocabulary_size(nested) if isinstance(nested, dict) else get_integer(config, "vocab_size")


def _get_pooled_width(config: dict[str, object]) -> int:
    """Return the width after pooling; several modes at once concatenate their vectors."""
    width = get_integer(config, "embedding_dimension", "word_embedding_dimension")
    if width is None:
        raise CheckFailedError(
            "The configuration of the Pooling module does not declare the width of a vector.", MISMATCH_HINT
        )
    modes = config.get("pooling_mode")
    if isinstance(modes, list):
        return width * len(modes)
    if isinstance(modes, str):
        return width
    return width * max(1, sum(1 for mode in _LEGACY_MODES if config.get(f"pooling_mode_{mode}")))


def read_config(folder: Path) -> dict[str, object]:
    """Read the config.json of the transformers model in `folder`; empty for an adapter, which uses its base model's."""
    return read_optional_object(folder / "config.json")

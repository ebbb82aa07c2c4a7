"""The registry of loaders: how each is detected, and which files it reads.

A new loader is a `Loader` with its place in `REGISTRY`, and a file of the same name in ``bundler/payload/probes/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bundler.online.inspection import model_files
from bundler.online.inspection.model_files import FileListing

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*"),
)
_MODULE_CONFIGS = ("config_sentence_transformers.json", "sentence_*_config.json")
_MODULE_LIST = "modules.json"
_M3_REASON = "without it the sparse and ColBERT vectors are random"
_DEFAULT_LABEL_COUNT = 2
"""The labels of a classifier for transformers, where config.json does not say how many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """One row of the registry: what `loader_detection` and `required_files` know of a loader.

    A model whose source has one of the ``marker_files``, or for which ``recognizes`` is true, calls for this loader.
    For all other models config.json decides: the loader with the longest of the ``architecture_suffixes`` that fits the
    class name is taken, unless ``find_config_problem`` returns a reason why it can't load the model.
    """

    name: str
    marker_files: tuple[str, ...] = ()
    recognizes: Callable[[FileListing], bool] | None = None
    architecture_suffixes: tuple[str, ...] = ()
    find_config_problem: Callable[[Mapping[str, Any]], str] = lambda _config: ""
    required_files: Mapping[str, str] = field(default_factory=dict)
    """Files that it needs besides configuration, tokenizer and weights, each with what the file is for."""
    optional_files: tuple[str, ...] = ()
    """Patterns of files that it reads where they exist, and whose absence silently changes what it does."""
    reads_modules: Callable[[FileListing], bool] = lambda _files: False
    """Whether it loads the modules of sentence-transformers that modules.json lists."""
    is_smoke_loaded: bool = True
    use_without_markers: str = ""
    """When another loader is enough although patterns removed the marker files: the end of a hint."""


def is_cross_encoder(files: FileListing) -> bool:
    """Return whether modules.json belongs to a reranker: newer versions of sentence-transformers write one for those.

    Raises UnreadableFileError.
    """
    name = "config_sentence_transformers.json"
    if not {name, _MODULE_LIST} <= {*files.names}:
        return False
    return model_files.read_json_object(name, files.read_file).get("model_type") == "CrossEncoder"


def _find_label_problem(config: Mapping[str, Any]) -> str:
    names = config.get("id2label")
    count = len(names) if isinstance(names, dict) else int(config.get("num_labels", _DEFAULT_LABEL_COUNT))
    return "" if count == 1 else f"has {count} labels, and a reranker has one"


def _find_vocabulary_problem(config: Mapping[str, Any]) -> str:
    return "does not read text" if config.get("vocab_size") is None else ""


SENTENCE_TRANSFORMERS = Loader(
    name="sentence-transformers",
    marker_files=(_MODULE_LIST,),
    reads_modules=lambda _files: True,
    optional_files=(
        *(*_TOKENIZER_FILES, *_MODULE_CONFIGS),
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    ),
)
FILES = Loader(name="files", is_smoke_loaded=False)
TRANSFORMERS = Loader(
    name="transformers",
    architecture_suffixes=("ForMaskedLM", "ForPreTraining", "Model"),
    find_config_problem=_find_vocabulary_problem,
    optional_files=_TOKENIZER_FILES,
)
CAUSAL_LM = Loader(
    name="causal-lm",
    architecture_suffixes=("ForCausalLM", "LMHeadModel"),
    optional_files=(*_TOKENIZER_FILES, "generation_config.json"),
)
CROSS_ENCODER = Loader(
    name="cross-encoder",
    recognizes=is_cross_encoder,
    architecture_suffixes=("ForSequenceClassification",),
    find_config_problem=_find_label_problem,
    reads_modules=is_cross_encoder,
    optional_files=(*_TOKENIZER_FILES, *_MODULE_CONFIGS, _MODULE_LIST),
)
FLAG_EMBEDDING_M3 = Loader(
    name="flag-embedding-m3",
    marker_files=("colbert_linear.pt", "sparse_linear.pt"),
    required_files={"colbert_linear.pt": _M3_REASON, "sparse_linear.pt": _M3_REASON},
    optional_files=_TOKENIZER_FILES,
    use_without_markers="if dense vectors are all that is wanted",
)
FLAG_RERANKER = Loader(name="flag-reranker", optional_files=_TOKENIZER_FILES)

REGISTRY = (
    FLAG_EMBEDDING_M3,  # before sentence-transformers: BGE-M3 has a modules.json for its dense vectors
    CROSS_ENCODER,
    SENTENCE_TRANSFORMERS,
    TRANSFORMERS,
    CAUSAL_LM,
    FLAG_RERANKER,
    FILES,
)
"""All loaders, in the order in which detection tries them."""
BY_NAME: Mapping[str, Loader] = {loader.name: loader for loader in REGISTRY}
LOADERS = tuple(BY_NAME)
"""The names that a manifest may give as ``loader``."""

if TYPE_CHECKING:
    LoaderName = str
else:  # for the manifest's schema, which lists the names
    LoaderName = Literal[LOADERS]

"""The probe of models of sentence-transformers: texts in, vectors out, as the model's files declare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sentence_transformers import SentenceTransformer

from ..checks import model_checks
from ..files import declared_config, load_report, vocabulary
from ..load import steps
from ..load.request import Request
from ..results.failures import LIBRARIES_HINT, CheckFailedError
from ..results.load_result import LoadResult

LOADER = "sentence-transformers"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSentenceModel:
    """A model in memory, what its files declare, and transformers' reports of the load."""

    model: Any
    config: declared_config.SentenceModelConfig
    reports: tuple[load_report.LoadReport, ...]

    def embed(self, texts: tuple[str, ...]) -> list[list[float]]:
        """Compute one vector for each text."""
        return model_checks.convert_to_lists(
            self.model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        )


def prove(request: Request, result: LoadResult) -> None:
    """Load the model as code that uses it would, and check what the libraries do not.

    Raises:
        CheckFailedError: The model fails a check. Errors of libraries propagate.
    """
    config = declared_config.read_sentence_model(steps.require_folder(request))
    declared_vocabulary = _read_vocabulary(config)
    result.add_check("every file that modules.json declares is complete")
    result.warn(*declared_config.list_absence_warnings(request.path))
    steps.check_hub_view(request, result)
    texts = steps.choose_texts(request)
    loaded = _load(request, result, config)
    tokens = _check_tokens(loaded, texts, result, any_language=request.any_language)
    vectors = _infer_vectors(loaded, texts, result)
    _check_weights(loaded, texts[:2], result)
    steps.measure_memory(result)
    _check_tokenizer(loaded, declared_vocabulary, result)
    _check_vectors(loaded, texts, tokens, vectors, result)
    tokenize = steps.make_tokenize(getattr(loaded.model, "tokenizer", None))
    steps.check_golden(request, result, texts, tokenize, {"vector": vectors})
    steps.check_triples(request, loaded.embed, result)
    steps.check_memory(request, result)


def _read_vocabulary(config: declared_config.SentenceModelConfig) -> vocabulary.Vocabulary | None:
    first = config.modules[0]
    return vocabulary.read_vocabulary(first.folder) if first.kind in ("Transformer", "StaticEmbedding") else None


def _load(request: Request, result: LoadResult, config: declared_config.SentenceModelConfig) -> LoadedSentenceModel:
    loaded = steps.load_model(
        request,
        result,
        lambda path, device: SentenceTransformer(
            path, device=device, local_files_only=True, trust_remote_code=request.trust_remote_code
        ),
    )
    _check_modules(loaded.model, config)
    result.add_check("the loaded modules are those of modules.json")
    steps.check_placement(loaded.model, result)
    return LoadedSentenceModel(model=loaded.model, config=config, reports=loaded.reports)


def _check_modules(model: Any, config: declared_config.SentenceModelConfig) -> None:
    declared = [module.kind for module in config.modules]
    loaded = [type(module).__name__ for module in model]
    kinds = [{parent.__name__ for parent in type(module).__mro__} for module in model]
    if len(declared) != len(loaded) or any(kind not in names for kind, names in zip(declared, kinds, strict=True)):
        raise CheckFailedError(
            f"modules.json declares {', '.join(declared)}, but the loaded model consists of {', '.join(loaded)}.",
            LIBRARIES_HINT,
        )


def _check_tokens(
    loaded: LoadedSentenceModel, texts: tuple[str, ...], result: LoadResult, *, any_language: bool
) -> list[list[int]]:
    tokenizer = getattr(loaded.model, "tokenizer", None)
    lower = bool(getattr(loaded.model[0], "do_lower_case", False))
    return steps.check_tokens(tokenizer, texts, result, any_language=any_language, lower=lower)


def _infer_vectors(loaded: LoadedSentenceModel, texts: tuple[str, ...], result: LoadResult) -> list[list[float]]:
    vectors, repeated = steps.run_twice(lambda: loaded.embed(texts), result)
    result.width = len(vectors[0])
    steps.check_repeatable(texts, vectors, repeated, result)
    return vectors


def _check_weights(loaded: LoadedSentenceModel, texts: tuple[str, ...], result: LoadResult) -> None:
    steps.check_weight_values(loaded.model, loaded.reports, result)
    for module, declared in zip(loaded.model, loaded.config.modules, strict=True):
        report = load_report.find_report(module, loaded.reports)
        model = report.model if report else module
        steps.check_file_weights(model, report, declared.folder, lambda: loaded.embed(texts), result)
    result.add_check("the weights in memory are those of the files: none random, none left out")


def _check_tokenizer(loaded: LoadedSentenceModel, declared: vocabulary.Vocabulary | None, result: LoadResult) -> None:
    tokenizer = getattr(loaded.model, "tokenizer", None)
    steps.check_vocabulary(declared, tokenizer, load_report.find_report(loaded.model[0], loaded.reports), result)


def _check_vectors(
    loaded: LoadedSentenceModel,
    texts: tuple[str, ...],
    tokens: list[list[int]],
    vectors: list[list[float]],
    result: LoadResult,
) -> None:
    result.norm = round(model_checks.compute_norm(vectors[0]), 6)
    steps.check_distinct(texts, vectors, tokens, result)
    config = loaded.config
    if config.width is not None:
        model_checks.check_width(vectors, config.width, config.width_source)
        result.add_check(f"vectors are {config.width} wide, as {config.width_source} declares")
    if config.is_normalized:
        is_half = result.dtype in ("float16", "bfloat16")
        model_checks.check_unit_norm(
            texts, vectors, model_checks.HALF_NORM_TOLERANCE if is_half else model_checks.NORM_TOLERANCE
        )
        result.add_check("vectors have length 1, as modules.json declares")

"""Proves a model of sentence-transformers: texts in, vectors out, and nothing of it guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sentence_transformers import SentenceTransformer

from ..checks import model_checks
from ..files import declared_config, load_report, vocabulary
from ..load import steps
from ..load.request import Request
from ..results.failures import LIBRARIES, CheckFailed
from ..results.load_result import Record

LOADER = "sentence-transformers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model in memory, what its files promise, and what transformers said as it loaded."""

    model: Any
    promised: declared_config.Promises
    loads: tuple[load_report.Load, ...]

    def embed(self, texts: tuple[str, ...]) -> list[list[float]]:
        """One vector for each text."""
        return model_checks.numbers(self.model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False))


def prove(request: Request, record: Record) -> None:
    """Loads the model as code that uses it would, and checks what the libraries do not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    promised = declared_config.read(steps.folder(request))
    files = _vocabulary(promised)
    record.passed("every file that modules.json promises is there and whole")
    record.warn(*declared_config.unsaid(request.path))
    steps.found_offline(request, record)
    texts = steps.texts(request)
    loaded = _load(request, record, promised)
    tokens = _tokens(loaded, texts, record, any_language=request.any_language)
    vectors = _infer(loaded, texts, record)
    _check_weights(loaded, texts[:2], record)
    steps.measured(record)
    _check_tokenizer(loaded, files, record)
    _check_vectors(loaded, texts, tokens, vectors, record)
    tokens_of = steps.whole(getattr(loaded.model, "tokenizer", None))
    steps.golden(request, record, texts, tokens_of, {"vector": vectors})
    steps.closer(request, loaded.embed, record)
    steps.within_memory(request, record)


def _vocabulary(promised: declared_config.Promises) -> vocabulary.Vocabulary | None:
    first = promised.modules[0]
    return vocabulary.promised(first.folder) if first.kind in ("Transformer", "StaticEmbedding") else None


def _load(request: Request, record: Record, promised: declared_config.Promises) -> Loaded:
    found = steps.opened(
        request,
        record,
        lambda path, device: SentenceTransformer(
            path, device=device, local_files_only=True, trust_remote_code=request.trust_remote_code
        ),
    )
    _check_modules(found.model, promised)
    record.passed("the loaded modules are those of modules.json")
    steps.in_place(found.model, record)
    return Loaded(model=found.model, promised=promised, loads=found.loads)


def _check_modules(model: Any, promised: declared_config.Promises) -> None:
    wanted = [module.kind for module in promised.modules]
    held = [type(module).__name__ for module in model]
    kinds = [{parent.__name__ for parent in type(module).__mro__} for module in model]
    if len(wanted) != len(held) or any(kind not in names for kind, names in zip(wanted, kinds, strict=True)):
        raise CheckFailed(
            f"modules.json promises {', '.join(wanted)}, and the loaded model consists of {', '.join(held)}.", LIBRARIES
        )


def _tokens(loaded: Loaded, texts: tuple[str, ...], record: Record, *, any_language: bool) -> list[list[int]]:
    tokenizer = getattr(loaded.model, "tokenizer", None)
    lower = bool(getattr(loaded.model[0], "do_lower_case", False))
    return steps.tokens(tokenizer, texts, record, any_language=any_language, lower=lower)


def _infer(loaded: Loaded, texts: tuple[str, ...], record: Record) -> list[list[float]]:
    vectors, again = steps.twice(lambda: loaded.embed(texts), record)
    record.width = len(vectors[0])
    steps.same_twice(texts, vectors, again, record)
    return vectors


def _check_weights(loaded: Loaded, texts: tuple[str, ...], record: Record) -> None:
    steps.weights_learned(loaded.model, loaded.loads, record)
    for module, kept in zip(loaded.model, loaded.promised.modules, strict=True):
        load = load_report.within(module, loaded.loads)
        held = load.model if load else module
        steps.weights_of_files(held, load, kept.folder, lambda: loaded.embed(texts), record)
    record.passed("the weights in memory are those of the files: none random, none left out")


def _check_tokenizer(loaded: Loaded, files: vocabulary.Vocabulary | None, record: Record) -> None:
    tokenizer = getattr(loaded.model, "tokenizer", None)
    steps.vocabulary_held(files, tokenizer, load_report.within(loaded.model[0], loaded.loads), record)


def _check_vectors(
    loaded: Loaded,
    texts: tuple[str, ...],
    tokens: list[list[int]],
    vectors: list[list[float]],
    record: Record,
) -> None:
    record.norm = round(model_checks.norm(vectors[0]), 6)
    steps.telling(texts, vectors, tokens, record)
    promised = loaded.promised
    if promised.width is not None:
        model_checks.width(vectors, promised.width, promised.width_source)
        record.passed(f"vectors are {promised.width} wide, as {promised.width_source} promises")
    if promised.normalised:
        half = record.dtype in ("float16", "bfloat16")
        model_checks.norm_one(texts, vectors, model_checks.NORM_SLACK_HALF if half else model_checks.NORM_SLACK)
        record.passed("vectors have length 1, as modules.json promises")

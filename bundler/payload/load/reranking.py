"""The smoke load of a reranker: a model that scores how well the second text of a pair answers the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import model_checks
from ..files import load_report
from ..results.failures import MISMATCH_HINT, CheckFailedError
from ..results.load_result import LoadResult, TripleResult
from . import steps
from .request import Request

Pair = tuple[str, str]
ComputeScores = Callable[[Sequence[Pair]], list[float]]
"""Returns the score of each pair before the activation, which maps large scores to nearly the same value."""

SCORE = "score"
MAX_PAIRS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reranker:
    """A reranker in memory: the torch model, the tokenizer, and the library's function that scores with both.

    ``label_count`` is how many numbers the model gives for a pair.
    """

    model: Any
    tokenizer: Any
    label_count: int
    compute_scores: ComputeScores


def prove_reranker(request: Request, result: LoadResult, load_reranker: Callable[[str, str], Reranker]) -> None:
    """Load a reranker and check what the libraries do not.

    In the result, ``width`` is 1, the number of scores of a pair, and ``norm`` is the absolute value of the first
    score; the scores of triples are those before the activation.

    Args:
        request: The request.
        result: Filled with what is measured.
        load_reranker: Takes a folder and a device.

    Raises:
        CheckFailedError: The model fails a check. Errors of libraries propagate.
    """
    declared, texts = steps.check_files(request, result)
    loaded = steps.load_model(request, result, load_reranker)
    reranker: Reranker = loaded.model
    _require_one_label(request.alias, reranker.label_count)
    steps.check_placement(reranker.model, result)
    steps.check_tokens(reranker.tokenizer, texts, result, any_language=request.any_language)
    pairs = _make_pairs(texts)
    scores = _infer_scores(pairs, reranker.compute_scores, result)
    steps.check_weights(
        reranker.model, loaded.reports, request.path, lambda: _make_vectors(reranker.compute_scores(pairs)), result
    )
    report = load_report.find_report(reranker.model, loaded.reports)
    steps.check_vocabulary(declared.token_vocabulary, reranker.tokenizer, report, result)
    _check_distinct(scores, result)
    _check_golden(request, reranker.tokenizer, pairs, scores, result)
    _check_triples(request, reranker.compute_scores, result)
    steps.check_memory(request, result)


def _make_pairs(texts: Sequence[str]) -> tuple[Pair, ...]:
    """Pair the first text with itself and with others: a working model scores these differently."""
    return tuple((texts[0], text) for text in dict.fromkeys(texts))[:MAX_PAIRS]


def _make_vectors(scores: Sequence[float]) -> list[list[float]]:
    """Make a vector of one component of each score, for checks that take vectors."""
    return [[score] for score in scores]


def _infer_scores(pairs: Sequence[Pair], compute_scores: ComputeScores, result: LoadResult) -> list[float]:
    """Compute the scores of the pairs; check that they are finite and repeatable."""
    first, second = steps.run_twice(lambda: compute_scores(pairs), result)
    result.width = 1
    labels = [" / ".join(pair) for pair in pairs]
    steps.check_repeatable(labels, _make_vectors(first), _make_vectors(second), result, SCORE)
    result.norm = round(abs(first[0]), 6)
    return first


def _require_one_label(alias: str, label_count: int) -> None:
    if label_count != 1:
        raise CheckFailedError(
            f"{alias} gives {label_count} numbers for a pair of texts: it is a classifier, not a reranker.",
            "Choose another loader for this model, or the loader files, which installs it without a smoke load.",
        )


def _check_distinct(scores: Sequence[float], result: LoadResult) -> None:
    """Check that not all pairs get the same score. Two bad answers may: 16-bit scores have a smallest value."""
    scale = max(abs(score) for score in scores)
    if max(scores) - min(scores) <= model_checks.MIN_VECTOR_DIFFERENCE * scale:
        raise CheckFailedError(
            f"All {len(scores)} pairs of texts get the same score, {scores[0]:.6g}: the model's output does not depend on "
            "the text.",
            MISMATCH_HINT,
        )
    result.add_check("different pairs get different scores")


def _check_golden(
    request: Request, tokenizer: Any, pairs: Sequence[Pair], scores: Sequence[float], result: LoadResult
) -> None:
    """Check the golden outputs, with a NUL between two texts: the tokenizer's separator depends on its version."""
    pair_by_text = {"\0".join(pair): pair for pair in pairs}
    steps.check_golden(
        request,
        result,
        list(pair_by_text),
        lambda text: list(tokenizer(*pair_by_text[text])["input_ids"]),
        {SCORE: [[score] for score in scores]},
    )


def _check_triples(request: Request, compute_scores: ComputeScores, result: LoadResult) -> None:
    """Check that each query scores higher with the text that should be nearer to it."""
    for query, nearer, farther in request.closer:
        near, far = compute_scores([(query, nearer), (query, farther)])
        model_checks.check_finite((nearer, farther), _make_vectors([near, far]), SCORE)
        if not near > far:
            raise CheckFailedError(
                f"With {model_checks.quote(query)}, {model_checks.quote(nearer)} should score higher ({near:.4f}) than "
                f"{model_checks.quote(farther)} ({far:.4f}), but does not.",
                model_checks.TRIPLE_HINT,
            )
        result.closer.append(TripleResult(query=query, nearer=round(near, 6), farther=round(far, 6)))
    if request.closer:
        result.add_check("every triple has the expected order")

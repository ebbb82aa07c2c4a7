"""What must hold for a model that scores pairs of texts: how well the second answers the first."""

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
"""Gives the score of each pair before any activation, where 0.99998 and 0.99999 are still far apart."""

SCORE = "score"
MAX_PAIRS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reranker:
    """A reranker in memory: what torch computes, what makes tokens, and how a library scores with both.

    ``labels`` is how many numbers it gives for a pair.
    """

    model: Any
    tokenizer: Any
    label_count: int
    compute_scores: ComputeScores


def prove_reranker(request: Request, result: LoadResult, load_reranker: Callable[[str, str], Reranker]) -> None:
    """Loads a reranker with `make`, which takes a folder and a device, and checks what the libraries do not.

    In the result, ``width`` is the number of scores of a pair, which is 1, and ``norm`` the first score without its
    sign; the scores of triples are those before the activation.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    promised, texts = steps.check_files(request, result)
    found = steps.load_model(request, result, load_reranker)
    reranker: Reranker = found.model
    _require_one_label(request.alias, reranker.label_count)
    steps.check_placement(reranker.model, result)
    steps.check_tokens(reranker.tokenizer, texts, result, any_language=request.any_language)
    pairs = _make_pairs(texts)
    given = _infer_scores(pairs, reranker.compute_scores, result)
    steps.check_weights(
        reranker.model, found.reports, request.path, lambda: _make_vectors(reranker.compute_scores(pairs)), result
    )
    load = load_report.find_report(reranker.model, found.reports)
    steps.check_vocabulary(promised.token_vocabulary, reranker.tokenizer, load, result)
    _check_distinct(given, result)
    _check_golden(request, reranker.tokenizer, pairs, given, result)
    _check_triples(request, reranker.compute_scores, result)
    steps.check_memory(request, result)


def _make_pairs(texts: Sequence[str]) -> tuple[Pair, ...]:
    """The first text with itself and with others, which a model that can tell texts apart scores differently."""
    return tuple((texts[0], each) for each in dict.fromkeys(texts))[:MAX_PAIRS]


def _make_vectors(scores: Sequence[float]) -> list[list[float]]:
    """Scores as vectors of one component, for checks that take vectors."""
    return [[score] for score in scores]


def _infer_scores(pairs: Sequence[Pair], compute_scores: ComputeScores, result: LoadResult) -> list[float]:
    """The scores of the pairs, after a check that they are numbers and come out again."""
    first, again = steps.run_twice(lambda: compute_scores(pairs), result)
    result.width = 1
    shown = [f"{one} / {other}" for one, other in pairs]
    steps.check_repeatable(shown, _make_vectors(first), _make_vectors(again), result, SCORE)
    result.norm = round(abs(first[0]), 6)
    return first


def _require_one_label(alias: str, label_count: int) -> None:
    if label_count != 1:
        raise CheckFailedError(
            f"{alias} gives {label_count} numbers for a pair of texts, so it is a classifier and not a reranker.",
            "Choose another loader for this model, or carry it with the loader files.",
        )


def _check_distinct(scores: Sequence[float], result: LoadResult) -> None:
    """Not all pairs get one score. Two poor answers may: scores of 16 bits have a floor."""
    scale = max(abs(score) for score in scores)
    if max(scores) - min(scores) <= model_checks.MIN_VECTOR_DIFFERENCE * scale:
        raise CheckFailedError(
            f"All {len(scores)} pairs of texts get the same score, {scores[0]:.6g}: the model does not look at what is "
            "said.",
            MISMATCH_HINT,
        )
    result.add_check("different pairs get different scores")


def _check_golden(
    request: Request, tokenizer: Any, pairs: Sequence[Pair], scores: Sequence[float], result: LoadResult
) -> None:
    """Pairs stand in for texts: what separates the two differs between versions of tokenizers."""
    shown = {f"{one}\0{other}": (one, other) for one, other in pairs}
    steps.check_golden(
        request,
        result,
        list(shown),
        lambda pair: list(tokenizer(*shown[pair])["input_ids"]),
        {SCORE: [[score] for score in scores]},
    )


def _check_triples(request: Request, compute_scores: ComputeScores, result: LoadResult) -> None:
    """Of each triple, the query scores higher with the text that should be nearer to it."""
    for query, nearer, farther in request.closer:
        near, far = compute_scores([(query, nearer), (query, farther)])
        model_checks.check_finite((nearer, farther), _make_vectors([near, far]), SCORE)
        if not near > far:
            raise CheckFailedError(
                f"With {model_checks.quote(query)}, {model_checks.quote(nearer)} should score higher ({near:.4f}) than "
                f"{model_checks.quote(farther)} ({far:.4f}), and does not.",
                model_checks.TRIPLE_HINT,
            )
        result.closer.append(TripleResult(query=query, nearer=round(near, 6), farther=round(far, 6)))
    if request.closer:
        result.add_check("what should score higher scores higher")

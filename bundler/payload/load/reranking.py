"""What must hold for a model that scores pairs of texts: how well the second answers the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import model_checks
from ..files import load_report
from ..results.failures import NOT_THIS_MODEL, CheckFailed
from ..results.load_result import Closeness, Record
from . import steps
from .request import Request

Pair = tuple[str, str]
Score = Callable[[Sequence[Pair]], list[float]]
"""Gives the score of each pair before any activation, where 0.99998 and 0.99999 are still far apart."""

SCORE = "score"
MOST_PAIRS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reranker:
    """A reranker in memory: what torch computes, what makes tokens, and how a library scores with both.

    ``labels`` is how many numbers it gives for a pair.
    """

    model: Any
    tokenizer: Any
    labels: int
    score: Score


def prove(request: Request, record: Record, make: Callable[[str, str], Reranker]) -> None:
    """Loads a reranker with `make`, which takes a folder and a device, and checks what the libraries do not.

    In the result, ``width`` is the number of scores of a pair, which is 1, and ``norm`` the first score without its
    sign; the scores of triples are those before the activation.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    promised, texts = steps.begun(request, record)
    found = steps.opened(request, record, make)
    reranker: Reranker = found.model
    _one_label(request.alias, reranker.labels)
    steps.in_place(reranker.model, record)
    steps.tokens(reranker.tokenizer, texts, record, any_language=request.any_language)
    pairs = _pairs(texts)
    given = _inferred(pairs, reranker.score, record)
    steps.weights_proved(reranker.model, found.loads, request.path, lambda: _vectors(reranker.score(pairs)), record)
    load = load_report.within(reranker.model, found.loads)
    steps.vocabulary_held(promised.tokens, reranker.tokenizer, load, record)
    _check_telling(given, record)
    _hold(request, reranker.tokenizer, pairs, given, record)
    _check_closer(request, reranker.score, record)
    steps.within_memory(request, record)


def _pairs(texts: Sequence[str]) -> tuple[Pair, ...]:
    """The first text with itself and with others, which a model that can tell texts apart scores differently."""
    return tuple((texts[0], each) for each in dict.fromkeys(texts))[:MOST_PAIRS]


def _vectors(found: Sequence[float]) -> list[list[float]]:
    """Scores as vectors of one component, for checks that take vectors."""
    return [[score] for score in found]


def _inferred(pairs: Sequence[Pair], score: Score, record: Record) -> list[float]:
    """The scores of the pairs, after a check that they are numbers and come out again."""
    first, again = steps.twice(lambda: score(pairs), record)
    record.width = 1
    shown = [f"{one} / {other}" for one, other in pairs]
    steps.same_twice(shown, _vectors(first), _vectors(again), record, SCORE)
    record.norm = round(abs(first[0]), 6)
    return first


def _one_label(alias: str, labels: int) -> None:
    if labels != 1:
        raise CheckFailed(
            f"{alias} gives {labels} numbers for a pair of texts, so it is a classifier and not a reranker.",
            "Choose another loader for this model, or carry it with the loader files.",
        )


def _check_telling(found: Sequence[float], record: Record) -> None:
    """Not all pairs get one score. Two poor answers may: scores of 16 bits have a floor."""
    scale = max(abs(score) for score in found)
    if max(found) - min(found) <= model_checks.SAME_VECTOR * scale:
        raise CheckFailed(
            f"All {len(found)} pairs of texts get the same score, {found[0]:.6g}: the model does not look at what is "
            "said.",
            NOT_THIS_MODEL,
        )
    record.passed("different pairs get different scores")


def _hold(request: Request, tokenizer: Any, pairs: Sequence[Pair], found: Sequence[float], record: Record) -> None:
    """Pairs stand in for texts: what separates the two differs between versions of tokenizers."""
    shown = {f"{one}\0{other}": (one, other) for one, other in pairs}
    steps.golden(
        request,
        record,
        list(shown),
        lambda pair: list(tokenizer(*shown[pair])["input_ids"]),
        {SCORE: [[score] for score in found]},
    )


def _check_closer(request: Request, score: Score, record: Record) -> None:
    """Of each triple, the query scores higher with the text that should be nearer to it."""
    for query, nearer, farther in request.closer:
        near, far = score([(query, nearer), (query, farther)])
        model_checks.finite((nearer, farther), _vectors([near, far]), SCORE)
        if not near > far:
            raise CheckFailed(
                f"With {model_checks.quoted(query)}, {model_checks.quoted(nearer)} should score higher ({near:.4f}) than "
                f"{model_checks.quoted(farther)} ({far:.4f}), and does not.",
                model_checks.DOES_NOT_UNDERSTAND,
            )
        record.closer.append(Closeness(query=query, nearer=round(near, 6), farther=round(far, 6)))
    if request.closer:
        record.passed("what should score higher scores higher")

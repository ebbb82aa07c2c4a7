"""Proves a reranker of FlagEmbedding: two texts in, one score out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from FlagEmbedding import FlagReranker  # type: ignore[import-not-found]

from ..load import reranking, steps
from ..load.request import Request
from ..results.load_result import Record

LOADER = "flag-reranker"
MOST_TOKENS = 512


def prove(request: Request, record: Record) -> None:
    """As `scores.prove`, with the library's own class."""
    reranking.prove(request, record, partial(_made, request.trust_remote_code))


def _made(trust: bool, path: str, device: str) -> reranking.Reranker:
    reranker = FlagReranker(path, use_fp16=False, devices=device, trust_remote_code=trust)
    model = reranker.model.to(device)  # which the library would do at the first score
    longest = steps.longest(reranker.tokenizer, model.config, MOST_TOKENS)

    def score(pairs: Sequence[reranking.Pair]) -> list[float]:
        return [float(each) for each in reranker.compute_score(list(pairs), max_length=longest)]

    labels = int(model.config.num_labels)
    return reranking.Reranker(model=model, tokenizer=reranker.tokenizer, labels=labels, score=score)

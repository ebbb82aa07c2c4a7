"""The probe of rerankers of FlagEmbedding: two texts in, one score out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from FlagEmbedding import FlagReranker  # type: ignore[import-not-found]

from ..load import reranking, steps
from ..load.request import Request
from ..results.load_result import LoadResult

LOADER = "flag-reranker"
MAX_TOKENS = 512


def prove(request: Request, result: LoadResult) -> None:
    """Load and check the reranker with the library's own class; see `reranking.prove_reranker`."""
    reranking.prove_reranker(request, result, partial(_load, request.trust_remote_code))


def _load(trust_remote_code: bool, path: str, device: str) -> reranking.Reranker:
    reranker = FlagReranker(path, use_fp16=False, devices=device, trust_remote_code=trust_remote_code)
    model = reranker.model.to(device)  # the library would do this at the first score
    max_tokens = steps.choose_max_tokens(reranker.tokenizer, model.config, MAX_TOKENS)

    def score(pairs: Sequence[reranking.Pair]) -> list[float]:
        return [float(number) for number in reranker.compute_score(list(pairs), max_length=max_tokens)]

    labels = int(model.config.num_labels)
    return reranking.Reranker(model=model, tokenizer=reranker.tokenizer, label_count=labels, compute_scores=score)

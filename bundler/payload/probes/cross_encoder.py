"""The probe of rerankers of sentence-transformers: two texts in, one score out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from sentence_transformers import CrossEncoder

from ..load import reranking
from ..load.request import Request
from ..results.load_result import LoadResult

LOADER = "cross-encoder"


def prove(request: Request, result: LoadResult) -> None:
    """Load and check the reranker with the library's own class; see `reranking.prove_reranker`."""
    reranking.prove_reranker(request, result, partial(_load, request.trust_remote_code))


def _load(trust_remote_code: bool, path: str, device: str) -> reranking.Reranker:
    model = CrossEncoder(path, device=device, local_files_only=True, trust_remote_code=trust_remote_code)

    def score(pairs: Sequence[reranking.Pair]) -> list[float]:
        raw = model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False)
        return [float(number) for number in raw.reshape(-1)]

    # The config of a language model does not describe the score that the library makes of its logits.
    labels = int(getattr(model, "num_labels", model.config.num_labels))
    return reranking.Reranker(model=model, tokenizer=model.tokenizer, label_count=labels, compute_scores=score)

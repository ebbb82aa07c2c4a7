"""Proves a reranker of sentence-transformers: two texts in, one score out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from sentence_transformers import CrossEncoder

from ..load import reranking
from ..load.request import Request
from ..results.load_result import Record

LOADER = "cross-encoder"


def prove(request: Request, record: Record) -> None:
    """As `scores.prove`, with the library's own class."""
    reranking.prove(request, record, partial(_made, request.trust_remote_code))


def _made(trust: bool, path: str, device: str) -> reranking.Reranker:
    model = CrossEncoder(path, device=device, local_files_only=True, trust_remote_code=trust)

    def score(pairs: Sequence[reranking.Pair]) -> list[float]:
        raw = model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False)
        return [float(each) for each in raw.reshape(-1)]

    # a language model's own configuration says nothing of the score that is made of its logits
    labels = int(getattr(model, "num_labels", model.config.num_labels))
    return reranking.Reranker(model=model, tokenizer=model.tokenizer, labels=labels, score=score)

"""Proves an encoder of transformers: texts in, hidden states out; their mean stands for the text in what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from ..checks import model_checks
from ..files import load_report
from ..load import steps
from ..load.request import Request
from ..results.load_result import Record

LOADER = "transformers"
MOST_TOKENS = 512  # of a text; more of it would prove no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """The two objects that code which uses such a model holds."""

    model: Any
    tokenizer: Any
    device: str

    def embed(self, texts: tuple[str, ...]) -> list[list[float]]:
        """The mean of the last hidden states of each text. One by one, so that no padding has a say in it."""
        return [self._mean(text) for text in texts]

    def longest(self) -> int:
        """How many tokens of a text are read."""
        return steps.longest(self.tokenizer, self.model.config, MOST_TOKENS)

    def _mean(self, text: str) -> list[float]:
        tokens = self.tokenizer(text, truncation=True, max_length=self.longest(), padding=False, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**tokens.to(self.device)).last_hidden_state
        return [float(number) for number in states[0].float().mean(dim=0).tolist()]


def prove(request: Request, record: Record) -> None:
    """Loads the model as code that uses it would, and checks what transformers does not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    promised, texts = steps.begun(request, record)
    encoder, loads = _load(request, record)
    tokens = steps.tokens(encoder.tokenizer, texts, record, any_language=request.any_language)
    vectors, again = steps.twice(lambda: encoder.embed(texts), record)
    record.width = len(vectors[0])
    steps.same_twice(texts, vectors, again, record)
    steps.weights_proved(encoder.model, loads, request.path, lambda: encoder.embed(texts[:2]), record)
    steps.vocabulary_held(promised.tokens, encoder.tokenizer, load_report.within(encoder.model, loads), record)
    record.norm = round(model_checks.norm(vectors[0]), 6)
    steps.telling(texts, vectors, [each[: encoder.longest()] for each in tokens], record)
    if promised.width is not None:
        model_checks.width(vectors, promised.width, "config.json")
        record.passed(f"vectors are {promised.width} wide, as config.json promises")
    steps.golden(request, record, texts, steps.whole(encoder.tokenizer), {"vector": vectors})
    steps.closer(request, encoder.embed, record)
    steps.within_memory(request, record)


def _load(request: Request, record: Record) -> tuple[Encoder, tuple[load_report.Load, ...]]:
    told = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(request.path), **told)
    found = steps.opened(request, record, lambda path, device: AutoModel.from_pretrained(path, **told).to(device))
    steps.one_tower(found.model.config, request.alias)
    steps.in_place(found.model, record)
    return Encoder(model=found.model.eval(), tokenizer=tokenizer, device=record.device), found.loads

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
from ..results.load_result import LoadResult

LOADER = "transformers"
MAX_TOKENS = 512  # of a text; more of it would prove no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """The two objects that code which uses such a model holds."""

    model: Any
    tokenizer: Any
    device: str

    def embed(self, texts: tuple[str, ...]) -> list[list[float]]:
        """The mean of the last hidden states of each text. One by one, so that no padding has a say in it."""
        return [self._compute_mean(text) for text in texts]

    def get_max_tokens(self) -> int:
        """How many tokens of a text are read."""
        return steps.choose_max_tokens(self.tokenizer, self.model.config, MAX_TOKENS)

    def _compute_mean(self, text: str) -> list[float]:
        tokens = self.tokenizer(
            text, truncation=True, max_length=self.get_max_tokens(), padding=False, return_tensors="pt"
        )
        with torch.inference_mode():
            states = self.model(**tokens.to(self.device)).last_hidden_state
        return [float(number) for number in states[0].float().mean(dim=0).tolist()]


def prove(request: Request, result: LoadResult) -> None:
    """Loads the model as code that uses it would, and checks what transformers does not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    promised, texts = steps.check_files(request, result)
    encoder, loads = _load(request, result)
    tokens = steps.check_tokens(encoder.tokenizer, texts, result, any_language=request.any_language)
    vectors, again = steps.run_twice(lambda: encoder.embed(texts), result)
    result.width = len(vectors[0])
    steps.check_repeatable(texts, vectors, again, result)
    steps.check_weights(encoder.model, loads, request.path, lambda: encoder.embed(texts[:2]), result)
    steps.check_vocabulary(
        promised.token_vocabulary, encoder.tokenizer, load_report.find_report(encoder.model, loads), result
    )
    result.norm = round(model_checks.compute_norm(vectors[0]), 6)
    steps.check_distinct(texts, vectors, [each[: encoder.get_max_tokens()] for each in tokens], result)
    if promised.width is not None:
        model_checks.check_width(vectors, promised.width, "config.json")
        result.add_check(f"vectors are {promised.width} wide, as config.json promises")
    steps.check_golden(request, result, texts, steps.make_tokenize(encoder.tokenizer), {"vector": vectors})
    steps.check_triples(request, encoder.embed, result)
    steps.check_memory(request, result)


def _load(request: Request, result: LoadResult) -> tuple[Encoder, tuple[load_report.LoadReport, ...]]:
    told = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(request.path), **told)
    found = steps.load_model(request, result, lambda path, device: AutoModel.from_pretrained(path, **told).to(device))
    steps.require_encoder_only(found.model.config, request.alias)
    steps.check_placement(found.model, result)
    return Encoder(model=found.model.eval(), tokenizer=tokenizer, device=result.device), found.reports

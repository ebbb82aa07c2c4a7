"""The probe of encoders of transformers: texts in, hidden states out; a text's vector is the mean of these."""

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
MAX_TOKENS = 512  # of a text; a longer text checks nothing more


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A model and its tokenizer, as code that uses them would have them."""

    model: Any
    tokenizer: Any
    device: str

    def embed(self, texts: tuple[str, ...]) -> list[list[float]]:
        """Compute the mean of the last hidden states of each text, one text at a time, so that there is no padding."""
        return [self._compute_mean(text) for text in texts]

    def get_max_tokens(self) -> int:
        """Return how many tokens of a text to use."""
        return steps.choose_max_tokens(self.tokenizer, self.model.config, MAX_TOKENS)

    def _compute_mean(self, text: str) -> list[float]:
        tokens = self.tokenizer(
            text, truncation=True, max_length=self.get_max_tokens(), padding=False, return_tensors="pt"
        )
        with torch.inference_mode():
            states = self.model(**tokens.to(self.device)).last_hidden_state
        return [float(number) for number in states[0].float().mean(dim=0).tolist()]


def prove(request: Request, result: LoadResult) -> None:
    """Load the model as code that uses it would, and check what transformers does not.

    Raises:
        CheckFailedError: The model fails a check. Errors of libraries propagate.
    """
    declared, texts = steps.check_files(request, result)
    encoder, reports = _load(request, result)
    tokens = steps.check_tokens(encoder.tokenizer, texts, result, any_language=request.any_language)
    vectors, repeated = steps.run_twice(lambda: encoder.embed(texts), result)
    result.width = len(vectors[0])
    steps.check_repeatable(texts, vectors, repeated, result)
    steps.check_weights(encoder.model, reports, request.path, lambda: encoder.embed(texts[:2]), result)
    steps.check_vocabulary(
        declared.token_vocabulary, encoder.tokenizer, load_report.find_report(encoder.model, reports), result
    )
    result.norm = round(model_checks.compute_norm(vectors[0]), 6)
    steps.check_distinct(texts, vectors, [numbers[: encoder.get_max_tokens()] for numbers in tokens], result)
    if declared.width is not None:
        model_checks.check_width(vectors, declared.width, "config.json")
        result.add_check(f"vectors are {declared.width} wide, as config.json declares")
    steps.check_golden(request, result, texts, steps.make_tokenize(encoder.tokenizer), {"vector": vectors})
    steps.check_triples(request, encoder.embed, result)
    steps.check_memory(request, result)


def _load(request: Request, result: LoadResult) -> tuple[Encoder, tuple[load_report.LoadReport, ...]]:
    options = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(request.path), **options)
    loaded = steps.load_model(
        request, result, lambda path, device: AutoModel.from_pretrained(path, **options).to(device)
    )
    steps.require_encoder_only(loaded.model.config, request.alias)
    steps.check_placement(loaded.model, result)
    return Encoder(model=loaded.model.eval(), tokenizer=tokenizer, device=result.device), loaded.reports

"""Proves a language model: a prompt in, the next tokens out, the same ones each time.

In the result, ``width`` is the number of logits, one for each token that may come next, and ``norm`` the length of
the row of them after the first prompt. Triples of texts that should be closer are for models that embed, and are not
asked of this one.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..checks import model_checks
from ..files import load_report
from ..load import steps
from ..load.request import Request
from ..results.failures import LIBRARIES_HINT, CheckFailedError, pluralize
from ..results.load_result import LoadResult

LOADER = "causal-lm"
LOGITS = "logit row"
MAX_TOKENS = 128  # of a prompt; large models are slow on a CPU, and more of it would prove no more
NEW_TOKENS = 8
_MODEL_INPUTS = ("input_ids", "attention_mask")
"""What the pipeline for text generation hands on, whatever else a tokenizer gives."""
_DTYPE_RENAMED_VERSION = (4, 56)  # transformers; the old name still works in newer ones, which complain about it
_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
_DTYPE_OPTIONS: dict[str, Any] = {"dtype" if _VERSION >= _DTYPE_RENAMED_VERSION else "torch_dtype": "auto"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModel:
    """The two objects that code which uses such a model holds."""

    model: Any
    tokenizer: Any
    device: str

    def get_max_tokens(self) -> int:
        """How many tokens of a prompt are read; the new ones need room after them."""
        return max(1, steps.choose_max_tokens(self.tokenizer, self.model.config, MAX_TOKENS + NEW_TOKENS) - NEW_TOKENS)

    def compute_logits(self, texts: tuple[str, ...]) -> list[list[float]]:
        """How likely each token is to come next after each text."""
        return [self._compute_next_logits(text) for text in texts]

    def generate_tokens(self, text: str) -> list[int]:
        """The numbers of the tokens that come after `text` where nothing is left to chance."""
        tokens = self._encode_text(text)
        ends = self.tokenizer.eos_token_id
        padding = ends if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        found = self.model.generate(
            **tokens, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1, pad_token_id=padding
        )
        return [int(number) for number in found[0][tokens["input_ids"].shape[1] :].tolist()]

    def _compute_next_logits(self, text: str) -> list[float]:
        with torch.inference_mode():
            found = self.model(**self._encode_text(text), use_cache=False).logits
        return [float(number) for number in found[0, -1].float().tolist()]

    def list_refused_inputs(self) -> list[str]:
        """What the tokenizer gives and the model does not take: ``generate(**tokenizer(text))`` fails with it."""
        taken = inspect.signature(self.model.forward).parameters
        return [name for name in self.tokenizer.model_input_names if name not in taken]

    def _encode_text(self, text: str) -> dict[str, Any]:
        found = self.tokenizer(
            text, truncation=True, max_length=self.get_max_tokens(), padding=False, return_tensors="pt"
        )
        return {name: found[name].to(self.device) for name in _MODEL_INPUTS if name in found}


def prove(request: Request, result: LoadResult) -> None:
    """Loads the model as code that uses it would, and checks what transformers does not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    promised, texts = steps.check_files(request, result)
    writer, loads = _load(request, result)
    if refused := writer.list_refused_inputs():
        result.warn(
            f"The tokenizer also gives {', '.join(refused)}, which generate() refuses: code that hands on all of it has to "
            "leave that out (for token_type_ids: return_token_type_ids=False)."
        )
    tokens = steps.check_tokens(writer.tokenizer, texts, result, any_language=request.any_language)
    _check_generation(writer, texts[0], result)
    logits = writer.compute_logits(texts)
    result.width = len(logits[0])
    steps.check_repeatable(texts, logits, writer.compute_logits(texts), result, LOGITS)
    result.norm = round(model_checks.compute_norm(logits[0]), 6)
    steps.check_weights(writer.model, loads, request.path, lambda: writer.compute_logits(texts[:2]), result)
    steps.check_vocabulary(
        promised.token_vocabulary, writer.tokenizer, load_report.find_report(writer.model, loads), result
    )
    steps.check_distinct(texts, logits, [each[: writer.get_max_tokens()] for each in tokens], result, LOGITS)
    if promised.vocabulary_size is not None:
        model_checks.check_width(logits, promised.vocabulary_size, "config.json", LOGITS)
        result.add_check(f"there are {promised.vocabulary_size} logits, as config.json promises")
    steps.check_golden(request, result, texts, steps.make_tokenize(writer.tokenizer), {"logits": logits})
    steps.check_memory(request, result)


def _load(request: Request, result: LoadResult) -> tuple[LanguageModel, tuple[load_report.LoadReport, ...]]:
    told = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(request.path), **told)
    found = steps.load_model(
        request,
        result,
        # as the files have them: older versions would make 32 bits of 16, and need twice the memory
        lambda path, device: AutoModelForCausalLM.from_pretrained(path, **told, **_DTYPE_OPTIONS).to(device),
    )
    steps.check_placement(found.model, result)
    return LanguageModel(model=found.model.eval(), tokenizer=tokenizer, device=result.device), found.reports


def _check_generation(language_model: LanguageModel, prompt: str, result: LoadResult) -> None:
    first, again = steps.run_twice(lambda: language_model.generate_tokens(prompt), result)
    if first != again:
        raise CheckFailedError(
            f"{model_checks.quote(prompt)} was continued in two ways where nothing was left to chance: part of the model is "
            "drawn at random.",
            LIBRARIES_HINT,
        )
    said = model_checks.quote(language_model.tokenizer.decode(first, skip_special_tokens=True))
    result.add_check(
        f"{model_checks.quote(prompt)} is continued the same way twice, by {pluralize(first, 'token')}: {said}"
    )

"""The probe of language models: a prompt in, the next tokens out, the same ones each time.

In the result, ``width`` is the number of logits, one for each possible next token, and ``norm`` is the length of the
row of logits after the first prompt. Triples are for models that embed texts and are not used here.
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
MAX_TOKENS = 128  # of a prompt; large models are slow on a CPU, and a longer prompt checks nothing more
NEW_TOKENS = 8
_MODEL_INPUTS = ("input_ids", "attention_mask")
"""What the text generation pipeline passes to the model, out of the tokenizer's output."""
_DTYPE_RENAMED_VERSION = (4, 56)  # of transformers; newer versions warn about the old name
_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
_DTYPE_OPTIONS: dict[str, Any] = {"dtype" if _VERSION >= _DTYPE_RENAMED_VERSION else "torch_dtype": "auto"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModel:
    """A model and its tokenizer, as code that uses them would have them."""

    model: Any
    tokenizer: Any
    device: str

    def get_max_tokens(self) -> int:
        """Return how many tokens of a prompt to use; the new tokens must fit after them."""
        return max(1, steps.choose_max_tokens(self.tokenizer, self.model.config, MAX_TOKENS + NEW_TOKENS) - NEW_TOKENS)

    def compute_logits(self, texts: tuple[str, ...]) -> list[list[float]]:
        """Compute, for each text, the logits of the next token."""
        return [self._compute_next_logits(text) for text in texts]

    def generate_tokens(self, text: str) -> list[int]:
        """Generate the next tokens after `text`, without sampling."""
        tokens = self._encode_text(text)
        end_token = self.tokenizer.eos_token_id
        padding = end_token if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        output = self.model.generate(
            **tokens, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1, pad_token_id=padding
        )
        return [int(number) for number in output[0][tokens["input_ids"].shape[1] :].tolist()]

    def _compute_next_logits(self, text: str) -> list[float]:
        with torch.inference_mode():
            logits = self.model(**self._encode_text(text), use_cache=False).logits
        return [float(number) for number in logits[0, -1].float().tolist()]

    def list_refused_inputs(self) -> list[str]:
        """List outputs of the tokenizer that the model refuses: ``generate(**tokenizer(text))`` fails with them."""
        parameters = inspect.signature(self.model.forward).parameters
        return [name for name in self.tokenizer.model_input_names if name not in parameters]

    def _encode_text(self, text: str) -> dict[str, Any]:
        encoding = self.tokenizer(
            text, truncation=True, max_length=self.get_max_tokens(), padding=False, return_tensors="pt"
        )
        return {name: encoding[name].to(self.device) for name in _MODEL_INPUTS if name in encoding}


def prove(request: Request, result: LoadResult) -> None:
    """Load the model as code that uses it would, and check what transformers does not.

    Raises:
        CheckFailedError: The model fails a check. Errors of libraries propagate.
    """
    declared, texts = steps.check_files(request, result)
    language_model, reports = _load(request, result)
    if refused := language_model.list_refused_inputs():
        result.warn(
            f"The tokenizer also returns {', '.join(refused)}, which generate() refuses: code that passes on all of its "
            "output must leave that out (for token_type_ids: return_token_type_ids=False)."
        )
    tokens = steps.check_tokens(language_model.tokenizer, texts, result, any_language=request.any_language)
    _check_generation(language_model, texts[0], result)
    logits = language_model.compute_logits(texts)
    result.width = len(logits[0])
    steps.check_repeatable(texts, logits, language_model.compute_logits(texts), result, LOGITS)
    result.norm = round(model_checks.compute_norm(logits[0]), 6)
    model = language_model.model
    steps.check_weights(model, reports, request.path, lambda: language_model.compute_logits(texts[:2]), result)
    steps.check_vocabulary(
        declared.token_vocabulary, language_model.tokenizer, load_report.find_report(model, reports), result
    )
    read_tokens = [numbers[: language_model.get_max_tokens()] for numbers in tokens]
    steps.check_distinct(texts, logits, read_tokens, result, LOGITS)
    if declared.vocabulary_size is not None:
        model_checks.check_width(logits, declared.vocabulary_size, "config.json", LOGITS)
        result.add_check(f"there are {declared.vocabulary_size} logits, as config.json declares")
    steps.check_golden(request, result, texts, steps.make_tokenize(language_model.tokenizer), {"logits": logits})
    steps.check_memory(request, result)


def _load(request: Request, result: LoadResult) -> tuple[LanguageModel, tuple[load_report.LoadReport, ...]]:
    options = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(request.path), **options)
    loaded = steps.load_model(
        request,
        result,
        # With the dtype of the files: older versions would convert 16 bits to 32, and need twice the memory.
        lambda path, device: AutoModelForCausalLM.from_pretrained(path, **options, **_DTYPE_OPTIONS).to(device),
    )
    steps.check_placement(loaded.model, result)
    return LanguageModel(model=loaded.model.eval(), tokenizer=tokenizer, device=result.device), loaded.reports


def _check_generation(language_model: LanguageModel, prompt: str, result: LoadResult) -> None:
    first, second = steps.run_twice(lambda: language_model.generate_tokens(prompt), result)
    if first != second:
        raise CheckFailedError(
            f"{model_checks.quote(prompt)} was continued in two different ways without sampling: part of the model is "
            "random.",
            LIBRARIES_HINT,
        )
    continuation = model_checks.quote(language_model.tokenizer.decode(first, skip_special_tokens=True))
    result.add_check(
        f"{model_checks.quote(prompt)} is continued the same way twice, by {pluralize(first, 'token')}: {continuation}"
    )

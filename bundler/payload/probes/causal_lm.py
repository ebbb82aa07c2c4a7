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
from ..results.failures import LIBRARIES, CheckFailed, counted
from ..results.load_result import Record

LOADER = "causal-lm"
LOGITS = "logit row"
MOST_TOKENS = 128  # of a prompt; large models are slow on a CPU, and more of it would prove no more
NEW_TOKENS = 8
_TAKEN = ("input_ids", "attention_mask")
"""What the pipeline for text generation hands on, whatever else a tokenizer gives."""
_RENAMED_IN = (4, 56)  # transformers; the old name still works in newer ones, which complain about it
_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
_AS_STORED: dict[str, Any] = {"dtype" if _VERSION >= _RENAMED_IN else "torch_dtype": "auto"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """The two objects that code which uses such a model holds."""

    model: Any
    tokenizer: Any
    device: str

    def longest(self) -> int:
        """How many tokens of a prompt are read; the new ones need room after them."""
        return max(1, steps.longest(self.tokenizer, self.model.config, MOST_TOKENS + NEW_TOKENS) - NEW_TOKENS)

    def logits(self, texts: tuple[str, ...]) -> list[list[float]]:
        """How likely each token is to come next after each text."""
        return [self._next(text) for text in texts]

    def continued(self, text: str) -> list[int]:
        """The numbers of the tokens that come after `text` where nothing is left to chance."""
        tokens = self._tokens(text)
        ends = self.tokenizer.eos_token_id
        padding = ends if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        found = self.model.generate(
            **tokens, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1, pad_token_id=padding
        )
        return [int(number) for number in found[0][tokens["input_ids"].shape[1] :].tolist()]

    def _next(self, text: str) -> list[float]:
        with torch.inference_mode():
            found = self.model(**self._tokens(text), use_cache=False).logits
        return [float(number) for number in found[0, -1].float().tolist()]

    def refused(self) -> list[str]:
        """What the tokenizer gives and the model does not take: ``generate(**tokenizer(text))`` fails with it."""
        taken = inspect.signature(self.model.forward).parameters
        return [name for name in self.tokenizer.model_input_names if name not in taken]

    def _tokens(self, text: str) -> dict[str, Any]:
        found = self.tokenizer(text, truncation=True, max_length=self.longest(), padding=False, return_tensors="pt")
        return {name: found[name].to(self.device) for name in _TAKEN if name in found}


def prove(request: Request, record: Record) -> None:
    """Loads the model as code that uses it would, and checks what transformers does not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    promised, texts = steps.begun(request, record)
    writer, loads = _load(request, record)
    if refused := writer.refused():
        record.warn(
            f"The tokenizer also gives {', '.join(refused)}, which generate() refuses: code that hands on all of it has to "
            "leave that out (for token_type_ids: return_token_type_ids=False)."
        )
    tokens = steps.tokens(writer.tokenizer, texts, record, any_language=request.any_language)
    _check_continued(writer, texts[0], record)
    logits = writer.logits(texts)
    record.width = len(logits[0])
    steps.same_twice(texts, logits, writer.logits(texts), record, LOGITS)
    record.norm = round(model_checks.norm(logits[0]), 6)
    steps.weights_proved(writer.model, loads, request.path, lambda: writer.logits(texts[:2]), record)
    steps.vocabulary_held(promised.tokens, writer.tokenizer, load_report.within(writer.model, loads), record)
    steps.telling(texts, logits, [each[: writer.longest()] for each in tokens], record, LOGITS)
    if promised.vocabulary_size is not None:
        model_checks.width(logits, promised.vocabulary_size, "config.json", LOGITS)
        record.passed(f"there are {promised.vocabulary_size} logits, as config.json promises")
    steps.golden(request, record, texts, steps.whole(writer.tokenizer), {"logits": logits})
    steps.within_memory(request, record)


def _load(request: Request, record: Record) -> tuple[Writer, tuple[load_report.Load, ...]]:
    told = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(request.path), **told)
    found = steps.opened(
        request,
        record,
        # as the files have them: older versions would make 32 bits of 16, and need twice the memory
        lambda path, device: AutoModelForCausalLM.from_pretrained(path, **told, **_AS_STORED).to(device),
    )
    steps.in_place(found.model, record)
    return Writer(model=found.model.eval(), tokenizer=tokenizer, device=record.device), found.loads


def _check_continued(writer: Writer, prompt: str, record: Record) -> None:
    first, again = steps.twice(lambda: writer.continued(prompt), record)
    if first != again:
        raise CheckFailed(
            f"{model_checks.quoted(prompt)} was continued in two ways where nothing was left to chance: part of the model is "
            "drawn at random.",
            LIBRARIES,
        )
    said = model_checks.quoted(writer.tokenizer.decode(first, skip_special_tokens=True))
    record.passed(
        f"{model_checks.quoted(prompt)} is continued the same way twice, by {counted(first, 'token')}: {said}"
    )

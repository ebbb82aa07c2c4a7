"""Proves a BGE-M3 of FlagEmbedding: dense, sparse and ColBERT vectors, and no head of it drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from FlagEmbedding import BGEM3FlagModel  # type: ignore[import-not-found]

from ..checks import model_checks
from ..files import load_report, tensor_files
from ..load import steps
from ..load.request import Request
from ..results.failures import DAMAGED, LIBRARIES, NOT_THIS_MODEL, REBUILD, CheckFailed, listed
from ..results.load_result import Record

LOADER = "flag-embedding-m3"
HEADS = ("colbert_linear", "sparse_linear")
COLBERT = "ColBERT vector"
SPARSE = "sparse vector"
MOST_TOKENS = 512  # of a text; more of it would prove no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """What the model gives for some texts: of ColBERT the mean over the tokens, of the sparse vector a weight for each
    of the text's tokens, in the order of their numbers."""

    dense: list[list[float]]
    colbert: list[list[float]]
    sparse: list[list[float]]

    def together(self) -> list[list[float]]:
        """One vector for each text that changes when any of the three does."""
        lists = zip(self.dense, self.colbert, self.sparse, strict=True)
        return [[*dense, *colbert, sum(sparse)] for dense, colbert, sparse in lists]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedder:
    """The library's object, and how much of a text to give to it."""

    flag: Any
    longest: int

    def embed(self, texts: tuple[str, ...]) -> Embedded:
        """All three kinds of vectors."""
        found = self.flag.encode(
            list(texts), max_length=self.longest, return_dense=True, return_sparse=True, return_colbert_vecs=True
        )
        return Embedded(
            dense=model_checks.numbers(found["dense_vecs"]),
            colbert=model_checks.numbers([each.mean(axis=0) for each in found["colbert_vecs"]]),
            sparse=[self._weights(*each) for each in zip(texts, found["lexical_weights"], strict=True)],
        )

    def _weights(self, text: str, given: Mapping[str, Any]) -> list[float]:
        """The library leaves out tokens without weight: on another processor one that is nearly so may come or go."""
        numbers = self.flag.tokenizer(text, truncation=True, max_length=self.longest)["input_ids"]
        return [float(given.get(str(number), 0.0)) for number in sorted(set(numbers))]

    def dense(self, texts: tuple[str, ...]) -> list[list[float]]:
        """The vectors that most code searches with."""
        return self.embed(texts).dense


def prove(request: Request, record: Record) -> None:
    """Loads the model as code that uses it would, and checks what the libraries do not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    folder = steps.folder(request)
    _heads_there(folder)
    record.passed("both heads are there and whole")
    promised, texts = steps.begun(request, record)
    found = steps.opened(request, record, partial(_made, request.trust_remote_code))
    embedder: Embedder = found.model
    model, tokenizer = embedder.flag.model, embedder.flag.tokenizer
    steps.in_place(model, record)
    tokens = steps.tokens(tokenizer, texts, record, any_language=request.any_language)
    first, again = steps.twice(lambda: embedder.embed(texts), record)
    record.width = len(first.dense[0])
    _check_numbers(texts, first, again, record)
    _check_heads(folder, model, record)
    steps.weights_proved(model, found.loads, folder, lambda: embedder.embed(texts[:2]).together(), record)
    steps.vocabulary_held(promised.tokens, tokenizer, load_report.within(model, found.loads), record)
    record.norm = round(model_checks.norm(first.dense[0]), 6)
    tokens = [each[: embedder.longest] for each in tokens]
    steps.telling(texts, first.dense, tokens, record)
    steps.telling(texts, first.colbert, tokens, record, COLBERT)
    if promised.width is not None:
        model_checks.width(first.dense, promised.width, "config.json")
        record.passed(f"vectors are {promised.width} wide, as config.json promises")
    kinds = {"dense": first.dense, "colbert": first.colbert, "sparse": first.sparse}
    steps.golden(request, record, texts, steps.whole(tokenizer), kinds)
    steps.closer(request, embedder.dense, record)
    steps.within_memory(request, record)


def _made(trust: bool, path: str, device: str) -> Embedder:
    flag = BGEM3FlagModel(path, use_fp16=False, devices=device, trust_remote_code=trust)
    flag.model.to(device)  # which the library would do at the first text
    return Embedder(flag=flag, longest=steps.longest(flag.tokenizer, flag.model.model.config, MOST_TOKENS))


def _heads_there(folder: Path) -> None:
    """Where one of the two files is missing, the library says nothing and draws both heads at random."""
    for name in (f"{head}.pt" for head in HEADS):
        path = folder / name
        if not path.is_file():
            what = "is a link that leads nowhere" if path.is_symlink() else "is missing"
            raise CheckFailed(
                f"{name} {what}: FlagEmbedding would draw the sparse and ColBERT heads at random at each load.", REBUILD
            )
        tensor_files.whole(path)


def _check_heads(folder: Path, model: Any, record: Record) -> None:
    for head in HEADS:
        try:
            stored = torch.load(folder / f"{head}.pt", map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError) as error:
            raise CheckFailed(f"{head}.pt can not be read as weights.", DAMAGED) from error
        held = getattr(model, head).state_dict()
        if set(stored) != set(held):
            raise CheckFailed(
                f"{head}.pt holds {listed(sorted(stored))}, and the model {listed(sorted(held))}.", NOT_THIS_MODEL
            )
        changed = [name for name in held if not torch.equal(held[name].cpu(), stored[name].to(held[name].dtype))]
        if changed:
            raise CheckFailed(
                f"After loading, {head} does not have the values of {head}.pt: {listed(changed)}. A library drew "
                "numbers at random there, or changed them.",
                LIBRARIES,
            )
    record.passed("the sparse and ColBERT heads in memory are those of the files")


def _check_numbers(texts: tuple[str, ...], first: Embedded, again: Embedded, record: Record) -> None:
    steps.same_twice(texts, first.dense, again.dense, record)
    steps.same_twice(texts, first.colbert, again.colbert, record, COLBERT)
    model_checks.finite(texts, first.sparse, SPARSE)
    if not any(any(weights) for weights in first.sparse):
        raise CheckFailed(
            "No text has a sparse vector: the head of sparse_linear.pt gives no token a weight.", NOT_THIS_MODEL
        )
    model_checks.same_again(texts, first.sparse, again.sparse, SPARSE)
    record.passed(f"{SPARSE}s are made of finite numbers, and the same again")

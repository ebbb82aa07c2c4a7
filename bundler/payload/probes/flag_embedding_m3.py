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
from ..results.failures import DAMAGED_HINT, LIBRARIES_HINT, MISMATCH_HINT, REBUILD_HINT, CheckFailedError, format_list
from ..results.load_result import LoadResult

LOADER = "flag-embedding-m3"
HEAD_NAMES = ("colbert_linear", "sparse_linear")
COLBERT_VECTOR = "ColBERT vector"
SPARSE_VECTOR = "sparse vector"
MAX_TOKENS = 512  # of a text; more of it would prove no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """What the model gives for some texts: of ColBERT the mean over the tokens, of the sparse vector a weight for each
    of the text's tokens, in the order of their numbers."""

    dense: list[list[float]]
    colbert: list[list[float]]
    sparse: list[list[float]]

    def concatenate(self) -> list[list[float]]:
        """One vector for each text that changes when any of the three does."""
        lists = zip(self.dense, self.colbert, self.sparse, strict=True)
        return [[*dense, *colbert, sum(sparse)] for dense, colbert, sparse in lists]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedder:
    """The library's object, and how much of a text to give to it."""

    library_model: Any
    max_tokens: int

    def embed(self, texts: tuple[str, ...]) -> Embeddings:
        """All three kinds of vectors."""
        found = self.library_model.encode(
            list(texts), max_length=self.max_tokens, return_dense=True, return_sparse=True, return_colbert_vecs=True
        )
        return Embeddings(
            dense=model_checks.convert_to_lists(found["dense_vecs"]),
            colbert=model_checks.convert_to_lists([each.mean(axis=0) for each in found["colbert_vecs"]]),
            sparse=[self._list_weights(*each) for each in zip(texts, found["lexical_weights"], strict=True)],
        )

    def _list_weights(self, text: str, weights: Mapping[str, Any]) -> list[float]:
        """The library leaves out tokens without weight: on another processor one that is nearly so may come or go."""
        numbers = self.library_model.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        return [float(weights.get(str(number), 0.0)) for number in sorted(set(numbers))]

    def embed_dense(self, texts: tuple[str, ...]) -> list[list[float]]:
        """The vectors that most code searches with."""
        return self.embed(texts).dense


def prove(request: Request, result: LoadResult) -> None:
    """Loads the model as code that uses it would, and checks what the libraries do not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    folder = steps.require_folder(request)
    _check_head_files(folder)
    result.add_check("both heads are there and whole")
    promised, texts = steps.check_files(request, result)
    found = steps.load_model(request, result, partial(_load, request.trust_remote_code))
    embedder: Embedder = found.model
    model, tokenizer = embedder.library_model.model, embedder.library_model.tokenizer
    steps.check_placement(model, result)
    tokens = steps.check_tokens(tokenizer, texts, result, any_language=request.any_language)
    first, again = steps.run_twice(lambda: embedder.embed(texts), result)
    result.width = len(first.dense[0])
    _check_outputs(texts, first, again, result)
    _check_heads(folder, model, result)
    steps.check_weights(model, found.reports, folder, lambda: embedder.embed(texts[:2]).concatenate(), result)
    steps.check_vocabulary(promised.token_vocabulary, tokenizer, load_report.find_report(model, found.reports), result)
    result.norm = round(model_checks.compute_norm(first.dense[0]), 6)
    tokens = [each[: embedder.max_tokens] for each in tokens]
    steps.check_distinct(texts, first.dense, tokens, result)
    steps.check_distinct(texts, first.colbert, tokens, result, COLBERT_VECTOR)
    if promised.width is not None:
        model_checks.check_width(first.dense, promised.width, "config.json")
        result.add_check(f"vectors are {promised.width} wide, as config.json promises")
    kinds = {"dense": first.dense, "colbert": first.colbert, "sparse": first.sparse}
    steps.check_golden(request, result, texts, steps.make_tokenize(tokenizer), kinds)
    steps.check_triples(request, embedder.embed_dense, result)
    steps.check_memory(request, result)


def _load(trust_remote_code: bool, path: str, device: str) -> Embedder:
    flag = BGEM3FlagModel(path, use_fp16=False, devices=device, trust_remote_code=trust_remote_code)
    flag.model.to(device)  # which the library would do at the first text
    return Embedder(
        library_model=flag, max_tokens=steps.choose_max_tokens(flag.tokenizer, flag.model.model.config, MAX_TOKENS)
    )


def _check_head_files(folder: Path) -> None:
    """Where one of the two files is missing, the library says nothing and draws both heads at random."""
    for name in (f"{head}.pt" for head in HEAD_NAMES):
        path = folder / name
        if not path.is_file():
            what = "is a link that leads nowhere" if path.is_symlink() else "is missing"
            raise CheckFailedError(
                f"{name} {what}: FlagEmbedding would draw the sparse and ColBERT heads at random at each load.",
                REBUILD_HINT,
            )
        tensor_files.check_weight_file(path)


def _check_heads(folder: Path, model: Any, result: LoadResult) -> None:
    for head in HEAD_NAMES:
        try:
            stored = torch.load(folder / f"{head}.pt", map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError) as error:
            raise CheckFailedError(f"{head}.pt can not be read as weights.", DAMAGED_HINT) from error
        held = getattr(model, head).state_dict()
        if set(stored) != set(held):
            raise CheckFailedError(
                f"{head}.pt holds {format_list(sorted(stored))}, and the model {format_list(sorted(held))}.",
                MISMATCH_HINT,
            )
        changed = [name for name in held if not torch.equal(held[name].cpu(), stored[name].to(held[name].dtype))]
        if changed:
            raise CheckFailedError(
                f"After loading, {head} does not have the values of {head}.pt: {format_list(changed)}. A library drew "
                "numbers at random there, or changed them.",
                LIBRARIES_HINT,
            )
    result.add_check("the sparse and ColBERT heads in memory are those of the files")


def _check_outputs(texts: tuple[str, ...], first: Embeddings, second: Embeddings, result: LoadResult) -> None:
    steps.check_repeatable(texts, first.dense, second.dense, result)
    steps.check_repeatable(texts, first.colbert, second.colbert, result, COLBERT_VECTOR)
    model_checks.check_finite(texts, first.sparse, SPARSE_VECTOR)
    if not any(any(weights) for weights in first.sparse):
        raise CheckFailedError(
            "No text has a sparse vector: the head of sparse_linear.pt gives no token a weight.", MISMATCH_HINT
        )
    model_checks.check_repeatable(texts, first.sparse, second.sparse, SPARSE_VECTOR)
    result.add_check(f"{SPARSE_VECTOR}s are made of finite numbers, and the same again")

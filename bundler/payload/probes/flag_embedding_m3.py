"""The probe of BGE-M3 models of FlagEmbedding: dense, sparse and ColBERT vectors, and heads that are not random."""

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
MAX_TOKENS = 512  # of a text; a longer text checks nothing more


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """The model's vectors for some texts.

    A ColBERT vector is the mean over the tokens; a sparse vector has a weight for each of the text's tokens, in the
    order of their numbers.
    """

    dense: list[list[float]]
    colbert: list[list[float]]
    sparse: list[list[float]]

    def concatenate(self) -> list[list[float]]:
        """Join the three kinds into one vector for each text, which changes if any of them does."""
        lists = zip(self.dense, self.colbert, self.sparse, strict=True)
        return [[*dense, *colbert, sum(sparse)] for dense, colbert, sparse in lists]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedder:
    """The library's model, and how many tokens of a text to give to it."""

    library_model: Any
    max_tokens: int

    def embed(self, texts: tuple[str, ...]) -> Embeddings:
        """Compute all three kinds of vectors."""
        output = self.library_model.encode(
            list(texts), max_length=self.max_tokens, return_dense=True, return_sparse=True, return_colbert_vecs=True
        )
        return Embeddings(
            dense=model_checks.convert_to_lists(output["dense_vecs"]),
            colbert=model_checks.convert_to_lists([vectors.mean(axis=0) for vectors in output["colbert_vecs"]]),
            sparse=[self._list_weights(*pair) for pair in zip(texts, output["lexical_weights"], strict=True)],
        )

    def _list_weights(self, text: str, weights: Mapping[str, Any]) -> list[float]:
        """List the weight of each token. The library omits tokens without weight, and rounding decides about small ones."""
        numbers = self.library_model.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        return [float(weights.get(str(number), 0.0)) for number in sorted(set(numbers))]

    def embed_dense(self, texts: tuple[str, ...]) -> list[list[float]]:
        """Compute the dense vectors, which most code searches with."""
        return self.embed(texts).dense


def prove(request: Request, result: LoadResult) -> None:
    """Load the model as code that uses it would, and check what the libraries do not.

    Raises:
        CheckFailedError: The model fails a check. Errors of libraries propagate.
    """
    folder = steps.require_folder(request)
    _check_head_files(folder)
    result.add_check("the files of both heads are complete")
    declared, texts = steps.check_files(request, result)
    loaded = steps.load_model(request, result, partial(_load, request.trust_remote_code))
    embedder: Embedder = loaded.model
    model, tokenizer = embedder.library_model.model, embedder.library_model.tokenizer
    steps.check_placement(model, result)
    tokens = steps.check_tokens(tokenizer, texts, result, any_language=request.any_language)
    first, second = steps.run_twice(lambda: embedder.embed(texts), result)
    result.width = len(first.dense[0])
    _check_outputs(texts, first, second, result)
    _check_heads(folder, model, result)
    steps.check_weights(model, loaded.reports, folder, lambda: embedder.embed(texts[:2]).concatenate(), result)
    steps.check_vocabulary(declared.token_vocabulary, tokenizer, load_report.find_report(model, loaded.reports), result)
    result.norm = round(model_checks.compute_norm(first.dense[0]), 6)
    tokens = [numbers[: embedder.max_tokens] for numbers in tokens]
    steps.check_distinct(texts, first.dense, tokens, result)
    steps.check_distinct(texts, first.colbert, tokens, result, COLBERT_VECTOR)
    if declared.width is not None:
        model_checks.check_width(first.dense, declared.width, "config.json")
        result.add_check(f"vectors are {declared.width} wide, as config.json declares")
    kinds = {"dense": first.dense, "colbert": first.colbert, "sparse": first.sparse}
    steps.check_golden(request, result, texts, steps.make_tokenize(tokenizer), kinds)
    steps.check_triples(request, embedder.embed_dense, result)
    steps.check_memory(request, result)


def _load(trust_remote_code: bool, path: str, device: str) -> Embedder:
    library_model = BGEM3FlagModel(path, use_fp16=False, devices=device, trust_remote_code=trust_remote_code)
    library_model.model.to(device)  # the library would do this at the first text
    return Embedder(
        library_model=library_model,
        max_tokens=steps.choose_max_tokens(library_model.tokenizer, library_model.model.model.config, MAX_TOKENS),
    )


def _check_head_files(folder: Path) -> None:
    """Check the files of both heads: if one is missing, the library silently initializes both heads at random."""
    for name in (f"{head}.pt" for head in HEAD_NAMES):
        path = folder / name
        if not path.is_file():
            reason = "is a broken link" if path.is_symlink() else "is missing"
            raise CheckFailedError(
                f"{name} {reason}: FlagEmbedding would initialize the sparse and ColBERT heads at random at each load.",
                REBUILD_HINT,
            )
        tensor_files.check_weight_file(path)


def _check_heads(folder: Path, model: Any, result: LoadResult) -> None:
    for head in HEAD_NAMES:
        try:
            stored = torch.load(folder / f"{head}.pt", map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError) as error:
            raise CheckFailedError(f"{head}.pt can not be read as weights.", DAMAGED_HINT) from error
        loaded = getattr(model, head).state_dict()
        if set(stored) != set(loaded):
            raise CheckFailedError(
                f"{head}.pt has {format_list(sorted(stored))}, but the model has {format_list(sorted(loaded))}.",
                MISMATCH_HINT,
            )
        changed = [name for name in loaded if not torch.equal(loaded[name].cpu(), stored[name].to(loaded[name].dtype))]
        if changed:
            raise CheckFailedError(
                f"After loading, {head} does not have the values of {head}.pt: {format_list(changed)}. A library changed "
                "them or initialized them at random.",
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
    result.add_check(f"{SPARSE_VECTOR}s are made of finite numbers, and the same text gives the same one again")

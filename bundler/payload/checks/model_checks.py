"""What must hold for any model, whichever library loaded it: vectors that say something, weights that are there.

Each check is a pure function over lists, numpy arrays or torch tensors, and raises `CheckFailed`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..results.failures import (
    DAMAGED_HINT,
    LIBRARIES_HINT,
    MISMATCH_HINT,
    CheckFailedError,
    format_list,
    pluralize,
    shorten,
)

Vector = Sequence[float]

MAX_REPEAT_DIFFERENCE = 1e-5  # the most that a component may differ when the same text is embedded again
MIN_VECTOR_DIFFERENCE = 1e-6  # below this, relative to the largest component, two vectors are one
NORM_TOLERANCE = 1e-3
HALF_NORM_TOLERANCE = 1e-2  # of 16-bit numbers
MATRIX_DIMENSIONS = 2  # dimensions from which on a weight is a matrix

_FLOAT8_PREFIX = "torch.float8"  # torch can not compare such numbers

VECTOR = "vector"

TRIPLE_HINT = (
    "The model loads and does not understand: compare the library versions with those of the build, and check that "
    "the triple is one that the model gets right on the online side."
)
_DO_NOT_USE_HINT = "Do not use this model: check its weights and the library versions, then build the bundle again."
_USELESS_VECTOR_HINT = f"A vector like this finds nothing and would poison an index. {_DO_NOT_USE_HINT}"


def convert_to_lists(vectors: Any) -> list[list[float]]:
    """Rows of plain numbers, from lists, a numpy array or a torch tensor of two dimensions."""
    rows = vectors.tolist() if hasattr(vectors, "tolist") else vectors
    return [[float(number) for number in (row.tolist() if hasattr(row, "tolist") else row)] for row in rows]


def quote(text: str) -> str:
    """A text in an error: short, and in quotation marks."""
    return f"“{shorten(' '.join(text.split()), 40)}”"


def check_finite(texts: Sequence[str], vectors: Sequence[Vector], noun: str = VECTOR) -> None:
    """No component is NaN or infinite; `noun` is what the model gives for a text, for the error."""
    for text, vector in zip(texts, vectors, strict=True):
        wrong = sum(1 for number in vector if not math.isfinite(number))
        if wrong:
            raise CheckFailedError(
                f"The {noun} of {quote(text)} is not made of numbers: {wrong} of {len(vector)} components are NaN or "
                "infinite.",
                _choose_hint(noun),
            )


def check_not_zero(texts: Sequence[str], vectors: Sequence[Vector], noun: str = VECTOR) -> None:
    """No vector is all zero, or empty."""
    for text, vector in zip(texts, vectors, strict=True):
        if not any(vector):
            raise CheckFailedError(
                f"The {noun} of {quote(text)} is all zero ({len(vector)} components).", _choose_hint(noun)
            )


def check_not_constant(texts: Sequence[str], vectors: Sequence[Vector], noun: str = VECTOR) -> None:
    """No vector repeats one number throughout."""
    for text, vector in zip(texts, vectors, strict=True):
        if len(vector) > 1 and _is_same(vector, [vector[0]] * len(vector)):
            raise CheckFailedError(
                f"The {noun} of {quote(text)} is constant: each of its {len(vector)} components is {vector[0]:.6g}.",
                _choose_hint(noun),
            )


def check_different(
    texts: Sequence[str], vectors: Sequence[Vector], tokens: Sequence[Sequence[int]], noun: str = VECTOR
) -> list[str]:
    """Different texts give different vectors; texts that are the same in tokens may give the same.

    Returns what a person should know about texts that could not be told apart by the tokenizer.
    """
    blurred = []
    told_apart = 0
    for one, other in itertools.combinations(range(len(texts)), 2):
        if texts[one] == texts[other]:
            continue
        if tuple(tokens[one]) == tuple(tokens[other]):
            blurred.append(f"To this model's tokenizer, {quote(texts[one])} and {quote(texts[other])} are the same.")
            continue
        told_apart += 1
        if _is_same(vectors[one], vectors[other]):
            raise CheckFailedError(
                f"{quote(texts[one])} and {quote(texts[other])} get the same {noun}: the model does not look at "
                "what is said.",
                _choose_hint(noun),
            )
    if not told_apart:
        raise CheckFailedError(
            "No two of the texts differ for this model's tokenizer, so nothing shows that it can tell texts apart.",
            "Give two clearly different texts under smoke: texts in the manifest, in a language that the model knows.",
        )
    return blurred


def compute_norm(vector: Vector) -> float:
    """The Euclidean length of a vector."""
    return math.sqrt(math.fsum(number * number for number in vector))


def check_unit_norm(texts: Sequence[str], vectors: Sequence[Vector], tolerance: float = NORM_TOLERANCE) -> None:
    """Each vector has length one, as a model with a Normalize module promises."""
    for text, vector in zip(texts, vectors, strict=True):
        length = compute_norm(vector)
        if abs(length - 1.0) > tolerance:
            raise CheckFailedError(
                f"modules.json promises vectors of length 1, and that of {quote(text)} has length {length:.4f}.",
                MISMATCH_HINT,
            )


def check_width(vectors: Sequence[Vector], expected: int, source: str, noun: str = VECTOR) -> None:
    """Each vector has as many components as `source`, a file of the model, promises."""
    for vector in vectors:
        if len(vector) != expected:
            raise CheckFailedError(
                f"{source} promises {noun}s {expected} wide, and they are {len(vector)} wide.", MISMATCH_HINT
            )


def check_repeatable(
    texts: Sequence[str], first: Sequence[Vector], second: Sequence[Vector], noun: str = VECTOR
) -> None:
    """The same text gives the same vector at the second time."""
    for text, one, other in zip(texts, first, second, strict=True):
        scale = max(1.0, *(abs(number) for number in one))
        apart = max(abs(a - b) for a, b in zip(one, other, strict=True))
        if apart > MAX_REPEAT_DIFFERENCE * scale:
            raise CheckFailedError(
                f"{quote(text)} got two different {noun}s, {apart:.2g} apart in one component: part of the model is "
                "drawn at random.",
                LIBRARIES_HINT,
            )


def has_changed(before: Sequence[Vector], after: Sequence[Vector]) -> bool:
    """Whether any vector changed by more than the same model changes by itself; NaN is a change."""
    scale = max(1.0, *(abs(number) for vector in before for number in vector))
    pairs = zip(itertools.chain(*before), itertools.chain(*after), strict=True)
    return any(not abs(a - b) <= MAX_REPEAT_DIFFERENCE * scale for a, b in pairs)


def compute_cosine(first: Vector, second: Vector) -> float:
    """The cosine of the angle between two vectors that are not zero."""
    return math.fsum(a * b for a, b in zip(first, second, strict=True)) / (compute_norm(first) * compute_norm(second))


def check_triple(triple: tuple[str, str, str], query: Vector, nearer: Vector, farther: Vector) -> tuple[float, float]:
    """The query is nearer to the one text than to the other; both cosines."""
    near, far = compute_cosine(query, nearer), compute_cosine(query, farther)
    if not near > far:
        raise CheckFailedError(
            f"{quote(triple[0])} should be closer to {quote(triple[1])} (cosine {near:.4f}) than to "
            f"{quote(triple[2])} (cosine {far:.4f}), and is not.",
            TRIPLE_HINT,
        )
    return near, far


def check_on_device(tensors: Iterable[tuple[str, Any]]) -> None:
    """No tensor is on the meta device, where it has a shape and no content."""
    empty = [name for name, tensor in tensors if bool(getattr(tensor, "is_meta", False))]
    if empty:
        raise CheckFailedError(
            f"The load left {pluralize(empty)} on the meta device, with a shape and no content: {format_list(empty)}.",
            LIBRARIES_HINT,
        )


def check_weights(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """Each weight is made of numbers, and no matrix is all zero or one constant.

    Returns names of token type embeddings that are all zero: conversions from fairseq write them so, and rightly.
    """
    neutral = []
    for name, tensor in tensors:
        low, high, dimensions, size = _measure_tensor(tensor)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckFailedError(f"The weight {name} holds NaN or infinite numbers.", DAMAGED_HINT)
        if dimensions < MATRIX_DIMENSIONS or size < MATRIX_DIMENSIONS or low != high:
            continue
        if low == 0.0 and name.endswith("token_type_embeddings.weight"):
            neutral.append(name)
            continue
        what = "all zero" if low == 0.0 else f"one constant, {low:.6g}, throughout"
        raise CheckFailedError(
            f"The weight matrix {name} is {what}: nothing was learned there, or it was lost.", DAMAGED_HINT
        )
    return neutral


def check_memory(peak: int, limit: int) -> None:
    """The load stayed within `limit` bytes, if there is one."""
    if limit and peak > limit:
        raise CheckFailedError(
            f"The load took {_format_mebibytes(peak)} of memory at its peak, and the limit is {_format_mebibytes(limit)}.",
            "Raise smoke: ram_limit in the manifest if the host has that memory, or choose a smaller model.",
        )


def _choose_hint(noun: str) -> str:
    return _USELESS_VECTOR_HINT if noun == VECTOR else _DO_NOT_USE_HINT


def _format_mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB ({count} bytes)"


def _is_same(first: Vector, second: Vector) -> bool:
    slack = MIN_VECTOR_DIFFERENCE * max(abs(number) for number in itertools.chain(first, second))
    return all(abs(a - b) <= slack for a, b in zip(first, second, strict=True))


def _measure_tensor(tensor: Any) -> tuple[float, float, int, int]:
    """Least and greatest number (NaN if there is one), dimensions and size of an array, a tensor or nested lists."""
    if not isinstance(tensor, list | tuple):
        if not math.prod(tensor.shape):
            return 0.0, 0.0, 0, 0
        plain = tensor.detach() if hasattr(tensor, "detach") else tensor
        if str(plain.dtype).startswith(_FLOAT8_PREFIX):
            plain = plain.float()
        return float(plain.min()), float(plain.max()), len(plain.shape), math.prod(plain.shape)
    flat, dimensions = list(tensor), 1
    while flat and isinstance(flat[0], list | tuple):
        flat, dimensions = [number for row in flat for number in row], dimensions + 1
    if any(number != number for number in flat):  # noqa: PLR0124 - NaN is the number that differs from itself
        return math.nan, math.nan, dimensions, len(flat)
    return (min(flat), max(flat), dimensions, len(flat)) if flat else (0.0, 0.0, 0, 0)

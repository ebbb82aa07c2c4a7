"""Checks for any model, whichever library loaded it: that its vectors carry information and its weights have values.

Each check is a pure function over lists, numpy arrays or torch tensors, and raises `CheckFailedError`.
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

MAX_REPEAT_DIFFERENCE = 1e-5  # of a component, when the same text is embedded again
MIN_VECTOR_DIFFERENCE = 1e-6  # relative to the largest component; below it, two vectors are equal
NORM_TOLERANCE = 1e-3
HALF_NORM_TOLERANCE = 1e-2  # for 16-bit numbers
MATRIX_DIMENSIONS = 2  # a weight with at least this many is a matrix

_FLOAT8_PREFIX = "torch.float8"  # torch can not compare these numbers

VECTOR = "vector"

TRIPLE_HINT = (
    "The model loads but gives a wrong order: compare the library versions with those of the build, and check on the "
    "builder that the model gets this triple right."
)
_DO_NOT_USE_HINT = "Do not use this model: check its weights and the library versions, then build the bundle again."
_USELESS_VECTOR_HINT = f"Such a vector finds nothing and would spoil an index. {_DO_NOT_USE_HINT}"


def convert_to_lists(vectors: Any) -> list[list[float]]:
    """Convert lists, a numpy array or a torch tensor of two dimensions to lists of floats."""
    rows = vectors.tolist() if hasattr(vectors, "tolist") else vectors
    return [[float(number) for number in (row.tolist() if hasattr(row, "tolist") else row)] for row in rows]


def quote(text: str) -> str:
    """Quote a text for an error message, shortened."""
    return f"“{shorten(' '.join(text.split()), 40)}”"


def check_finite(texts: Sequence[str], vectors: Sequence[Vector], noun: str = VECTOR) -> None:
    """Check that no component is NaN or infinite; `noun` names the model's output in the error."""
    for text, vector in zip(texts, vectors, strict=True):
        count = sum(1 for number in vector if not math.isfinite(number))
        if count:
            raise CheckFailedError(
                f"The {noun} of {quote(text)} is not made of numbers: {count} of {len(vector)} components are NaN or "
                "infinite.",
                _choose_hint(noun),
            )


def check_not_zero(texts: Sequence[str], vectors: Sequence[Vector], noun: str = VECTOR) -> None:
    """Check that no vector is all zero or empty."""
    for text, vector in zip(texts, vectors, strict=True):
        if not any(vector):
            raise CheckFailedError(
                f"The {noun} of {quote(text)} is all zero ({len(vector)} components).", _choose_hint(noun)
            )


def check_not_constant(texts: Sequence[str], vectors: Sequence[Vector], noun: str = VECTOR) -> None:
    """Check that no vector has the same number in all components."""
    for text, vector in zip(texts, vectors, strict=True):
        if len(vector) > 1 and _is_same(vector, [vector[0]] * len(vector)):
            raise CheckFailedError(
                f"The {noun} of {quote(text)} is constant: each of its {len(vector)} components is {vector[0]:.6g}.",
                _choose_hint(noun),
            )


def check_different(
    texts: Sequence[str], vectors: Sequence[Vector], tokens: Sequence[Sequence[int]], noun: str = VECTOR
) -> list[str]:
    """Check that different texts give different vectors, unless they have the same tokens.

    Returns:
        Warnings about texts that have the same tokens.
    """
    warnings = []
    compared = 0
    for first, second in itertools.combinations(range(len(texts)), 2):
        if texts[first] == texts[second]:
            continue
        if tuple(tokens[first]) == tuple(tokens[second]):
            warnings.append(
                f"{quote(texts[first])} and {quote(texts[second])} are the same for this model's tokenizer."
            )
            continue
        compared += 1
        if _is_same(vectors[first], vectors[second]):
            raise CheckFailedError(
                f"{quote(texts[first])} and {quote(texts[second])} get the same {noun}: the model's output does not "
                "depend on the text.",
                _choose_hint(noun),
            )
    if not compared:
        raise CheckFailedError(
            "No two of the texts differ for this model's tokenizer, so the model could not be checked with them.",
            "Give two clearly different texts under smoke: texts in the manifest, in a language that the model knows.",
        )
    return warnings


def compute_norm(vector: Vector) -> float:
    """Compute the Euclidean length of a vector."""
    return math.sqrt(math.fsum(number * number for number in vector))


def check_unit_norm(texts: Sequence[str], vectors: Sequence[Vector], tolerance: float = NORM_TOLERANCE) -> None:
    """Check that each vector has length 1, as a model with a Normalize module declares."""
    for text, vector in zip(texts, vectors, strict=True):
        norm = compute_norm(vector)
        if abs(norm - 1.0) > tolerance:
            raise CheckFailedError(
                f"modules.json declares vectors of length 1, but that of {quote(text)} has length {norm:.4f}.",
                MISMATCH_HINT,
            )


def check_width(vectors: Sequence[Vector], expected: int, source: str, noun: str = VECTOR) -> None:
    """Check that each vector has as many components as `source`, a file of the model, declares."""
    for vector in vectors:
        if len(vector) != expected:
            raise CheckFailedError(
                f"{source} declares {noun}s {expected} wide, but they are {len(vector)} wide.", MISMATCH_HINT
            )


def check_repeatable(
    texts: Sequence[str], first: Sequence[Vector], second: Sequence[Vector], noun: str = VECTOR
) -> None:
    """Check that the same text gives the same vector the second time."""
    for text, vector, repeated in zip(texts, first, second, strict=True):
        scale = max(1.0, *(abs(number) for number in vector))
        difference = max(abs(a - b) for a, b in zip(vector, repeated, strict=True))
        if difference > MAX_REPEAT_DIFFERENCE * scale:
            raise CheckFailedError(
                f"{quote(text)} got two different {noun}s, {difference:.2g} apart in one component: part of the model "
                "is random.",
                LIBRARIES_HINT,
            )


def has_changed(before: Sequence[Vector], after: Sequence[Vector]) -> bool:
    """Whether any vector changed by more than repeated runs of one model may differ; NaN is a change."""
    scale = max(1.0, *(abs(number) for vector in before for number in vector))
    pairs = zip(itertools.chain(*before), itertools.chain(*after), strict=True)
    return any(not abs(a - b) <= MAX_REPEAT_DIFFERENCE * scale for a, b in pairs)


def compute_cosine(first: Vector, second: Vector) -> float:
    """Compute the cosine of the angle between two vectors that are not zero."""
    return math.fsum(a * b for a, b in zip(first, second, strict=True)) / (compute_norm(first) * compute_norm(second))


def check_triple(triple: tuple[str, str, str], query: Vector, nearer: Vector, farther: Vector) -> tuple[float, float]:
    """Check that the query is nearer to the second text than to the third, and return both cosines."""
    near, far = compute_cosine(query, nearer), compute_cosine(query, farther)
    if not near > far:
        raise CheckFailedError(
            f"{quote(triple[0])} should be closer to {quote(triple[1])} (cosine {near:.4f}) than to "
            f"{quote(triple[2])} (cosine {far:.4f}), but is not.",
            TRIPLE_HINT,
        )
    return near, far


def check_on_device(tensors: Iterable[tuple[str, Any]]) -> None:
    """Check that no tensor is on the meta device, where it has a shape but no values."""
    empty = [name for name, tensor in tensors if bool(getattr(tensor, "is_meta", False))]
    if empty:
        raise CheckFailedError(
            f"The load left {pluralize(empty)} on the meta device, with a shape but no values: {format_list(empty)}.",
            LIBRARIES_HINT,
        )


def check_weights(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """Check that each weight is made of finite numbers, and that no matrix is all zero or constant.

    Returns:
        Names of token type embeddings that are all zero, which is correct in models converted from fairseq.
    """
    zero_embeddings = []
    for name, tensor in tensors:
        low, high, dimensions, size = _measure_tensor(tensor)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckFailedError(f"The weight {name} holds NaN or infinite numbers.", DAMAGED_HINT)
        if dimensions < MATRIX_DIMENSIONS or size < MATRIX_DIMENSIONS or low != high:
            continue
        if low == 0.0 and name.endswith("token_type_embeddings.weight"):
            zero_embeddings.append(name)
            continue
        content = "all zero" if low == 0.0 else f"one constant, {low:.6g}"
        raise CheckFailedError(f"The weight matrix {name} is {content}: its trained values are lost.", DAMAGED_HINT)
    return zero_embeddings


def check_memory(peak: int, limit: int) -> None:
    """Check that the load stayed within the limit; both in bytes, a limit of 0 is none."""
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
    """Return minimum and maximum (NaN if there is one), dimensions and size of an array, a tensor or nested lists."""
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
    if any(number != number for number in flat):  # noqa: PLR0124 - only NaN differs from itself
        return math.nan, math.nan, dimensions, len(flat)
    return (min(flat), max(flat), dimensions, len(flat)) if flat else (0.0, 0.0, 0, 0)

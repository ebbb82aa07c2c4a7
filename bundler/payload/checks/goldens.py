"""Golden outputs: a model's outputs at the rehearsal, in a compact form, and the comparison with those on the host.

Tokens must be equal. The distance of vectors must stay within the tolerance: half the squared length of the
difference, relative to the golden vector. For vectors of the same length that is the cosine distance, but it also
detects a change of length. A score is one number, so its absolute difference counts, relative to a golden score above
1: half a square would accept a score that is off by 0.045 where the tolerance is 0.001.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..results.failures import LIBRARIES_HINT, CheckFailedError, format_list
from ..results.load_result import LoadResult
from . import model_checks
from .model_checks import Vector

MAX_COMPONENTS = 1024  # kept of a vector; evenly spaced if it is wider
MAX_FIRST_TOKENS = 8  # kept for error messages
MIN_NORM = 1e-3  # in a sparse vector whose weights are all nearly zero, differences are noise

_TOOL_HINT = "Install with the version of the installer that built the bundle: another version may use other texts."
_TOKENIZER_HINT = (
    "The tokenizer's files are of another revision than at the rehearsal, or the libraries read them differently. Build "
    "the bundle again, and do not mix vectors of the two."
)
_WEIGHTS_HINT = (
    "The weights are of another revision than at the rehearsal, were changed, or are partly random. Build the bundle "
    "again. Do not use this model until then: its vectors do not match those made elsewhere with it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenVector:
    """A vector in the lock: `values` is base64 of little-endian float32, at most `MAX_COMPONENTS` of `width`."""

    name: str
    width: int
    values: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenOutput:
    """A model's output for one text; `text` and `token_digest` are SHA-256."""

    text: str
    tokens: int
    token_digest: str
    first_tokens: tuple[int, ...]
    vectors: tuple[GoldenVector, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """A model's outputs at the rehearsal, with the dtype and the library versions there."""

    dtype: str
    versions: Mapping[str, str]
    outputs: tuple[GoldenOutput, ...]


def parse_golden(document: Mapping[str, Any]) -> Golden:
    """Parse a golden from the request.

    Raises:
        KeyError: A field is missing.
        TypeError: A value has the wrong type.
    """
    outputs = [
        GoldenOutput(
            text=output["text"], tokens=output["tokens"], token_digest=output["token_digest"],
            first_tokens=tuple(output["first_tokens"]),
            vectors=tuple(GoldenVector(**vector) for vector in output["vectors"]),
        )
        for output in document["outputs"]
    ]  # fmt: skip
    return Golden(dtype=document["dtype"], versions=dict(document["versions"]), outputs=tuple(outputs))


def make_outputs(
    texts: Sequence[str], tokenize: Callable[[str], Sequence[int]], vectors: Mapping[str, Sequence[Vector]]
) -> list[GoldenOutput]:
    """Make the golden outputs: for each text its tokens and one vector of each kind."""
    outputs = []
    for index, text in enumerate(texts):
        numbers = [int(number) for number in tokenize(text)]
        outputs.append(
            GoldenOutput(
                text=_compute_digest(text),
                tokens=len(numbers),
                token_digest=_compute_digest(",".join(map(str, numbers))),
                first_tokens=tuple(numbers[:MAX_FIRST_TOKENS]),
                vectors=tuple(_make_vector(name, kind[index]) for name, kind in vectors.items() if kind[index]),
            )
        )
    return outputs


def check_outputs(
    golden: Golden, outputs: Sequence[GoldenOutput], texts: Sequence[str], result: LoadResult, tolerance: float
) -> None:
    """Check that the outputs are those of the rehearsal.

    Raises:
        CheckFailedError: They differ; the message says where.
    """
    version_note = _describe_version_changes(golden.versions, result.versions)
    if [output.text for output in outputs] != [output.text for output in golden.outputs]:
        raise CheckFailedError(
            "The golden outputs of this bundle are for other texts than those of this load.", _TOOL_HINT
        )
    for text, actual, expected in zip(texts, outputs, golden.outputs, strict=True):
        if (actual.tokens, actual.token_digest) != (expected.tokens, expected.token_digest):
            raise CheckFailedError(
                f"The tokenizer is not that of the rehearsal: {_quote_text(text)} gives {actual.tokens} tokens here "
                f"({_format_tokens(actual)}), and gave {expected.tokens} there ({_format_tokens(expected)}).{version_note}",
                LIBRARIES_HINT if version_note else _TOKENIZER_HINT,
            )
    result.add_check("the tokens of every text are those of the rehearsal")
    if result.dtype != golden.dtype:
        raise CheckFailedError(
            f"The weights are {result.dtype} here and were {golden.dtype} at the rehearsal.{version_note}",
            LIBRARIES_HINT,
        )
    largest = 0.0
    for text, actual, expected in zip(texts, outputs, golden.outputs, strict=True):
        largest = max(largest, _check_distance(text, actual, expected, tolerance, version_note))
    result.add_check(f"the outputs are those of the rehearsal: largest difference {largest:.2g} (limit {tolerance:g})")


def _check_distance(
    text: str, actual: GoldenOutput, expected: GoldenOutput, tolerance: float, version_note: str
) -> float:
    """Check the distance of each kind of vector and return the largest one."""
    actual_kinds, expected_kinds = (
        [(vector.name, vector.width) for vector in output.vectors] for output in (actual, expected)
    )
    if actual_kinds != expected_kinds:
        raise CheckFailedError(
            f"The model gives {_format_kinds(actual_kinds)} here, and gave {_format_kinds(expected_kinds)} at the "
            f"rehearsal.{version_note}",
            _WEIGHTS_HINT,
        )
    distances = {}
    for vector, golden in zip(actual.vectors, expected.vectors, strict=True):
        golden_values = _decode_values(golden)
        distances[vector.name] = compute_distance(
            _thin_vector(_decode_values(vector), len(golden_values)), golden_values
        )
    excessive = {name: distance for name, distance in distances.items() if not distance <= tolerance}
    if excessive:
        first, *rest = excessive
        more = f"; also {', '.join(f'{name} ({excessive[name]:.2g})' for name in rest)}" if rest else ""
        raise CheckFailedError(
            f"The {first} of {_quote_text(text)} differs from that of the rehearsal by {excessive[first]:.2g} (limit "
            f"{tolerance:g}){more}: these are not the weights of the rehearsal.{version_note}",
            LIBRARIES_HINT if version_note else _WEIGHTS_HINT,
        )
    return max(distances.values(), default=0.0)


def _format_kinds(kinds: Sequence[tuple[str, int]]) -> str:
    return format_list([f"{name} of {width}" for name, width in kinds]) or "nothing"


def compute_distance(vector: Vector, golden: Vector) -> float:
    """Compute how far a vector is from the golden one; for vectors of the same length it is the cosine distance.

    For a single score it is the difference, relative to the golden score if that is above 1.
    """
    difference = model_checks.compute_norm([a - b for a, b in zip(vector, golden, strict=True)])
    if len(golden) == 1:
        return difference / max(1.0, model_checks.compute_norm(golden))
    return (difference / max(MIN_NORM, model_checks.compute_norm(golden))) ** 2 / 2


def _describe_version_changes(expected: Mapping[str, str], actual: Mapping[str, str]) -> str:
    changes = [
        f"{name} {actual.get(name, 'absent')} instead of {expected.get(name, 'absent')}"
        for name in sorted({*expected, *actual})
        if expected.get(name) != actual.get(name)
    ]
    return f" Library versions differ: {', '.join(changes)}." if changes else ""


def _quote_text(text: str) -> str:
    """Quote a text for an error message; a NUL separates the two texts of a pair."""
    return model_checks.quote(text.replace("\0", " / "))


def _compute_digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _make_vector(name: str, vector: Vector) -> GoldenVector:
    thin = _thin_vector(vector, MAX_COMPONENTS)
    packed = base64.b64encode(struct.pack(f"<{len(thin)}f", *thin)).decode()
    return GoldenVector(name=name, width=len(vector), values=packed)


def _thin_vector(vector: Vector, max_components: int) -> list[float]:
    count = len(vector)
    if count <= max_components:
        return list(vector)
    return [vector[index * count // max_components] for index in range(max_components)]


def _decode_values(vector: GoldenVector) -> list[float]:
    data = base64.b64decode(vector.values)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _format_tokens(output: GoldenOutput) -> str:
    return ", ".join(map(str, output.first_tokens)) + (" …" if output.tokens > len(output.first_tokens) else "")


def encode_outputs(outputs: Sequence[GoldenOutput]) -> list[dict[str, Any]]:
    """Encode outputs for the result's JSON."""
    return [asdict(output) for output in outputs]

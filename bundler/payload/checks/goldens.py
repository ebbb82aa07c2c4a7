"""Golden outputs: what a model gives for texts, small enough to travel, and whether it still is what it was.

Tokens must be the same ones. Of vectors the distance must stay within the tolerance: half the square of the length of
the difference, relative to the golden vector. For vectors of one length that is the cosine distance; unlike it, it
also sees a change of length. A score is one number, so its own difference counts, relative to the golden score: half
a square would let a score of 1 be off by 0.045 where 0.001 is meant.
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

MAX_COMPONENTS = 1024  # of a vector; of a wider one, evenly spaced ones
MAX_FIRST_TOKENS = 8  # tokens that are kept for a reader
MIN_NORM = 1e-3  # of a sparse vector whose tokens all stand at the edge of having no weight, what differs is noise

_TOOL_HINT = "Install with an installer of the version that built the bundle: another version may ask other texts."
_TOKENIZER_HINT = (
    "The tokenizer's files are of another revision than at the rehearsal, or the libraries read them otherwise. Have "
    "the bundle built again, and do not mix vectors of the two."
)
_WEIGHTS_HINT = (
    "The weights are of another revision than at the rehearsal, were altered, or are in part random. Have the bundle "
    "built again; until then do not use this model: its vectors do not fit those that others made with it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenVector:
    """A vector as it travels: `values` is base64 of little-endian float32, at most `MOST_COMPONENTS` of `width`."""

    name: str
    width: int
    values: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenOutput:
    """What a model gave for one text."""

    text: str
    tokens: int
    token_digest: str
    first_tokens: tuple[int, ...]
    vectors: tuple[GoldenVector, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What a model gave at the rehearsal, and with what."""

    dtype: str
    versions: Mapping[str, str]
    outputs: tuple[GoldenOutput, ...]


def parse_golden(document: Mapping[str, Any]) -> Golden:
    """A golden as the installer hands it over.

    :raises KeyError, TypeError: it is none
    """
    outputs = [
        GoldenOutput(
            text=each["text"], tokens=each["tokens"], token_digest=each["token_digest"],
            first_tokens=tuple(each["first_tokens"]), vectors=tuple(GoldenVector(**kept) for kept in each["vectors"]),
        )
        for each in document["outputs"]
    ]  # fmt: skip
    return Golden(dtype=document["dtype"], versions=dict(document["versions"]), outputs=tuple(outputs))


def make_outputs(
    texts: Sequence[str], tokenize: Callable[[str], Sequence[int]], vectors: Mapping[str, Sequence[Vector]]
) -> list[GoldenOutput]:
    """What travels of what a model gave: for each text its tokens, and of each kind of vector the one for it."""
    found = []
    for n, text in enumerate(texts):
        numbers = [int(number) for number in tokenize(text)]
        found.append(
            GoldenOutput(
                text=_compute_digest(text),
                tokens=len(numbers),
                token_digest=_compute_digest(",".join(map(str, numbers))),
                first_tokens=tuple(numbers[:MAX_FIRST_TOKENS]),
                vectors=tuple(_make_vector(name, each[n]) for name, each in vectors.items() if each[n]),
            )
        )
    return found


def check_outputs(
    golden: Golden, outputs: Sequence[GoldenOutput], texts: Sequence[str], result: LoadResult, tolerance: float
) -> None:
    """What the model gave is what it gave at the rehearsal.

    :raises CheckFailed: it is not; the message says in what
    """
    skew = _describe_version_changes(golden.versions, result.versions)
    if [each.text for each in outputs] != [each.text for each in golden.outputs]:
        raise CheckFailedError(
            "The golden outputs of this bundle are for other texts than this load was asked.", _TOOL_HINT
        )
    for text, here, there in zip(texts, outputs, golden.outputs, strict=True):
        if (here.tokens, here.token_digest) != (there.tokens, there.token_digest):
            raise CheckFailedError(
                f"The tokenizer is not that of the rehearsal: of {_quote_text(text)} it makes {here.tokens} tokens "
                f"({_format_tokens(here)}), and then made {there.tokens} ({_format_tokens(there)}).{skew}",
                LIBRARIES_HINT if skew else _TOKENIZER_HINT,
            )
    result.add_check("the tokens of every text are those of the rehearsal")
    if result.dtype != golden.dtype:
        raise CheckFailedError(
            f"The weights are {result.dtype} here and were {golden.dtype} at the rehearsal.{skew}", LIBRARIES_HINT
        )
    farthest = 0.0
    for text, here, there in zip(texts, outputs, golden.outputs, strict=True):
        farthest = max(farthest, _check_distance(text, here, there, tolerance, skew))
    result.add_check(f"the outputs are those of the rehearsal: at most {farthest:.1e} away, where {tolerance:g} may be")


def _check_distance(
    text: str, actual: GoldenOutput, expected: GoldenOutput, tolerance: float, version_note: str
) -> float:
    kinds = [(each.name, each.width) for each in actual.vectors], [(each.name, each.width) for each in expected.vectors]
    if kinds[0] != kinds[1]:
        shown = [format_list([f"{name} of {width}" for name, width in each]) or "nothing" for each in kinds]
        raise CheckFailedError(
            f"The model gives {shown[0]}, and at the rehearsal gave {shown[1]}.{version_note}", _WEIGHTS_HINT
        )
    apart = {
        one.name: compute_distance(_thin_vector(_decode_values(one), len(_decode_values(other))), _decode_values(other))
        for one, other in zip(actual.vectors, expected.vectors, strict=True)
    }
    far = {name: each for name, each in apart.items() if not each <= tolerance}
    if far:
        first, *rest = far
        more = f", and so are {', '.join(f'{name} ({far[name]:.2g})' for name in rest)}" if rest else ""
        raise CheckFailedError(
            f"The {first} of {_quote_text(text)} is {far[first]:.2g} away from that of the rehearsal{more}; it may be "
            f"{tolerance:g}: these are not the weights of the rehearsal.{version_note}",
            LIBRARIES_HINT if version_note else _WEIGHTS_HINT,
        )
    return max(apart.values(), default=0.0)


def compute_distance(vector: Vector, golden: Vector) -> float:
    """How far a vector is from the golden one; for vectors of the same length their cosine distance.

    Of a single score it is the difference, relative to the golden one where that is above 1.
    """
    apart = model_checks.compute_norm([a - b for a, b in zip(vector, golden, strict=True)])
    if len(golden) == 1:
        return apart / max(1.0, model_checks.compute_norm(golden))
    return (apart / max(MIN_NORM, model_checks.compute_norm(golden))) ** 2 / 2


def _describe_version_changes(expected: Mapping[str, str], actual: Mapping[str, str]) -> str:
    apart = [
        f"{name} {actual.get(name, 'absent')} instead of {expected.get(name, 'absent')}"
        for name in sorted({*expected, *actual})
        if expected.get(name) != actual.get(name)
    ]
    return f" Here is {', '.join(apart)}." if apart else ""


def _quote_text(text: str) -> str:
    """A text as an error has it; the two of a pair are joined by a NUL."""
    return model_checks.quote(text.replace("\0", " / "))


def _compute_digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _make_vector(name: str, vector: Vector) -> GoldenVector:
    thin = _thin_vector(vector, MAX_COMPONENTS)
    packed = base64.b64encode(struct.pack(f"<{len(thin)}f", *thin)).decode()
    return GoldenVector(name=name, width=len(vector), values=packed)


def _thin_vector(vector: Vector, max_components: int) -> list[float]:
    count = len(vector)
    return (
        list(vector)
        if count <= max_components
        else [vector[n * count // max_components] for n in range(max_components)]
    )


def _decode_values(vector: GoldenVector) -> list[float]:
    data = base64.b64decode(vector.values)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _format_tokens(output: GoldenOutput) -> str:
    return ", ".join(map(str, output.first_tokens)) + (" …" if output.tokens > len(output.first_tokens) else "")


def encode_outputs(outputs: Sequence[GoldenOutput]) -> list[dict[str, Any]]:
    """As the record keeps them."""
    return [asdict(each) for each in outputs]

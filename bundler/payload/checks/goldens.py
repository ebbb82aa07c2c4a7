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

from ..results.failures import LIBRARIES, CheckFailed, listed
from ..results.load_result import Record
from . import model_checks
from .model_checks import Vector

MOST_COMPONENTS = 1024  # of a vector; of a wider one, evenly spaced ones
FIRST = 8  # tokens that are kept for a reader
LEAST = 1e-3  # of a sparse vector whose tokens all stand at the edge of having no weight, what differs is noise

_TOOL = "Install with an installer of the version that built the bundle: another version may ask other texts."
_TOKENIZER = (
    "The tokenizer's files are of another revision than at the rehearsal, or the libraries read them otherwise. Have "
    "the bundle built again, and do not mix vectors of the two."
)
_WEIGHTS = (
    "The weights are of another revision than at the rehearsal, were altered, or are in part random. Have the bundle "
    "built again; until then do not use this model: its vectors do not fit those that others made with it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A vector as it travels: `values` is base64 of little-endian float32, at most `MOST_COMPONENTS` of `width`."""

    name: str
    width: int
    values: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a model gave for one text."""

    text: str
    tokens: int
    token_digest: str
    first_tokens: tuple[int, ...]
    vectors: tuple[Kept, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What a model gave at the rehearsal, and with what."""

    dtype: str
    versions: Mapping[str, str]
    outputs: tuple[Output, ...]


def parsed(document: Mapping[str, Any]) -> Golden:
    """A golden as the installer hands it over.

    :raises KeyError, TypeError: it is none
    """
    outputs = [
        Output(
            text=each["text"], tokens=each["tokens"], token_digest=each["token_digest"],
            first_tokens=tuple(each["first_tokens"]), vectors=tuple(Kept(**kept) for kept in each["vectors"]),
        )
        for each in document["outputs"]
    ]  # fmt: skip
    return Golden(dtype=document["dtype"], versions=dict(document["versions"]), outputs=tuple(outputs))


def outputs(
    texts: Sequence[str], tokens: Callable[[str], Sequence[int]], vectors: Mapping[str, Sequence[Vector]]
) -> list[Output]:
    """What travels of what a model gave: for each text its tokens, and of each kind of vector the one for it."""
    found = []
    for n, text in enumerate(texts):
        numbers = [int(number) for number in tokens(text)]
        found.append(
            Output(
                text=_digest(text),
                tokens=len(numbers),
                token_digest=_digest(",".join(map(str, numbers))),
                first_tokens=tuple(numbers[:FIRST]),
                vectors=tuple(_kept(name, each[n]) for name, each in vectors.items() if each[n]),
            )
        )
    return found


def hold(golden: Golden, found: Sequence[Output], texts: Sequence[str], record: Record, tolerance: float) -> None:
    """What the model gave is what it gave at the rehearsal.

    :raises CheckFailed: it is not; the message says in what
    """
    skew = _skew(golden.versions, record.versions)
    if [each.text for each in found] != [each.text for each in golden.outputs]:
        raise CheckFailed("The golden outputs of this bundle are for other texts than this load was asked.", _TOOL)
    for text, here, there in zip(texts, found, golden.outputs, strict=True):
        if (here.tokens, here.token_digest) != (there.tokens, there.token_digest):
            raise CheckFailed(
                f"The tokenizer is not that of the rehearsal: of {_shown(text)} it makes {here.tokens} tokens "
                f"({_numbers(here)}), and then made {there.tokens} ({_numbers(there)}).{skew}",
                LIBRARIES if skew else _TOKENIZER,
            )
    record.passed("the tokens of every text are those of the rehearsal")
    if record.dtype != golden.dtype:
        raise CheckFailed(
            f"The weights are {record.dtype} here and were {golden.dtype} at the rehearsal.{skew}", LIBRARIES
        )
    farthest = 0.0
    for text, here, there in zip(texts, found, golden.outputs, strict=True):
        farthest = max(farthest, _farthest(text, here, there, tolerance, skew))
    record.passed(f"the outputs are those of the rehearsal: at most {farthest:.1e} away, where {tolerance:g} may be")


def _farthest(text: str, here: Output, there: Output, tolerance: float, skew: str) -> float:
    kinds = [(each.name, each.width) for each in here.vectors], [(each.name, each.width) for each in there.vectors]
    if kinds[0] != kinds[1]:
        shown = [listed([f"{name} of {width}" for name, width in each]) or "nothing" for each in kinds]
        raise CheckFailed(f"The model gives {shown[0]}, and at the rehearsal gave {shown[1]}.{skew}", _WEIGHTS)
    apart = {
        one.name: distance(_thinned(_values(one), len(_values(other))), _values(other))
        for one, other in zip(here.vectors, there.vectors, strict=True)
    }
    far = {name: each for name, each in apart.items() if not each <= tolerance}
    if far:
        first, *rest = far
        more = f", and so are {', '.join(f'{name} ({far[name]:.2g})' for name in rest)}" if rest else ""
        raise CheckFailed(
            f"The {first} of {_shown(text)} is {far[first]:.2g} away from that of the rehearsal{more}; it may be "
            f"{tolerance:g}: these are not the weights of the rehearsal.{skew}",
            LIBRARIES if skew else _WEIGHTS,
        )
    return max(apart.values(), default=0.0)


def distance(one: Vector, golden: Vector) -> float:
    """How far a vector is from the golden one; for vectors of the same length their cosine distance.

    Of a single score it is the difference, relative to the golden one where that is above 1.
    """
    apart = model_checks.norm([a - b for a, b in zip(one, golden, strict=True)])
    if len(golden) == 1:
        return apart / max(1.0, model_checks.norm(golden))
    return (apart / max(LEAST, model_checks.norm(golden))) ** 2 / 2


def _skew(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    apart = [
        f"{name} {now.get(name, 'absent')} instead of {then.get(name, 'absent')}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    return f" Here is {', '.join(apart)}." if apart else ""


def _shown(text: str) -> str:
    """A text as an error has it; the two of a pair are joined by a NUL."""
    return model_checks.quoted(text.replace("\0", " / "))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _kept(name: str, vector: Vector) -> Kept:
    thin = _thinned(vector, MOST_COMPONENTS)
    packed = base64.b64encode(struct.pack(f"<{len(thin)}f", *thin)).decode()
    return Kept(name=name, width=len(vector), values=packed)


def _thinned(vector: Vector, most: int) -> list[float]:
    count = len(vector)
    return list(vector) if count <= most else [vector[n * count // most] for n in range(most)]


def _values(kept: Kept) -> list[float]:
    data = base64.b64decode(kept.values)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _numbers(output: Output) -> str:
    return ", ".join(map(str, output.first_tokens)) + (" …" if output.tokens > len(output.first_tokens) else "")


def plain(found: Sequence[Output]) -> list[dict[str, Any]]:
    """As the record keeps them."""
    return [asdict(each) for each in found]

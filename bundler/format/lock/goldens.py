"""Golden outputs: what each model gave for the texts when its bundle was rehearsed, for the far side to compare with."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from bundler.format.documents import Invalid, about
from bundler.format.hashing import Sha256

MOST_COMPONENTS = 1024
"""Of a wider vector so many evenly spaced components are kept: the head of a bundle has a fixed room."""

_BYTES = 4  # of a float32


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenVector:
    """One kind of vector that a model gave for a text: a row of logits and a single score are vectors too."""

    name: str = about("vector, logits, score, dense, sparse or colbert")
    width: int = about("components that the model gave")
    values: str = about("base64 of little-endian float32; of a wide vector, evenly spaced components")

    def __post_init__(self) -> None:
        try:
            data = base64.b64decode(self.values, validate=True)
        except binascii.Error as error:
            raise Invalid("is not base64", "values") from error
        if len(data) % _BYTES or not 0 < len(data) // _BYTES <= min(self.width, MOST_COMPONENTS):
            raise Invalid(f"must hold 1 to {MOST_COMPONENTS} float32, no more than the width", "values")

    def thinned(self, most: int) -> GoldenVector:
        """The same vector by at most so many evenly spaced components."""
        data = base64.b64decode(self.values)
        count = len(data) // _BYTES
        if count <= most:
            return self
        kept = b"".join(data[at : at + _BYTES] for at in (n * count // most * _BYTES for n in range(most)))
        return GoldenVector(name=self.name, width=self.width, values=base64.b64encode(kept).decode())


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenOutput:
    """What a model gave for one text."""

    text: Sha256 = about("SHA-256 of the text")
    tokens: int = about("how many tokens the tokenizer made of it")
    token_digest: Sha256 = about("SHA-256 over their numbers in decimal, after commas")
    first_tokens: tuple[int, ...] = about("the first of them, for a reader", default=())
    vectors: tuple[GoldenVector, ...] = about("each kind of vector that the model gives")

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise Invalid("must not be negative", "tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What one model gave, and with what."""

    alias: str = about("the model")
    device: str = about("where it ran")
    dtype: str = about("numbers that its weights are made of")
    machine: str = about("kind of processor, as uname names it")
    versions: Mapping[str, str] = about("the libraries that decide what a load gives")
    outputs: tuple[GoldenOutput, ...] = about("one for each text")

"""Golden outputs: what each model gave for the texts when its bundle was rehearsed, for the far side to compare with."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.hashing import Sha256

MAX_COMPONENTS = 1024
"""Of a wider vector so many evenly spaced components are kept: the head of a bundle has a fixed room."""

_FLOAT_BYTES = 4  # of a float32


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenVector:
    """One kind of vector that a model gave for a text: a row of logits and a single score are vectors too."""

    name: str = describe_field("vector, logits, score, dense, sparse or colbert")
    width: int = describe_field("components that the model gave")
    values: str = describe_field("base64 of little-endian float32; of a wide vector, evenly spaced components")

    def __post_init__(self) -> None:
        try:
            data = base64.b64decode(self.values, validate=True)
        except binascii.Error as error:
            raise InvalidValueError("is not base64", "values") from error
        if len(data) % _FLOAT_BYTES or not 0 < len(data) // _FLOAT_BYTES <= min(self.width, MAX_COMPONENTS):
            raise InvalidValueError(f"must hold 1 to {MAX_COMPONENTS} float32, no more than the width", "values")

    def thin(self, max_components: int) -> GoldenVector:
        """The same vector by at most so many evenly spaced components."""
        data = base64.b64decode(self.values)
        count = len(data) // _FLOAT_BYTES
        if count <= max_components:
            return self
        kept = b"".join(
            data[at : at + _FLOAT_BYTES]
            for at in (n * count // max_components * _FLOAT_BYTES for n in range(max_components))
        )
        return GoldenVector(name=self.name, width=self.width, values=base64.b64encode(kept).decode())


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenOutput:
    """What a model gave for one text."""

    text: Sha256 = describe_field("SHA-256 of the text")
    tokens: int = describe_field("how many tokens the tokenizer made of it")
    token_digest: Sha256 = describe_field("SHA-256 over their numbers in decimal, after commas")
    first_tokens: tuple[int, ...] = describe_field("the first of them, for a reader", default=())
    vectors: tuple[GoldenVector, ...] = describe_field("each kind of vector that the model gives")

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise InvalidValueError("must not be negative", "tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What one model gave, and with what."""

    alias: str = describe_field("the model")
    device: str = describe_field("where it ran")
    dtype: str = describe_field("numbers that its weights are made of")
    machine: str = describe_field("kind of processor, as uname names it")
    versions: Mapping[str, str] = describe_field("the libraries that decide what a load gives")
    outputs: tuple[GoldenOutput, ...] = describe_field("one for each text")

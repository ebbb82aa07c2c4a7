"""Golden outputs: what each model computed for the texts at the rehearsal. The host compares its own outputs with them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.hashing import Sha256

MAX_COMPONENTS = 1024
"""Components that are kept of a wider vector, evenly spaced: the head of a bundle has a fixed size."""

_FLOAT_BYTES = 4
"""Bytes of a float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenVector:
    """A vector that a model computed for a text. A row of logits and a single score are vectors too."""

    name: str = describe_field("vector, logits, score, dense, sparse or colbert")
    width: int = describe_field("components of the model's vector")
    values: str = describe_field("base64 of little-endian float32; of a wide vector, evenly spaced components")

    def __post_init__(self) -> None:
        try:
            data = base64.b64decode(self.values, validate=True)
        except binascii.Error as error:
            raise InvalidValueError("is not base64", "values") from error
        if len(data) % _FLOAT_BYTES or not 0 < len(data) // _FLOAT_BYTES <= min(self.width, MAX_COMPONENTS):
            raise InvalidValueError(f"must have 1 to {MAX_COMPONENTS} float32 values, no more than the width", "values")

    def thin(self, max_components: int) -> GoldenVector:
        """Return the vector with at most ``max_components`` evenly spaced components."""
        data = base64.b64decode(self.values)
        count = len(data) // _FLOAT_BYTES
        if count <= max_components:
            return self
        values = b"".join(
            data[offset : offset + _FLOAT_BYTES]
            for offset in (n * count // max_components * _FLOAT_BYTES for n in range(max_components))
        )
        return GoldenVector(name=self.name, width=self.width, values=base64.b64encode(values).decode())


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenOutput:
    """What a model computed for one text."""

    text: Sha256 = describe_field("SHA-256 of the text")
    tokens: int = describe_field("number of its tokens")
    token_digest: Sha256 = describe_field("SHA-256 over the token numbers in decimal, joined by commas")
    first_tokens: tuple[int, ...] = describe_field("the first token numbers, for a reader", default=())
    vectors: tuple[GoldenVector, ...] = describe_field("every vector of the model")

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise InvalidValueError("must not be negative", "tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What one model computed, and with which device, number type and library versions."""

    alias: str = describe_field("the model")
    device: str = describe_field("device that it ran on")
    dtype: str = describe_field("number type of its weights")
    machine: str = describe_field("processor architecture, as uname has it")
    versions: Mapping[str, str] = describe_field("versions of the libraries that decide the outputs")
    outputs: tuple[GoldenOutput, ...] = describe_field("one for each text")

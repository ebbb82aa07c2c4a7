"""A result of a smoke load, as small as it can be."""

from __future__ import annotations

import dataclasses
from typing import Any

from bundler.format.lock.smoke_result import SmokeResult

_LEAST = SmokeResult(
    alias="m",
    loader="sentence-transformers",
    ok=True,
    network=None,
    device="cpu",
    dtype="float32",
    width=384,
    norm=1.0,
    load_seconds=1.0,
    first_seconds=0.1,
    second_seconds=0.1,
    peak_rss_bytes=1 << 20,
    versions={},
    calls=(),
)


def make_smoke_result(**changes: Any) -> SmokeResult:
    """A result with other values in some fields."""
    return dataclasses.replace(_LEAST, **changes)

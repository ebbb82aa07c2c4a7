"""What a smoke load measured: written by the load itself, kept on the host, and read by builder and installer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bundler.format import documents
from bundler.format.blocked_requests import BlockedRequest
from bundler.format.documents import describe_field
from bundler.format.lock.goldens import GoldenOutput


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """How the network was cut while a model was loaded."""

    cut: str = describe_field("namespace or guard")
    interfaces: tuple[str, ...] = describe_field("network interfaces that were there")
    proof: str = describe_field("what an attempt to get out gave")
    statement: str = describe_field("the same in a sentence")
    attempts: tuple[str, ...] = describe_field("hosts that something tried to reach")


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class Closeness:
    """Cosines of a query with the text that should be nearer and with the one that should be farther."""

    query: str
    nearer: float
    farther: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measurement:
    """What the load of one model measured; ``width`` and ``norm`` are of the first text's vector, logits or score."""

    alias: str
    loader: str
    ok: bool
    fault: str = describe_field("why it failed, in a sentence", default="")
    hint: str = describe_field("what to do then", default="")
    traceback: str = describe_field("where a library failed", default="")
    network: Network | None = describe_field("empty: the load ended before it was cut")
    device: str
    dtype: str
    width: int | None
    norm: float | None
    import_seconds: float = 0.0
    load_seconds: float
    first_seconds: float
    second_seconds: float
    peak_rss_bytes: int
    parameters: int = 0
    versions: Mapping[str, str] = describe_field("the libraries that decide what a load gives")
    checks: tuple[str, ...] = describe_field("what the model passed, in words", default=())
    closer: tuple[Closeness, ...] = ()
    warnings: tuple[str, ...] = ()


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport(_Measurement):
    """What the load itself writes, before the guard's log is read; the payload's ``Record`` is its other half."""

    machine: str = describe_field("kind of processor, as uname names it", default="")
    outputs: tuple[GoldenOutput, ...] = describe_field("what the model gave; empty: it was not loaded", default=())
    missed: Mapping[str, str] = describe_field(
        "the Call that the load ended with; empty: with none", default_factory=dict[str, str]
    )


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeResult(_Measurement):
    """What is kept of a smoke load, in ``smoke.json`` and in the receipt.

    A result outlives what it measured: ``proven_at`` says when that was, and ``changed_since`` which files of the
    release were mended or replaced after it.
    """

    calls: tuple[BlockedRequest, ...] = describe_field("calls home that were refused")
    absent: tuple[BlockedRequest, ...] = describe_field(
        "what else of the carried repositories was not found", default=()
    )
    proven_at: str = describe_field("when, in UTC by the host's clock; empty: not noted", default="")
    changed_since: tuple[str, ...] = describe_field(
        "what was mended since: paths in the prefix, and packages", default=()
    )


def from_report(report: LoadReport, **found: object) -> SmokeResult:
    """The result to keep of a load's own report, with what only the installer knows."""
    told = {name: getattr(report, name) for name in _Measurement.__dataclass_fields__}
    return SmokeResult(**told, **found)  # type: ignore[arg-type]

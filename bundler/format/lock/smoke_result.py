"""The result of a smoke load: the load writes it, the host keeps it, builder and installer read it."""

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
    interfaces: tuple[str, ...] = describe_field("network interfaces that existed")
    proof: str = describe_field("result of an attempt to connect")
    statement: str = describe_field("cut and proof in one sentence")
    attempts: tuple[str, ...] = describe_field("hosts that the load tried to reach")


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class Closeness:
    """Cosine similarities of a query to the text that should be nearer and to the one that should be farther."""

    query: str
    nearer: float
    farther: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measurement:
    """What the load of one model measured. ``width`` and ``norm`` are of the vector, logits or score of the first text."""

    alias: str
    loader: str
    ok: bool
    fault: str = describe_field("why it failed, in one sentence", default="")
    hint: str = describe_field("what to do about it", default="")
    traceback: str = describe_field("traceback of a library", default="")
    network: Network | None = describe_field("empty: the load ended before the network was cut")
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
    versions: Mapping[str, str] = describe_field("versions of the libraries that decide the outputs")
    checks: tuple[str, ...] = describe_field("checks that the model passed", default=())
    closer: tuple[Closeness, ...] = ()
    warnings: tuple[str, ...] = ()


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport(_Measurement):
    """What the load itself writes, before the guard's log is read. The payload's ``LoadResult`` is its counterpart."""

    machine: str = describe_field("processor architecture, as uname has it", default="")
    outputs: tuple[GoldenOutput, ...] = describe_field("outputs of the model; empty: it was not loaded", default=())
    missed: Mapping[str, str] = describe_field(
        "the blocked request that ended the load; empty: none", default_factory=dict[str, str]
    )


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeResult(_Measurement):
    """What ``smoke.json`` and the receipt keep of a smoke load.

    A release can change after it was loaded. ``proven_at`` says when the load ran, ``changed_since`` which files of
    the release were repaired or replaced after it.
    """

    calls: tuple[BlockedRequest, ...] = describe_field("blocked requests")
    absent: tuple[BlockedRequest, ...] = describe_field(
        "other parts of bundled repositories that were requested and are missing", default=()
    )
    proven_at: str = describe_field("when the load ran, in UTC by the host's clock; empty: unknown", default="")
    changed_since: tuple[str, ...] = describe_field(
        "what was repaired since: paths in the prefix, and packages", default=()
    )


def from_report(report: LoadReport, **installer_fields: object) -> SmokeResult:
    """Make the result to keep from a load's own report and the fields that only the installer knows."""
    measured = {name: getattr(report, name) for name in _Measurement.__dataclass_fields__}
    return SmokeResult(**measured, **installer_fields)  # type: ignore[arg-type]

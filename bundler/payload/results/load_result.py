"""The result of one smoke load, filled as the load runs, so that a failed load keeps what it has measured."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..network.netcut import NetworkState


@dataclass(frozen=True, kw_only=True, slots=True)
class TripleResult:
    """The cosines of one query with the text that should be nearer and with the text that should be farther."""

    query: str
    nearer: float
    farther: float


@dataclass(kw_only=True, slots=True)
class LoadResult:
    """The result of one smoke load. It is mutable because probes write into it.

    ``width`` and ``norm`` describe the model's output for the first text: a vector, a row of logits, or one score.
    ``outputs`` is what golden outputs are made from, as `goldens.encode_outputs` returns it. ``missed`` is the
    `BlockedRequest` that the hub's client could not answer, if that ended the load. ``phases`` is the request's file
    and not part of the result. Times are in seconds.
    """

    alias: str
    loader: str
    ok: bool = False
    fault: str = ""
    hint: str = ""
    traceback: str = ""
    network: NetworkState | None = None
    device: str = ""
    dtype: str = ""
    width: int | None = None
    norm: float | None = None
    import_seconds: float = 0.0
    load_seconds: float = 0.0
    first_seconds: float = 0.0
    second_seconds: float = 0.0
    peak_rss_bytes: int = 0
    parameters: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    closer: list[TripleResult] = field(default_factory=list)
    machine: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    missed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    phases: Path | None = None

    def enter(self, phase: str) -> None:
        """Write the name of the phase that begins, for a program that shows the progress."""
        if self.phases is not None:
            with self.phases.open("a", encoding="utf-8") as lines:
                lines.write(phase + "\n")

    def add_check(self, check: str) -> None:
        """Record a check that the model passed, as text for a person."""
        self.checks.append(check)

    def warn(self, *sentences: str) -> None:
        """Record what a person should know although the model works."""
        self.warnings.extend(sentences)

    def write(self, path: Path) -> None:
        """Write the result as JSON, atomically: a reader of `path` never sees half of it."""
        document = {name: value for name, value in asdict(self).items() if name != "phases"}
        if self.norm is not None and not math.isfinite(self.norm):
            document["norm"] = None  # JSON has no NaN; the fault describes the vector
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(path)

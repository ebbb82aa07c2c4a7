"""What one smoke load found, gathered as it goes, so that a load that fails still tells what it had measured."""

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
    """The cosines of one query with the text that should be nearer and with the one that should be farther."""

    query: str
    nearer: float
    farther: float


@dataclass(kw_only=True, slots=True)
class LoadResult:
    """The result of one smoke load; the one value here that changes, because probes write into it.

    ``width`` and ``norm`` are of what the model gave for the first text: a vector, a row of logits, or one score.
    ``outputs`` is what golden outputs are made from, as `goldens.plain` gives it; ``missed`` what the hub's client
    could not find, as a `Call`, where the load ended with that. ``phases`` is that of the request, and no result.
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
        """Tells whoever waits what the load does from here on."""
        if self.phases is not None:
            with self.phases.open("a", encoding="utf-8") as lines:
                lines.write(phase + "\n")

    def add_check(self, check: str) -> None:
        """Notes a check that the model passed, in words for a person."""
        self.checks.append(check)

    def warn(self, *sentences: str) -> None:
        """Notes what a person should know though the model works."""
        self.warnings.extend(sentences)

    def write(self, path: Path) -> None:
        """Writes the result as JSON under another name first: whoever sees `path` sees it whole."""
        document = {name: value for name, value in asdict(self).items() if name != "phases"}
        if self.norm is not None and not math.isfinite(self.norm):
            document["norm"] = None  # JSON has no such number; the fault says what is wrong with the vector
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(path)

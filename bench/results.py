"""The rows that were measured: printed one by one, and written to a file that is complete after each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bundler.format import disk

REACHED, MISSED, FAILED = 0, 1, 3
"""Exit codes: every bound is reached; one is not; a part could not be measured. argparse uses 2."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, the figure, and its bound ("" if it has none)."""

    what: str
    value: float
    unit: str
    bound: str
    reached: bool
    detail: str


@dataclass(kw_only=True, slots=True)
class Results:
    """The rows of one run. ``about`` describes the machine and the options; ``path`` is the JSON file of all of it."""

    path: Path
    about: dict[str, Any]
    rows: list[tuple[str, Row]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Print the head of the table, and check that the file can be written before anything is measured."""
        self._write()
        print("| what | measured | to reach | |\n|---|---|---|---|", flush=True)

    def add(self, part: str, row: Row) -> None:
        """Add a row that was measured."""
        self.rows.append((part, row))
        self._write()
        self._print(row.what, f"{row.value:.2f} {row.unit}".rstrip(), row.bound, row.detail)

    def leave_out(self, part: str, reason: str) -> None:
        """Add a part that is not measured, and the reason."""
        self.left_out[part] = reason
        self._write()
        self._print(part, "left out", "", reason)

    def fail(self, part: str, reason: str) -> None:
        """Add a part that failed, and the reason; its earlier rows stay."""
        self.failed[part] = reason
        self._write()
        self._print(part, "failed", "", reason)

    def end(self, named: list[str]) -> int:
        """Print a summary and return the exit code. A part in ``named`` that was left out counts as failed."""
        missed = [row.what for _, row in self.rows if not row.reached]
        unmeasured = [*self.failed, *(part for part in self.left_out if part in named)]
        if missed:
            print(f"not reached: {', '.join(missed)}")
        if self.left_out:
            print(f"left out: {', '.join(self.left_out)}")
        if unmeasured:
            print(f"not measured: {', '.join(unmeasured)}")
        if not missed and not unmeasured:
            print("every bound is reached" if self.rows else "nothing was measured")
        print(f"written to {self.path}", flush=True)
        return FAILED if unmeasured else MISSED if missed else REACHED

    def _print(self, *cells: str) -> None:
        # a cell is one line, and a bar would end it
        print(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |", flush=True)

    def _write(self) -> None:
        rows = [{"part": part, **asdict(row)} for part, row in self.rows]
        document = {**self.about, "rows": rows, "left_out": self.left_out, "failed": self.failed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_atomically(self.path, (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode())

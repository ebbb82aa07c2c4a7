"""What was measured: printed row by row, and kept in a file that is whole after each of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bundler.format import disk

REACHED, MISSED, FAILED = 0, 1, 3
"""Exit codes: every bound is reached; one is not; a part could not be measured. argparse has 2 for itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, the figure, and what it should reach ("" : told, not judged)."""

    what: str
    value: float
    unit: str
    bound: str
    reached: bool
    detail: str


@dataclass(kw_only=True, slots=True)
class Results:
    """The rows of one run. ``about`` is what they were measured with; ``path`` holds all of it as JSON."""

    path: Path
    about: dict[str, Any]
    rows: list[tuple[str, Row]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Print the head of the table, and see that the file can be written before anything is measured."""
        self._keep()
        print("| what | measured | to reach | |\n|---|---|---|---|", flush=True)

    def add(self, part: str, row: Row) -> None:
        """A row that was measured."""
        self.rows.append((part, row))
        self._keep()
        self._print(row.what, f"{row.value:.2f} {row.unit}".rstrip(), row.bound, row.detail)

    def leave_out(self, part: str, why: str) -> None:
        """A part that is not measured, and why."""
        self.left_out[part] = why
        self._keep()
        self._print(part, "left out", "", why)

    def fail(self, part: str, why: str) -> None:
        """A part that failed, and why; rows that it gave before stay."""
        self.failed[part] = why
        self._keep()
        self._print(part, "failed", "", why)

    def end(self, named: list[str]) -> int:
        """Print what became of it; the exit code. A part that was ``named`` and left out has failed."""
        missed = [row.what for _, row in self.rows if not row.reached]
        wanting = [*self.failed, *(part for part in self.left_out if part in named)]
        if missed:
            print(f"not reached: {', '.join(missed)}")
        if self.left_out:
            print(f"left out: {', '.join(self.left_out)}")
        if wanting:
            print(f"not measured: {', '.join(wanting)}")
        if not missed and not wanting:
            print("every bound is reached" if self.rows else "nothing was measured")
        print(f"kept in {self.path}", flush=True)
        return FAILED if wanting else MISSED if missed else REACHED

    def _print(self, *cells: str) -> None:
        # a cell is one line, and a bar in it would end it
        print(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |", flush=True)

    def _keep(self) -> None:
        rows = [{"part": part, **asdict(row)} for part, row in self.rows]
        document = {**self.about, "rows": rows, "left_out": self.left_out, "failed": self.failed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_atomically(self.path, (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode())

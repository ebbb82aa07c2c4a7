"""What the rooms report as they work; the CLI draws it, tests collect it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol


def pluralize(count: int, noun: str) -> str:
    """A number of things for a reader: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


PROGRESS_FILE = "BUNDLE_PROGRESS_FILE"
"""Names the variable with a file that this program adds a line to whenever what it does changes.

The rehearsal starts an installer with it and shows these lines; it is no interface for anybody else."""

_MAX_LINE_BYTES = 4096


def read_last_line(path: Path) -> str:
    """The last whole line of a file that another process adds lines to; "" while there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MAX_LINE_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return ""
    return lines[-2].decode("utf-8", "replace") if len(lines) > 1 else ""


class Stage(AbstractContextManager["Stage"], Protocol):
    """One piece of work of a known size in bytes (0 when unknown), entered while it runs.

    ``advance`` may be called from several threads. ``set_phase`` says in words what is done now, and how many bytes
    were read for it, 0 where that is not known.
    """

    def advance(self, count: int) -> None: ...

    def set_phase(self, words: str, read: int = 0) -> None: ...


class Reporter(Protocol):
    """Where a room says what it does. ``note`` is a line of words, ``warn`` one that matters."""

    def stage(self, title: str, total: int = 0) -> Stage: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


class SilentStage(AbstractContextManager["SilentStage"]):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, count: int) -> None:
        """Nobody watches the bytes."""

    def set_phase(self, words: str, read: int = 0) -> None:
        """Nobody watches what is done."""


@dataclass(slots=True)
class RecordingReporter:
    """A report that draws nothing and keeps the words: for callers that are programs."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int = 0) -> Stage:
        return SilentStage()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

"""How every module reports its work: the command line draws it, tests record it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_size(count: float) -> str:
    """Format a number of bytes: ``1.4 GiB``."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


PROGRESS_FILE = "BUNDLE_PROGRESS_FILE"
"""Environment variable with the path of a file. The program adds a line to it whenever it starts something else.

The rehearsal starts an installer with it and shows these lines. It is no public interface."""

_MAX_LINE_BYTES = 4096


def read_last_line(path: Path) -> str:
    """Return the last complete line of a file that another process adds lines to, "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MAX_LINE_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return ""
    return lines[-2].decode("utf-8", "replace") if len(lines) > 1 else ""


class Stage(AbstractContextManager["Stage"], Protocol):
    """One piece of work of a known size in bytes (0: unknown), entered while it runs."""

    def advance(self, count: int) -> None:
        """Count bytes as done. Several threads may call this."""

    def set_phase(self, text: str, bytes_read: int = 0) -> None:
        """Say what is done now, and how many bytes were read for it (0: unknown)."""


class Reporter(Protocol):
    """Where a module reports what it does."""

    def stage(self, title: str, total: int = 0) -> Stage:
        """Start a piece of work of ``total`` bytes (0: unknown)."""

    def note(self, text: str) -> None:
        """Tell the user something."""

    def warn(self, text: str) -> None:
        """Tell the user something that may need action."""


class SilentStage(AbstractContextManager["SilentStage"]):
    """A stage that shows nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, count: int) -> None:
        """Nobody watches the bytes."""

    def set_phase(self, text: str, bytes_read: int = 0) -> None:
        """Nobody watches what is done."""


@dataclass(slots=True)
class RecordingReporter:
    """A reporter that draws nothing and keeps all text, for callers that are programs."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int = 0) -> Stage:
        """Start a piece of work that nobody watches."""
        return SilentStage()

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

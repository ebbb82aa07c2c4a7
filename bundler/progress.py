"""What the rooms report as they work; the CLI draws it, tests collect it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol


def counted(count: int, noun: str) -> str:
    """A number of things for a reader: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Stage(AbstractContextManager["Stage"], Protocol):
    """One piece of work of a known size in bytes (0 when unknown), entered while it runs.

    ``advance`` may be called from several threads.
    """

    def advance(self, count: int) -> None: ...


class Report(Protocol):
    """Where a room says what it does. ``note`` is a line of words, ``warn`` one that matters."""

    def stage(self, title: str, total: int = 0) -> Stage: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


class _Unheard(AbstractContextManager["_Unheard"]):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, count: int) -> None:
        """Nobody watches the bytes."""


@dataclass(slots=True)
class Collected:
    """A report that draws nothing and keeps the words: for callers that are programs."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int = 0) -> Stage:
        return _Unheard()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

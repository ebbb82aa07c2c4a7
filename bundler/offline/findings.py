"""What an examination found: each finding healthy, a warning, or critical."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bundler.progress import counted

Level = Literal["healthy", "warning", "critical"]
LEVELS: tuple[Level, ...] = ("healthy", "warning", "critical")
"""From good to bad. With a warning it runs, and somebody should look; what is critical does not run, or not rightly."""

MEND = "install the same bundle again: it mends what differs, file by file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at: ``check`` names it, ``where`` is a file or folder, ``hint`` what to do."""

    level: Level
    check: str
    message: str
    where: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """All that was found about the live release (its name; "" where none is live) and its host."""

    release: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> Level:
        """The worst of the findings."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default="healthy")

    def of(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]


def healthy(check: str, message: str) -> Finding:
    """All is well with what was looked at."""
    return Finding(level="healthy", check=check, message=message)


def warning(check: str, message: str, *, where: Path | str = "", hint: str = "") -> Finding:
    """It runs, and somebody should look."""
    return Finding(level="warning", check=check, message=message, where=str(where), hint=hint)


def critical(check: str, message: str, *, where: Path | str = "", hint: str = MEND) -> Finding:
    """It does not run, or not rightly."""
    return Finding(level="critical", check=check, message=message, where=str(where), hint=hint)


def files(check: str, count: int, wrong: Iterable[tuple[Path, str]], right: str) -> list[Finding]:
    """A critical finding for each wrong file; one healthy one, in the words of ``right``, where none is."""
    found = [critical(check, f"{path.name} {why}", where=path) for path, why in wrong]
    return found or [healthy(check, f"{counted(count, 'file')}: {right}")]

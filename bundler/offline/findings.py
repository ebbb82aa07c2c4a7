"""What an examination found: each finding healthy, a warning, or critical."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a verb that shows a lock does not import the installer
    from bundler.offline.environment.installed_files import Altered

Level = Literal["healthy", "warning", "critical"]
LEVELS: tuple[Level, ...] = ("healthy", "warning", "critical")
"""From good to bad. With a warning it runs, and somebody should look; what is critical does not run, or not rightly."""

REINSTALL_HINT = "install the same bundle again: it mends what differs, file by file"


_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at: ``check`` names it, ``where`` is a file or folder, ``hint`` what to do.

    ``files`` holds every altered file; the message names the first of them.
    """

    level: Level
    check: str
    message: str
    where: str = ""
    hint: str = ""
    files: tuple[Altered, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """All that was found about the live release (its name; "" where none is live) and its host."""

    release: str
    findings: tuple[Finding, ...]

    @property
    def worst_level(self) -> Level:
        """The worst of the findings."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default="healthy")

    def list_findings(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]


def make_healthy(check: str, message: str) -> Finding:
    """All is well with what was looked at."""
    return Finding(level="healthy", check=check, message=message)


def make_warning(check: str, message: str, *, where: Path | str = "", hint: str = "") -> Finding:
    """It runs, and somebody should look."""
    return Finding(level="warning", check=check, message=message, where=str(where), hint=hint)


def make_critical(check: str, message: str, *, where: Path | str = "", hint: str = REINSTALL_HINT) -> Finding:
    """It does not run, or not rightly."""
    return Finding(level="critical", check=check, message=message, where=str(where), hint=hint)


def make_file_findings(
    check: str, count: int, altered: Sequence[Altered], success_text: str, owners: Sequence[str] = ()
) -> Finding:
    """One critical finding for all altered files, of these packages if any; a healthy one, in the words of ``right``,
    where none is."""
    if not altered:
        return make_healthy(check, f"{count} {'file' if count == 1 else 'files'}: {success_text}")
    paths = [one.path for one in altered]
    where = paths[0] if len(paths) == 1 else os.path.commonpath(map(os.path.dirname, paths))
    return dataclasses.replace(make_critical(check, summary(altered, owners), where=where), files=tuple(altered))


def summary(altered: Sequence[Altered], owners: Sequence[str] = ()) -> str:
    """``numpy: 24 files are not as installed: a.py is missing, b.py is missing, c.py is missing, and 21 more``."""
    of = f"{_listed(owners)}: " if owners else ""
    shown = ", ".join(f"{Path(one.path).name} {one.message}" for one in altered[:_MOST_NAMED])
    if len(altered) == 1:
        return f"{of}{shown}"
    more = f", and {len(altered) - _MOST_NAMED} more" if len(altered) > _MOST_NAMED else ""
    return f"{of}{len(altered)} files are not as installed: {shown}{more}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more

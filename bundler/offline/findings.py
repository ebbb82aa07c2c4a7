"""Findings of ``doctor``: healthy, a warning, or critical."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # keeps the installer out of verbs that only show a lock
    from bundler.offline.environment.installed_files import Altered

Level = Literal["healthy", "warning", "critical"]
LEVELS: tuple[Level, ...] = ("healthy", "warning", "critical")
"""From best to worst. With a warning the release runs; with a critical finding it does not run, or gives wrong results."""

REINSTALL_HINT = "install the same bundle again: that replaces each file that differs"

_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One result of a check: ``check`` names it, ``where`` is a file or folder, ``hint`` says what to do.

    ``files`` holds all altered files; the message names the first ones.
    """

    level: Level
    check: str
    message: str
    where: str = ""
    hint: str = ""
    files: tuple[Altered, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """All findings about the live release and its host; ``release`` is its name, "" if none is live."""

    release: str
    findings: tuple[Finding, ...]

    @property
    def worst_level(self) -> Level:
        """The worst level of all findings."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default="healthy")

    def list_findings(self, level: Level) -> list[Finding]:
        """Return the findings of one level."""
        return [finding for finding in self.findings if finding.level == level]


def make_healthy(check: str, message: str) -> Finding:
    """Make a finding for a check that passed."""
    return Finding(level="healthy", check=check, message=message)


def make_warning(check: str, message: str, *, where: Path | str = "", hint: str = "") -> Finding:
    """Make a finding for a problem with which the release still runs."""
    return Finding(level="warning", check=check, message=message, where=str(where), hint=hint)


def make_critical(check: str, message: str, *, where: Path | str = "", hint: str = REINSTALL_HINT) -> Finding:
    """Make a finding for a problem with which the release does not run, or gives wrong results."""
    return Finding(level="critical", check=check, message=message, where=str(where), hint=hint)


def make_file_findings(
    check: str, count: int, altered: Sequence[Altered], success_text: str, owners: Sequence[str] = ()
) -> Finding:
    """Make one critical finding for all altered files, or a healthy one with ``success_text`` if there are none.

    Args:
        check: Name of the check.
        count: Number of files that were checked.
        altered: Files that are not as installed.
        success_text: Message of the healthy finding.
        owners: Packages that the altered files belong to.
    """
    if not altered:
        return make_healthy(check, f"{count} {'file' if count == 1 else 'files'}: {success_text}")
    paths = [file.path for file in altered]
    where = paths[0] if len(paths) == 1 else os.path.commonpath(map(os.path.dirname, paths))
    return dataclasses.replace(make_critical(check, format_summary(altered, owners), where=where), files=tuple(altered))


def format_summary(altered: Sequence[Altered], owners: Sequence[str] = ()) -> str:
    """Format altered files in one line.

    Example: ``numpy: 24 files are not as installed: a.py is missing, b.py is missing, c.py is missing, and 21 more``.
    """
    label = f"{_format_names(owners)}: " if owners else ""
    details = ", ".join(f"{Path(file.path).name} {file.message}" for file in altered[:_MAX_NAMED])
    if len(altered) == 1:
        return f"{label}{details}"
    more = f", and {len(altered) - _MAX_NAMED} more" if len(altered) > _MAX_NAMED else ""
    return f"{label}{len(altered)} files are not as installed: {details}{more}"


def _format_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more

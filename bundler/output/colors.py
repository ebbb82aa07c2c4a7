"""Colors of the first words of lines, on a terminal that has them."""

from __future__ import annotations

import os
from typing import TextIO

_RED, _GREEN, _YELLOW = "31", "32", "33"
_COLORS = {
    **dict.fromkeys(("error:", "critical"), _RED),
    **dict.fromkeys(("warning:", "warning"), _YELLOW),
    **dict.fromkeys(("healthy", "installed:", "whole:", "placed:", "baked:"), _GREEN),
}
"""What a line begins with, and its color."""


def painted(text: str, stream: TextIO) -> str:
    """``text`` with the first word of its lines in color, where ``stream`` is a terminal and nobody forbids it."""
    if not _has_colors(stream):
        return text
    return "\n".join(map(_painted_line, text.split("\n")))


def _has_colors(stream: TextIO) -> bool:
    """Whether to color; https://no-color.org says what NO_COLOR means."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in (None, "", "dumb")
    return wanted and stream.isatty()


def _painted_line(line: str) -> str:
    word = line.partition(" ")[0]
    color = _COLORS.get(word)
    return f"\033[{color}m{word}\033[0m{line[len(word) :]}" if color else line

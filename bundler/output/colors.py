"""Colors of the first word of a line, on a terminal that has them."""

from __future__ import annotations

import os
from typing import TextIO

_RED, _GREEN, _YELLOW = "31", "32", "33"
_COLORS = {
    **dict.fromkeys(("error:", "critical"), _RED),
    **dict.fromkeys(("warning:", "warning"), _YELLOW),
    **dict.fromkeys(("healthy", "installed:", "intact:", "placed:", "built:"), _GREEN),
}
"""First words of lines, and their colors."""


def colorize(text: str, stream: TextIO) -> str:
    """Color the first word of each line, if ``stream`` is a terminal and the user allows colors."""
    if not _has_colors(stream):
        return text
    return "\n".join(map(_colorize_line, text.split("\n")))


def _has_colors(stream: TextIO) -> bool:
    """Whether to color; https://no-color.org defines NO_COLOR."""
    is_allowed = not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in (None, "", "dumb")
    return is_allowed and stream.isatty()


def _colorize_line(line: str) -> str:
    word = line.partition(" ")[0]
    color = _COLORS.get(word)
    return f"\033[{color}m{word}\033[0m{line[len(word) :]}" if color else line

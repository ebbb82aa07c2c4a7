"""Records a command's terminal as an animated SVG: ``python demo/record.py [OUT.svg [COMMAND …]]``.

By default it runs ``make demo`` and writes ``docs/demo.svg``. The rows are exactly what the command wrote to a terminal
of its own. Pauses are shortened. Viewers that don't animate show the last screen.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "demo.svg"
COMMAND = ("make", "demo")

COLUMNS, ROWS = 100, 34
CELL, LINE, MARGIN = 8.4, 18, 16
"""Width of a character, height of a row, and the frame around all of them: pixels."""
MAX_PAUSE_SECONDS = 0.7
"""No pause of the recording is longer, so that nobody waits."""
MAX_STATES = 8
"""How many states of one row are kept: a progress bar has hundreds."""

_STARTS = {"$ ": "command", "── ": "part", "warning:": "warning"}
"""The CSS class of a row, by its first characters."""

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
_STYLE = """
svg { --back: #f6f8fa; --edge: #d0d7de; --text: #1f2328; --command: #0550ae; --part: #8250df; --warning: #8a4600; }
@media (prefers-color-scheme: dark) {
  svg { --back: #0d1117; --edge: #3d444d; --text: #e6edf3; --command: #79c0ff; --part: #d2a8ff; --warning: #e3b341; }
}
.frame { fill: var(--back); stroke: var(--edge); }
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: var(--text); }
.command { fill: var(--command); font-weight: bold; }
.part { fill: var(--part); font-weight: bold; }
.warning { fill: var(--warning); }
.passing { visibility: hidden; }
@keyframes come { from { visibility: hidden; } to { visibility: visible; } }
@keyframes go { from, to { visibility: hidden; } }
@media (prefers-reduced-motion: reduce) { text, .screen { animation: none !important; } }
"""


def record(command: tuple[str, ...]) -> tuple[list[tuple[float, str]], int]:
    """Run a command on a terminal; return what it wrote, with the time in seconds, and its exit code."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execvp(command[0], command)  # noqa: S606 (no shell is wanted)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    start, chunks, pending = time.monotonic(), [(0.0, f"$ {shlex.join(command)}\r\n")], b""
    while data := _read(terminal):
        pending += data
        text = pending.decode("utf-8", errors="ignore")
        pending = pending[len(text.encode()) :]
        chunks.append((time.monotonic() - start, text))
        sys.stdout.write(text)
        sys.stdout.flush()
    return chunks, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux raises this when the command has ended
        return b""


@dataclass(slots=True)
class Row:
    """A row of a terminal: each text that it showed, with its start in seconds."""

    states: list[tuple[float, str]] = field(default_factory=list)
    continues: bool = False
    """Whether it continues the line that filled the row above."""


class Screen:
    """A terminal without a last row, so that nothing scrolls away."""

    def __init__(self) -> None:
        self.rows = [Row()]
        self._texts: list[list[str]] = [[]]
        self._row = self._column = 0

    def write(self, when: float, text: str) -> None:
        """Apply what a command wrote."""
        changed_rows, position = set(), 0
        while position < len(text):
            control = _CONTROL.match(text, position)
            if control:
                self._apply_control(control[1], control[2])
                position = control.end()
            else:
                self._put(text[position])
                position += 1
            changed_rows.add(self._row)
        for row in sorted(changed_rows):
            self._record_state(row, when)

    def _put(self, character: str) -> None:
        if character == "\n":
            self._move_to_row(self._row + 1)
        elif character == "\r":
            self._column = 0
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character >= " ":
            if self._column == COLUMNS:
                self._move_to_row(self._row + 1)
                self._column = 0
                self.rows[self._row].continues = True
            text = self._texts[self._row]
            text.extend(" " * (self._column + 1 - len(text)))
            text[self._column] = character
            self._column += 1

    def _move_to_row(self, row: int) -> None:
        self._row = max(0, row)
        while len(self.rows) <= self._row:
            self._texts.append([])
            self.rows.append(Row())

    def _apply_control(self, numbers: str, name: str) -> None:
        count = int(numbers) if numbers.isdigit() else 1
        if name == "A":
            self._move_to_row(self._row - count)
        elif name == "B":
            self._move_to_row(self._row + count)
        elif name == "K":
            del self._texts[self._row][self._column :]

    def _record_state(self, row: int, when: float) -> None:
        text, states = "".join(self._texts[row]).rstrip(), self.rows[row].states
        if text != (states[-1][1] if states else ""):
            states.append((when, text))


def tidy(rows: list[Row]) -> list[Row]:
    """Join empty rows into one, and keep a few states of each other row, always the last."""
    tidied: list[Row] = []
    for row in rows:
        if row.states and row.states[-1][1]:
            step = -(-len(row.states) // MAX_STATES)
            tidied.append(Row([*row.states[:-1][::step], row.states[-1]], continues=row.continues))
        elif tidied and tidied[-1].states:
            tidied.append(Row())
    while tidied and not tidied[-1].states:
        tidied.pop()
    return tidied


def shorten_pauses(times: set[float]) -> dict[float, float]:
    """Map each moment to its time in the recording, where no pause is longer than ``MAX_PAUSE_SECONDS``."""
    played, previous, position = {}, 0.0, 0.0
    for moment in sorted(times):
        position += min(moment - previous, MAX_PAUSE_SECONDS)
        played[moment], previous = position, moment
    return played


def draw(rows: list[Row]) -> str:
    """Draw the rows as an SVG."""
    played = shorten_pauses({when for row in rows for when, _ in row.states})
    scrolled = max(0, len(rows) - ROWS)
    width, height = COLUMNS * CELL + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    names = _get_row_classes(rows)
    lines: list[str] = []
    for number, row in enumerate(rows):
        lines += _draw_row(number, row, names[number], played)
    moves, end = _make_scroll_frames(rows, played)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-labelledby="t">',
            f'<title id="t">A terminal: {escape(rows[0].states[-1][1])}</title>',
            f"<style>{_STYLE}{moves}</style>",
            f'<clipPath id="c"><rect x="0" y="{MARGIN}" width="{width:g}" height="{ROWS * LINE}"/></clipPath>',
            f'<rect class="frame" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>',
            f'<g clip-path="url(#c)"><g class="screen" transform="translate(0 {-scrolled * LINE})" style="animation: scroll {end:.2f}s linear both">',
            *lines,
            "</g></g>",
            "</svg>\n",
        ]
    )


def _get_row_classes(rows: list[Row]) -> list[str]:
    """Return the CSS class of each row; a row that continues a line has the class of its first row."""
    names = [""]
    for row in rows:
        text = row.states[-1][1] if row.states else ""
        started = next((name for start, name in _STARTS.items() if text.startswith(start)), "")
        names.append(names[-1] if row.continues else started)
    return names[1:]


def _draw_row(number: int, row: Row, name: str, played: dict[float, float]) -> Iterator[str]:
    for index, (when, text) in enumerate(row.states):
        if not text:
            continue
        last = index == len(row.states) - 1
        # What exists from the start has no animation, so a viewer that shows only the first moment shows something.
        animations = [f"come 1ms linear {played[when]:.2f}s both"] if played[when] else []
        animations += [] if last else [f"go 1ms linear {played[row.states[index + 1][0]]:.2f}s forwards"]
        classes = " ".join(filter(None, [name, "" if last else "passing"]))
        body = text.lstrip(" ")
        yield (
            f'<text{f" class={chr(34)}{classes}{chr(34)}" if classes else ""} x="{MARGIN + (len(text) - len(body)) * CELL:g}" '
            f'y="{MARGIN + number * LINE + 14:g}" textLength="{len(body) * CELL:g}" xml:space="preserve" '
            f'style="animation: {", ".join(animations) or "none"}">{escape(body)}</text>'
        )


def _make_scroll_frames(rows: list[Row], played: dict[float, float]) -> tuple[str, float]:
    """Return how the screen scrolls, as keyframes, and the length of the recording in seconds."""
    end = max(played.values()) + 0.1
    last_row = {played[row.states[0][0]]: number for number, row in enumerate(rows) if row.states}
    frames, top = ["0% { transform: translateY(0); }"], 0
    for moment, number in sorted(last_row.items()):
        if number - ROWS + 1 > top:
            share = moment / end * 100
            frames.append(f"{share:.3f}% {{ transform: translateY({-top * LINE}px); }}")
            top = number - ROWS + 1
            frames.append(f"{share + 0.01:.3f}% {{ transform: translateY({-top * LINE}px); }}")
    frames.append(f"100% {{ transform: translateY({-top * LINE}px); }}")
    return "@keyframes scroll { " + " ".join(frames) + " }", end


def main() -> None:
    """Record and draw; fail if the command failed."""
    out = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else OUT
    command = tuple(sys.argv[2:]) or COMMAND
    chunks, code = record(command)
    if code:
        sys.exit(f"record: {shlex.join(command)} ended with code {code}; nothing was written")
    screen = Screen()
    for when, text in chunks:
        screen.write(when, text)
    out.write_text(draw(tidy(screen.rows)), encoding="utf-8")


if __name__ == "__main__":
    main()

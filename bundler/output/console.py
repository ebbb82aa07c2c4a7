"""Output of progress, messages and results, for a person or for a program that reads JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bundler import process
from bundler.errors import INTERRUPTED, BundleError, UnhealthyError
from bundler.format import paths
from bundler.output import colors
from bundler.progress import PROGRESS_FILE, SilentStage, Stage, format_size

VerbResult = tuple[dict[str, Any], str]
"""What a verb returns: the result for --json, and the text for a person."""

DRAW_SECONDS = 0.25
"""Interval between updates on a terminal, in seconds."""

LINE_SECONDS = 15.0
"""Interval between progress lines without a terminal, in seconds."""

FEED_SECONDS = 1.0
"""Interval between updates for the rehearsal that started this installer, in seconds."""

_JOIN_SECONDS = 2.0
_CLOCK_COLUMNS = len(": 00:00:00") + 1
_MIN_COLUMNS = 10

_CONTINUE = "run the same command to continue"
_AFTER_INTERRUPTION = {
    "lock": f"{_CONTINUE}: fetched files are kept",
    "build": f"{_CONTINUE}: fetched files are kept",
    "install": f"{_CONTINUE}: installed files are kept and checked again; the live release is unchanged",
    "image": "run the same command to start again; the engine may have kept finished layers",
    "remove": "run bundle prune to remove the rest of the release",
    "prune": _CONTINUE,
}
"""What to do after Ctrl-C, by verb; the other verbs keep nothing unfinished."""


@dataclass(kw_only=True, slots=True)
class Console:
    """Writes progress and messages to standard error, and one result to standard output."""

    command: str = ""
    as_json: bool = False
    quiet: bool = False
    warnings: list[str] = field(default_factory=list)
    _open_stages: list[_Clock] = field(default_factory=list, init=False, repr=False)
    """The stages that run now, the innermost last."""

    def stage(self, title: str, total: int = 0) -> Stage:
        """Make a stage that shows its progress; `total` is in bytes, 0 if it is not known."""
        if feed := os.environ.get(PROGRESS_FILE):
            return _FeedStage(title, total, self._open_stages, feed)
        if self.quiet:
            return SilentStage()
        return (_BarStage if sys.stderr.isatty() else _LineStage)(title, total, self._open_stages)

    def note(self, text: str) -> None:
        """Write a line, unless only warnings, errors and the result are wanted."""
        if not self.quiet:
            _write_line(text)

    def warn(self, text: str) -> None:
        """Write a warning; --json has it too."""
        self.warnings.append(process.redact(text))
        _write_line(f"warning: {text}")

    def show_result(self, result: dict[str, Any], text: str) -> None:
        """Write the result of a verb."""
        if self.as_json:
            self._write_json(ok=True, result=result, error=None)
        else:
            self._write_text(text)

    def show_interrupted(self) -> None:
        """Write that a person or the system interrupted the verb, and what to do next."""
        error = BundleError("interrupted", hint=_AFTER_INTERRUPTION.get(self.command, "run the same command again"))
        if self.as_json:
            document = {"code": INTERRUPTED, "message": str(error), "where": "", "hint": error.hint, "detail": {}}
            self._write_json(ok=False, result={}, error=document)
        _write_line(f"{error}: {error.hint}")

    def show_traceback(self, trace: str) -> None:
        """Write a traceback, for --debug."""
        _write_line(trace)

    def show_error(self, error: BundleError) -> None:
        """Write why a verb failed: what, where, and what to do."""
        message = process.redact(str(error))
        result = error.result if isinstance(error, UnhealthyError) else {}
        if self.as_json:
            where, hint = process.redact(error.where), process.redact(error.hint)
            document = {
                "code": error.code,
                "message": message,
                "where": where,
                "hint": hint,
                "detail": {**error.detail},
            }
            self._write_json(ok=False, result=result, error=document)
        elif isinstance(error, UnhealthyError):
            self._write_text(error.text)
        where = f"\n  where: {error.where}" if error.where else ""
        hint = f"\n  what to do: {error.hint}" if error.hint else ""
        _write_line(f"error: {message}{where}{hint}")

    def _write_text(self, text: str) -> None:
        sys.stdout.write(colors.colorize(paths.escape(text.rstrip("\n")), sys.stdout) + "\n")
        sys.stdout.flush()

    def _write_json(self, *, ok: bool, result: dict[str, Any], error: dict[str, Any] | None) -> None:
        document = {"ok": ok, "command": self.command, "result": result, "error": error, "warnings": self.warnings}
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()


def _write_line(text: str) -> None:
    line = colors.colorize(paths.escape(process.redact(text)), sys.stderr)
    tqdm = sys.modules.get("tqdm")  # it is imported if there is a bar on the terminal
    if tqdm:
        tqdm.tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(f"{line}\n")


class _Clock(AbstractContextManager["_Clock"]):
    """A stage that its own thread draws, so that its clock runs while the work waits.

    Between start and end only that thread draws: Ctrl-C interrupts the main thread, which must not hold a lock then
    for which the other thread waits.
    """

    def __init__(self, title: str, total: int, open_stages: list[_Clock], interval: float) -> None:
        self._title, self._total = title, total
        self._phase, self._read, self._done = "", 0, 0
        self._open_stages = open_stages
        self._interval = interval
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"clock of {title}", daemon=True)
        self._start = time.monotonic()

    def __enter__(self) -> _Clock:  # noqa: PYI034 (typing has Self from Python 3.11 on)
        self._open_stages.append(self)
        try:
            self._thread.start()
        except BaseException:  # __exit__ is not called then
            self._ended.set()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)
        self._open_stages.remove(self)
        if kind is None and self._total:
            self._done = self._total  # content that needed no reading counts as done
        self._end(finished=kind is None)

    def advance(self, count: int) -> None:
        """Count bytes as done; any thread may call this."""
        with self._lock:
            self._done += count

    def set_phase(self, words: str, read: int = 0) -> None:
        """Set what is done now, and how many bytes were read for it, 0 if that is not known."""
        self._phase, self._read = words, read

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._draw()
            except OSError:  # the reader has gone; the main thread notices when it writes
                return

    def _draw(self) -> None:
        raise NotImplementedError

    def _end(self, *, finished: bool) -> None:
        raise NotImplementedError

    @property
    def _is_innermost(self) -> bool:
        return self._open_stages[-1:] == [self]

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._start

    def _format_phase(self) -> str:
        """Format the stage and what it does now, on one line."""
        read = f"{format_size(self._read)} read" if self._read else ""
        phase = ", ".join(filter(None, (self._phase, read)))
        text = ": ".join(filter(None, (self._title, phase)))
        return " ".join(paths.escape(process.redact(text)).split())

    def _format_amount(self) -> str:
        if not self._total:
            return f": {format_size(self._done)}" if self._done else ""
        percent = int(100 * self._done / self._total)
        return f": {format_size(self._done)} of {format_size(self._total)} ({percent} %)"


class _BarStage(_Clock):
    """A bar on a terminal, with bytes, rate and remaining time; only a clock if there are no bytes to count."""

    def __init__(self, title: str, total: int, open_stages: list[_Clock]) -> None:
        super().__init__(title, total, open_stages, DRAW_SECONDS)
        # Imported here: it takes a quarter of the start-up time, and only a terminal needs it.
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.monitor_interval = 0  # tqdm's own thread is not needed: the clock draws the bar
        layout = None if total else "{desc}: {elapsed}"
        self._meter = tqdm(
            desc=title, total=total or None, unit="B", unit_scale=True, unit_divisor=1024, bar_format=layout,
            file=sys.stderr, leave=True, mininterval=0, miniters=0,
        )  # fmt: skip

    def _draw(self) -> None:
        text = self._format_phase() if self._total else self._format_phase() + self._format_amount()
        self._meter.set_description_str(_trim(text), refresh=False)
        self._meter.update(self._done - self._meter.n)  # draws even if nothing was added

    def _end(self, *, finished: bool) -> None:
        self._meter.set_description_str(_trim(self._title), refresh=False)
        self._meter.update(self._done - self._meter.n)
        self._meter.close()


class _LineStage(_Clock):
    """Lines without a terminal: from time to time what is done, and at the end how long it took."""

    def __init__(self, title: str, total: int, open_stages: list[_Clock]) -> None:
        super().__init__(title, total, open_stages, LINE_SECONDS)

    def _draw(self) -> None:
        if self._is_innermost:
            _write_line(f"{self._format_phase()}{self._format_amount()}, after {self._seconds:.0f} s")

    def _end(self, *, finished: bool) -> None:
        size = f"{format_size(self._total)} " if self._total else ""
        suffix = "" if finished else ", not finished"
        _write_line(f"{self._title}: {size}in {self._seconds:.1f} s{suffix}")


class _FeedStage(_Clock):
    """Lines in a file, for the program that started this one and shows its progress."""

    def __init__(self, title: str, total: int, open_stages: list[_Clock], path: str) -> None:
        super().__init__(title, total, open_stages, FEED_SECONDS)
        self._path, self._last_line = Path(path), ""

    def __enter__(self) -> _Clock:
        self._write()
        return super().__enter__()

    def set_phase(self, words: str, read: int = 0) -> None:
        """Set what is done now, and how many bytes were read for it; a new phase is written at once."""
        is_new = words != self._phase
        super().set_phase(words, read)
        if is_new:  # bytes wait for the next update: a load reports them many times a second
            self._draw()

    def _draw(self) -> None:
        if self._is_innermost:
            self._write()

    def _write(self) -> None:
        line = self._format_phase() + self._format_amount()
        if line != self._last_line:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._last_line = line

    def _end(self, *, finished: bool) -> None:
        """Write nothing: the next stage writes its own line."""


def _trim(text: str) -> str:
    """Trim a text so that it fits on a terminal line with the clock: a bar can't redraw a wrapped line."""
    from tqdm.utils import disp_len, disp_trim  # noqa: PLC0415 (imported with the bar, not at start-up)

    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:  # the terminal was closed
        return text
    max_columns = max(columns - _CLOCK_COLUMNS, _MIN_COLUMNS) if columns else len(text)
    return str(disp_trim(text, max_columns)) if disp_len(text) > max_columns else text

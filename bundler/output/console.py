"""How words, progress and results reach a person, or a program that reads JSON."""

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
from bundler.progress import PROGRESS_FILE, Stage

DRAW_SECONDS = 0.25
"""How often a terminal is drawn."""

LINE_SECONDS = 15.0
"""How often a line says what is done, where there is no terminal."""

FEED_SECONDS = 1.0
"""How often a rehearsal is told what its installer does."""

_JOIN_SECONDS = 2.0
_CLOCK_COLUMNS = len(": 00:00:00") + 1
_FEWEST_COLUMNS = 10

_GOES_ON = "the same command goes on from here"
_AFTER_INTERRUPTION = {
    "lock": f"{_GOES_ON}: what was fetched is kept",
    "build": f"{_GOES_ON}: what was fetched is kept",
    "install": f"{_GOES_ON}: what was placed is kept and checked again; the live release is as it was",
    "image": "the same command begins again; the engine may have kept layers that it finished",
    "remove": "bundle prune removes what is left of the release",
    "prune": _GOES_ON,
}
"""What to do after Ctrl-C, by verb; the others keep nothing that they began."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_size(count: float) -> str:
    """A number of bytes for a reader: ``1.4 GiB``."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


@dataclass(kw_only=True, slots=True)
class Console:
    """Progress and words to standard error, one result to standard output."""

    command: str = ""
    as_json: bool = False
    quiet: bool = False
    warnings: list[str] = field(default_factory=list)
    _opened: list[_Clock] = field(default_factory=list, init=False, repr=False)
    """The stages that run now, the innermost last."""

    def stage(self, title: str, total: int = 0) -> Stage:
        if feed := os.environ.get(PROGRESS_FILE):
            return _Feed(title, total, self._opened, feed)
        if self.quiet:
            return _SilentStage()
        return (_BarStage if sys.stderr.isatty() else _LineStage)(title, total, self._opened)

    def note(self, text: str) -> None:
        if not self.quiet:
            _write_line(text)

    def warn(self, text: str) -> None:
        self.warnings.append(process.redact(text))
        _write_line(f"warning: {text}")

    def show_result(self, result: dict[str, Any], text: str) -> None:
        """The end of a verb that went well."""
        if self.as_json:
            self._write_json(ok=True, result=result, error=None)
        else:
            self._write_text(text)

    def show_interrupted(self) -> None:
        """The end of a verb that a person or the system ended."""
        error = BundleError("interrupted", hint=_AFTER_INTERRUPTION.get(self.command, "run the same command again"))
        if self.as_json:
            told = {"code": INTERRUPTED, "message": str(error), "where": "", "hint": error.hint, "detail": {}}
            self._write_json(ok=False, result={}, error=told)
        _write_line(f"{error}: {error.hint}")

    def show_traceback(self, trace: str) -> None:
        """Where in the program a failure arose, for who asked."""
        _write_line(trace)

    def show_error(self, error: BundleError) -> None:
        """The end of a verb that did not: what failed, where, what to do."""
        message = process.redact(str(error))
        found = error.result if isinstance(error, UnhealthyError) else {}
        if self.as_json:
            where, hint = process.redact(error.where), process.redact(error.hint)
            told = {"code": error.code, "message": message, "where": where, "hint": hint, "detail": {**error.detail}}
            self._write_json(ok=False, result=found, error=told)
        elif isinstance(error, UnhealthyError):
            self._write_text(error.text)
        where = f"\n  where: {error.where}" if error.where else ""
        hint = f"\n  what to do: {error.hint}" if error.hint else ""
        _write_line(f"error: {message}{where}{hint}")

    def _write_text(self, text: str) -> None:
        sys.stdout.write(colors.painted(paths.escape(text.rstrip("\n")), sys.stdout) + "\n")
        sys.stdout.flush()

    def _write_json(self, *, ok: bool, result: dict[str, Any], error: dict[str, Any] | None) -> None:
        said = {"ok": ok, "command": self.command, "result": result, "error": error, "warnings": self.warnings}
        sys.stdout.write(json.dumps(said, ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()


def _write_line(text: str) -> None:
    line = colors.painted(paths.escape(process.redact(text)), sys.stderr)
    bars = sys.modules.get("tqdm")  # a bar that is on the screen has imported it
    if bars:
        bars.tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(f"{line}\n")


class _SilentStage(AbstractContextManager["_SilentStage"]):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, count: int) -> None:
        """Nobody asked to see it."""

    def set_phase(self, words: str, read: int = 0) -> None:
        """Nobody asked to see it."""


class _Clock(AbstractContextManager["_Clock"]):
    """A stage that a thread of its own draws, so that its clock runs while the work waits for something else.

    Between begin and end only that thread draws it. Ctrl-C interrupts the main thread, which may not leave a lock held
    that the other one waits for.
    """

    def __init__(self, title: str, total: int, opened: list[_Clock], interval: float) -> None:
        self._title, self._total = title, total
        self._phase, self._read, self._done = "", 0, 0
        self._opened = opened
        self._interval = interval
        self._adding = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"clock of {title}", daemon=True)
        self._start = time.monotonic()

    def __enter__(self) -> _Clock:  # noqa: PYI034 (typing has Self from Python 3.11 on)
        self._opened.append(self)
        try:
            self._thread.start()
        except BaseException:  # nobody calls __exit__ then
            self._ended.set()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)
        self._opened.remove(self)
        if kind is None and self._total:
            self._done = self._total  # what was found to need no reading is done as well
        self._end(finished=kind is None)

    def advance(self, count: int) -> None:
        with self._adding:
            self._done += count

    def set_phase(self, words: str, read: int = 0) -> None:
        self._phase, self._read = words, read

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._draw()
            except OSError:  # nobody reads it any more; the main thread finds out when it has something to say
                return

    def _draw(self) -> None:
        raise NotImplementedError

    def _end(self, *, finished: bool) -> None:
        raise NotImplementedError

    @property
    def _innermost(self) -> bool:
        return self._opened[-1:] == [self]

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._start

    def _doing(self) -> str:
        """The stage and what it does now, on one line."""
        read = f"{format_size(self._read)} read" if self._read else ""
        phase = ", ".join(filter(None, (self._phase, read)))
        words = ": ".join(filter(None, (self._title, phase)))
        return " ".join(paths.escape(process.redact(words)).split())

    def _amount(self) -> str:
        if not self._total:
            return f": {format_size(self._done)}" if self._done else ""
        share = int(100 * self._done / self._total)
        return f": {format_size(self._done)} of {format_size(self._total)} ({share} %)"


class _BarStage(_Clock):
    """A bar on a terminal: bytes, rate, time left; a clock where there are no bytes to count."""

    def __init__(self, title: str, total: int, opened: list[_Clock]) -> None:
        super().__init__(title, total, opened, DRAW_SECONDS)
        # Imported here: it takes a fourth of the program's start, for a terminal alone.
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.monitor_interval = 0  # no thread of its own has to watch a bar that a clock draws
        layout = None if total else "{desc}: {elapsed}"
        self._meter = tqdm(
            desc=title, total=total or None, unit="B", unit_scale=True, unit_divisor=1024, bar_format=layout,
            file=sys.stderr, leave=True, mininterval=0, miniters=0,
        )  # fmt: skip

    def _draw(self) -> None:
        words = self._doing() if self._total else self._doing() + self._amount()
        self._meter.set_description_str(_cut(words), refresh=False)
        self._meter.update(self._done - self._meter.n)  # draws, also where nothing was added

    def _end(self, *, finished: bool) -> None:
        self._meter.set_description_str(_cut(self._title), refresh=False)
        self._meter.update(self._done - self._meter.n)
        self._meter.close()


class _LineStage(_Clock):
    """Plain lines where there is no terminal: now and then what is done, and at the end how long it took."""

    def __init__(self, title: str, total: int, opened: list[_Clock]) -> None:
        super().__init__(title, total, opened, LINE_SECONDS)

    def _draw(self) -> None:
        if self._innermost:
            _write_line(f"{self._doing()}{self._amount()}, after {self._seconds:.0f} s")

    def _end(self, *, finished: bool) -> None:
        size = f"{format_size(self._total)} " if self._total else ""
        ended = "" if finished else ", not finished"
        _write_line(f"{self._title}: {size}in {self._seconds:.1f} s{ended}")


class _Feed(_Clock):
    """Lines in a file, for the program that started this one and shows what it does."""

    def __init__(self, title: str, total: int, opened: list[_Clock], path: str) -> None:
        super().__init__(title, total, opened, FEED_SECONDS)
        self._path, self._last = Path(path), ""

    def __enter__(self) -> _Clock:
        self._write()
        return super().__enter__()

    def set_phase(self, words: str, read: int = 0) -> None:
        is_new = words != self._phase
        super().set_phase(words, read)
        if is_new:  # bytes alone wait for the next tick: a load reports them many times a second
            self._draw()

    def _draw(self) -> None:
        if self._innermost:
            self._write()

    def _write(self) -> None:
        line = self._doing() + self._amount()
        if line != self._last:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._last = line

    def _end(self, *, finished: bool) -> None:
        """The next stage says what is done then."""


def _cut(words: str) -> str:
    """Words that leave room for a clock on one line of the terminal: a line that wraps can't be drawn over."""
    from tqdm.utils import disp_len, disp_trim  # noqa: PLC0415 (imported with the bar, not at the program's start)

    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:  # it was closed a moment ago
        return words
    most = max(columns - _CLOCK_COLUMNS, _FEWEST_COLUMNS) if columns else len(words)
    return str(disp_trim(words, most)) if disp_len(words) > most else words

"""How words, progress and results reach a person, or a program that reads JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from bundler import colors, process
from bundler.bundle import paths
from bundler.errors import INTERRUPTED, BundleError, UnhealthyError
from bundler.progress import Stage

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size_text(count: float) -> str:
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

    def stage(self, title: str, total: int = 0) -> Stage:
        if self.quiet:
            return _Silent()
        return _Bar(title, total) if sys.stderr.isatty() else _Lines(title, total)

    def note(self, text: str) -> None:
        if not self.quiet:
            _say(text)

    def warn(self, text: str) -> None:
        self.warnings.append(process.without_secrets(text))
        _say(f"warning: {text}")

    def done(self, result: dict[str, Any], words: str) -> None:
        """The end of a verb that went well."""
        if self.as_json:
            self._json(ok=True, result=result, error=None)
        else:
            self._words(words)

    def interrupted(self) -> None:
        """The end of a verb that a person or the system ended."""
        error = BundleError("interrupted", hint="the same command goes on from here")
        if self.as_json:
            told = {"code": INTERRUPTED, "message": str(error), "where": "", "hint": error.hint, "detail": {}}
            self._json(ok=False, result={}, error=told)
        _say(f"{error}: {error.hint}")

    def traced(self, trace: str) -> None:
        """Where in the program a failure arose, for who asked."""
        _say(trace)

    def failed(self, error: BundleError) -> None:
        """The end of a verb that did not: what failed, where, what to do."""
        message = process.without_secrets(str(error))
        found = error.result if isinstance(error, UnhealthyError) else {}
        if self.as_json:
            where, hint = process.without_secrets(error.where), process.without_secrets(error.hint)
            told = {"code": error.code, "message": message, "where": where, "hint": hint, "detail": {**error.detail}}
            self._json(ok=False, result=found, error=told)
        elif isinstance(error, UnhealthyError):
            self._words(error.words)
        where = f"\n  where: {error.where}" if error.where else ""
        hint = f"\n  what to do: {error.hint}" if error.hint else ""
        _say(f"error: {message}{where}{hint}")

    def _words(self, words: str) -> None:
        sys.stdout.write(colors.painted(paths.shown(words.rstrip("\n")), sys.stdout) + "\n")
        sys.stdout.flush()

    def _json(self, *, ok: bool, result: dict[str, Any], error: dict[str, Any] | None) -> None:
        said = {"ok": ok, "command": self.command, "result": result, "error": error, "warnings": self.warnings}
        sys.stdout.write(json.dumps(said, ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()


def _say(text: str) -> None:
    line = colors.painted(paths.shown(process.without_secrets(text)), sys.stderr)
    bars = sys.modules.get("tqdm")  # a bar that is on the screen has imported it
    if bars:
        bars.tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(f"{line}\n")


class _Silent(AbstractContextManager["_Silent"]):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, count: int) -> None:
        """Nobody asked to see it."""


class _Bar(AbstractContextManager["_Bar"]):
    """A bar on a terminal: bytes, rate, time left."""

    def __init__(self, title: str, total: int) -> None:
        from tqdm import tqdm  # noqa: PLC0415 (a fourth of the program's start, for a terminal alone)

        layout = None if total else "{desc}: {elapsed}"
        self._bar = tqdm(
            desc=title, total=total or None, unit="B", unit_scale=True, unit_divisor=1024, bar_format=layout,
            file=sys.stderr, leave=True,
        )  # fmt: skip
        self._mutex = threading.Lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        with self._mutex:
            self._bar.update(count)


class _Lines(AbstractContextManager["_Lines"]):
    """Two plain lines where there is no terminal: what begins, and how long it took."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._start = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._start
        size = f"{size_text(self._total)} " if self._total else ""
        ended = "" if kind is None else ", not finished"
        _say(f"{self._title}: {size}in {seconds:.1f} s{ended}")

    def advance(self, count: int) -> None:
        """A line for each part would fill a log."""

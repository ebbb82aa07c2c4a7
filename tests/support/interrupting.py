"""Ctrl-C at the begin or the end of a stage of an install."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import pytest

from bundler.offline import install
from bundler.offline.install import InstallOptions
from bundler.progress import RecordingReporter, Stage


class _Ending(AbstractContextManager["_Ending"]):
    """A stage at whose end somebody types Ctrl-C."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise KeyboardInterrupt

    def advance(self, count: int) -> None:
        """Nobody watches the bytes."""

    def set_phase(self, words: str, read: int = 0) -> None:
        """Nobody watches what is done."""


class Interrupting(RecordingReporter):
    """A report that types Ctrl-C when a stage begins, or ends."""

    def __init__(self, title: str, *, begins: bool) -> None:
        super().__init__()
        self._title, self._begins = title, begins

    def stage(self, title: str, total: int = 0) -> Stage:
        if title != self._title:
            return super().stage(title, total)
        if self._begins:
            raise KeyboardInterrupt
        return _Ending()


def interrupt(bundle: Path, prefix: Path, title: str, *, begins: bool = False) -> None:
    with pytest.raises(KeyboardInterrupt):
        install.install_bundle(bundle, prefix, InstallOptions(), Interrupting(title, begins=begins))

"""Stages as the console draws them where there is no terminal, and for a program that started this one."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from bundler.output import console
from bundler.output.console import Console
from bundler.progress import PROGRESS_FILE, read_last_line


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(console, "FEED_SECONDS", 0.05)


def test_bytes_are_counted_and_only_the_innermost_stage_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    report = Console()
    with report.stage("gather m"):
        time.sleep(0.2)
        with report.stage("fetch", 4 << 20) as stage:
            stage.advance(3 << 20)
            time.sleep(0.2)
    lines = capfd.readouterr().err.splitlines()
    outer = [number for number, line in enumerate(lines) if line.startswith("gather m, after")]
    inner = [number for number, line in enumerate(lines) if line == "fetch: 3.0 MiB of 4.0 MiB (75 %), after 0 s"]
    assert outer
    assert inner
    assert max(outer) < min(inner)
    assert re.fullmatch(r"fetch: 4\.0 MiB in 0\.\d s", lines[-2])
    assert re.fullmatch(r"gather m: in 0\.\d s", lines[-1])


def test_what_a_phase_says_stays_on_one_line_and_shows_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    with Console().stage("smoke load m") as stage:
        stage.set_phase("a\x1b[2Jb\nc https://user:word@host/", 3 << 20)
        time.sleep(0.15)
    line = capfd.readouterr().err.splitlines()[0]
    assert line == r"smoke load m: a\x1b[2Jb c https://***@host/, 3.0 MiB read, after 0 s"


def test_a_failure_ends_the_clock_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Console().stage("place", 100):
        raise KeyboardInterrupt
    assert capfd.readouterr().err.endswith(" s, not finished\n")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clock of")]


def test_a_reader_that_went_away_ends_the_clock_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        stage = Console().stage("place")
        stage.__enter__()
        time.sleep(0.2)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("clock of")]
        with pytest.raises(BrokenPipeError):
            stage.__exit__(None, None, None)
        monkeypatch.undo()
        with pytest.raises(BrokenPipeError):
            gone.close()


def test_a_program_that_asked_for_it_gets_a_line_for_each_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "progress.txt"
    assert read_last_line(path) == ""
    monkeypatch.setenv(PROGRESS_FILE, str(path))
    report = Console(quiet=True)
    with report.stage("environment") as stage:
        assert read_last_line(path) == "environment"
        stage.set_phase("install 2 packages")
        time.sleep(0.3)
        assert read_last_line(path) == "environment: install 2 packages"
    assert path.read_text() == "environment\nenvironment: install 2 packages\n"
    assert capfd.readouterr().err == ""

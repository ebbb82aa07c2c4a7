"""What a person sees while something takes long: on a terminal, in a log, and of a rehearsal."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bundler import cli
from bundler.errors import INTERRUPTED
from bundler.format.tar import archive
from bundler.offline import load_progress
from bundler.output import console
from bundler.progress import RecordingReporter
from tests.support.bundles import SMALL, make_lock
from tests.support.programs import run_bundle
from tests.support.small_bundles import MANIFEST
from tests.support.wheelmaking import make_wheel

MIB = 1 << 20
SIZE = 48 * MIB
SLOW = """
import mmap
import time

LOADER = "files"
time.sleep(2.5)


def prove(request, record):
    record.enter("weights")
    time.sleep(1.2)
    with (request.path / "weights.bin").open("rb") as file:
        file.read(16 << 20)
        time.sleep(1.2)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            sum(mapped[at] for at in range(16 << 20, len(mapped), 4096))
            time.sleep(1.3)
    record.enter("first inference")
    time.sleep(2.5)
"""
"""A loader that takes its time: it reads a third of the weights by read(2) and maps the rest, as libraries do."""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed release whose load takes some seconds."""
    folder = tmp_path_factory.mktemp("slow")
    contents = SMALL | {"models/m/weights.bin": bytes(SIZE)}
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    packed = folder / "slow.bundle.tar"
    archive.write_bundle(packed, make_lock(contents), lambda artifact: folder / artifact.path, RecordingReporter())
    done = run_bundle("install", packed, "--prefix", folder / "opt", "--no-smoke", "--quiet")
    assert done.returncode == 0, done.stderr
    (folder / "opt" / "current" / "payload" / "probes" / "files.py").write_text(SLOW)
    return folder / "opt"


def run_on_terminal(
    *arguments: object, columns: int = 100, environment: Mapping[str, str] | None = None, interrupt_at: str = ""
) -> tuple[int, str, list[str]]:
    """Runs the command line with a terminal as standard error: its exit code, its output, all that was drawn."""
    above, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [str(Path(sys.executable).with_name("bundle")), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True, env=environment) as child:
        os.close(terminal)
        drawn = b""
        with suppress(OSError):  # Linux says EIO where nobody holds the terminal any more
            while data := os.read(above, 1 << 16):
                drawn += data
                if interrupt_at and interrupt_at.encode() in drawn:
                    child.send_signal(signal.SIGINT)
                    interrupt_at = ""
        assert child.stdout is not None
        said = child.stdout.read()
    os.close(above)
    return child.returncode, said, [frame.strip() for frame in re.split(r"[\r\n]+", drawn.decode()) if frame.strip()]


@dataclass
class Shown(AbstractContextManager["Shown"]):
    """A stage that keeps what it is told."""

    shown: list[tuple[str, int]] = field(default_factory=list)

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, count: int) -> None:
        raise AssertionError(count)

    def set_phase(self, words: str, read: int = 0) -> None:
        self.shown.append((words, read))


def seconds(frames: list[str], words: str) -> set[str]:
    """The times that the clock showed beside some words."""
    return {match[1] for frame in frames if words in frame and (match := re.search(r": (\d\d:\d\d)$", frame))}


def mebibytes(lines: list[str]) -> list[float]:
    return [float(match[1]) for line in lines if (match := re.search(r"weights, ([\d.]+) MiB read", line))]


def test_the_clock_runs_on_a_terminal_and_says_what_is_done(prefix: Path) -> None:
    code, said, frames = run_on_terminal("smoke", "--prefix", prefix, "--json")
    assert code == 0, frames
    assert json.loads(said)["ok"]
    for phase in ("import", "weights", "first inference"):
        assert len(seconds(frames, f"smoke load m: {phase}")) > 1, (phase, frames)
    read = mebibytes(frames)
    assert read == sorted(read), "what was read does not become less"
    assert any(15 < each < 20 for each in read)
    assert 46 < read[-1] < 60
    last = next(frame for frame in reversed(frames) if frame.startswith("smoke load m"))
    assert re.fullmatch(r"smoke load m: 00:(0[8-9]|[1-5]\d)", last), last


def test_a_log_gets_a_line_now_and_then_with_the_same_words(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert console.LINE_SECONDS == 15
    monkeypatch.setattr(console, "LINE_SECONDS", 0.7)
    monkeypatch.setattr(sys, "argv", ["bundle", "smoke", "--prefix", str(prefix), "--json"])
    assert cli.main() == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["ok"]
    lines = said.err.splitlines()
    for phase in ("import", "weights", "first inference"):
        assert any(re.fullmatch(rf"smoke load m: {phase}(, .* read)?, after \d+ s", line) for line in lines), said.err
    assert 46 < mebibytes(lines)[-1] < 60
    assert re.fullmatch(r"smoke load m: in \d+\.\d s", next(line for line in reversed(lines) if " in " in line))


def test_quiet_says_nothing(prefix: Path) -> None:
    code, said, frames = run_on_terminal("smoke", "--prefix", prefix, "--json", "--quiet")
    assert (code, json.loads(said)["ok"]) == (0, True)
    assert [frame for frame in frames if not frame.startswith("warning: ")] == []


def test_without_proc_what_was_read_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (load_progress.get_bytes_read(os.getpid()) or 0) > MIB
    monkeypatch.setattr(load_progress, "_PROC", tmp_path)
    stage = Shown()
    (tmp_path / "phases.txt").write_text("import\nweights\nfirst infer")  # the last line is not written whole yet
    load_progress.LoadProgress(stage, tmp_path / "phases.txt")(os.getpid())
    assert stage.shown == [("weights", 0)]


def test_an_interruption_stops_the_clock_and_the_load_and_no_line_wraps_on_a_narrow_terminal(prefix: Path) -> None:
    start = time.monotonic()
    code, _, frames = run_on_terminal("smoke", "--prefix", prefix, columns=32, interrupt_at="weights")
    assert code == INTERRUPTED
    assert time.monotonic() - start < 20
    assert frames[-1] == "interrupted: run the same command again"
    clocks = [frame for frame in frames if re.search(r"\d\d:\d\d$", frame)]
    assert any("weights" in clock for clock in clocks)
    assert all(len(clock) <= 32 for clock in clocks), clocks
    running = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
    assert str(prefix.parent / "opt" / "releases") not in running


def test_a_rehearsal_says_what_its_installer_does(builder_env: dict[str, str], wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "config.json").write_text("{}")
    (tmp_path / "small.yaml").write_text(MANIFEST.format(version="1", sequence="1"))
    make_wheel(tmp_path / "own", "alpha", "1.1", files={"zz_slow.pth": b"import time; time.sleep(2)\n"})
    told = builder_env | {"PIP_FIND_LINKS": f"{wheels.as_uri()} {(tmp_path / 'own').as_uri()}"}
    code, _, frames = run_on_terminal("build", tmp_path / "small.yaml", "-o", tmp_path / "small.tar", environment=told)
    assert code == 0, frames
    assert any("rehearse: environment: " in frame for frame in frames), frames
    assert len(seconds(frames, "rehearse: smoke load m")) > 1, frames
    bars = {frame.partition(":")[0]: frame for frame in frames if "%|" in frame}
    assert "pack" in bars
    assert all("100%" in last for last in bars.values()), bars

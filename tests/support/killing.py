"""Kills a run, or fills its disk, at the n-th thing that it does to the file system, so that a test can try them all."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_PIPE = subprocess.PIPE
_WATCHER = """
import atexit, importlib, os, runpy, signal, sys, threading
CHANGES = {"os.rename", "os.mkdir", "os.symlink", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.utime",
           "os.truncate", "subprocess.Popen", "fcntl.flock"}
def end():
    os.kill(os.getpid(), signal.SIGKILL)
def fill(filler):
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                os.write(fd, bytes(size))
        except OSError:
            pass
def run(at, kept, filler, argv):
    seen = []
    def hook(event, told):
        if event == "open":
            if not isinstance(told[2], int) or not told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        seen.append(event)
        if len(seen) == at:
            if filler:
                fill(filler)
            elif event == "subprocess.Popen":  # while that program is at work, sooner or later
                threading.Timer(at % 7 * 0.03, end).start()
            else:
                end()
    def keep():
        fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, "\\n".join(seen).encode())
    if kept:
        atexit.register(keep)
    sys.addaudithook(hook)
    sys.argv = argv
    if argv[0] == "-m":
        del argv[0]
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(argv[0], run_name="__main__")
    sys.exit(0)
def serve(modules, argv):  # each run begins where all that is imported is there already
    if argv[0] != "-m":
        sys.path.insert(0, argv[0])
    for name in modules.split():
        importlib.import_module(name)
    while line := sys.stdin.readline():
        at, kept, filler, said = line.rstrip("\\n").split("\\t")
        pid = os.fork()
        if not pid:
            for number, path in ((0, os.devnull), (1, os.devnull), (2, said)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
            run(int(at), kept, filler, argv)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
if sys.argv[1] == "serve":
    serve(sys.argv[2], sys.argv[3:])
else:
    run(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
"""


@dataclass(frozen=True, slots=True)
class Killing:
    """A command that a Python runs, to be killed at a point or counted."""

    python: tuple[object, ...]
    command: tuple[object, ...]
    environment: dict[str, str] | None = None

    def count(self, folder: Path) -> int:
        """How many points an undisturbed run has; it must go well."""
        kept = folder / "points"
        done = self._run(0, kept=str(kept))
        assert done.returncode == 0, done.stderr
        return len(kept.read_text().splitlines())

    def at(self, point: int) -> bool:
        """Run up to a point; whether the run was killed there, or had ended before."""
        done = self._run(point)
        assert done.returncode in (0, -signal.SIGKILL), f"point {point}: {done.stderr}"
        return done.returncode != 0

    def on_a_full_disk(self, point: int, filler: Path) -> subprocess.CompletedProcess[str]:
        """Run to the end, with a disk that is full from a point on: ``filler`` takes all that was free."""
        return self._run(point, filler=str(filler))

    @contextmanager
    def warm(self, folder: Path, *modules: str) -> Iterator[Killing]:
        """The same, each run a fork of one process that has imported ``modules``: most of a short run is importing."""
        argv = self._argv("serve", " ".join(modules))
        with subprocess.Popen(argv, stdin=_PIPE, stdout=_PIPE, text=True, env=self._told()) as server:
            yield _Warm(self.python, self.command, self.environment, server=server, said=folder / "said")
            server.communicate()

    def _run(self, point: int, kept: str = "", filler: str = "") -> subprocess.CompletedProcess[str]:
        argv = self._argv(str(point), kept, filler)
        return subprocess.run(argv, check=False, capture_output=True, text=True, env=self._told())

    def _argv(self, *how: str) -> list[str]:
        return [*map(str, self.python), "-c", _WATCHER, *how, *map(str, self.command)]

    def _told(self) -> dict[str, str]:
        return (os.environ if self.environment is None else self.environment) | {"PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True, slots=True)
class _Warm(Killing):
    """``said`` is where each run leaves its words."""

    server: subprocess.Popen[str] = field(kw_only=True)
    said: Path = field(kw_only=True)

    def _run(self, point: int, kept: str = "", filler: str = "") -> subprocess.CompletedProcess[str]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write("\t".join([str(point), kept, filler, str(self.said)]) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess([], code, "", self.said.read_text())


def make_point_params(few: int, more: int, most: int) -> list[Any]:
    """How many points are tried: in every run of the tests, in the proofs of CI, and where there is time for all."""
    exhaustive = (pytest.mark.long, pytest.mark.exhaustive)
    return [few, pytest.param(more, marks=pytest.mark.long), pytest.param(most, marks=exhaustive)]


def choose_points(total: int, most: int) -> list[int]:
    """At most that many points of ``total``, from the first to the last, evenly."""
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + round(number * (total - 1) / (most - 1)) for number in range(most)})

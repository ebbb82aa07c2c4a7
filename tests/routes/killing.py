"""Kills a run, or fills its disk, at the n-th thing that it does to the file system, so that a test can try them all."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

_WATCHER = """
import atexit, os, runpy, signal, sys, threading
at, kept, filler = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.argv = sys.argv[4:]
CHANGES = {"os.rename", "os.mkdir", "os.symlink", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.utime",
           "os.truncate", "subprocess.Popen", "fcntl.flock"}
seen = []
def end():
    os.kill(os.getpid(), signal.SIGKILL)
def fill():
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                os.write(fd, bytes(size))
        except OSError:
            pass
def hook(event, told):
    if event == "open":
        if not isinstance(told[2], int) or not told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event not in CHANGES:
        return
    seen.append(event)
    if len(seen) == at:
        if filler:
            fill()
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
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
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

    def _run(self, point: int, kept: str = "", filler: str = "") -> subprocess.CompletedProcess[str]:
        argv = [*map(str, self.python), "-c", _WATCHER, str(point), kept, filler, *map(str, self.command)]
        environment = (os.environ if self.environment is None else self.environment) | {"PYTHONWARNINGS": "ignore"}
        return subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)


def spread(total: int, most: int) -> list[int]:
    """At most that many points of ``total``, from the first to the last, evenly."""
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + round(number * (total - 1) / (most - 1)) for number in range(most)})

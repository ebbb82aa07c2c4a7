"""What the tests of the command line share: the installer, and a terminal to type in."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bundler.online import installer as making

RunOnTerminal = Callable[..., str]


@pytest.fixture(scope="session")
def installer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bundle.pyz``, which can be run by its name."""
    path = tmp_path_factory.mktemp("installer") / "bundle.pyz"
    making.write_installer(path, making.build_installer())
    return path


@pytest.fixture
def terminal() -> RunOnTerminal:
    """Runs a command on a terminal and gives what it shows; ``typed`` is typed, and ends it when ``until`` is there."""

    def run(command: Sequence[object], *, typed: str = "", until: str = "", **options: object) -> str:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", **dict(options.get("env") or {})}  # type: ignore[call-overload]
        process = subprocess.Popen(
            [*map(str, command)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
            cwd=str(options.get("cwd", "/")), start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.write(ours, typed.encode())
        shown, end = b"", time.monotonic() + 120
        try:
            while time.monotonic() < end and not (until and until.encode() in shown):
                if select.select([ours], [], [], 0.2)[0]:
                    shown += os.read(ours, 65536)
                elif process.poll() is not None:
                    break
        except OSError:  # the other end is closed: all was read
            pass
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        return shown.decode(errors="replace")

    return run

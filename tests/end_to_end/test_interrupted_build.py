"""Ctrl-C, and the first failure, end a build at once, whatever its lines are doing."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bundler.errors import INTERRUPTED, FetchError
from tests.support.servers import loopback
from tests.support.servers.hub_server import Hub, make_hub_env, serve_hub
from tests.support.servers.loopback import Handler

WEIGHTS = {f"{name}.safetensors": random.Random(name).randbytes(3 << 20) for name in ("a", "b")}
HANGS = 240
"""Seconds that the server stays silent, and that the client would wait for it: no build may take so long."""
AT_ONCE = 3.0
"""Seconds that are at once on any machine; a loaded one may take as long as a whole build takes on it."""


@dataclass
class Site:
    """A hub whose storage stops sending ``a`` in its midst, without a word."""

    hub: Hub
    folder: Path
    environment: dict[str, str]
    over: threading.Event = field(default_factory=threading.Event)

    def hang(self, handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: 2 << 20])
        self.over.wait(HANGS)
        handler.close_connection = True

    def begun(self) -> int:
        """The size of what has come of ``a``."""
        found = (self.folder / "shelf" / "partial").glob(f"{loopback.sha256(WEIGHTS['a.safetensors'])}.partial")
        return sum(one.stat().st_size for one in found)

    def build(self) -> subprocess.Popen[str]:
        command = [Path(sys.executable).with_name("bundle"), "build", "--no-rehearse", self.folder / "m.yaml"]
        options = ["-o", self.folder / "m.bundle.tar"]
        return subprocess.Popen(
            [*map(str, [*command, *options])], env=self.environment, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def site(builder_env: dict[str, str], tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "m.yaml").write_text("name: cut\nversion: '1'\nmodels: [{repo: org/tiny, loader: files}]\n")
    with serve_hub() as hub:
        hub.repository("org/tiny", {"config.json": b"{}", **WEIGHTS})
        environment = make_hub_env(builder_env, hub.url, tmp_path) | {"PIP_TIMEOUT": str(HANGS)}
        made = Site(hub, tmp_path, environment)
        hub.storage.faults[hub.lfs("org/tiny", "a.safetensors")] = [made.hang]
        yield made
        made.over.set()


def check_next_build(site: Site) -> float:
    """The next build asks for the missing bytes and no others; the seconds that it takes."""
    come = site.begun()
    assert come >= 1 << 20
    site.hub.storage.seen.clear()
    started = time.monotonic()
    with site.build() as running:
        _, printed = running.communicate()
    seconds = time.monotonic() - started
    assert running.returncode == 0, printed
    path = site.hub.lfs("org/tiny", "a.safetensors")
    asked = [one.headers["Range"] for one in site.hub.storage.seen if one.path.startswith(path)]
    assert asked == [f"bytes={come}-"]
    return seconds


def test_an_interruption_waits_for_no_line_that_hangs(site: Site) -> None:
    def silent(handler: Handler, _: bytes) -> None:
        """Not even a first word."""
        site.over.wait(HANGS)
        handler.close_connection = True

    site.hub.storage.faults[site.hub.lfs("org/tiny", "b.safetensors")] = [silent]
    with site.build() as running:
        while site.begun() < 1 << 20:
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, said = running.communicate(timeout=HANGS / 2)
    seconds = time.monotonic() - started
    assert running.returncode == INTERRUPTED
    assert "interrupted: run the same command to continue" in said
    assert "Traceback" not in said
    assert "trying again" not in said
    assert seconds < max(AT_ONCE, check_next_build(site))


def test_the_first_failure_waits_for_no_line_that_hangs(site: Site) -> None:
    answered: list[float] = []

    def missing(handler: Handler, _: bytes) -> None:
        while site.begun() < 1 << 20:
            time.sleep(0.02)
        answered.append(time.monotonic())
        handler.answer(404, b"")

    site.hub.storage.faults[site.hub.lfs("org/tiny", "b.safetensors")] = [missing]
    with site.build() as running:
        _, said = running.communicate(timeout=HANGS / 2)
    seconds = time.monotonic() - answered[0]
    assert running.returncode == FetchError.code
    assert "the hub's storage has no such file" in said
    assert "trying again" not in said
    assert seconds < max(AT_ONCE, check_next_build(site))

"""Which release is live: the switch, the lock, the way back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.errors import BusyError, HostError, UsageError
from bundler.offline import releases


def finish(release: releases.Release, ordinal: int) -> None:
    receipt = {
        "release": release.name,
        "ordinal": ordinal,
        "name": "t",
        "version": "1",
        "sequence": ordinal,
        "models": [],
    }
    release.receipt.write_text(json.dumps(receipt))


def install(prefix: Path, name: str, ordinal: int) -> None:
    with releases.begin(prefix, name) as release:
        finish(release, ordinal)


def test_a_release_is_live_once_its_block_is_left(tmp_path: Path) -> None:
    with releases.begin(tmp_path, "1-a") as release:
        assert releases.live(tmp_path) is None
        finish(release, 1)
    assert (tmp_path / "current").readlink() == Path("releases/1-a")
    assert releases.required_live(tmp_path).name == "1-a"


def test_a_release_that_fails_leaves_the_live_one_and_nothing_of_itself(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    held = tmp_path / "models" / "m-1"
    held.mkdir(parents=True)
    unfinished = tmp_path / "models" / ".m-2.partial"
    unheld = tmp_path / "models" / "m-3"

    def fail() -> None:
        with releases.begin(tmp_path, "2-b") as release:
            (release.path / "x").write_text("half")
            unfinished.mkdir()
            unheld.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert releases.required_live(tmp_path).name == "1-a"
    assert not (tmp_path / "releases" / "2-b").exists()
    assert list((tmp_path / "models").iterdir()) == [held]


def test_what_a_killed_run_left_is_removed_first(tmp_path: Path) -> None:
    left = tmp_path / "releases" / "1-a" / "venv"
    left.mkdir(parents=True)
    with releases.begin(tmp_path, "1-a") as release:
        assert not left.exists()
        finish(release, 1)


def test_rollback_goes_to_the_release_installed_before(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    install(tmp_path, "2-b", 2)
    now, then = releases.rollback(tmp_path)
    assert (now.name, then.name, releases.required_live(tmp_path).name) == ("2-b", "1-a", "1-a")
    with pytest.raises(UsageError, match="no release was installed before 1-a"):
        releases.rollback(tmp_path)


def test_nothing_installed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is installed here"):
        releases.required_live(tmp_path)


def test_two_runs_do_not_share_a_prefix(tmp_path: Path) -> None:
    with releases.held(tmp_path), pytest.raises(BusyError, match="another run is working"), releases.held(tmp_path):
        pass
    with releases.held(tmp_path):
        pass


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from bundler.offline import releases\n"
        "with releases.held(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == -9
    with releases.held(tmp_path):
        pass


def test_a_prefix_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="the prefix can't be written"), releases.held(tmp_path / "file" / "prefix"):
        pass

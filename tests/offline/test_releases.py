"""Which release is live: the switch, the lock, the way back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.errors import BusyError, HostError, IntegrityError, UnsafeError, UsageError
from bundler.offline import releases

DIGEST = "d" * 64


def finish(release: releases.Release, ordinal: int) -> None:
    before = releases.live(release.prefix)
    receipt = {
        "release": release.name,
        "digest": DIGEST,
        "ordinal": ordinal,
        "follows": before.name if before else "",
        "homes": {},
    }
    release.receipt.write_text(json.dumps(receipt))


def install(prefix: Path, name: str, ordinal: int) -> None:
    with releases.begin(prefix, name, DIGEST) as release:
        finish(release, ordinal)


def test_a_release_is_live_once_its_block_is_left(tmp_path: Path) -> None:
    with releases.begin(tmp_path, "1-a", DIGEST) as release:
        assert releases.live(tmp_path) is None
        finish(release, 1)
    assert (tmp_path / "current").readlink() == Path("releases/1-a")
    assert releases.required_live(tmp_path).name == "1-a"


def test_a_release_that_fails_leaves_the_live_one_and_nothing_of_itself(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    held = tmp_path / "models" / "m-1"
    held.mkdir(parents=True)
    (tmp_path / "releases" / "1-a" / "models").mkdir()
    (tmp_path / "releases" / "1-a" / "models" / "m").symlink_to("../../../models/m-1")
    unfinished = tmp_path / "models" / ".m-2.partial"
    unheld = tmp_path / "models" / "m-3"

    def fail() -> None:
        with releases.begin(tmp_path, "2-b", DIGEST) as release:
            (release.path / "x").write_text("half")
            unfinished.mkdir()
            unheld.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert releases.required_live(tmp_path).name == "1-a"
    assert not (tmp_path / "releases" / "2-b").exists()
    assert list((tmp_path / "models").iterdir()) == [held]


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    for left in ("releases/1-a/venv", "releases/9-z/venv", "models/m-9"):
        (tmp_path / left).mkdir(parents=True)
    with releases.begin(tmp_path, "1-a", DIGEST) as release:
        assert not (release.path / "venv").exists()
        finish(release, 1)
    assert [path.name for path in (tmp_path / "releases").iterdir()] == ["1-a"]
    assert not list((tmp_path / "models").iterdir())


def test_a_live_release_that_lost_its_receipt_survives_a_failure(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    kept = tmp_path / "releases" / "1-a" / "kept"
    kept.write_text("venv")
    (kept.parent / "receipt.json").unlink()

    def fail() -> None:
        with releases.begin(tmp_path, "1-a", DIGEST):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert kept.read_text() == "venv"
    assert (tmp_path / "current" / "kept").exists()


def test_another_bundle_of_the_same_name_is_refused(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    with (
        pytest.raises(UnsafeError, match="another bundle is installed under the name 1-a"),
        releases.begin(tmp_path, "1-a", "e" * 64),
    ):
        pass


@pytest.mark.parametrize("name", ["models", "releases", "var"])
def test_a_link_in_the_prefix_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeError, match="this is a link"), releases.begin(tmp_path / "opt", "1-a", DIGEST):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_damaged_receipt_is_named(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    (tmp_path / "releases" / "1-a" / "receipt.json").write_text("{")
    with pytest.raises(IntegrityError, match="the receipt of a release is damaged"):
        releases.receipts(tmp_path)


def test_rollback_goes_to_what_was_live_before(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    install(tmp_path, "2-b", 2)
    now, then = releases.rollback(tmp_path)
    assert (now.name, then.name, releases.required_live(tmp_path).name) == ("2-b", "1-a", "1-a")
    with pytest.raises(UsageError, match="no release was live before 1-a was installed"):
        releases.rollback(tmp_path)
    install(tmp_path, "3-c", 3)
    assert releases.rollback(tmp_path)[1].name == "1-a", "not the one that was abandoned"


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

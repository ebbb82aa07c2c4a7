"""remove and prune by the command line, on releases that were really installed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from bundler.offline.prefix import releases
from tests.support.releases import THEIRS
from tests.support.small_bundles import SmallBundle, get_live_release, read_result

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]


def test_remove_and_prune(build: Build, run_installer: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    other = {"config.json": b"{}", "weights.bin": b"v" * 70_000}
    for version, files in (("1", None), ("2", other), ("3", None)):
        done = run_installer("install", build(version, files).path, "--prefix", prefix)
        assert done.returncode == 0, done.stderr
    first, second, third = (receipt.release for receipt in releases.read_receipts(prefix))
    done = run_installer("remove", third, "--prefix", prefix)
    assert (done.returncode, f"{third} is the live release" in done.stderr) == (2, True)
    assert "what to do: make another release live first" in done.stderr
    with releases.lock_prefix(prefix):
        assert [run_installer(*verb, "--prefix", prefix).returncode for verb in (["remove", first], ["prune"])] == [
            13,
            13,
        ]
    done = run_installer("prune", "--prefix", prefix)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"removed: {first}"), done.stderr
    done = run_installer("remove", second, "--prefix", prefix, "--json")
    assert f"a rollback would have gone to {second}" in str(read_result(done)["warnings"])
    assert len(list((prefix / "models").iterdir())) == 1
    assert run_installer("prune", "--prefix", prefix, "--keep", "1").stdout == "nothing to remove\n"
    assert run_installer("prune", "--prefix", prefix, "--keep", "0").returncode == 2
    assert get_live_release(prefix) == third
    assert run_installer("smoke", "--prefix", prefix).returncode == 0


def test_what_somebody_else_keeps_there_stays(build: Build, run_installer: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    theirs = [prefix / name / "kept" for name in THEIRS]
    for path in theirs:
        path.parent.mkdir(parents=True)
        path.write_text("x")
    for version in ("1", "2"):
        assert run_installer("install", build(version).path, "--prefix", prefix).returncode == 0
    assert run_installer("prune", "--prefix", prefix, "--keep", "1").stdout.startswith("removed: 1-")
    assert all(path.read_text() == "x" for path in theirs)
    said = run_installer("doctor", "--prefix", prefix).stdout
    assert all(f"{path.parent.name} was not made by this program" in said for path in theirs)
    assert "belongs to no release" not in said


def test_a_damaged_receipt_of_another_release_does_not_stop_the_rest(
    build: Build, run_installer: Far, tmp_path: Path
) -> None:
    prefix, bundles = tmp_path / "opt", {version: build(version).path for version in ("1", "2", "3")}
    for version in ("1", "2"):
        assert run_installer("install", bundles[version], "--prefix", prefix).returncode == 0
    (next((prefix / "releases").glob("1-*")) / "receipt.json").write_bytes(b"\x00" * 800)
    listed = run_installer("list", "--prefix", prefix)
    assert (listed.returncode, listed.stdout[:3], "the receipt of a release is damaged" in listed.stderr) == (
        0,
        "* 2",
        True,
    )
    assert run_installer("rollback", "--prefix", prefix).returncode == 6
    done = run_installer("install", bundles["3"], "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    done = run_installer("install", bundles["1"], "--prefix", prefix, "--allow-downgrade")
    assert (done.returncode, get_live_release(prefix)[:2]) == (0, "1-"), done.stderr
    assert run_installer("list", "--prefix", prefix).stderr == ""
    assert run_installer("rollback", "--prefix", prefix).stdout.startswith("live now: 3-")

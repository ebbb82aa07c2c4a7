"""Killed at any moment: the live release works, ``current`` is the old or the new one, the same command ends right."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format import hashing
from bundler.format.tar import archive
from tests.support.crash_stage import FIRST, SECOND, Stage, check_works, damage_prefix, make_stage
from tests.support.killing import Killing, choose_points, make_point_params
from tests.support.programs import INSTALLER, require_tool, run_bundle
from tests.support.small_bundles import SmallBundle, get_live_release
from tests.support.trees import read_tree

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]


def check_survives_kills(stage: Stage, most: int, allowed: set[str]) -> None:
    """Kill at so many points; after each the live release is one of those allowed and works, and again ends right."""
    stage.keep()
    with stage.killing.warm(stage.kept.parent, *INSTALLER) as killing:
        total = killing.count(stage.kept.parent)
        whole = read_tree(stage.prefix)
        for point in choose_points(total, most):
            stage.restore()
            killed = killing.at(point)
            assert killed or point > total - 3, f"point {point} of {total} was not reached"
            assert get_live_release(stage.prefix) in allowed, f"point {point} of {total}"
            check_works(stage.prefix)
            assert not killing.at(0), f"point {point} of {total}"
            assert read_tree(stage.prefix) == whole, f"point {point} of {total}"


@pytest.mark.parametrize("most", make_point_params(4, 12, 200))
def test_install_killed_at_any_moment(
    build: Build, run_installer: Far, installer: Path, tmp_path: Path, most: int
) -> None:
    first, second = build("1", FIRST).path, build("2", SECOND).path
    stage = make_stage(installer, tmp_path, "install", second)
    assert run_installer("install", first, "--prefix", stage.prefix).returncode == 0
    old = get_live_release(stage.prefix)
    with archive.open_bundle(second) as carried:
        new = carried.lock.release_name
    check_survives_kills(stage, most, {old, new})


@pytest.mark.parametrize("most", make_point_params(2, 5, 20))
def test_a_first_install_killed_at_any_moment(build: Build, installer: Path, tmp_path: Path, most: int) -> None:
    stage = make_stage(installer, tmp_path, "install", build("1", FIRST).path)
    with stage.killing.warm(tmp_path, *INSTALLER) as killing:
        total = killing.count(tmp_path)
        whole = read_tree(stage.prefix)
        for point in choose_points(total, most):
            shutil.rmtree(stage.prefix)
            killing.at(point)
            if (stage.prefix / "current").is_symlink():
                check_works(stage.prefix)
            assert not killing.at(0), f"point {point} of {total}"
            assert read_tree(stage.prefix) == whole, f"point {point} of {total}"


@pytest.mark.parametrize("most", make_point_params(2, 5, 20))
def test_finishing_what_stands_ahead_killed_at_any_moment(
    build: Build, run_installer: Far, installer: Path, tmp_path: Path, most: int
) -> None:
    """The environment and a model were placed ahead; what a killed run leaves beside them stops no next one."""
    bundle = build("1", FIRST).path
    stage = make_stage(installer, tmp_path, "install", bundle)
    for part in ("environment", "model:m"):
        assert run_installer("install", bundle, "--prefix", stage.prefix, "--only", part).returncode == 0
    stage.keep()
    left = set()
    with stage.killing.warm(tmp_path, *INSTALLER) as killing:
        total = killing.count(tmp_path)
        whole = read_tree(stage.prefix)
        for point in choose_points(total, most):
            stage.restore()
            killing.at(point)
            left |= {path.name for path in stage.prefix.glob("releases/*/.*")}
            assert not killing.at(0), f"point {point} of {total}"
            assert read_tree(stage.prefix) == whole, f"point {point} of {total}"
    assert {".work", ".parts"} <= left or most == 2


@pytest.mark.parametrize("most", make_point_params(2, 5, 20))
def test_mending_killed_at_any_moment(
    build: Build, run_installer: Far, installer: Path, tmp_path: Path, most: int
) -> None:
    """What was sound before stays sound: the live release is never worse than it was."""
    stage = make_stage(installer, tmp_path, "install", build("1", FIRST).path)
    assert run_installer(*stage.killing.command[1:]).returncode == 0
    sound = read_tree(stage.prefix)
    wrong = damage_prefix(stage.prefix)
    stage.keep()
    with stage.killing.warm(tmp_path, *INSTALLER) as killing:
        total = killing.count(tmp_path)
        assert read_tree(stage.prefix) == sound
        for point in choose_points(total, most):
            stage.restore()
            killing.at(point)
            there = read_tree(stage.prefix)
            assert {name for name, content in sound.items() if there.get(name) != content} <= wrong, f"point {point}"
            assert not killing.at(0), f"point {point} of {total}"
            assert read_tree(stage.prefix) == sound, f"point {point} of {total}"


@pytest.mark.parametrize("most", make_point_params(2, 5, 10))
def test_prune_killed_at_any_moment(
    build: Build, run_installer: Far, installer: Path, tmp_path: Path, most: int
) -> None:
    stage = make_stage(installer, tmp_path, "prune", "--keep", "1")
    for version, files in (("1", FIRST), ("2", SECOND)):
        assert run_installer("install", build(version, files).path, "--prefix", stage.prefix).returncode == 0
    check_survives_kills(stage, most, {get_live_release(stage.prefix)})


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("most", make_point_params(2, 6, 100))
def test_build_killed_at_any_moment(build: Build, tmp_path: Path, most: int, fresh: bool) -> None:
    """Under the bundle's name stands what stood there or the whole bundle, and the next build ends right."""
    small = build("1", FIRST)
    out, shelf = tmp_path / "out.bundle.tar", tmp_path / "fresh shelf"
    command = ("-m", "bundler", "build", "--no-rehearse", small.manifest, "-o", out, "--quiet")
    killing = Killing((sys.executable,), command, small.environment | {"BUNDLE_CACHE": str(shelf)})
    whole, older = hashing.compute_file_sha256(small.path), hashing.compute_sha256(b"older")
    with killing.warm(tmp_path, "bundler.cli", "bundler.online.build") as warm:
        total = warm.count(tmp_path)
        for point in choose_points(total, most):
            if fresh:
                shutil.rmtree(shelf)
                out.unlink()
            else:
                out.write_bytes(b"older")
            warm.at(point)
            found = hashing.compute_file_sha256(out) if out.exists() else None
            assert found in (whole, None if fresh else (5, older)), f"point {point} of {total}"
            assert not warm.at(0), f"point {point} of {total}"
            assert hashing.compute_file_sha256(out) == whole, f"point {point} of {total}"
            assert [path.name for path in tmp_path.glob(".*")] == [], "what a killed run left is gone"
    assert run_bundle("verify", out).returncode == 0


def test_two_at_once(build: Build, run_installer: Far, installer: Path, tmp_path: Path) -> None:
    """While one installs, another that would change anything is told so; who only looks is not kept waiting."""
    prefix, bundles = tmp_path / "opt", {version: build(version, FIRST).path for version in ("1", "2")}
    assert run_installer("install", bundles["1"], "--prefix", prefix).returncode == 0
    before = get_live_release(prefix)
    command = (
        require_tool("python3.11"),
        "-I",
        "-S",
        installer,
        "install",
        bundles["2"],
        "--prefix",
        prefix,
        "--quiet",
    )
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as first:
        while not list((prefix / "releases").glob("2-*")):
            assert first.poll() is None
        first.send_signal(signal.SIGSTOP)
        busy = [("install", bundles["2"]), ("install", bundles["1"]), ("prune",), ("remove", before), ("rollback",)]
        try:
            told = [run_installer(*verb, "--prefix", prefix) for verb in busy]
            looked = [run_installer(verb, "--prefix", prefix) for verb in ("list", "doctor", "smoke")]
        finally:
            first.send_signal(signal.SIGCONT)
    assert [done.returncode for done in told] == [13] * len(busy)
    assert all("another run is working in this prefix" in done.stderr for done in told)
    assert [done.returncode for done in looked] == [0, 0, 0]
    assert "belongs to no release" in looked[1].stdout
    assert (first.returncode, get_live_release(prefix)[:2]) == (0, "2-")
    check_works(prefix)


def test_what_a_killed_run_had_started_ends_with_it(tmp_path: Path) -> None:
    """It would go on writing where the next run works."""
    code = (
        "import sys; from bundler import process\n"
        "process.run(['sh', '-c', 'echo $$ > \"$0\"; exec sleep 600', sys.argv[1]])"
    )
    said = tmp_path / "pid"
    with subprocess.Popen((sys.executable, "-c", code, said)) as parent:
        while not (said.exists() and said.read_text().strip()):
            assert parent.poll() is None
        parent.kill()
    child = Path("/proc", said.read_text().strip(), "status")
    deadline = time.monotonic() + 60  # a signal takes a moment
    while child.exists() and "State:\tZ" not in child.read_text():
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.01)

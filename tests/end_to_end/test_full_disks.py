"""A disk that is full from any moment on: words and a way out, the live release as it was, nothing half-written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.crash_stage import FIRST, SECOND, Stage, check_works, make_stage
from tests.support.killing import choose_points, make_point_params
from tests.support.programs import INSTALLER
from tests.support.small_bundles import SmallBundle, get_live_release
from tests.support.trees import read_tree

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")


@contextmanager
def mount_small_disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("most", make_point_params(2, 6, 40))
def test_the_disk_fills_while_installing(
    build: Build, run_installer: Far, installer: Path, tmp_path: Path, most: int
) -> None:
    first, second = build("1", FIRST).path, build("2", SECOND).path
    with mount_small_disk(tmp_path / "disk", "size=400m") as disk:
        told = make_stage(installer, disk, "install", second)
        stage, filler = Stage(told.prefix, tmp_path / "kept", told.killing), disk / "filler"
        assert run_installer("install", first, "--prefix", stage.prefix).returncode == 0
        stage.keep()
        before = read_tree(stage.prefix)
        with stage.killing.warm(tmp_path, *INSTALLER) as killing:
            total = killing.count(tmp_path)
            whole = read_tree(stage.prefix)
            for point in choose_points(total, most):
                stage.restore()
                done = killing.on_a_full_disk(point, filler)
                assert done.returncode in (0, 9), f"point {point} of {total}: {done.stderr}"
                assert "Traceback" not in done.stderr
                check_works(stage.prefix)
                if done.returncode:
                    words = ("error: the disk is full: ", "error: the disk is too small: ", "No space left on device")
                    assert any(one in done.stderr for one in words), f"point {point} of {total}: {done.stderr}"
                    assert "what to do: free " in done.stderr, f"point {point} of {total}: {done.stderr}"
                    assert get_live_release(stage.prefix).startswith("1-")
                    assert read_tree(stage.prefix) == before, f"point {point} of {total}"
                filler.unlink(missing_ok=True)
                assert not killing.at(0), f"point {point} of {total}"
                assert read_tree(stage.prefix) == whole, f"point {point} of {total}"


def test_a_disk_without_a_place_for_another_name(build: Build, run_installer: Far, tmp_path: Path) -> None:
    small = build("1", FIRST)
    with mount_small_disk(tmp_path / "disk", "size=400m,nr_inodes=60") as disk:
        done = run_installer("install", small.path, "--prefix", disk / "opt")
        assert (done.returncode, "error: the disk is full: " in done.stderr) == (9, True), done.stderr
        assert not (disk / "opt" / "current").exists()
        assert not list((disk / "opt" / "releases").iterdir())
        assert not list((disk / "opt" / "models").iterdir())

"""The power goes while install is at work: on a disk that keeps what was flushed and loses any part of the rest."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format.tar import archive
from tests.support import faultydisk
from tests.support.crash_stage import FIRST, SECOND, check_works, damage_prefix
from tests.support.killing import choose_points, make_point_params
from tests.support.small_bundles import SmallBundle, get_live_release
from tests.support.trees import read_tree

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a disk")

SIZE = 512 << 20
LAST = 8
"""Writes at the end of the log that are cut at one by one: the receipt, the switch."""


@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.long)])
@pytest.mark.parametrize("most", make_point_params(2, 4, 15))
def test_the_power_goes_while_installing(
    build: Build, run_installer: Far, tmp_path: Path, kind: str, most: int
) -> None:
    bundles = {version: build(version, files).path for version, files in (("1", FIRST), ("2", SECOND))}
    releases = set()
    for path in bundles.values():
        with archive.open_bundle(path) as carried:
            releases.add(carried.lock.release_name)
    base, disk, log, mount = (tmp_path / name for name in ("base.img", "disk.img", "log", "mnt"))
    faultydisk.make(kind, base, SIZE)
    prefix = mount / "opt"
    with faultydisk.mounted(base, mount):
        assert run_installer("install", bundles["1"], "--prefix", prefix).returncode == 0
    shutil.copyfile(base, disk)
    with faultydisk.served(disk, log, tmp_path / "served") as served, faultydisk.mounted(served, mount):
        done = run_installer("install", bundles["2"], "--prefix", prefix)
        assert done.returncode == 0, done.stderr
        whole = read_tree(prefix)
        told_by_then = len(faultydisk.entries(log))
    told = faultydisk.entries(log)[:told_by_then]
    assert any(write.flush for write in told), "the install had the disk flush its cache"
    points = choose_points(len(told), most) + (list(range(len(told) - LAST, len(told))) if most > LAST else [])
    chance = random.Random(kind)
    seen = set()
    for point in points:
        faultydisk.cut(base, log, told, point, chance, disk)
        with faultydisk.mounted(disk, mount):
            assert get_live_release(prefix) in releases, f"cut before write {point} of {len(told)}"
            seen.add(get_live_release(prefix))
            check_works(prefix)
            done = run_installer("install", bundles["2"], "--prefix", prefix)
            assert done.returncode == 0, f"cut before write {point} of {len(told)}: {done.stderr}"
            assert read_tree(prefix) == whole, f"cut before write {point} of {len(told)}"
    assert seen == releases or most < LAST, "cuts before and after the switch"


@pytest.mark.parametrize("most", make_point_params(2, 4, 15))
def test_the_power_goes_while_mending(build: Build, run_installer: Far, tmp_path: Path, most: int) -> None:
    """What was sound before stays sound, and what was not is as it was or good."""
    small = build("1", FIRST)
    base, disk, log, mount = (tmp_path / name for name in ("base.img", "disk.img", "log", "mnt"))
    faultydisk.make("ext4", base, SIZE)
    prefix = mount / "opt"
    with faultydisk.mounted(base, mount):
        assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
        sound = read_tree(prefix)
        wrong = damage_prefix(prefix)
        damaged = read_tree(prefix)
    shutil.copyfile(base, disk)
    with faultydisk.served(disk, log, tmp_path / "served") as served, faultydisk.mounted(served, mount):
        done = run_installer("install", small.path, "--prefix", prefix)
        assert done.returncode == 0, done.stderr
        assert read_tree(prefix) == sound
        told = faultydisk.entries(log)
    chance = random.Random("mending")
    for point in choose_points(len(told), most) + (list(range(len(told) - LAST, len(told))) if most > LAST else []):
        faultydisk.cut(base, log, told, point, chance, disk)
        with faultydisk.mounted(disk, mount):
            there = read_tree(prefix)
            for name, content in sound.items():
                allowed = {content, damaged[name]} if name in wrong else {content}
                assert there.get(name) in allowed, f"{name}, cut before write {point} of {len(told)}"
            done = run_installer("install", small.path, "--prefix", prefix)
            assert done.returncode == 0, f"cut before write {point} of {len(told)}: {done.stderr}"
            assert read_tree(prefix) == sound, f"cut before write {point} of {len(told)}"


def test_what_is_live_was_flushed_before_install_said_so(build: Build, run_installer: Far, tmp_path: Path) -> None:
    """The power goes when the verb has ended: nothing that was not flushed is needed."""
    small = build("1", FIRST)
    base, disk, log, mount = (tmp_path / name for name in ("base.img", "disk.img", "log", "mnt"))
    faultydisk.make("ext4", base, SIZE)
    shutil.copyfile(base, disk)
    with faultydisk.served(disk, log, tmp_path / "served") as served, faultydisk.mounted(served, mount):
        assert run_installer("install", small.path, "--prefix", mount / "opt").returncode == 0
        told = faultydisk.entries(log)
    flushed = max(number for number, write in enumerate(told) if write.flush)
    faultydisk.cut(base, log, told, flushed + 1, random.Random(1), disk)
    with faultydisk.mounted(disk, mount):
        assert get_live_release(mount / "opt").startswith("1-")
        check_works(mount / "opt")

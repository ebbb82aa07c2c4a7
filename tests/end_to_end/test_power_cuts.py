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
from tests.support.crash_stage import FIRST, SECOND, damage, works
from tests.support.killing import points, spread
from tests.support.small_bundles import Small, live
from tests.support.trees import tree

Build = Callable[..., Small]
Far = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a disk")

SIZE = 512 << 20
LAST = 8
"""Writes at the end of the log that are cut at one by one: the receipt, the switch."""


@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.long)])
@pytest.mark.parametrize("most", points(2, 4, 15))
def test_the_power_goes_while_installing(build: Build, far: Far, tmp_path: Path, kind: str, most: int) -> None:
    bundles = {version: build(version, files).path for version, files in (("1", FIRST), ("2", SECOND))}
    releases = set()
    for path in bundles.values():
        with archive.open_bundle(path) as carried:
            releases.add(carried.lock.release_name)
    base, disk, log, mount = (tmp_path / name for name in ("base.img", "disk.img", "log", "mnt"))
    faultydisk.make(kind, base, SIZE)
    prefix = mount / "opt"
    with faultydisk.mounted(base, mount):
        assert far("install", bundles["1"], "--prefix", prefix).returncode == 0
    shutil.copyfile(base, disk)
    with faultydisk.served(disk, log, tmp_path / "served") as served, faultydisk.mounted(served, mount):
        done = far("install", bundles["2"], "--prefix", prefix)
        assert done.returncode == 0, done.stderr
        whole = tree(prefix)
        told_by_then = len(faultydisk.entries(log))
    told = faultydisk.entries(log)[:told_by_then]
    assert any(write.flush for write in told), "the install had the disk flush its cache"
    points = spread(len(told), most) + (list(range(len(told) - LAST, len(told))) if most > LAST else [])
    chance = random.Random(kind)
    seen = set()
    for point in points:
        faultydisk.cut(base, log, told, point, chance, disk)
        with faultydisk.mounted(disk, mount):
            assert live(prefix) in releases, f"cut before write {point} of {len(told)}"
            seen.add(live(prefix))
            works(prefix)
            done = far("install", bundles["2"], "--prefix", prefix)
            assert done.returncode == 0, f"cut before write {point} of {len(told)}: {done.stderr}"
            assert tree(prefix) == whole, f"cut before write {point} of {len(told)}"
    assert seen == releases or most < LAST, "cuts before and after the switch"


@pytest.mark.parametrize("most", points(2, 4, 15))
def test_the_power_goes_while_mending(build: Build, far: Far, tmp_path: Path, most: int) -> None:
    """What was sound before stays sound, and what was not is as it was or good."""
    small = build("1", FIRST)
    base, disk, log, mount = (tmp_path / name for name in ("base.img", "disk.img", "log", "mnt"))
    faultydisk.make("ext4", base, SIZE)
    prefix = mount / "opt"
    with faultydisk.mounted(base, mount):
        assert far("install", small.path, "--prefix", prefix).returncode == 0
        sound = tree(prefix)
        wrong = damage(prefix)
        damaged = tree(prefix)
    shutil.copyfile(base, disk)
    with faultydisk.served(disk, log, tmp_path / "served") as served, faultydisk.mounted(served, mount):
        done = far("install", small.path, "--prefix", prefix)
        assert done.returncode == 0, done.stderr
        assert tree(prefix) == sound
        told = faultydisk.entries(log)
    chance = random.Random("mending")
    for point in spread(len(told), most) + (list(range(len(told) - LAST, len(told))) if most > LAST else []):
        faultydisk.cut(base, log, told, point, chance, disk)
        with faultydisk.mounted(disk, mount):
            there = tree(prefix)
            for name, content in sound.items():
                allowed = {content, damaged[name]} if name in wrong else {content}
                assert there.get(name) in allowed, f"{name}, cut before write {point} of {len(told)}"
            done = far("install", small.path, "--prefix", prefix)
            assert done.returncode == 0, f"cut before write {point} of {len(told)}: {done.stderr}"
            assert tree(prefix) == sound, f"cut before write {point} of {len(told)}"


def test_what_is_live_was_flushed_before_install_said_so(build: Build, far: Far, tmp_path: Path) -> None:
    """The power goes when the verb has ended: nothing that was not flushed is needed."""
    small = build("1", FIRST)
    base, disk, log, mount = (tmp_path / name for name in ("base.img", "disk.img", "log", "mnt"))
    faultydisk.make("ext4", base, SIZE)
    shutil.copyfile(base, disk)
    with faultydisk.served(disk, log, tmp_path / "served") as served, faultydisk.mounted(served, mount):
        assert far("install", small.path, "--prefix", mount / "opt").returncode == 0
        told = faultydisk.entries(log)
    flushed = max(number for number, write in enumerate(told) if write.flush)
    faultydisk.cut(base, log, told, flushed + 1, random.Random(1), disk)
    with faultydisk.mounted(disk, mount):
        assert live(mount / "opt").startswith("1-")
        works(mount / "opt")

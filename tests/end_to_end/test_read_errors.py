"""A medium that does not give some bytes back: real read errors, from a file system that fails where it is told to."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.format.tar import archive
from tests.support import faultydisk
from tests.support.small_bundles import SmallBundle, get_live_release

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a disk")

FILES = {"a.bin": b"a" * 9000, "b.bin": b"b" * (3 << 20), "c.bin": b"c" * 9000, "config.json": b"{}"}


def read_refusal(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    return dict(json.loads(done.stdout)["error"])


def find_offset(bundle: Path, name: str) -> int:
    with archive.open_bundle(bundle) as carried:
        return next(member.content_offset for member in carried.layout.members if member.name == name)


def test_a_read_error_in_the_middle_names_the_member_and_the_bytes(
    build: Build, run_installer: Far, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt"
    assert run_installer("install", build("1").path, "--prefix", prefix).returncode == 0
    small = build("2", FILES)
    bad = [
        (at, at + 4096)
        for at in (find_offset(small.path, "models/m/b.bin") + (2 << 20), find_offset(small.path, "models/m/a.bin"))
    ]
    with faultydisk.served(small.path, tmp_path / "log", tmp_path / "stick", *bad) as worn:
        for verb in (["verify", worn], ["install", worn, "--prefix", prefix]):
            error = read_refusal(run_installer(*verb, "--json"))
            damages = {one["member"]: one for one in error["detail"]["damages"]}
            assert sorted(damages) == ["models/m/a.bin", "models/m/b.bin"]
            for (start, end), name in zip(bad, ("models/m/b.bin", "models/m/a.bin"), strict=True):
                assert damages[name]["start"] <= start < end <= damages[name]["end"]
                assert damages[name]["end"] - damages[name]["start"] <= 1 << 20
            assert "the medium can't be read here: Input/output error" in error["message"]
            assert {"models/m/c.bin", "models/m/config.json"} <= set(error["detail"]["whole"])
    assert get_live_release(prefix).startswith("1-")
    assert run_installer("doctor", "--prefix", prefix, "--deep").returncode == 0
    assert len(list((prefix / "releases").iterdir())) == len(list((prefix / "models").iterdir())) == 1


def test_a_read_error_in_the_head_and_through_a_pipe(build: Build, run_installer: Far, tmp_path: Path) -> None:
    small = build("1", FILES)
    whole = shutil.copyfile(small.path, tmp_path / "whole.tar")
    with faultydisk.served(whole, tmp_path / "log", tmp_path / "stick", (0, 4096)) as worn:
        error = read_refusal(run_installer("install", worn, "--prefix", tmp_path / "opt", "--json"))
        assert error["message"].startswith("the head of the bundle can't be read (bytes 0-4096): Input/output error")
    at = find_offset(small.path, "models/m/b.bin")
    with (
        faultydisk.served(whole, tmp_path / "log", tmp_path / "stick", (at, at + 4096)) as worn,
        worn.open("rb") as told,
    ):
        error = read_refusal(run_installer("install", "-", "--prefix", tmp_path / "opt", "--json", stdin=told))
        assert "models/m/b.bin (bytes " in error["message"]
    assert not (tmp_path / "opt" / "current").exists()


def test_an_installed_file_that_the_disk_does_not_give_back(build: Build, run_installer: Far, tmp_path: Path) -> None:
    """doctor names it, and installing again puts a good one in its place, on other blocks."""
    small = build("1", {"config.json": b"{}", "weights.bin": random.Random(1).randbytes(4 << 20)})
    image, mount = tmp_path / "disk.img", tmp_path / "mnt"
    faultydisk.make("ext4", image, 512 << 20)
    with faultydisk.mounted(image, mount):
        assert run_installer("install", small.path, "--prefix", mount / "opt").returncode == 0
        weights = next((mount / "opt" / "models").glob("*/weights.bin")).read_bytes()
    at = image.read_bytes().index(weights[:4096])
    with (
        faultydisk.served(image, tmp_path / "log", tmp_path / "served", (at, at + 4096)) as served,
        faultydisk.mounted(served, mount),
    ):
        done = run_installer("doctor", "--prefix", mount / "opt", "--deep")
        assert (done.returncode, "weights.bin can't be read: [Errno 5] Input/output error" in done.stdout) == (14, True)
        done = run_installer("install", small.path, "--prefix", mount / "opt")
        assert done.returncode == 0, done.stderr
        assert next((mount / "opt" / "models").glob("*/weights.bin")).read_bytes() == weights
        assert run_installer("doctor", "--prefix", mount / "opt", "--deep").returncode == 0

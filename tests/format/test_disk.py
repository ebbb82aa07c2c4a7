"""Whole files or none, room, and what two runs do to each other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bundler.errors import HostError
from bundler.format import disk


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    disk.write_atomically(path, b"one", 0o755)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o755)

    def fail() -> None:
        with disk.replace_file(path) as fd:
            os.write(fd, b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_two_runs_writing_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with disk.replace_file(path) as first:
        os.write(first, b"aaaa")
        with disk.replace_file(path) as second:
            os.write(second, b"bb")
        assert path.read_bytes() == b"bb"
        os.write(first, b"aaaa")
    assert path.read_bytes() == b"aaaaaaaa"


def test_what_a_killed_run_left_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    left = tmp_path / ".x.0123.partial"
    left.write_bytes(b"half")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".x.partial").symlink_to(victim)
    disk.write_atomically(tmp_path / "x", b"whole")
    assert not left.exists()
    assert victim.read_bytes() == b"precious"


def test_needs_of_one_disk_add_up(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    most = free - 8 * disk.FREE_SPACE_MARGIN
    disk.require_free_space([(tmp_path, most // 2, "this"), (tmp_path / "not there yet", most // 4, "that")])
    with pytest.raises(HostError, match="the disk is too small: this and that needs") as caught:
        disk.require_free_space([(tmp_path, most, "this"), (tmp_path / "not there yet", most, "that")])
    assert "bytes there, or choose a folder on another disk" in caught.value.hint

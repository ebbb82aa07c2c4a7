"""Ctrl-C during an install: what was placed stays, is looked at byte by byte, and the same install continues from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format import json_files
from bundler.offline import install, part_install
from bundler.offline.doctor import examination
from bundler.offline.install import InstallOptions
from bundler.offline.prefix import ownership_markers, releases, removal
from bundler.offline.prefix.receipts import Receipt
from bundler.progress import RecordingReporter
from tests.support.bundles import PackedBundle
from tests.support.interrupting import Interrupting, interrupt
from tests.support.trees import read_tree

Pack = Callable[..., PackedBundle]
FILES = {
    "bundle.pyz": b"#!/usr/bin/env python3\n",
    "models/m/config.json": b"{}",
    "models/m/w.bin": b"w" * 5000,
    "models/m/sub/x.bin": b"x" * 300,
    "assets/words.txt": b"words",
    "app/main.py": b"print(1)",
}
OTHER = FILES | {"models/m/w.bin": b"v" * 5000}


def find_partial(prefix: Path) -> Path:
    (home,) = ownership_markers.iter_marked(prefix / "models")
    return releases.get_partial_path(home)


@pytest.mark.parametrize(
    ("title", "begins"),
    [("place", True), ("place", False), ("environment", False), ("smoke load m", True), ("sync", True)],
)
def test_the_same_install_ends_as_if_nothing_had_been(pack: Pack, tmp_path: Path, title: str, begins: bool) -> None:
    bundle, prefix = pack(FILES).path, tmp_path / "opt"
    install.install_bundle(bundle, prefix, InstallOptions(), RecordingReporter())
    whole = read_tree(prefix)
    shutil.rmtree(prefix)
    interrupt(bundle, prefix, title, begins=begins)
    assert releases.find_live(prefix) is None
    install.install_bundle(bundle, prefix, InstallOptions(), RecordingReporter())
    assert read_tree(prefix) == whole


def test_what_was_placed_is_not_placed_again(pack: Pack, tmp_path: Path) -> None:
    bundle, prefix = pack(FILES).path, tmp_path / "opt"
    interrupt(bundle, prefix, "place")
    placed = {
        path.relative_to(find_partial(prefix)): path.stat().st_ino for path in find_partial(prefix).rglob("*.bin")
    }
    assert len(placed) == 2
    receipt = install.install_bundle(bundle, prefix, InstallOptions(), RecordingReporter())
    home = prefix / "models" / next(iter(receipt.homes))
    assert {path.relative_to(home): path.stat().st_ino for path in home.rglob("*.bin")} == placed


@pytest.mark.parametrize("title", ["place", "smoke load m"])
def test_what_differs_meanwhile_is_placed_again(pack: Pack, tmp_path: Path, title: str) -> None:
    """Nothing is believed because it is there: a power cut may have left an empty file, a disk a wrong one."""
    bundle, prefix = pack(FILES).path, tmp_path / "opt"
    interrupt(bundle, prefix, title, begins=title != "place")
    held = [path for path in prefix.rglob("*") if path.is_file() and path.name in ("w.bin", "words.txt", "main.py")]
    assert len(held) == 3
    for path in held:
        path.write_bytes(b"" if path.name == "words.txt" else b"r" * path.stat().st_size)
    receipt = install.install_bundle(bundle, prefix, InstallOptions(), RecordingReporter())
    assert (prefix / "models" / next(iter(receipt.homes)) / "w.bin").read_bytes() == FILES["models/m/w.bin"]
    assert (prefix / "current" / "assets" / "words.txt").read_bytes() == b"words"
    assert not examination.examine_release(prefix, "deep", RecordingReporter()).list_findings("critical")


def test_an_upgrade_leaves_the_live_release_and_can_be_given_up(pack: Pack, tmp_path: Path) -> None:
    first, second, prefix = pack(FILES).path, pack(OTHER, "second.tar", sequence=2).path, tmp_path / "opt"
    live = install.install_bundle(first, prefix, InstallOptions(), RecordingReporter()).release
    before = read_tree(prefix)
    interrupt(second, prefix, "place")
    assert releases.require_live(prefix).name == live
    found = examination.examine_release(prefix, "plain", RecordingReporter())
    assert any("the same install continues from it" in one.hint for one in found.findings if one.check == "leftovers")
    removal.prune_releases(prefix, 1, RecordingReporter())
    assert read_tree(prefix) == before


def test_another_bundle_removes_what_was_begun(pack: Pack, tmp_path: Path) -> None:
    first, second, prefix = pack(FILES).path, pack(OTHER, "second.tar", sequence=2).path, tmp_path / "opt"
    interrupt(first, prefix, "smoke load m", begins=True)
    receipt = install.install_bundle(second, prefix, InstallOptions(), RecordingReporter())
    assert [path.name for path in (prefix / "releases").glob("*")] == [receipt.release]
    assert [path.name for path in (prefix / "models").glob("*")] == [*receipt.homes]


@pytest.mark.parametrize("part", ["model:m", "environment", "app"])
def test_a_part_goes_on_too(pack: Pack, tmp_path: Path, part: str) -> None:
    bundle, prefix = pack(FILES).path, tmp_path / "opt"
    with pytest.raises(KeyboardInterrupt):
        part_install.install_part(bundle, prefix, part, InstallOptions(), Interrupting("place", begins=False))
    _, path = part_install.install_part(bundle, prefix, part, InstallOptions(), RecordingReporter())
    assert path.is_dir()
    install.install_bundle(bundle, prefix, InstallOptions(), RecordingReporter())
    assert not examination.examine_release(prefix, "deep", RecordingReporter()).list_findings("critical")


def test_a_list_of_parts_that_is_no_text_is_none(pack: Pack, tmp_path: Path) -> None:
    bundle, prefix = pack(FILES).path, tmp_path / "opt"
    interrupt(bundle, prefix, "smoke load m", begins=True)
    (listed,) = (prefix / "releases").glob("*/.parts")
    listed.write_bytes(b"\xff\xfe\n" * 10)
    receipt = install.install_bundle(bundle, prefix, InstallOptions(), RecordingReporter())
    assert json_files.read(Receipt, prefix / "current" / "receipt.json") == receipt

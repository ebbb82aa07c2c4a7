"""The whole route on bad days: damage, the wrong host, a full disk, a kill. The live release stays, and words say why."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format.tar import archive
from bundler.offline.prefix import releases
from bundler.progress import RecordingReporter
from tests.support.bundles import SMALL, make_lock
from tests.support.programs import require_tool, run_bundle
from tests.support.small_bundles import MANIFEST, SmallBundle, get_live_release, read_result

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]


def test_a_lock_of_another_manifest_or_of_changed_files_is_refused(build: Build, tmp_path: Path) -> None:
    small = build()
    kept = tmp_path / "kept.json"
    assert run_bundle("lock", small.manifest, "-o", kept, env=small.environment).returncode == 0
    (small.manifest.parent / "vendor" / "config.json").write_text("[]")
    done = run_bundle(
        "build", "--no-rehearse", small.manifest, "--lock", kept, "-o", tmp_path / "x.tar", env=small.environment
    )
    assert (done.returncode, "the files of m are not those of the lock" in done.stderr) == (6, True)
    small.manifest.write_text(small.manifest.read_text() + "# a word more\n")
    done = run_bundle(
        "build", "--no-rehearse", small.manifest, "--lock", kept, "-o", tmp_path / "x.tar", env=small.environment
    )
    assert (done.returncode, "the lock was made from another text of this manifest" in done.stderr) == (3, True)
    assert not (tmp_path / "x.tar").exists()


def test_a_damaged_bundle_leaves_the_live_release_and_names_all_damage(
    build: Build, run_installer: Far, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt"
    assert run_installer("install", build("1").path, "--prefix", prefix).returncode == 0
    second = build("2", files={"config.json": b"{}", "a.bin": b"a" * 9000, "b.bin": b"b" * 9000}).path
    with archive.open_bundle(second) as carried:
        where = {member.name: member.content_offset for member in carried.layout.iter_artifacts()}
    data = bytearray(second.read_bytes())
    damaged = {"models/m/a.bin", "models/m/b.bin", "wheels/beta-2.0-py3-none-any.whl"}
    for name in damaged:
        data[where[name] + 5] ^= 0xFF
    second.write_bytes(data)
    for verb in (["verify", second], ["install", second, "--prefix", prefix]):
        done = run_installer(*verb, "--json")
        assert done.returncode == 6
        error = json.loads(done.stdout)["error"]
        assert all(name in error["message"] for name in ("a.bin", "b.bin", "beta-2.0"))
        assert "config.json" not in error["message"]
        assert {damage["member"] for damage in error["detail"]["damages"]} == damaged
        assert {"models/m/config.json", "wheels/alpha-1.0-py3-none-any.whl"} <= set(error["detail"]["whole"])
        assert not damaged & set(error["detail"]["whole"])
    assert get_live_release(prefix).startswith("1-")
    assert len(list((prefix / "releases").iterdir())) == 1
    assert len(list((prefix / "models").iterdir())) == 1


def test_a_truncated_bundle(build: Build, run_installer: Far, tmp_path: Path) -> None:
    small = build()
    data = small.path.read_bytes()
    small.path.write_bytes(data[: len(data) - 60_000])
    done = run_installer("install", small.path, "--prefix", tmp_path / "opt")
    assert (done.returncode, "models/m/weights.bin" in done.stderr, "ends" in done.stderr) == (6, True, True)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "opt" / "current").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "linux-x86_64, libc: glibc-2.17",
            "linux-aarch64, libc: glibc-2.17",
            "it is for linux-aarch64, this is linux-x86_64",
        ),
        ("glibc-2.17", "glibc-2.99", "it needs glibc-2.99 or newer, this host has glibc-"),
        ("glibc-2.17", "musl-1.2", "it needs musl-1.2 or newer"),
        ('python: "3.11"', 'python: "3.29"', "the bundle needs CPython 3.29 and this host has none on PATH"),
    ],
)
def test_a_bundle_for_another_host(
    pack_for: Callable[[str], Path], run_installer: Far, tmp_path: Path, old: str, new: str, message: str
) -> None:
    done = run_installer("install", pack_for(MANIFEST.replace(old, new)), "--prefix", tmp_path / "opt")
    assert (done.returncode, message in done.stderr) == (9, True), done.stderr
    assert "what to do:" in done.stderr
    assert not (tmp_path / "opt").exists()


@pytest.fixture
def pack_for(tmp_path: Path) -> Callable[[str], Path]:
    """A bundle without packages for the target of a manifest: no index has wheels for hosts that do not exist."""
    from bundler.online.manifest import loading

    def packed(text: str) -> Path:
        (tmp_path / "vendor").mkdir()
        asked = tmp_path / "m.yaml"
        asked.write_text(text.format(version="1", sequence="1"))
        target = loading.load_manifest(asked).manifest.target.resolve()
        for name, data in SMALL.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "other.tar"
        archive.write_bundle(
            path, make_lock(SMALL, target=target), lambda artifact: tmp_path / artifact.path, RecordingReporter()
        )
        return path

    return packed


def test_a_prefix_that_can_not_be_written(build: Build, run_installer: Far, tmp_path: Path) -> None:
    small = build()
    (tmp_path / "file").write_text("")
    done = run_installer("install", small.path, "--prefix", tmp_path / "file" / "opt")
    assert (
        done.returncode,
        "the prefix can't be written" in done.stderr,
        "choose another --prefix" in done.stderr,
    ) == (9, True, True)


def test_a_disk_that_is_too_small(build: Build, run_installer: Far, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    small = build(files={"config.json": b"{}", "weights.bin": random.Random(1).randbytes(30 << 20)})
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", mount], check=True)
    try:
        done = run_installer("install", small.path, "--prefix", mount / "opt")
        assert (done.returncode, "the disk is too small: installing needs" in done.stderr) == (9, True), done.stderr
        assert "place:" not in done.stderr, "no work had begun"
        kept = run_bundle("build", "--no-rehearse", small.manifest, "-o", mount / "x.tar", env=small.environment)
        assert (kept.returncode, "the disk is too small: the bundle needs" in kept.stderr) == (9, True), kept.stderr
        assert [path.name for path in mount.iterdir()] == ["opt"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_second_install_in_the_same_prefix(build: Build, run_installer: Far, tmp_path: Path) -> None:
    small = build()
    with releases.lock_prefix(tmp_path / "opt"):
        done = run_installer("install", small.path, "--prefix", tmp_path / "opt")
    assert (done.returncode, "another run is working in this prefix" in done.stderr) == (13, True)


def test_a_smoke_load_that_fails_leaves_the_live_release(build: Build, run_installer: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    assert run_installer("install", build("1").path, "--prefix", prefix).returncode == 0
    text = MANIFEST.replace("loader: files", "loader: sentence-transformers")
    files = {
        "modules.json": b'[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]',
        "config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"",
    }  # fmt: skip
    done = run_installer("install", build("2", files, text).path, "--prefix", prefix, "--json")
    assert done.returncode == 11, done.stderr
    assert "1 of 1 model failed the smoke load" in str(read_result(done)["error"])
    assert get_live_release(prefix).startswith("1-")
    assert [path.name[:2] for path in (prefix / "releases").iterdir()] == ["1-"]


def test_killed_in_the_middle_and_run_again(build: Build, run_installer: Far, tmp_path: Path, installer: Path) -> None:
    prefix, small = (
        tmp_path / "opt",
        build(files={"config.json": b"{}", "weights.bin": random.Random(1).randbytes(64 << 20)}),
    )
    child = subprocess.Popen(
        [require_tool("python3.11"), "-I", installer, "install", small.path, "--prefix", prefix, "--quiet"]
    )
    deadline = time.monotonic() + 60
    while not (prefix / "releases").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (prefix / "current").exists()
    done = run_installer("install", small.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (prefix / "models").iterdir()] == [next((prefix / "models").glob("m-*")).name]


def test_interrupted_and_run_again(build: Build, run_installer: Far, tmp_path: Path, installer: Path) -> None:
    """Through a pipe that has more to come: the install is at work, and can't end before it is interrupted."""
    prefix, small = (
        tmp_path / "opt",
        build(files={"config.json": b"{}", "weights.bin": random.Random(1).randbytes(64 << 20)}),
    )
    child = subprocess.Popen(
        [require_tool("python3.11"), "-I", installer, "install", "-", "--prefix", prefix],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin
    child.stdin.write(small.path.read_bytes()[: 32 << 20])
    child.stdin.flush()
    deadline = time.monotonic() + 60
    while not list((prefix / "releases").glob("[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # all that the pipe gave was taken
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == 130, "seen although the pipe gives nothing and does not end"
    assert child.stderr
    said = child.stderr.read()
    child.stdin.close()
    child.stderr.close()
    assert b"Traceback" not in said
    assert not (prefix / "current").exists()
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0


def test_a_damaged_shared_model_is_mended(build: Build, run_installer: Far, tmp_path: Path) -> None:
    prefix, small = tmp_path / "opt", build()
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
    home = next((prefix / "models").iterdir())
    (home / "weights.bin").write_bytes(b"rotten")
    (home / "adapter_config.json").write_text("{}")
    done = run_installer("install", small.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert "adapter_config.json, which is in no bundle" in done.stderr
    assert sorted(path.name for path in home.iterdir()) == ["config.json", "weights.bin"]
    assert (home / "weights.bin").read_bytes() == b"w" * 100_000


def test_links_among_the_placed_models_are_refused(build: Build, run_installer: Far, tmp_path: Path) -> None:
    prefix, small = tmp_path / "opt", build(files={"config.json": b"{}", "sub/weights.bin": b"w"})
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
    home = next((prefix / "models").iterdir())
    elsewhere = tmp_path / "elsewhere"
    (home / "sub").rename(elsewhere)
    (home / "sub").symlink_to(elsewhere)
    (elsewhere / "notes.md").write_text("mine")
    done = run_installer("install", small.path, "--prefix", prefix)
    assert (done.returncode, "this must be a folder, but is a link" in done.stderr) == (8, True), done.stderr
    assert sorted(path.name for path in elsewhere.iterdir()) == ["notes.md", "weights.bin"]


def test_a_prefix_that_no_environment_file_could_name(build: Build, run_installer: Far, tmp_path: Path) -> None:
    done = run_installer("install", build().path, "--prefix", tmp_path / "a$b")
    assert (done.returncode, "the prefix holds '$'" in done.stderr) == (9, True)
    assert not (tmp_path / "a$b").exists()


def test_a_wheel_damaged_in_its_table_of_contents(build: Build, run_installer: Far, tmp_path: Path) -> None:
    small = build()
    with archive.open_bundle(small.path) as carried:
        member = next(m for m in carried.layout.iter_artifacts() if m.name.startswith("wheels/beta"))
    data = bytearray(small.path.read_bytes())
    at = data.index(b"PK\x01\x02", member.content_offset)
    data[at + 10] = 99  # a compression that no program knows
    small.path.write_bytes(data)
    done = run_installer("install", small.path, "--prefix", tmp_path / "opt")
    assert (done.returncode, "wheels/beta-2.0-py3-none-any.whl" in done.stderr) == (6, True), done.stderr


def test_an_output_folder_that_is_not_there(build: Build, tmp_path: Path) -> None:
    small = build()
    for place in (tmp_path / "stick" / "x.tar", f"{tmp_path}/stick/"):
        done = run_bundle("build", "--no-rehearse", small.manifest, "-o", place, env=small.environment)
        assert (done.returncode, "there is no such folder" in done.stderr) == (9, True)
    assert not (tmp_path / "stick").exists()


def test_a_secret_does_not_show_even_when_debugging(build: Build) -> None:
    small = build()
    told = small.environment | {
        "PIP_NO_INDEX": "0",
        "PIP_INDEX_URL": "http://user:hun/t@er2@127.0.0.1:9/simple?token=hush",
    }
    told |= {"PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}
    done = run_bundle("lock", small.manifest, "--debug", env=told)
    assert done.returncode == 4, done.stderr
    assert "Traceback" in done.stderr
    assert not [word for word in ("hun/t", "er2", "hush") if word in done.stdout + done.stderr]

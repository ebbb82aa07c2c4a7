"""A model of the hub, from the manifest to the far side's hub view."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import HostError, IntegrityError, UnsafeError
from bundler.format.hashing import compute_sha256
from tests.support.programs import run_bundle
from tests.support.servers import loopback
from tests.support.servers.hub_server import make_hub_env, serve_hub
from tests.support.servers.loopback import Handler
from tests.support.wheelmaking import make_wheel

MANIFEST = """\
name: small
version: "1"
target: {python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}
python: {requirements: [alpha]}
models:
  - {repo: org/tiny, revision: v1.0, loader: files}
  - {dataset: org/rows}
env: {MODEL_PATH: "{model:tiny}"}
sequence: 1
"""
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 300_000,
    "pytorch_model.bin": b"b" * 300_000,
    "README.md": b"---\nlicense: mit\n---\n",
}
ALONE = """\
name: small
version: "1"
target: {python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}
models: [{repo: org/tiny, loader: files}]
sequence: 1
"""
"""A model and nothing else."""


def test_a_model_of_the_hub_travels_pinned(
    builder_env: dict[str, str], tmp_path: Path, run_installer: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    manifest, locked, packed = (tmp_path / name for name in ("m.yaml", "m.lock", "m.bundle.tar"))
    manifest.write_text(MANIFEST)
    with serve_hub() as hub:
        commit = hub.repository("org/tiny", FILES).commit(FILES, ref="v1.0")
        rows = hub.repository("org/rows", {"train.csv": b"a,b\n"}, "datasets").refs["main"]
        told = make_hub_env(builder_env, hub.url, tmp_path)
        done = run_bundle("lock", manifest, "-o", locked, env=told)
        assert done.returncode == 0, done.stderr
        assert "org/tiny: leaves out weights that exist as safetensors too (1 file)" in done.stderr
        assert re.search(r"\n  to fetch   \d+ files, [\d.]+ MiB; bundle build fetches them\n", done.stdout)
        assert hub.storage.seen == [], "a lock needs none of the weights"
        hub.repositories["org/tiny"].commit({"config.json": b"moved"}, ref="v1.0")
        hub.seen.clear()
        done = run_bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", packed, env=told)
        assert done.returncode == 0, done.stderr
        assert "fetch models: 293.0 KiB" in done.stderr
        assert hub.fetched() == ["model.safetensors"]
        assert len(hub.storage.seen) == 1
        hub.seen.clear()
        done = run_bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", packed, "--quiet", env=told)
        assert done.returncode == 0, done.stderr
        assert hub.seen == [], "what the lock names is on the shelf: the hub is not even asked"
        assert len(hub.storage.seen) == 1

    prefix = tmp_path / "prefix"
    assert run_installer("install", packed, "--prefix", prefix, "--no-smoke").returncode == 0
    repo = prefix / "current" / "hub" / "models--org--tiny"
    assert [(repo / "refs" / name).read_text() for name in ("main", "v1.0")] == [commit] * 2
    snapshot = repo / "snapshots" / commit
    assert (snapshot / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not (snapshot / "pytorch_model.bin").exists()
    assert (prefix / f"current/hub/datasets--org--rows/snapshots/{rows}/train.csv").read_bytes() == b"a,b\n"

    said: dict[str, Any] = json.loads(run_bundle("inspect", packed, "--json").stdout)["result"]
    assert [(model["source"], model["licence"]) for model in said["models"]] == [
        (f"repo:org/tiny@{commit}", "mit"),
        (f"dataset:org/rows@{rows}", ""),
    ]


def test_weights_that_are_not_what_the_lock_says(builder_env: dict[str, str], tmp_path: Path) -> None:
    manifest, locked, packed = (tmp_path / name for name in ("m.yaml", "m.lock", "m.bundle.tar"))
    manifest.write_text(ALONE)
    weights = FILES["model.safetensors"]
    flipped = weights[:-1] + b"?"
    with serve_hub() as hub:
        hub.repository("org/tiny", FILES)
        told = make_hub_env(builder_env, hub.url, tmp_path)
        assert run_bundle("lock", manifest, "-o", locked, "--quiet", env=told).returncode == 0
        hub.storage.faults[hub.lfs("org/tiny", "model.safetensors")] = [loopback.instead(flipped)] * 2
        done = run_bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", packed, env=told)
        assert (done.returncode, packed.exists()) == (IntegrityError.code, False)
        assert compute_sha256(weights) in done.stderr
        assert compute_sha256(flipped) in done.stderr


class Runs:
    """What runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "kept", "words"),
    [
        ({"a": 1}, True, "the lock does not list this pickle: models/tiny/model.safetensors"),
        (Runs(), False, "loading tiny could run code of its author:\n  model.safetensors imports posix.system"),
    ],
    ids=["harmless, and a kept lock", "dangerous, and no lock"],
)
def test_weights_that_turn_out_to_be_a_pickle(
    builder_env: dict[str, str], tmp_path: Path, content: object, words: str, *, kept: bool
) -> None:
    manifest, locked, packed = (tmp_path / name for name in ("m.yaml", "m.lock", "m.bundle.tar"))
    manifest.write_text(ALONE)
    with serve_hub() as hub:
        hub.repository("org/tiny", {"config.json": b"{}", "model.safetensors": pickle.dumps(content)})
        told = make_hub_env(builder_env, hub.url, tmp_path)
        if kept:
            assert run_bundle("lock", manifest, "-o", locked, "--quiet", env=told).returncode == 0
        given = ["--lock", locked] if kept else []
        for _time in range(2):  # what has come, and is on the shelf, is looked at as well
            done = run_bundle("build", "--no-rehearse", manifest, *given, "-o", packed, env=told)
            assert (done.returncode, packed.exists()) == (UnsafeError.code, False)
            assert words in done.stderr
    assert len(hub.storage.seen) == 1


def test_weights_that_no_disk_has_room_for_are_locked_and_not_fetched(
    builder_env: dict[str, str], tmp_path: Path
) -> None:
    manifest, locked, packed = (tmp_path / name for name in ("m.yaml", "m.lock", "m.bundle.tar"))
    manifest.write_text(ALONE)
    with serve_hub() as hub:
        vast = {"oid": "0" * 64, "size": 1 << 50, "pointerSize": 1}
        hub.repository("org/tiny", FILES).lies = {"model.safetensors": {"lfs": vast}}
        told = make_hub_env(builder_env, hub.url, tmp_path)
        done = run_bundle("lock", manifest, "-o", locked, "--json", env=told)
        assert json.loads(done.stdout)["result"]["to_fetch"]["bytes"] >= 1 << 50
        done = run_bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", packed, env=told)
        assert (done.returncode, packed.exists()) == (HostError.code, False)
        assert "the disk is too small: the bundle and fetching packages and models" in done.stderr
        assert hub.storage.seen == []


def test_what_two_models_share_comes_once(builder_env: dict[str, str], tmp_path: Path) -> None:
    manifest, packed = tmp_path / "m.yaml", tmp_path / "m.bundle.tar"
    manifest.write_text(
        ALONE.replace("org/tiny, loader: files", "org/tiny, loader: files}, {repo: org/two, loader: files")
    )
    with serve_hub() as hub:
        for name in ("org/tiny", "org/two"):
            hub.repository(name, FILES)
        told = make_hub_env(builder_env, hub.url, tmp_path)
        done = run_bundle("build", "--no-rehearse", manifest, "-o", packed, env=told)
        assert done.returncode == 0, done.stderr
        assert len(hub.storage.seen) == 1
    assert packed.read_bytes().count(FILES["model.safetensors"]) == 1
    assert run_bundle("verify", packed).returncode == 0


def test_weights_in_the_user_s_own_cache_are_not_fetched(builder_env: dict[str, str], tmp_path: Path) -> None:
    manifest, packed = tmp_path / "m.yaml", tmp_path / "m.bundle.tar"
    manifest.write_text(ALONE)
    with serve_hub() as hub:
        commit = hub.repository("org/tiny", FILES).refs["main"]
        snapshot = tmp_path / "hf" / "hub" / "models--org--tiny" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(FILES["model.safetensors"])
        told = make_hub_env(builder_env, hub.url, tmp_path)
        done = run_bundle("build", "--no-rehearse", manifest, "-o", packed, env=told)
        assert done.returncode == 0, done.stderr
        assert hub.storage.seen == []
        assert "fetch models" not in done.stderr
    assert FILES["model.safetensors"] in packed.read_bytes()


def test_a_build_that_is_killed_goes_on_from_what_had_come(builder_env: dict[str, str], tmp_path: Path) -> None:
    manifest, packed, weights = tmp_path / "m.yaml", tmp_path / "m.bundle.tar", random.Random(1).randbytes(3 << 20)
    manifest.write_text("name: killed\nversion: '1'\nmodels: [{repo: org/tiny, loader: files}]\n")
    over = threading.Event()

    def held(handler: Handler, _: bytes) -> None:
        """Half of the file, and then nothing more, as from a line that hangs."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(weights)))
        handler.end_headers()
        handler.wfile.write(weights[: 2 << 20])
        over.wait(600)
        handler.close_connection = True

    with serve_hub() as hub:
        hub.repository("org/tiny", FILES | {"model.safetensors": weights})
        hub.storage.faults[hub.lfs("org/tiny", "model.safetensors")] = [held]
        told = make_hub_env(builder_env, hub.url, tmp_path)
        command = [
            str(Path(sys.executable).with_name("bundle")),
            "build",
            "--no-rehearse",
            str(manifest),
            "-o",
            str(packed),
            "--quiet",
        ]
        with subprocess.Popen(command, env=told, stderr=subprocess.DEVNULL) as first:
            while sum(one.stat().st_size for one in (tmp_path / "shelf/partial").glob("*.partial")) < 1 << 20:
                assert first.poll() is None, "it ended before it could be killed"
                time.sleep(0.02)
            first.send_signal(signal.SIGKILL)
        over.set()
        (partial,) = (tmp_path / "shelf/partial").glob("*.partial")
        come = partial.stat().st_size
        assert not packed.exists()
        for _time in range(2):
            done = run_bundle("build", "--no-rehearse", manifest, "-o", packed, "--quiet", env=told)
            assert done.returncode == 0, done.stderr
        lines = [one.headers.get("Range", "") for one in hub.storage.seen if one.path.startswith("/lfs/")]
    assert come >= 1 << 20
    assert lines == ["", f"bytes={come}-"], "and the build after that asks for nothing"
    assert run_bundle("verify", packed).returncode == 0
    assert weights in packed.read_bytes()
    assert not list((tmp_path / "shelf/partial").glob("*.partial"))


def test_a_branch_that_moved_and_a_newer_wheel_are_what_differs(
    builder_env: dict[str, str],
    wheels: Path,
    tmp_path: Path,
    run_installer: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    manifest, first, second = (tmp_path / name for name in ("m.yaml", "first.tar", "second.tar"))
    manifest.write_text(ALONE + "python: {requirements: [alpha]}\n")
    make_wheel(tmp_path / "newer wheels", "alpha", "1.1", requires=["beta"])
    with serve_hub() as hub:
        repository = hub.repository("org/tiny", FILES)
        told = make_hub_env(builder_env, hub.url, tmp_path)
        both = {"PIP_FIND_LINKS": f"{wheels.as_uri()} {(tmp_path / 'newer wheels').as_uri()}"}
        for path, env in ((first, told), (second, told | both)):
            done = run_bundle("build", "--no-rehearse", manifest, "-o", path, "--quiet", env=env)
            assert done.returncode == 0, done.stderr
            repository.commit(FILES | {"config.json": b'{"a": 1}'})
    before, after = list(repository.commits)[:2]
    said = run_installer("diff", first, second).stdout
    assert f"  ~ tiny: repo:org/tiny@{before} (" in said
    assert f" → repo:org/tiny@{after} (" in said
    assert "  ~ alpha: 1.0 → 1.1\n" in said
    found = json.loads(run_installer("diff", first, second, "--json").stdout)["result"]
    assert [len(found[what]) for what in ("about", "models", "packages", "assets")] == [0, 1, 1, 0]
    assert found["carry"] < 300_000, "the weights are the same, and are there"


CLOSURE = """\
name: small
version: "1"
target: {python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}
models: [{repo: org/m, loader: files}]
sequence: 1
"""


def test_what_a_model_reaches_for_travels_and_is_shown_as_a_tree(
    builder_env: dict[str, str], tmp_path: Path, run_installer: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    manifest, locked = tmp_path / "m.yaml", tmp_path / "m.lock"
    manifest.write_text(CLOSURE)
    with serve_hub() as hub:
        told = {name: value for name, value in builder_env.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        hub.repository("org/m", {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}'})
        hub.repository("org/base", {"config.json": b'{"auto_map": {"AutoModel": "org/code--modeling.M"}}'})
        code = hub.repository("org/code", {"modeling.py": b"import torch\n", "notes.txt": b""}).refs["main"]
        done = run_bundle("lock", manifest, "-o", locked, env=told)
        assert done.returncode == 0, done.stderr
        assert "adds org/base as base (1 file, 51 bytes): m: adapter_config.json" in done.stderr
        hub.repositories["org/code"].commit({"modeling.py": b"moved"})
        for name in ("first", "second"):  # the second with an empty shelf
            path = tmp_path / f"{name}.bundle.tar"
            shelf = {"BUNDLE_CACHE": str(tmp_path / name)}
            done = run_bundle(
                "build", "--no-rehearse", manifest, "--lock", locked, "-o", path, "--quiet", env=told | shelf
            )
            assert done.returncode == 0, done.stderr
    assert (tmp_path / "first.bundle.tar").read_bytes() == path.read_bytes()
    tree = "  closure\n    m\n      base  for adapter_config.json: base model of an adapter\n        code  for config.json: "
    shown = run_installer("inspect", path).stdout
    assert tree + "auto_map AutoModel\n" in shown
    assert "is on; no smoke load runs it:" in shown
    prefix = tmp_path / "prefix"
    assert run_installer("install", path, "--prefix", prefix, "--no-smoke").returncode == 0
    repo = prefix / "current" / "hub" / "models--org--code"
    assert (repo / "refs" / "main").read_text() == code
    assert (repo / "snapshots" / code / "modeling.py").read_bytes() == b"import torch\n"

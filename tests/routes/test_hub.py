"""A model of the hub, from the manifest to the far side's hub view."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import bundle
from tests.hub.hubserver import hub_running
from tests.online.loopback import Handler

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


def of_the_hub(online: dict[str, str], url: str, folder: Path) -> dict[str, str]:
    """The environment of a builder whose hub is at ``url`` and whose cache of it is empty."""
    told = {name: value for name, value in online.items() if not name.startswith("HF_")}
    return told | {"HF_ENDPOINT": url, "HF_HOME": str(folder / "hf")}


def test_a_model_of_the_hub_travels_pinned(
    online: dict[str, str], tmp_path: Path, far: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    manifest, locked, packed = (tmp_path / name for name in ("m.yaml", "m.lock", "m.bundle.tar"))
    manifest.write_text(MANIFEST)
    with hub_running() as hub:
        commit = hub.repository("org/tiny", FILES).commit(FILES, ref="v1.0")
        rows = hub.repository("org/rows", {"train.csv": b"a,b\n"}, "datasets").refs["main"]
        told = of_the_hub(online, hub.url, tmp_path)
        done = bundle("lock", manifest, "-o", locked, env=told)
        assert done.returncode == 0, done.stderr
        assert "org/tiny: leaves out weights that are there as safetensors too (1 file)" in done.stderr
        hub.repositories["org/tiny"].commit({"config.json": b"moved"}, ref="v1.0")
        hub.seen.clear()
        hub.storage.seen.clear()
        done = bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", packed, "--quiet", env=told)
        assert done.returncode == 0, done.stderr
        assert hub.seen == hub.storage.seen == [], "what the lock names is on the shelf: the hub is not even asked"

    prefix = tmp_path / "prefix"
    assert far("install", packed, "--prefix", prefix, "--no-smoke").returncode == 0
    repo = prefix / "current" / "hub" / "models--org--tiny"
    assert [(repo / "refs" / name).read_text() for name in ("main", "v1.0")] == [commit] * 2
    snapshot = repo / "snapshots" / commit
    assert (snapshot / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not (snapshot / "pytorch_model.bin").exists()
    assert (prefix / f"current/hub/datasets--org--rows/snapshots/{rows}/train.csv").read_bytes() == b"a,b\n"

    said: dict[str, Any] = json.loads(bundle("inspect", packed, "--json").stdout)["result"]
    assert [(model["source"], model["licence"]) for model in said["models"]] == [
        (f"repo:org/tiny@{commit}", "mit"),
        (f"dataset:org/rows@{rows}", ""),
    ]


def test_a_build_that_is_killed_goes_on_from_what_had_come(online: dict[str, str], tmp_path: Path) -> None:
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

    with hub_running() as hub:
        hub.repository("org/tiny", FILES | {"model.safetensors": weights})
        hub.storage.faults[hub.lfs("org/tiny", "model.safetensors")] = [held]
        told = of_the_hub(online, hub.url, tmp_path)
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
        done = bundle("build", "--no-rehearse", manifest, "-o", packed, "--quiet", env=told)
        assert done.returncode == 0, done.stderr
        lines = [one.headers.get("Range", "") for one in hub.storage.seen if one.path.startswith("/lfs/")]
    assert come >= 1 << 20
    assert lines == ["", f"bytes={come}-"]
    assert bundle("verify", packed).returncode == 0
    assert weights in packed.read_bytes()
    assert not list((tmp_path / "shelf/partial").glob("*.partial"))


CLOSURE = """\
name: small
version: "1"
target: {python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}
models: [{repo: org/m, loader: files}]
sequence: 1
"""


def test_what_a_model_reaches_for_travels_and_is_shown_as_a_tree(
    online: dict[str, str], tmp_path: Path, far: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    manifest, locked = tmp_path / "m.yaml", tmp_path / "m.lock"
    manifest.write_text(CLOSURE)
    with hub_running() as hub:
        told = {name: value for name, value in online.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        hub.repository("org/m", {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}'})
        hub.repository("org/base", {"config.json": b'{"auto_map": {"AutoModel": "org/code--modeling.M"}}'})
        code = hub.repository("org/code", {"modeling.py": b"import torch\n", "notes.txt": b""}).refs["main"]
        done = bundle("lock", manifest, "-o", locked, env=told)
        assert done.returncode == 0, done.stderr
        assert "adds org/base as base (1 files, 51 bytes): m: adapter_config.json" in done.stderr
        hub.repositories["org/code"].commit({"modeling.py": b"moved"})
        for name in ("first", "second"):  # the second with an empty shelf
            path = tmp_path / f"{name}.bundle.tar"
            shelf = {"BUNDLE_CACHE": str(tmp_path / name)}
            done = bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", path, "--quiet", env=told | shelf)
            assert done.returncode == 0, done.stderr
    assert (tmp_path / "first.bundle.tar").read_bytes() == path.read_bytes()
    tree = "  closure\n    m\n      base  for adapter_config.json: base model of an adapter\n        code  for config.json: "
    shown = far("inspect", path).stdout
    assert tree + "auto_map AutoModel\n" in shown
    assert "is on; no smoke load runs it:" in shown
    prefix = tmp_path / "prefix"
    assert far("install", path, "--prefix", prefix, "--no-smoke").returncode == 0
    repo = prefix / "current" / "hub" / "models--org--code"
    assert (repo / "refs" / "main").read_text() == code
    assert (repo / "snapshots" / code / "modeling.py").read_bytes() == b"import torch\n"

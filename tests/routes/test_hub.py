"""A model of the hub, from the manifest to the far side's hub view."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import bundle
from tests.hub.hubserver import hub_running

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


def test_a_model_of_the_hub_travels_pinned(
    online: dict[str, str], tmp_path: Path, far: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    manifest, locked, packed = (tmp_path / name for name in ("m.yaml", "m.lock", "m.bundle.tar"))
    manifest.write_text(MANIFEST)
    with hub_running() as hub:
        commit = hub.repository("org/tiny", FILES).commit(FILES, ref="v1.0")
        rows = hub.repository("org/rows", {"train.csv": b"a,b\n"}, "datasets").refs["main"]
        told = {name: value for name, value in online.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        done = bundle("lock", manifest, "-o", locked, env=told)
        assert done.returncode == 0, done.stderr
        assert "org/tiny: leaves out weights that are there as safetensors too (1 file)" in done.stderr
        hub.repositories["org/tiny"].commit({"config.json": b"moved"}, ref="v1.0")
        hub.seen.clear()
        done = bundle("build", manifest, "--lock", locked, "-o", packed, "--quiet", env=told)
        assert done.returncode == 0, done.stderr
        assert hub.fetched() == []

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

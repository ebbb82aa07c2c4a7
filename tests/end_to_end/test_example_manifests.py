"""Manifests to copy from, locked as they stand: with the real index, and a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from bundler.format.lock import lockfile
from bundler.format.lock.lockfile import Lock
from tests.support.paths import ROOT
from tests.support.programs import run_bundle
from tests.support.servers.hub_server import serve_hub

WORDS = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}
M3 = WORDS | {
    "config.json": json.dumps({"architectures": ["XLMRobertaModel"], "vocab_size": 9}).encode(),
    "pytorch_model.bin": b"w" * 5000,
    "colbert_linear.pt": b"c" * 500,
    "sparse_linear.pt": b"s" * 50,
    "onnx/model.onnx": b"o" * 5000,
}
WRITER = WORDS | {
    "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 9}).encode(),
    "model.safetensors": b"l" * 5000,
}


def lock_manifest(folder: Path, name: str, files: dict[str, bytes]) -> tuple[Lock, str]:
    """The lock of a manifest whose BGE-M3 is these files, and the commit that it must name."""
    manifest = Path(shutil.copy(ROOT / "manifests" / name, folder))
    with serve_hub() as hub:
        commit = hub.repository("BAAI/bge-m3", files).refs["main"]
        told = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "BUNDLE_CACHE": str(folder / "shelf")}
        done = run_bundle("lock", manifest, "-o", folder / "lock.json", "--quiet", env=told)
    assert done.returncode == 0, done.stderr
    return lockfile.read_lock((folder / "lock.json").read_bytes(), "the lock"), commit


def test_ragtrace_locks_with_a_vendor_s_files_beside_it(tmp_path: Path) -> None:
    for name, data in WRITER.items():
        (tmp_path / "vendor/hcx-005").mkdir(parents=True, exist_ok=True)
        (tmp_path / "vendor/hcx-005" / name).write_bytes(data)
    found, commit = lock_manifest(tmp_path, "ragtrace.yaml", M3)
    assert [(model.source, model.loader) for model in found.models] == [
        (f"repo:BAAI/bge-m3@{commit}", "flag-embedding-m3"),
        ("path:hcx-005", "causal-lm"),
    ]
    carried = {artifact.path for artifact in found.list_artifacts("model")}
    assert carried == {
        *(f"models/bge-m3/{name}" for name in M3 if "onnx" not in name),
        *(f"models/hcx-005/{name}" for name in WRITER),
    }
    versions = {package.name: package.version for package in found.python.packages}
    assert {name: versions[name] for name in ("flagembedding", "transformers")} == {
        "flagembedding": "1.4.2",
        "transformers": "5.23.0",
    }
    assert versions["torch"].partition("+")[0] == "2.13.0"
    assert {"sentence-transformers", "accelerate", "peft", "safetensors", "tokenizers"} <= set(versions)
    assert (found.env["HCX_MODEL_PATH"], found.env["OPENAI_API_KEY"]) == ("{model:hcx-005}", "")


def test_bge_m3_locks_with_both_of_its_heads(tmp_path: Path) -> None:
    found, commit = lock_manifest(tmp_path, "bge-m3.yaml", M3 | {"modules.json": b"[]", "imgs/bm25.jpg": b"j"})
    (model,) = found.models
    assert (model.source, model.loader) == (f"repo:BAAI/bge-m3@{commit}", "flag-embedding-m3")
    carried = {artifact.path.removeprefix("models/bge-m3/") for artifact in found.list_artifacts("model")}
    assert carried == {"modules.json", *(name for name in M3 if "onnx" not in name)}
    versions = {package.name: package.version.partition("+")[0] for package in found.python.packages}
    asked = {"flagembedding": "1.4.2", "transformers": "5.23.0", "torch": "2.13.0"}
    assert {name: versions[name] for name in asked} == asked
    assert found.env["BGE_M3_MODEL_PATH"] == "{model:bge-m3}"

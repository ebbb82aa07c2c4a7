"""Manifests to copy from, locked as they stand: with the real index, and a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from bundler.bundle import lock
from tests.conftest import ROOT, bundle
from tests.hub.hubserver import hub_running

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


def test_ragtrace_locks_with_a_vendor_s_files_beside_it(tmp_path: Path) -> None:
    manifest = Path(shutil.copy(ROOT / "manifests" / "ragtrace.yaml", tmp_path))
    for name, data in WRITER.items():
        (tmp_path / "vendor/hcx-005").mkdir(parents=True, exist_ok=True)
        (tmp_path / "vendor/hcx-005" / name).write_bytes(data)
    with hub_running() as hub:
        commit = hub.repository("BAAI/bge-m3", M3).refs["main"]
        told = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "BUNDLE_CACHE": str(tmp_path / "shelf")}
        done = bundle("lock", manifest, "-o", tmp_path / "lock.json", "--quiet", env=told)
    assert done.returncode == 0, done.stderr
    found = lock.read((tmp_path / "lock.json").read_bytes(), "the lock")
    assert [(model.source, model.loader) for model in found.models] == [
        (f"repo:BAAI/bge-m3@{commit}", "flag-embedding-m3"),
        ("path:hcx-005", "causal-lm"),
    ]
    carried = {artifact.path for artifact in found.of_kind("model")}
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

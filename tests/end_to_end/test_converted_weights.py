"""A model whose weights are converted while building, by the bundle's own torch."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.bundles import InstalledBundle
from tests.support.programs import require_tool, run_bundle

MANIFEST = """\
name: converted
version: "1"
target: {python: "3.11", accelerator: cpu}
python: {requirements: ["torch==2.13.0", safetensors, numpy]}
models: [{path: vendor, alias: m, loader: files, convert: safetensors}]
sequence: 1
"""
MAKE = """
import json, sys
from pathlib import Path
import torch
out = Path(sys.argv[1])
(out / "2_Dense").mkdir(parents=True)
torch.save({"a": torch.ones(3)}, out / "pytorch_model-00001-of-00002.bin")
torch.save({"b": torch.zeros(2, 2)}, out / "pytorch_model-00002-of-00002.bin")
shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
(out / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": shards}))
torch.save({"linear.weight": torch.ones(1, 1)}, out / "2_Dense/pytorch_model.bin")
torch.save({"weight": torch.ones(1)}, out / "colbert_linear.pt")
"""


@pytest.mark.long
def test_a_model_travels_converted_and_a_kept_lock_gives_the_same_bytes(demo: InstalledBundle, tmp_path: Path) -> None:
    subprocess.run([demo.python, "-c", MAKE, tmp_path / "vendor"], check=True)
    manifest, locked = tmp_path / "m.yaml", tmp_path / "m.lock"
    manifest.write_text(MANIFEST)
    told = os.environ | {"BUNDLE_CACHE": str(tmp_path / "shelf")}
    done = run_bundle("lock", manifest, "-o", locked, env=told)
    assert done.returncode == 0, done.stderr
    assert "m: colbert_linear.pt are not converted" in done.stderr
    bundles = []
    for name in ("first", "second"):  # the second on another machine's shelf, and so converted again
        bundles.append(tmp_path / f"{name}.tar")
        done = run_bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", bundles[-1], "--quiet", env=told)
        assert done.returncode == 0, done.stderr
        told["BUNDLE_CACHE"] = str(tmp_path / "another shelf")
    assert bundles[0].read_bytes() == bundles[1].read_bytes()
    (model,) = json.loads(run_bundle("inspect", bundles[0], "--json").stdout)["result"]["models"]
    assert [one["path"] for one in model["conversions"]] == [
        "models/m/2_Dense/model.safetensors",
        "models/m/model-00001-of-00002.safetensors",
        "models/m/model-00002-of-00002.safetensors",
        "models/m/model.safetensors.index.json",
    ]
    assert model["conversions"][0]["by"].startswith("torch 2.13.0")
    assert [one["path"] for one in model["pickles"]] == ["models/m/colbert_linear.pt"]
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([require_tool("tar"), "xf", bundles[0], "-C", out], check=True)
    index = json.loads((out / "models/m/model.safetensors.index.json").read_bytes())
    assert index["weight_map"]["b"] == "model-00002-of-00002.safetensors"
    refused = run_bundle(
        "build", "--no-rehearse", manifest, "--lock", locked, "--no-pickles", "-o", tmp_path / "no.tar", env=told
    )
    assert (refused.returncode, "models/m/colbert_linear.pt" in refused.stderr) == (8, True)

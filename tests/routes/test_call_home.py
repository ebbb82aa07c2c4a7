"""A model whose own code asks for a second repository: the rehearsal names it, and what it names cures it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.bundle import archive, hashing, lock
from bundler.progress import Collected
from tests.conftest import ROOT, Installed, bundle
from tests.hub.hubserver import hub_running
from tests.payload.tensors import Weights

CODE = """\
import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from transformers import BertModel


class ScaledModel(BertModel):
    def __init__(self, config):
        super().__init__(config)
        self.scale = scale_of("org/" + "codebook")


def scale_of(repo):
    return json.loads(Path(hf_hub_download(repo, "table.json")).read_text())["scale"]
"""
LINE = 'return json.loads(Path(hf_hub_download(repo, "table.json")).read_text())["scale"]'


@pytest.fixture
def scaled(demo: Installed, tmp_path: Path) -> Path:
    """A tiny BERT with code of its own, made by the real libraries."""
    made = subprocess.run(
        [demo.python, "-I", ROOT / "tests" / "payload" / "tiny_models.py", tmp_path / "tiny"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    folder = Path(shutil.move(tmp_path / "tiny" / "raw", tmp_path / "scaled"))
    (folder / "modeling_scaled.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_scaled.ScaledModel"}}))
    return folder


MANIFEST = """\
name: scaled
version: "1"
target: {{python: "3.11", platform: linux-x86_64, libc: glibc-2.28, accelerator: cpu}}
python: {{requirements: [sentence-transformers, torch]}}
models:
  - {{path: {folder}, repo_id: org/scaled, loader: transformers, trust_remote_code: true}}
{more}
"""


@pytest.mark.long
def test_the_report_names_the_repository_and_the_line_and_its_entry_cures_it(scaled: Path, tmp_path: Path) -> None:
    manifest, packed = tmp_path / "scaled.yaml", tmp_path / "scaled.tar"
    manifest.write_text(MANIFEST.format(folder=scaled.name, more=""))
    with hub_running() as hub:
        hub.repository("org/codebook", {"table.json": b'{"scale": 2}', "config.json": b"{}"})
        told = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        done = bundle("build", manifest, "-o", packed, "--json", env=told)
        assert done.returncode == 12, done.stderr
        message = json.loads(done.stdout)["error"]["message"]
        assert "https://huggingface.co/org/codebook/resolve/main/table.json" in message
        assert f"modeling_scaled.py:15 in scale_of: {LINE}" in message
        assert "cure      models: [{repo: org/codebook}]" in message
        assert not packed.exists()
        manifest.write_text(MANIFEST.format(folder=scaled.name, more="  - {repo: org/codebook, loader: files}"))
        done = bundle("build", manifest, "-o", packed, env=told)
    assert done.returncode == 0, done.stderr
    assert "golden outputs of scaled" in done.stdout


def relocked(known: lock.Lock, folder: Path, changed: str) -> lock.Lock:
    """The lock over changed content, as somebody would write it who wants it to be taken for the same."""
    size, digest = hashing.digest_of_file(folder / changed)
    artifacts = tuple(
        dataclasses.replace(one, size=size, sha256=digest, upstream=()) if one.path == changed else one
        for one in known.artifacts
    )
    (model,) = known.models
    files = [(one.sha256, one.path[len(model.folder) :]) for one in artifacts if one.path.startswith(model.folder)]
    named = dataclasses.replace(model, digest=lock.digest_of_files(files))
    return lock.with_changes(known, artifacts=artifacts, models=(named,))


def turned_round(path: Path) -> None:
    """One matrix in another order: nothing that looks at weights alone can take offence."""
    weights = Weights(path)
    name = "encoder.layer.5.output.dense.weight"
    count = len(weights.bytes[name]) // 4
    weights.bytes[name] = struct.pack(f"<{count}f", *reversed(struct.unpack(f"<{count}f", weights.bytes[name])))
    weights.write()


@pytest.mark.long
def test_a_bundle_that_was_packed_again_with_other_weights_and_kept_its_golden_outputs_is_refused(
    demo: Installed, tmp_path: Path, far: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Every digest in it is right: only what the model gives is not what was rehearsed."""
    subprocess.run(["tar", "xf", demo.bundle, "-C", tmp_path], check=True)
    with archive.opened(demo.bundle) as carried:
        known = carried.lock
    vectors = json.loads((demo.current / "goldens.json").read_bytes())[0]["outputs"][0]["vectors"]
    assert known.goldens[0].outputs[0].vectors[0].values == vectors[0]["values"]
    other = tmp_path / "other.tar"
    weights = next(one for one in known.artifacts if one.path.endswith("model.safetensors"))
    turned_round(tmp_path / weights.path)
    archive.write(other, relocked(known, tmp_path, weights.path), lambda one: tmp_path / one.path, Collected())
    done = far("install", other, "--prefix", tmp_path / "opt")
    assert done.returncode == 11, done.stderr
    assert "these are not the weights of the rehearsal" in done.stderr
    assert not (tmp_path / "opt" / "current").exists()

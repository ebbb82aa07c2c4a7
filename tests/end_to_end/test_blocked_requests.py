"""A model whose own code asks for a second repository: the rehearsal names it, and what it names cures it."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format import hashing
from bundler.format.lock import lockfile
from bundler.format.tar import archive
from bundler.progress import RecordingReporter
from tests.support.bundles import InstalledBundle
from tests.support.models.tensors import Weights
from tests.support.paths import ROOT
from tests.support.programs import run_bundle
from tests.support.servers.hub_server import serve_hub
from tests.support.shared import Shared

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
def scaled(tiny_models: Path, tmp_path: Path) -> Path:
    """A tiny BERT with code of its own."""
    folder = Path(shutil.copytree(tiny_models / "raw", tmp_path / "scaled"))
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
    with serve_hub() as hub:
        hub.repository("org/codebook", {"table.json": b'{"scale": 2}', "config.json": b"{}"})
        told = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        done = run_bundle("build", manifest, "-o", packed, "--json", env=told)
        assert done.returncode == 12, done.stderr
        message = json.loads(done.stdout)["error"]["message"]
        assert "https://huggingface.co/org/codebook/resolve/main/table.json" in message
        assert f"modeling_scaled.py:15 in scale_of: {LINE}" in message
        assert not packed.exists()
        entry = message.partition("    fix       models: [")[2].partition("]")[0]
        assert entry == "{repo: org/codebook, loader: files}"
        manifest.write_text(MANIFEST.format(folder=scaled.name, more=f"  - {entry}"))
        done = run_bundle("build", manifest, "-o", packed, env=told)
    assert done.returncode == 0, done.stderr
    assert "golden outputs of scaled" in done.stdout


@pytest.mark.long
def test_a_file_that_a_repository_was_carried_without_is_named_and_its_include_cures_it(
    scaled: Path, tmp_path: Path
) -> None:
    manifest, packed = tmp_path / "scaled.yaml", tmp_path / "scaled.tar"
    carried = "  - {{repo: org/codebook, loader: files, include: [config.json{more}]}}"
    manifest.write_text(MANIFEST.format(folder=scaled.name, more=carried.format(more="")))
    with serve_hub() as hub:
        hub.repository("org/codebook", {"table.json": b'{"scale": 2}', "config.json": b"{}"})
        told = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        done = run_bundle("build", manifest, "-o", packed, "--json", env=told)
        assert done.returncode == 12, done.stderr
        message = json.loads(done.stdout)["error"]["message"]
        assert "missing   table.json of org/codebook at main; the bundle has the repository without it" in message
        assert f"modeling_scaled.py:15 in scale_of: {LINE}" in message
        assert "fix       in the entry of org/codebook: add include: [table.json, …]" in message
        manifest.write_text(MANIFEST.format(folder=scaled.name, more=carried.format(more=", table.json")))
        done = run_bundle("build", manifest, "-o", packed, env=told)
    assert done.returncode == 0, done.stderr


Change = Callable[[Path, Path], None]
"""Alters the files of a model in a folder, with the Python of an installed release where that needs its libraries."""


def reverse_rows(folder: Path, _python: Path) -> None:
    """One matrix in another order: nothing that looks at weights alone can take offence."""
    weights = Weights(folder / "model.safetensors")
    name = "encoder.layer.5.output.dense.weight"
    count = len(weights.bytes[name]) // 4
    weights.bytes[name] = struct.pack(f"<{count}f", *reversed(struct.unpack(f"<{count}f", weights.bytes[name])))
    weights.write()


TRAINED = """\
import sys, torch
from safetensors.torch import load_file, save_file
torch.manual_seed(7)
kept = load_file(sys.argv[1])
moved = {name: one + one.std() * torch.randn_like(one) / 5 for name, one in kept.items() if one.is_floating_point()}
save_file(kept | moved, sys.argv[1], metadata={"format": "pt"})
"""


def make_other_revision(folder: Path, python: Path) -> None:
    """As training further changes weights: all of them, each by a little."""
    subprocess.run([python, "-I", "-c", TRAINED, folder / "model.safetensors"], check=True, capture_output=True)


def make_other_tokenizer(folder: Path, _python: Path) -> None:
    """Two words have changed places in every file that knows them."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words["fox"], words["dog"] = words["dog"], words["fox"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    one, other = lines.index("fox"), lines.index("dog")
    lines[one], lines[other] = "dog", "fox"
    (folder / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")


def remove_module(folder: Path, _python: Path) -> None:
    """The last one, which gives each vector its length, is named by nothing but this file."""
    path = folder / "modules.json"
    *kept, last = json.loads(path.read_text(encoding="utf-8"))
    assert last["type"].endswith("Normalize")
    path.write_text(json.dumps(kept), encoding="utf-8")


def replace_lock(known: lockfile.Lock, contents: Path) -> lockfile.Lock:
    """The lock over changed content, as somebody would write it who wants it to be taken for the same."""
    (model,) = known.models
    artifacts = tuple(
        dataclasses.replace(one, size=size, sha256=digest, upstream=one.upstream if digest == one.sha256 else ())
        for one in known.artifacts
        for size, digest in [hashing.compute_file_sha256(contents / one.path)]
    )
    digest = lockfile.compute_files_digest(
        (one.sha256, one.path[len(model.folder) :]) for one in artifacts if one.path.startswith(model.folder)
    )
    named = dataclasses.replace(model, digest=digest, commit=digest[:40])
    return lockfile.replace_fields(known, artifacts=artifacts, models=(named,))


@pytest.fixture(scope="module")
def unpacked(demo: InstalledBundle, shared: Shared) -> Path:
    """The content of the demo bundle, for tests to take links and copies of."""
    return shared.get_or_make(
        "unpacked", lambda folder: subprocess.run(["tar", "xf", demo.bundle, "-C", folder], check=True)
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (reverse_rows, "these are not the weights of the rehearsal"),
        (make_other_revision, "these are not the weights of the rehearsal"),
        (make_other_tokenizer, "The tokenizer is not that of the rehearsal"),
        (remove_module, "The vector of “The quick brown fox"),
    ],
)
def test_a_bundle_that_was_packed_again_with_another_model_and_kept_its_golden_outputs_is_refused(
    demo: InstalledBundle,
    unpacked: Path,
    tmp_path: Path,
    run_installer: Callable[..., subprocess.CompletedProcess[str]],
    change: Change,
    says: str,
) -> None:
    """Every digest in it is right: only what the model gives is not what was rehearsed."""
    with archive.open_bundle(demo.bundle) as carried:
        known = carried.lock
    vectors = json.loads((demo.current / "goldens.json").read_bytes())[0]["outputs"][0]["vectors"]
    assert known.goldens[0].outputs[0].vectors[0].values == vectors[0]["values"]
    contents = Path(shutil.copytree(unpacked, tmp_path / "contents", copy_function=os.link))
    (model,) = known.models
    shutil.rmtree(contents / model.folder)
    shutil.copytree(unpacked / model.folder, contents / model.folder)
    change(contents / model.folder, demo.python)
    other = tmp_path / "other.tar"
    archive.write_bundle(other, replace_lock(known, contents), lambda one: contents / one.path, RecordingReporter())
    done = run_installer("install", other, "--prefix", tmp_path / "opt")
    assert done.returncode == 11, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "opt" / "current").exists()


@pytest.mark.long
def test_a_build_from_a_lock_that_promises_other_outputs_is_refused(unpacked: Path, tmp_path: Path) -> None:
    known = lockfile.read_lock((unpacked / lockfile.LOCK_FILE).read_bytes(), "the demo's")
    (golden,) = known.goldens
    first, *others = golden.outputs
    (vector,) = first.vectors
    values = base64.b64decode(vector.values)
    turned = struct.pack(f"<{len(values) // 4}f", *reversed(struct.unpack(f"<{len(values) // 4}f", values)))
    moved = dataclasses.replace(vector, values=base64.b64encode(turned).decode())
    outputs = (dataclasses.replace(first, vectors=(moved,)), *others)
    promised = lockfile.replace_fields(known, goldens=(dataclasses.replace(golden, outputs=outputs),))
    kept = tmp_path / "demo.lock.json"
    kept.write_bytes(promised.canonical_bytes)
    done = run_bundle("build", ROOT / "manifests" / "demo.yaml", "--lock", kept, "-o", tmp_path / "demo.tar")
    assert done.returncode == 11, done.stderr
    assert "the rehearsal failed, so no bundle was written" in done.stderr
    assert "these are not the weights of the rehearsal" in done.stderr
    assert (kept.read_bytes(), [one.name for one in tmp_path.iterdir()]) == (promised.canonical_bytes, [kept.name])

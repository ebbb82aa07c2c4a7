"""Pickled weights become safetensors of the same tensors, or it is said why they can't."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import BundleError, HostError, ResolveError
from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock.target import Target, detect_target
from bundler.online.models import safetensors_conversion
from bundler.online.models.local_sources import ModelFiles, SourceFile
from bundler.online.models.safetensors_conversion import ConversionContext
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.context import BuildContext
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.bundles import InstalledBundle
from tests.support.paths import ROOT

CASES = """
import collections, importlib.util, json, os, sys
from pathlib import Path
import torch
spec = importlib.util.spec_from_file_location("tensors", sys.argv[1])
tensors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tensors)
out = Path(sys.argv[2])
class Evil:
    def __reduce__(self):
        return (os.mkdir, (str(out / "ran"),))
shared = torch.arange(6.0).reshape(2, 3)
every = {
    "z.tied": shared, "a.tied": shared, "part": shared[1], "turned": shared.t(),
    "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16), "zero": torch.tensor(-0.0), "none": torch.empty(0, 4),
    "flags": torch.tensor([True, False]), "int": torch.tensor([[1]], dtype=torch.int64), "f16": torch.ones(1).half(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}
cases = {
    "every": every, "ordered": collections.OrderedDict(every), "nested": {"state": {"w": shared}}, "number": {"w": 1},
    "list": [shared], "empty": {}, "sparse": {"w": torch.eye(2).to_sparse()}, "evil": {"w": Evil()},
}
said = {}
for name, value in cases.items():
    torch.save(value, out / f"{name}.bin")
torch.save(every, out / "legacy.bin", _use_new_zipfile_serialization=False)
(out / "cut.bin").write_bytes((out / "every.bin").read_bytes()[:-200])
for name in [*cases, "legacy", "cut"]:
    try:
        tensors.convert_file(out / f"{name}.bin", out / f"{name}.safetensors")
        said[name] = ""
    except tensors.ConversionError as refusal:
        said[name] = str(refusal)
read = tensors.load_file(out / "every.safetensors")
said["dtypes"] = {name: str(one.dtype) for name, one in read.items()}
said["shapes"] = {name: list(one.shape) for name, one in read.items()}
said["ran"] = (out / "ran").exists()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(demo: InstalledBundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program says of every case, in one process with the real torch; and the folder that it worked in."""
    out = tmp_path_factory.mktemp("tensors")
    program = ROOT / "bundler" / "online" / "models" / "safetensors_worker.py"
    done = subprocess.run([demo.python, "-c", CASES, program, out], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)) | {"folder": out}


def test_every_tensor_keeps_its_name_type_and_shape(said: dict[str, Any]) -> None:
    assert said["every"] == ""
    assert said["dtypes"] == {
        **dict.fromkeys(["a.tied", "z.tied", "part", "turned", "zero", "none", "parameter"], "torch.float32"),
        "half": "torch.bfloat16",
        "flags": "torch.bool",
        "int": "torch.int64",
        "f16": "torch.float16",
    }
    assert (said["shapes"]["zero"], said["shapes"]["none"], said["shapes"]["turned"]) == ([], [0, 4], [3, 2])


def test_the_same_tensors_give_the_same_bytes(said: dict[str, Any]) -> None:
    folder: Path = said["folder"]
    assert said["ordered"] == said["legacy"] == ""
    kept = {(folder / f"{name}.safetensors").read_bytes() for name in ("every", "ordered", "legacy")}
    assert len(kept) == 1
    head = kept.pop()[8:]
    assert b'"__metadata__":{"format":"pt"}' in head


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("nested", "'state' in it is a dict"),
        ("number", "'w' in it is a int"),
        ("list", "it holds a list"),
        ("empty", "it holds a dict"),
        ("sparse", "w is a sparse or quantised tensor"),
        ("evil", "torch can't read it as plain weights"),
        ("cut", "torch can't read it as plain weights"),
    ],
)
def test_what_is_no_weights_is_refused(case: str, words: str, said: dict[str, Any]) -> None:
    assert words in said[case]
    assert not (said["folder"] / f"{case}.safetensors").exists()
    assert said["ran"] is False


HERE = dataclasses.replace(detect_target(), python=f"3.{sys.version_info.minor}")
PURE = "py3-none-any"


def make_conversion(
    tmp_path: Path, files: Mapping[str, bytes], packages: Mapping[str, str], tag: str = PURE, target: Target = HERE
) -> tuple[ModelFiles, ConversionContext]:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = [
        SourceFile(
            path=name, size=len(data), sha256=compute_sha256(data), origin=f"path:m/{name}", content=tmp_path / name
        )
        for name, data in files.items()
    ]
    made = [
        ResolvedWheel(
            name=name,
            version=version,
            filename=f"{name}-{version}-{tag}.whl",
            origin="https://index.example/x",
            size=1,
            sha256=Sha256("0" * 64),
            publisher="index.example",
            is_digest_published=True,
        )
        for name, version in packages.items()
    ]
    shop = BuildContext(cache=FileCache(tmp_path / "shelf"), config=PipConfig(), reporter=RecordingReporter())
    return ModelFiles(
        source="path:m", files=tuple(found), all_files=tuple(one.path for one in found)
    ), ConversionContext(target=target, packages=made, context=shop)


BIN = {"pytorch_model.bin": b"w"}
WHOLE = {"torch": "2.13.0", "safetensors": "0.8.0", "numpy": "2.0"}


@pytest.mark.parametrize(
    ("files", "packages", "kind", "words"),
    [
        (BIN, {"torch": "2.13.0"}, ResolveError, "'convert' needs safetensors, numpy among the bundle's packages"),
        (BIN, WHOLE | {"torch": "2.5.1"}, ResolveError, "torch 2.5.1 runs code of pickles that it reads"),
        (BIN | {"model.safetensors": b"w"}, WHOLE, ResolveError, "m has model.safetensors already"),
        ({"colbert_linear.pt": b"w"}, WHOLE, ResolveError, "m has no weights to convert to safetensors"),
    ],
)
def test_what_conversion_lacks_is_named(
    files: dict[str, bytes], packages: dict[str, str], kind: type[BundleError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        safetensors_conversion.convert_model("m", *make_conversion(tmp_path, files, packages))


def test_a_torch_for_another_machine_is_named(tmp_path: Path) -> None:
    far = Target(python=HERE.python, platform="windows-x86_64", libc="", accelerator="cpu")
    given = make_conversion(tmp_path, BIN, WHOLE, tag=f"cp3{sys.version_info.minor}-none-win_amd64", target=far)
    with pytest.raises(HostError, match=r"'convert' can't run the bundle's torch-2\.13\.0.*on this machine"):
        safetensors_conversion.convert_model("m", *given)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("pytorch_model.bin", "model.safetensors"),
        ("2_Dense/pytorch_model.bin", "2_Dense/model.safetensors"),
        ("pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors"),
        ("pytorch_model.bin.index.json", "model.safetensors.index.json"),
        ("pytorch_model.fp16.bin", "model.fp16.safetensors"),
        ("adapter_model.bin", "adapter_model.safetensors"),
        ("colbert_linear.pt", ""),
        ("training_args.bin", ""),
        ("config.json", ""),
    ],
)
def test_weights_are_called_as_transformers_calls_them(name: str, becomes: str) -> None:
    assert safetensors_conversion._get_converted_name(name) == becomes

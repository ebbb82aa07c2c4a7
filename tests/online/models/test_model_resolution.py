"""Models of folders, archives and wheels, held to what their loader reads of the whole source."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from bundler.errors import ResolveError
from bundler.format.hashing import Sha256
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.manifest.schema import Manifest, ModelSpec
from bundler.online.models import model_resolution, safetensors_conversion
from bundler.online.models.model_resolution import ResolvedModel
from bundler.online.transfer.context import BuildContext
from tests.support.resolving import LINUX, ResolverHarness

M3 = {
    "config.json": json.dumps({"architectures": ["XLMRobertaModel"], "vocab_size": 9}).encode(),
    "modules.json": json.dumps([{"type": "sentence_transformers.models.Transformer", "path": ""}]).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": b"w",
    "colbert_linear.pt": b"c",
    "sparse_linear.pt": b"s",
}


def in_folder(bench: ResolverHarness) -> dict[str, str]:
    folder = bench.wheel_folder / "m3"
    folder.mkdir(parents=True)
    for name, data in M3.items():
        (folder / name).write_bytes(data)
    return {"path": "m3"}


def in_archive(bench: ResolverHarness) -> dict[str, str]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in M3.items():
            archive.writestr(f"m3/{name}", data)
    bench.index.files["/m3.zip"] = packed.getvalue()
    return {"url": f"{bench.index.url}/m3.zip", "sha256": hashlib.sha256(packed.getvalue()).hexdigest()}


def in_wheel(bench: ResolverHarness) -> dict[str, str]:
    bench.add_to_index("carrier", "1.0", files={f"carrier/m3/{name}": data for name, data in M3.items()})
    return {"wheel": "carrier"}


def carried(bench: ResolverHarness, **asked: Any) -> ResolvedModel:
    wanted = ModelSpec(alias="m", **asked)
    whole = LoadedManifest(
        manifest=Manifest(name="n", version="1", models=(wanted,)), folder=bench.wheel_folder, sha256=Sha256("0" * 64)
    )
    shop = BuildContext(cache=bench.cache, config=bench.config, reporter=bench.reporter)
    return model_resolution.resolve_model(
        wanted, whole, shop, safetensors_conversion.ConversionContext(target=LINUX, packages=(), context=shop)
    )


@pytest.mark.parametrize("source", [in_folder, in_archive, in_wheel])
def test_what_a_pattern_removes_is_missed_wherever_a_model_comes_from(
    harness: ResolverHarness, source: Callable[[ResolverHarness], dict[str, str]]
) -> None:
    place = source(harness)
    for patterns in ({"exclude": ("*.pt",)}, {"include": ("*.json", "*.safetensors")}):
        with pytest.raises(ResolveError, match=r"removes colbert_linear\.pt and sparse_linear\.pt"):
            carried(harness, **place, **patterns)
        assert carried(harness, **place, **patterns, loader="sentence-transformers").model.loader
    with pytest.raises(ResolveError, match=r"m lacks files that flag-embedding-m3 needs: tokenizer_config\.json \("):
        carried(harness, **place, exclude=("tokenizer_config.json",))

"""Golden outputs: a model that loads and is not the one that was rehearsed is found out, whatever made it so."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.format import documents
from bundler.format.lock.goldens import Golden, GoldenVector
from bundler.payload.checks import goldens
from tests.support.models.tensors import Weights
from tests.support.smoke_loads import Result

Prove = Callable[..., Result]
Copy = Callable[..., Path]
KINDS = {
    "good": ("sentence-transformers", ["vector"]),
    "static": ("sentence-transformers", ["vector"]),
    "encoder": ("transformers", ["vector"]),
    "llama": ("causal-lm", ["logits"]),
    "reranker": ("cross-encoder", ["score"]),
}


def make_golden(result: Result) -> dict[str, Any]:
    """What the lock would keep of a load."""
    assert result["ok"], result["fault"]
    return {name: result[name] for name in ("alias", "device", "dtype", "machine", "versions", "outputs")}


def load_with_golden(
    prove: Prove, folder: Path, golden: dict[str, Any], tolerance: str = "0.001", **more: Any
) -> Result:
    return prove(folder, golden=golden, tolerance=tolerance, **more)


def reverse_rows(weights: Weights, name: str) -> None:
    """The same numbers in another order: nothing that looks at weights alone can take offence."""
    count = len(weights.bytes[name]) // 4
    weights.bytes[name] = struct.pack(f"<{count}f", *reversed(struct.unpack(f"<{count}f", weights.bytes[name])))


@pytest.mark.parametrize("model", KINDS)
def test_each_kind_of_model_gives_its_golden_outputs_again(tiny_models: Path, smoke_load: Prove, model: str) -> None:
    loader, kinds = KINDS[model]
    golden = make_golden(smoke_load(tiny_models / model, loader=loader))
    assert [kept["name"] for kept in golden["outputs"][0]["vectors"]] == kinds
    assert all(output["tokens"] > 3 for output in golden["outputs"])
    kept = documents.decode(Golden, golden)  # the lock takes it
    again = load_with_golden(smoke_load, tiny_models / model, documents.encode(kept), loader=loader)
    assert again["ok"], again["fault"]
    assert "the tokens of every text are those of the rehearsal" in again["checks"]


@pytest.mark.parametrize(
    ("model", "weight"),
    [
        ("encoder", "encoder.layer.1.output.dense.weight"),
        ("llama", "lm_head.weight"),
        ("llama", "model.layers.0.mlp.down_proj.weight"),
        ("reranker", "classifier.weight"),
        ("reranker", "bert.encoder.layer.0.attention.self.query.weight"),
    ],
)
def test_a_changed_weight_is_found_out_and_the_output_that_it_changed_is_named(
    tiny_models: Path, copy_model: Copy, smoke_load: Prove, model: str, weight: str
) -> None:
    loader, (kind,) = KINDS[model]
    golden = make_golden(smoke_load(tiny_models / model, loader=loader))
    folder = copy_model(model)
    weights = Weights(folder / "model.safetensors")
    reverse_rows(weights, weight)
    weights.write()
    assert smoke_load(folder, loader=loader)["ok"], "nothing but the golden outputs sees this"
    result = load_with_golden(smoke_load, folder, golden, loader=loader)
    assert result["fault"].startswith(f"The {kind} of “The cat sat on the mat.")
    assert "\0" not in result["fault"], "a pair of texts is shown as two"
    assert "differs from that of the rehearsal by " in result["fault"]
    assert "(limit 0.001)" in result["fault"]


def test_a_score_that_is_a_little_off(
    tiny_models: Path, copy_model: Copy, edit_weights: Callable[..., None], smoke_load: Prove
) -> None:
    """Half the square of so little would be within any tolerance."""
    golden = make_golden(smoke_load(tiny_models / "reranker", loader="cross-encoder"))
    folder = copy_model("reranker")
    weights = Weights(folder / "model.safetensors")
    (bias,) = struct.unpack("<f", weights.bytes["classifier.bias"])
    edit_weights(folder, "fill", "classifier.bias", bias + 0.02)
    assert smoke_load(folder, loader="cross-encoder")["ok"], "nothing but the golden outputs sees this"
    result = load_with_golden(smoke_load, folder, golden, loader="cross-encoder")
    assert result["fault"].startswith("The score of “The cat sat on the mat. / The cat")
    scores = struct.unpack("<f", base64.b64decode(golden["outputs"][0]["vectors"][0]["values"]))
    apart = 0.02 / max(1.0, abs(scores[0]))
    assert f" differs from that of the rehearsal by {apart:.2g} (limit 0.001)" in result["fault"]
    assert load_with_golden(smoke_load, folder, golden, tolerance="0.03", loader="cross-encoder")["ok"]


def test_weights_of_another_revision(tiny_models: Path, copy_model: Copy, smoke_load: Prove) -> None:
    golden = make_golden(smoke_load(tiny_models / "good"))
    folder = copy_model()
    weights = Weights(folder / "model.safetensors")
    for name, (_, shape) in weights.heads.items():
        if len(shape) == 2:
            reverse_rows(weights, name)
    weights.write()
    assert smoke_load(folder)["ok"], "nothing but the golden outputs sees this"
    result = load_with_golden(smoke_load, folder, golden)
    assert "differs from that of the rehearsal" in result["fault"]
    assert "another revision" in result["hint"]


def test_a_part_of_the_weights_zeroed(
    tiny_models: Path, copy_model: Copy, edit_weights: Callable[..., None], smoke_load: Prove
) -> None:
    """Half of a norm; a matrix that is zero throughout is found without golden outputs too."""
    golden = make_golden(smoke_load(tiny_models / "good"))
    folder = copy_model()
    edit_weights(folder, "fill", "encoder.layer.1.attention.output.LayerNorm.weight", 0.0, 1.0)
    assert smoke_load(folder)["ok"], "nothing but the golden outputs sees this"
    assert "not the weights of the rehearsal" in load_with_golden(smoke_load, folder, golden)["fault"]


def test_a_head_that_is_gone(tiny_models: Path, copy_model: Copy, smoke_load: Prove) -> None:
    """A model saved with Normalize whose modules.json lost it: what is left is consistent in itself."""
    golden = make_golden(smoke_load(tiny_models / "good"))
    folder = copy_model()
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:-1]))
    assert smoke_load(folder)["ok"]
    assert "differs from that of the rehearsal" in load_with_golden(smoke_load, folder, golden)["fault"]


def test_another_tokenizer(tiny_models: Path, copy_model: Copy, smoke_load: Prove) -> None:
    """With the same vocabulary in every file, so that nothing else contradicts it: two words have changed places."""
    golden = make_golden(smoke_load(tiny_models / "good"))
    folder = copy_model()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["cat"], words["dog"] = words["dog"], words["cat"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if (folder / "vocab.txt").exists():
        lines = (folder / "vocab.txt").read_text().split("\n")
        one, other = lines.index("cat"), lines.index("dog")
        lines[one], lines[other] = "dog", "cat"
        (folder / "vocab.txt").write_text("\n".join(lines))
    assert smoke_load(folder)["ok"], "nothing but the golden outputs sees this"
    result = load_with_golden(smoke_load, folder, golden)
    assert result["fault"].startswith("The tokenizer is not that of the rehearsal: “The cat sat on the mat.”")
    assert "tokenizer's files are of another revision" in result["hint"]


def test_other_versions_of_libraries_are_named_where_outputs_differ(tiny_models: Path, smoke_load: Prove) -> None:
    golden = make_golden(smoke_load(tiny_models / "good"))
    here = golden["versions"]["transformers"]
    golden["versions"] = golden["versions"] | {"transformers": "4.57.6"}
    assert load_with_golden(smoke_load, tiny_models / "good", golden)["ok"], (
        "the same outputs by other versions are right"
    )
    golden["outputs"][1]["token_digest"] = "0" * 64
    result = load_with_golden(smoke_load, tiny_models / "good", golden)
    assert f"Library versions differ: transformers {here} instead of 4.57.6." in result["fault"]


def test_another_dtype(tiny_models: Path, smoke_load: Prove) -> None:
    golden = make_golden(smoke_load(tiny_models / "half"))
    assert golden["dtype"] == "float16"
    result = load_with_golden(smoke_load, tiny_models / "half", golden | {"dtype": "float32"})
    assert result["fault"] == "The weights are float16 here and were float32 at the rehearsal."


def test_other_texts(tiny_models: Path, smoke_load: Prove) -> None:
    golden = make_golden(smoke_load(tiny_models / "good"))
    result = load_with_golden(smoke_load, tiny_models / "good", golden, texts=["The dog sat.", "Music and rain."])
    assert "for other texts" in result["fault"]


def test_the_tolerance_is_the_cosine_distance_for_vectors_of_one_length() -> None:
    one, other = [1.0, 0.0], [0.6, 0.8]
    assert goldens.compute_distance(one, other) == pytest.approx(1 - 0.6)
    assert goldens.compute_distance([2.0, 0.0], [1.0, 0.0]) == pytest.approx(0.5), "another length is another vector"
    assert goldens.compute_distance([0.0, 0.0], [0.0, 0.0]) == 0
    assert goldens.compute_distance([1e-6, 0.0], [0.0, 0.0]) < 0.001, (
        "one token of a sparse vector, at the edge of no weight"
    )
    assert goldens.compute_distance([0.3, 0.0], [0.0, 0.0]) > 0.001


def test_of_a_score_the_tolerance_is_the_difference_relative_to_one_above_1() -> None:
    assert goldens.compute_distance([0.52], [0.5]) == pytest.approx(0.02)
    assert goldens.compute_distance([0.01], [0.0]) == pytest.approx(0.01)
    assert goldens.compute_distance([-8.2], [-8.0]) == pytest.approx(0.2 / 8)
    assert goldens.compute_distance([float("nan")], [1.0]) != goldens.compute_distance([1.0], [1.0])


def test_a_wide_vector_travels_by_evenly_spaced_components_and_can_be_thinned_further() -> None:
    wide = [float(n) for n in range(5000)]
    (output,) = goldens.encode_outputs(goldens.make_outputs(["a"], lambda _: [1, 2], {"logits": [wide]}))
    kept = GoldenVector(**output["vectors"][0])
    assert (kept.width, len(base64.b64decode(kept.values))) == (5000, 4 * 1024)
    thin = kept.thin(100)
    values = struct.unpack("<100f", base64.b64decode(thin.values))
    assert list(values) == [float((n * 1024 // 100) * 5000 // 1024) for n in range(100)]
    assert thin.thin(100) is thin


@pytest.mark.parametrize(
    ("values", "width"), [("!", 4), ("AAAA", 4), ("", 4), (base64.b64encode(bytes(8)).decode(), 1)]
)
def test_a_golden_vector_that_makes_no_sense(values: str, width: int) -> None:
    with pytest.raises(documents.InvalidValueError):
        GoldenVector(name="vector", width=width, values=values)


def test_the_real_model_with_a_changed_weight(minilm: Path, linked_minilm: Path, smoke_load: Prove) -> None:
    """A fine-tuned copy under the same name: every file is whole, and the vectors are others."""
    golden = make_golden(smoke_load(minilm))
    path = linked_minilm / "model.safetensors"
    shutil.copyfile(minilm / "model.safetensors", (whole := linked_minilm / "copy"))
    path.unlink()
    whole.rename(path)
    weights = Weights(path)
    reverse_rows(weights, "encoder.layer.5.output.dense.weight")
    weights.write()
    assert smoke_load(linked_minilm)["ok"]
    assert "not the weights of the rehearsal" in load_with_golden(smoke_load, linked_minilm, golden)["fault"]

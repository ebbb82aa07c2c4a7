"""One broken model for each way to fail, each different from a good one by one thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.tensors import Weights
from tests.support.smoke_loads import TEXTS, Answer, Result

Copy = Callable[..., Path]
Prove = Callable[..., Result]
QUERY = "encoder.layer.1.attention.self.query.weight"


def fault(result: Result, *parts: str) -> None:
    """The result is a failure whose sentence holds these parts, and which says what to do."""
    assert not result["ok"]
    for part in parts:
        assert part in result["fault"], result["fault"]
    assert len(result["fault"].splitlines()) == 1
    assert result["hint"]


def change(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def shorten(path: Path, count: int) -> None:
    """Leaves the first tokens of a tokenizer.json."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {token: n for token, n in tokenizer["model"]["vocab"].items() if n < count}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def test_a_broken_model_by_the_command_line(copy: Copy, run: Callable[..., Answer]) -> None:
    folder = copy()
    (folder / "modules.json").unlink()
    answer = run(folder)
    assert answer.code == 3
    fault(answer.result, "modules.json is missing", "mean pooling")
    assert answer.result["traceback"] == ""
    assert answer.result["network"]["proof"]


# Files that are not there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "file", "parts"),
    [
        ("good", "modules.json", ("modules.json is missing",)),
        ("good", "1_Pooling/config.json", ("module Pooling", "1_Pooling/config.json")),
        ("dense", "2_Dense/config.json", ("module Dense", "2_Dense/config.json")),
        ("dense", "2_Dense/model.safetensors", ("module Dense", "2_Dense/model.safetensors", "none of")),
        ("good", "config.json", ("module Transformer", "config.json")),
        ("good", "model.safetensors", ("module Transformer", "model.safetensors", "none of")),
        ("good", "tokenizer.json", ("vocabulary is missing", "tokenizer.json")),
        ("static", "tokenizer.json", ("module StaticEmbedding", "tokenizer.json")),
        ("sharded", "model-00002-of-00004.safetensors", ("split over 4 files", "model-00002-of-00004.safetensors")),
    ],
)
def test_a_missing_file(copy: Copy, prove: Prove, model: str, file: str, parts: tuple[str, ...]) -> None:
    folder = copy(model)
    for gone in [file, "vocab.txt"] if file == "tokenizer.json" else [file]:
        (folder / gone).unlink(missing_ok=gone == "vocab.txt")
    fault(prove(folder), *parts)


def test_the_real_model_without_a_vocabulary(linked: Path, prove: Prove) -> None:
    (linked / "tokenizer.json").unlink()
    (linked / "vocab.txt").unlink()
    fault(prove(linked), "vocabulary is missing")


def test_no_folder(tmp_path: Path, prove: Prove) -> None:
    fault(prove(tmp_path / "nowhere"), "does not exist")


# Files that are damaged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_weight_file_cut_short(copy: Copy, prove: Prove, kept: int) -> None:
    path = copy() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    fault(prove(path.parent), "model.safetensors is cut short")


def test_a_pickle_cut_short(copy: Copy, prove: Prove) -> None:
    path = copy("pickled") / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-200])
    fault(prove(path.parent), "pytorch_model.bin is cut short")


def test_a_pointer_instead_of_weights(copy: Copy, prove: Prove) -> None:
    path = copy() / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    fault(prove(path.parent), "Git LFS pointer")


def test_a_weight_file_of_nothing_but_zero_bytes(copy: Copy, prove: Prove) -> None:
    path = copy() / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    fault(prove(path.parent), "model.safetensors")


@pytest.mark.parametrize("file", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_damaged_json_file(copy: Copy, prove: Prove, file: str) -> None:
    path = copy() / file
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    fault(prove(path.parents[file.count("/")]), Path(file).name)


# Weights that are not those of the model ------------------------------------------------------------------------------


def test_more_layers_than_weights(copy: Copy, prove: Prove) -> None:
    folder = copy()
    change(folder / "config.json", num_hidden_layers=3)
    fault(prove(folder), "files lack 16 weights", "random", "encoder.layer.2", "hold 2 layers", "built with 3")


def test_fewer_layers_than_weights(copy: Copy, prove: Prove) -> None:
    folder = copy()
    change(folder / "config.json", num_hidden_layers=1)
    fault(prove(folder), "leaves out 16 weights of its files", "encoder.layer.1", "hold 2 layers", "built with 1")


def test_a_weight_outside_the_layers_is_missing(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy()
    edit(folder, "drop", "embeddings.LayerNorm.weight")
    fault(prove(folder), "files lack 1 weight of", "random", "embeddings.LayerNorm.weight")


def test_a_weight_that_the_model_has_no_place_for(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy()
    edit(folder, "add", "encoder.rotary.weight", "embeddings.LayerNorm.weight")
    fault(prove(folder), "leaves out 1 weight of its files", "encoder.rotary.weight")


def test_a_dense_layer_without_its_bias(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy("dense")
    edit(folder / "2_Dense", "drop", "linear.bias")
    fault(prove(folder), "Dense", "linear.bias")


def test_weights_of_another_shape(copy: Copy, prove: Prove) -> None:
    folder = copy()
    change(folder / "config.json", intermediate_size=48)
    result = prove(folder)
    fault(result, "another shape than config.json asks for")
    assert "do not belong together" in result["hint"]
    assert "Traceback" in result["traceback"]


def test_all_weights_zero(copy: Copy, prove: Prove) -> None:
    folder = copy()
    weights = Weights(folder / "model.safetensors")
    for name in weights.bytes:
        weights.fill(name, 0.0)
    weights.write()
    fault(prove(folder), "all zero", "weight matrix")


@pytest.mark.parametrize(("number", "says"), [(0.0, "all zero"), (0.5, "one constant, 0.5")])
def test_one_matrix_that_says_nothing(
    copy: Copy, prove: Prove, edit: Callable[..., None], number: float, says: str
) -> None:
    folder = copy()
    edit(folder, "fill", QUERY, number)
    fault(prove(folder), QUERY, says)


def test_a_weight_that_is_no_number(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy()
    edit(folder, "fill", "pooler.dense.bias", float("nan"))
    fault(prove(folder), "pooler.dense.bias", "NaN")


def test_a_library_that_draws_weights_anew(tiny: Path, case: Callable[[str], str]) -> None:
    found = case(f"redrawn {tiny / 'good'}")
    assert "1 weight no longer had the values of the files" in found
    assert "encoder.layer.0.attention.self.query.weight" in found


def test_weights_on_the_meta_device(case: Callable[[str], str]) -> None:
    assert "left 2 weights on the meta device, with a shape but no values: weight, bias" in case("meta")


def test_weights_on_another_device(case: Callable[[str], str]) -> None:
    assert "put 2 weights on another device than cpu" in case("stray")


def test_numbers_of_eight_bits(case: Callable[[str], str]) -> None:
    assert "The weight matrix eight is all zero" in case("float8")


# Tokenizers that know nothing -----------------------------------------------------------------------------------------


def test_a_vocabulary_of_five(copy: Copy, prove: Prove) -> None:
    folder = copy()
    shorten(folder / "tokenizer.json", 5)
    fault(prove(folder), "Every token of", "unknown", "holds 5")


def test_a_tokenizer_of_another_model(copy: Copy, prove: Prove) -> None:
    folder = copy()
    shorten(folder / "tokenizer.json", 30)
    fault(prove(folder, texts=["a b c", "d e f"]), "knows 30 tokens", "71 rows")


def test_texts_that_the_model_does_not_know(tiny: Path, prove: Prove) -> None:
    fault(prove(tiny / "good", texts=["모델과 패키지", "The cat."]), "Every token of “모델과 패키지” is unknown")
    fault(prove(tiny / "good", texts=["cat 모 델 과", "The 패 키 지 를."]), "7 of 10 tokens")


# Modules and vectors --------------------------------------------------------------------------------------------------


def test_other_modules_than_promised(copy: Copy, prove: Prove) -> None:
    folder = copy()
    change(folder / "config_sentence_transformers.json", model_type="CrossEncoder")
    result = prove(folder)
    if result["versions"]["sentence-transformers"].startswith("5."):
        pytest.skip("this version does not look at model_type")
    fault(result, "modules.json declares Transformer, Pooling, Normalize", "consists of Transformer, Pooling")


def test_a_module_that_does_not_exist(copy: Copy, prove: Prove) -> None:
    folder = copy()
    path = folder / "modules.json"
    path.write_text(path.read_text(encoding="utf-8").replace("Normalize", "Normalise"), encoding="utf-8")
    result = prove(folder)
    assert not result["ok"]
    assert "Normalise" in result["fault"]


def test_a_model_that_brings_its_own_code(copy: Copy, prove: Prove) -> None:
    folder = copy()
    change(folder / "config.json", model_type="mystery", auto_map={"AutoConfig": "a.B", "AutoModel": "a.C"})
    result = prove(folder)
    fault(result, "has Python code of its own")
    assert "trust_remote_code" in result["traceback"]


def test_a_model_of_an_unknown_kind(copy: Copy, prove: Prove) -> None:
    folder = copy()
    change(folder / "config.json", model_type="mystery")
    result = prove(folder)
    fault(result, "mystery")
    assert "newer transformers" in result["hint"]


def test_a_wrong_width(copy: Copy, prove: Prove) -> None:
    folder = copy()
    config = folder / "1_Pooling" / "config.json"
    key = next(key for key in json.loads(config.read_text(encoding="utf-8")) if key.endswith("embedding_dimension"))
    change(config, **{key: 48})
    fault(prove(folder), "1_Pooling/config.json declares vectors 48 wide", "32 wide")


def test_zero_vectors(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy("rectified")
    edit(folder / "2_Dense", "fill", "linear.bias", -1e6)
    fault(prove(folder), "is all zero (16 components)", "“The cat sat on the mat.”")


def test_constant_vectors(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy("flat")
    edit(folder / "2_Dense", "fill", "linear.weight", 1e-30, 2e-30)
    edit(folder / "2_Dense", "fill", "linear.bias", 0.5)
    fault(prove(folder), "is constant", "is 0.5")


def test_one_vector_for_all_texts(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy("flat")
    edit(folder / "2_Dense", "fill", "linear.weight", 1e-30, 2e-30)
    edit(folder / "2_Dense", "fill", "linear.bias", 0.5, 0.25, 0.125)
    fault(prove(folder), "get the same vector")


def test_vectors_of_nan(copy: Copy, prove: Prove, edit: Callable[..., None]) -> None:
    folder = copy()
    edit(folder, "fill", "embeddings.LayerNorm.bias", float("nan"))
    fault(prove(folder), "not made of numbers", "32 of 32")


def test_closer_the_wrong_way_round(tiny: Path, prove: Prove) -> None:
    good = prove(tiny / "good", closer=[TEXTS])
    swapped = prove(tiny / "good", closer=[[TEXTS[0], TEXTS[2], TEXTS[1]]])
    assert good["ok"] is not swapped["ok"]
    wrong = swapped if good["ok"] else good
    fault(wrong, "should be closer to", "cosine 0.")


# The host -------------------------------------------------------------------------------------------------------------


def test_more_memory_than_allowed(tiny: Path, prove: Prove) -> None:
    fault(prove(tiny / "good", ram_limit=2**20), "MiB", "the limit is 1.0 MiB (1048576 bytes)")


def test_a_gpu_that_is_not_there(tiny: Path, prove: Prove) -> None:
    result = prove(tiny / "good", device="cuda")
    if result["ok"]:
        pytest.skip("this machine has a GPU")
    fault(result, "for the device cuda", "no GPU")


def test_an_unknown_loader(tiny: Path, prove: Prove) -> None:
    fault(prove(tiny / "good", loader="clip-art"), "clip-art", "sentence-transformers")
    fault(prove(tiny / "good", loader="../files"), "../files")


def test_files_that_are_not_there(tmp_path: Path, prove: Prove) -> None:
    (tmp_path / "empty").mkdir()
    fault(prove(tmp_path / "empty", loader="files"), "holds no files")


def test_no_hub_view(tiny: Path, prove: Prove) -> None:
    fault(prove(tiny / "good", repo_id="nobody/nothing"), "nobody/nothing", "not find it offline")


def test_a_hub_view_of_another_model(tiny: Path, prove: Prove, hub_view: Callable[[Path], str]) -> None:
    repo_id = hub_view(tiny / "half")
    fault(prove(tiny / "good", repo_id=repo_id), f"hub view of {repo_id}", "other files")


def test_a_hub_view_that_lacks_a_file(copy: Copy, prove: Prove, hub_view: Callable[[Path], str]) -> None:
    folder = copy()
    repo_id = hub_view(folder)
    (folder / "later.txt").write_text("new", encoding="utf-8")
    fault(prove(folder, repo_id=repo_id), "lacks later.txt")


def test_a_request_that_makes_no_sense(run: Callable[..., Answer], tmp_path: Path) -> None:
    answer = run(tmp_path, device="tpu")
    assert (answer.code, answer.result) == (2, {})
    assert "device: 'tpu'" in answer.printed

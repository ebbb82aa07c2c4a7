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


def check_failure(result: Result, *parts: str) -> None:
    """The result is a failure whose sentence holds these parts, and which says what to do."""
    assert not result["ok"]
    for part in parts:
        assert part in result["fault"], result["fault"]
    assert len(result["fault"].splitlines()) == 1
    assert result["hint"]


def set_json_keys(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def shorten_vocabulary(path: Path, count: int) -> None:
    """Leaves the first tokens of a tokenizer.json."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {token: n for token, n in tokenizer["model"]["vocab"].items() if n < count}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def test_a_broken_model_by_the_command_line(copy_model: Copy, run: Callable[..., Answer]) -> None:
    folder = copy_model()
    (folder / "modules.json").unlink()
    answer = run(folder)
    assert answer.code == 3
    check_failure(answer.result, "modules.json is missing", "mean pooling")
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
def test_a_missing_file(copy_model: Copy, smoke_load: Prove, model: str, file: str, parts: tuple[str, ...]) -> None:
    folder = copy_model(model)
    for gone in [file, "vocab.txt"] if file == "tokenizer.json" else [file]:
        (folder / gone).unlink(missing_ok=gone == "vocab.txt")
    check_failure(smoke_load(folder), *parts)


def test_the_real_model_without_a_vocabulary(linked_minilm: Path, smoke_load: Prove) -> None:
    (linked_minilm / "tokenizer.json").unlink()
    (linked_minilm / "vocab.txt").unlink()
    check_failure(smoke_load(linked_minilm), "vocabulary is missing")


def test_no_folder(tmp_path: Path, smoke_load: Prove) -> None:
    check_failure(smoke_load(tmp_path / "nowhere"), "does not exist")


# Files that are damaged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_weight_file_cut_short(copy_model: Copy, smoke_load: Prove, kept: int) -> None:
    path = copy_model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    check_failure(smoke_load(path.parent), "model.safetensors is cut short")


def test_a_pickle_cut_short(copy_model: Copy, smoke_load: Prove) -> None:
    path = copy_model("pickled") / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-200])
    check_failure(smoke_load(path.parent), "pytorch_model.bin is cut short")


def test_a_pointer_instead_of_weights(copy_model: Copy, smoke_load: Prove) -> None:
    path = copy_model() / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    check_failure(smoke_load(path.parent), "Git LFS pointer")


def test_a_weight_file_of_nothing_but_zero_bytes(copy_model: Copy, smoke_load: Prove) -> None:
    path = copy_model() / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    check_failure(smoke_load(path.parent), "model.safetensors")


@pytest.mark.parametrize("file", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_damaged_json_file(copy_model: Copy, smoke_load: Prove, file: str) -> None:
    path = copy_model() / file
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    check_failure(smoke_load(path.parents[file.count("/")]), Path(file).name)


# Weights that are not those of the model ------------------------------------------------------------------------------


def test_more_layers_than_weights(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    set_json_keys(folder / "config.json", num_hidden_layers=3)
    check_failure(
        smoke_load(folder), "files lack 16 weights", "random", "encoder.layer.2", "hold 2 layers", "built with 3"
    )


def test_fewer_layers_than_weights(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    set_json_keys(folder / "config.json", num_hidden_layers=1)
    check_failure(
        smoke_load(folder), "leaves out 16 weights of its files", "encoder.layer.1", "hold 2 layers", "built with 1"
    )


def test_a_weight_outside_the_layers_is_missing(
    copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]
) -> None:
    folder = copy_model()
    edit_weights(folder, "drop", "embeddings.LayerNorm.weight")
    check_failure(smoke_load(folder), "files lack 1 weight of", "random", "embeddings.LayerNorm.weight")


def test_a_weight_that_the_model_has_no_place_for(
    copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]
) -> None:
    folder = copy_model()
    edit_weights(folder, "add", "encoder.rotary.weight", "embeddings.LayerNorm.weight")
    check_failure(smoke_load(folder), "leaves out 1 weight of its files", "encoder.rotary.weight")


def test_a_dense_layer_without_its_bias(copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]) -> None:
    folder = copy_model("dense")
    edit_weights(folder / "2_Dense", "drop", "linear.bias")
    check_failure(smoke_load(folder), "Dense", "linear.bias")


def test_weights_of_another_shape(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    set_json_keys(folder / "config.json", intermediate_size=48)
    result = smoke_load(folder)
    check_failure(result, "another shape than config.json asks for")
    assert "do not belong together" in result["hint"]
    assert "Traceback" in result["traceback"]


def test_all_weights_zero(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    weights = Weights(folder / "model.safetensors")
    for name in weights.bytes:
        weights.fill(name, 0.0)
    weights.write()
    check_failure(smoke_load(folder), "all zero", "weight matrix")


@pytest.mark.parametrize(("number", "says"), [(0.0, "all zero"), (0.5, "one constant, 0.5")])
def test_one_matrix_that_says_nothing(
    copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None], number: float, says: str
) -> None:
    folder = copy_model()
    edit_weights(folder, "fill", QUERY, number)
    check_failure(smoke_load(folder), QUERY, says)


def test_a_weight_that_is_no_number(copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]) -> None:
    folder = copy_model()
    edit_weights(folder, "fill", "pooler.dense.bias", float("nan"))
    check_failure(smoke_load(folder), "pooler.dense.bias", "NaN")


def test_a_library_that_draws_weights_anew(tiny_models: Path, case: Callable[[str], str]) -> None:
    found = case(f"redrawn {tiny_models / 'good'}")
    assert "1 weight no longer had the values of the files" in found
    assert "encoder.layer.0.attention.self.query.weight" in found


def test_weights_on_the_meta_device(case: Callable[[str], str]) -> None:
    assert "left 2 weights on the meta device, with a shape but no values: weight, bias" in case("meta")


def test_weights_on_another_device(case: Callable[[str], str]) -> None:
    assert "put 2 weights on another device than cpu" in case("stray")


def test_numbers_of_eight_bits(case: Callable[[str], str]) -> None:
    assert "The weight matrix eight is all zero" in case("float8")


# Tokenizers that know nothing -----------------------------------------------------------------------------------------


def test_a_vocabulary_of_five(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    shorten_vocabulary(folder / "tokenizer.json", 5)
    check_failure(smoke_load(folder), "Every token of", "unknown", "holds 5")


def test_a_tokenizer_of_another_model(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    shorten_vocabulary(folder / "tokenizer.json", 30)
    check_failure(smoke_load(folder, texts=["a b c", "d e f"]), "knows 30 tokens", "71 rows")


def test_texts_that_the_model_does_not_know(tiny_models: Path, smoke_load: Prove) -> None:
    check_failure(
        smoke_load(tiny_models / "good", texts=["모델과 패키지", "The cat."]),
        "Every token of “모델과 패키지” is unknown",
    )
    check_failure(smoke_load(tiny_models / "good", texts=["cat 모 델 과", "The 패 키 지 를."]), "7 of 10 tokens")


# Modules and vectors --------------------------------------------------------------------------------------------------


def test_other_modules_than_promised(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    set_json_keys(folder / "config_sentence_transformers.json", model_type="CrossEncoder")
    result = smoke_load(folder)
    if result["versions"]["sentence-transformers"].startswith("5."):
        pytest.skip("this version does not look at model_type")
    check_failure(result, "modules.json declares Transformer, Pooling, Normalize", "consists of Transformer, Pooling")


def test_a_module_that_does_not_exist(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    path = folder / "modules.json"
    path.write_text(path.read_text(encoding="utf-8").replace("Normalize", "Normalise"), encoding="utf-8")
    result = smoke_load(folder)
    assert not result["ok"]
    assert "Normalise" in result["fault"]


def test_a_model_that_brings_its_own_code(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    set_json_keys(folder / "config.json", model_type="mystery", auto_map={"AutoConfig": "a.B", "AutoModel": "a.C"})
    result = smoke_load(folder)
    check_failure(result, "has Python code of its own")
    assert "trust_remote_code" in result["traceback"]


def test_a_model_of_an_unknown_kind(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    set_json_keys(folder / "config.json", model_type="mystery")
    result = smoke_load(folder)
    check_failure(result, "mystery")
    assert "newer transformers" in result["hint"]


def test_a_wrong_width(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model()
    config = folder / "1_Pooling" / "config.json"
    key = next(key for key in json.loads(config.read_text(encoding="utf-8")) if key.endswith("embedding_dimension"))
    set_json_keys(config, **{key: 48})
    check_failure(smoke_load(folder), "1_Pooling/config.json declares vectors 48 wide", "32 wide")


def test_zero_vectors(copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]) -> None:
    folder = copy_model("rectified")
    edit_weights(folder / "2_Dense", "fill", "linear.bias", -1e6)
    check_failure(smoke_load(folder), "is all zero (16 components)", "“The cat sat on the mat.”")


def test_constant_vectors(copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]) -> None:
    folder = copy_model("flat")
    edit_weights(folder / "2_Dense", "fill", "linear.weight", 1e-30, 2e-30)
    edit_weights(folder / "2_Dense", "fill", "linear.bias", 0.5)
    check_failure(smoke_load(folder), "is constant", "is 0.5")


def test_one_vector_for_all_texts(copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]) -> None:
    folder = copy_model("flat")
    edit_weights(folder / "2_Dense", "fill", "linear.weight", 1e-30, 2e-30)
    edit_weights(folder / "2_Dense", "fill", "linear.bias", 0.5, 0.25, 0.125)
    check_failure(smoke_load(folder), "get the same vector")


def test_vectors_of_nan(copy_model: Copy, smoke_load: Prove, edit_weights: Callable[..., None]) -> None:
    folder = copy_model()
    edit_weights(folder, "fill", "embeddings.LayerNorm.bias", float("nan"))
    check_failure(smoke_load(folder), "not made of numbers", "32 of 32")


def test_closer_the_wrong_way_round(tiny_models: Path, smoke_load: Prove) -> None:
    good = smoke_load(tiny_models / "good", closer=[TEXTS])
    swapped = smoke_load(tiny_models / "good", closer=[[TEXTS[0], TEXTS[2], TEXTS[1]]])
    assert good["ok"] is not swapped["ok"]
    wrong = swapped if good["ok"] else good
    check_failure(wrong, "should be closer to", "cosine 0.")


# The host -------------------------------------------------------------------------------------------------------------


def test_more_memory_than_allowed(tiny_models: Path, smoke_load: Prove) -> None:
    check_failure(smoke_load(tiny_models / "good", ram_limit=2**20), "MiB", "the limit is 1.0 MiB (1048576 bytes)")


def test_a_gpu_that_is_not_there(tiny_models: Path, smoke_load: Prove) -> None:
    result = smoke_load(tiny_models / "good", device="cuda")
    if result["ok"]:
        pytest.skip("this machine has a GPU")
    check_failure(result, "for the device cuda", "no GPU")


def test_an_unknown_loader(tiny_models: Path, smoke_load: Prove) -> None:
    check_failure(smoke_load(tiny_models / "good", loader="clip-art"), "clip-art", "sentence-transformers")
    check_failure(smoke_load(tiny_models / "good", loader="../files"), "../files")


def test_files_that_are_not_there(tmp_path: Path, smoke_load: Prove) -> None:
    (tmp_path / "empty").mkdir()
    check_failure(smoke_load(tmp_path / "empty", loader="files"), "holds no files")


def test_no_hub_view(tiny_models: Path, smoke_load: Prove) -> None:
    check_failure(smoke_load(tiny_models / "good", repo_id="nobody/nothing"), "nobody/nothing", "not find it offline")


def test_a_hub_view_of_another_model(tiny_models: Path, smoke_load: Prove, hub_view: Callable[[Path], str]) -> None:
    repo_id = hub_view(tiny_models / "half")
    check_failure(smoke_load(tiny_models / "good", repo_id=repo_id), f"hub view of {repo_id}", "other files")


def test_a_hub_view_that_lacks_a_file(copy_model: Copy, smoke_load: Prove, hub_view: Callable[[Path], str]) -> None:
    folder = copy_model()
    repo_id = hub_view(folder)
    (folder / "later.txt").write_text("new", encoding="utf-8")
    check_failure(smoke_load(folder, repo_id=repo_id), "lacks later.txt")


def test_a_request_that_makes_no_sense(run: Callable[..., Answer], tmp_path: Path) -> None:
    answer = run(tmp_path, device="tpu")
    assert (answer.code, answer.result) == (2, {})
    assert "device: 'tpu'" in answer.printed

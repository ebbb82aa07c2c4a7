"""Models that work are passed, and what was measured of them is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.smoke_loads import PAYLOAD, Answer, Result

TRIPLE = ["A cat sits on the mat.", "A kitten rests on a rug.", "Stock markets fell sharply today."]
KEYS = {
    "alias", "ok", "fault", "hint", "traceback", "network", "loader", "device", "dtype", "width", "norm",
    "import_seconds", "load_seconds", "first_seconds", "second_seconds", "peak_rss_bytes", "versions", "parameters",
    "checks", "closer", "warnings", "machine", "outputs", "missed",
}  # fmt: skip


def test_a_good_model_by_the_command_line(tiny_models: Path, run: Callable[..., Answer]) -> None:
    answer = run(tiny_models / "good")
    result = answer.result
    assert (answer.code, result.get("fault")) == (0, ""), answer.printed
    assert set(result) == KEYS
    assert result["ok"] is True
    assert (result["alias"], result["loader"], result["device"], result["dtype"]) == (
        "tiny", "sentence-transformers", "cpu", "float32",
    )  # fmt: skip
    assert result["width"] == 32
    assert result["norm"] == pytest.approx(1, abs=1e-3)
    assert result["parameters"] > 10_000
    assert result["peak_rss_bytes"] > 50 * 2**20
    assert min(result[f"{what}_seconds"] for what in ("import", "load", "first", "second")) > 0
    assert {"torch", "transformers", "sentence-transformers"} <= set(result["versions"])
    assert result["network"]["attempts"] == []
    assert "different texts give different vectors" in result["checks"]
    assert result["warnings"] == []


def test_a_copy_in_a_folder_with_a_space(minilm: Path, run: Callable[..., Answer], tmp_path: Path) -> None:
    copy = tmp_path / "a release" / "payload"
    shutil.copytree(PAYLOAD, copy, ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "the models"
    model.symlink_to(minilm)
    answer = run(model, payload=copy, mask=0o077, texts=TRIPLE, closer=[TRIPLE])
    assert (answer.code, answer.result.get("fault")) == (0, ""), answer.printed
    assert answer.result["width"] == 384
    found = answer.result["closer"][0]
    assert found["query"] == TRIPLE[0]
    assert found["nearer"] > 0.4 > found["farther"]
    assert answer.result["warnings"] == []
    if os.geteuid() == 0:
        assert answer.result["network"]["cut"] == "namespace"
        assert answer.result["network"]["interfaces"] == ["lo"]


@pytest.mark.parametrize(
    ("name", "width", "dtype"),
    [
        ("good", 32, "float32"),
        ("unnormalised", 32, "float32"),
        ("dense", 16, "float32"),
        ("half", 32, "float"),
        ("sharded", 32, "float32"),
        ("pickled", 32, "float32"),
        ("headed", 32, "float32"),
        ("two-towers", 32, "float32"),
        ("static", 32, "float32"),
    ],
)
def test_every_shape_of_model(
    tiny_models: Path, smoke_load: Callable[..., Result], name: str, width: int, dtype: str
) -> None:
    result = smoke_load(tiny_models / name)
    assert (result["fault"], result["ok"]) == ("", True), result["traceback"]
    assert result["width"] == width
    assert result["dtype"].startswith(dtype)


def test_an_unused_pooler_may_be_missing(tiny_models: Path, smoke_load: Callable[..., Result]) -> None:
    warnings = "\n".join(smoke_load(tiny_models / "headed")["warnings"])
    assert "pooler.dense" in warnings
    assert "do not affect the vectors" in warnings
    assert "Weights for another task are not used" in warnings
    assert "cls.predictions" in warnings


def test_the_decoder_of_two_towers_may_be_unused(tiny_models: Path, smoke_load: Callable[..., Result]) -> None:
    warnings = smoke_load(tiny_models / "two-towers")["warnings"]
    assert any("decoder" in each and "another task" in each for each in warnings)


def test_token_types_of_zero_are_a_warning(
    copy_model: Callable[[], Path], smoke_load: Callable[..., Result], edit_weights: Callable[..., None]
) -> None:
    folder = copy_model()
    edit_weights(folder, "fill", "embeddings.token_type_embeddings.weight", 0.0)
    result = smoke_load(folder)
    assert result["ok"], result["fault"]
    assert any("token_type_embeddings" in each for each in result["warnings"])


def test_old_names_of_layer_norms(
    copy_model: Callable[[], Path], smoke_load: Callable[..., Result], edit_weights: Callable[..., None]
) -> None:
    folder = copy_model()
    edit_weights(folder, "rename", "embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma")
    edit_weights(folder, "rename", "embeddings.LayerNorm.bias", "embeddings.LayerNorm.beta")
    result = smoke_load(folder)
    assert result["ok"], result["fault"]


def test_missing_companions_are_named(copy_model: Callable[[], Path], smoke_load: Callable[..., Result]) -> None:
    folder = copy_model()
    (folder / "sentence_bert_config.json").unlink()
    (folder / "config_sentence_transformers.json").unlink()
    result = smoke_load(folder)
    assert result["ok"], result["fault"]
    assert {each.split(" ")[0] for each in result["warnings"]} == {
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    }


def test_a_transformer_in_a_folder_of_its_own(
    copy_model: Callable[[], Path], smoke_load: Callable[..., Result]
) -> None:
    folder = copy_model()
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inner / name)
    for name in ("vocab.txt", "special_tokens_map.json", "sentence_bert_config.json"):
        if (folder / name).exists():
            (folder / name).rename(inner / name)
    modules = folder / "modules.json"
    modules.write_text(
        modules.read_text(encoding="utf-8").replace('"path": ""', '"path": "0_Transformer"'), encoding="utf-8"
    )
    result = smoke_load(folder)
    assert result["ok"], result["fault"]
    assert result["warnings"] == []


def test_the_device_that_is_there(tiny_models: Path, smoke_load: Callable[..., Result]) -> None:
    result = smoke_load(tiny_models / "good", device="auto")
    assert result["ok"], result["fault"]
    assert result["device"] in ("cpu", "cuda", "mps")


def test_too_few_texts_are_filled_up(tiny_models: Path, smoke_load: Callable[..., Result]) -> None:
    result = smoke_load(tiny_models / "good", texts=[])
    assert result["ok"], result["fault"]


def test_a_foreign_text_among_texts_for_any_model(tiny_models: Path, smoke_load: Callable[..., Result]) -> None:
    texts = ["The cat sat.", "모델과 패키지", "Green rain."]
    result = smoke_load(tiny_models / "good", texts=texts, any_language=True)
    assert result["ok"], result["fault"]
    assert any("모델과 패키지" in each for each in result["warnings"])
    assert "모델과 패키지" in smoke_load(tiny_models / "good", texts=texts)["fault"]


def test_vocab_txt_may_stand_for_tokenizer_json(linked_minilm: Path, smoke_load: Callable[..., Result]) -> None:
    (linked_minilm / "tokenizer.json").unlink()
    result = smoke_load(linked_minilm)
    assert result["ok"], result["fault"]
    assert "the tokenizer has the vocabulary of vocab.txt" in result["checks"]


def test_files_are_not_loaded_and_the_result_says_so(tiny_models: Path, smoke_load: Callable[..., Result]) -> None:
    result = smoke_load(tiny_models / "good", loader="files")
    assert result["ok"]
    assert result["warnings"][0].startswith("not loaded: tiny")
    assert result["load_seconds"] == 0


def test_the_hub_view_is_found(
    tiny_models: Path, smoke_load: Callable[..., Result], hub_view: Callable[[Path], str]
) -> None:
    result = smoke_load(tiny_models / "good", repo_id=hub_view(tiny_models / "good"))
    assert result["ok"], result["fault"]
    assert any("found offline" in each for each in result["checks"])


@pytest.mark.parametrize("name", ["untouched", "restored"])
def test_looking_changes_nothing(tiny_models: Path, case: Callable[[str], str], name: str) -> None:
    assert case(f"{name} {tiny_models / 'good'}") == ""

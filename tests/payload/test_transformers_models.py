"""Models of transformers alone: encoders, language models and rerankers, good ones and ones broken in one way."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.errors import ResolveError
from bundler.online.inspection import loader_detection
from bundler.online.inspection.model_files import FileListing
from tests.payload.test_broken_models import check_failure, set_json_keys, shorten_vocabulary
from tests.payload.test_working_models import KEYS
from tests.support.programs import run_bundle
from tests.support.servers.hub_server import serve_hub
from tests.support.smoke_loads import TEXTS, Answer, Result, User

Copy = Callable[..., Path]
Prove = Callable[..., Result]
Edit = Callable[..., None]
ENCODER, WRITER, RERANKER = ("encoder", "transformers"), ("llama", "causal-lm"), ("reranker", "cross-encoder")
EACH = pytest.mark.parametrize(("name", "loader"), [ENCODER, WRITER, RERANKER])
LONG = ["The cat sat. " * 400, "The dog sat. " * 400, "Rain."]
LAST_NORM = "encoder.layer.1.output.LayerNorm"


@pytest.mark.parametrize(
    ("name", "loader", "width", "dtype"),
    [
        (*ENCODER, 32, "float32"),
        ("masked", "transformers", 32, "float32"),
        ("encoder-half", "transformers", 32, "float16"),
        ("encoder-sharded", "transformers", 32, "float32"),
        ("roberta", "transformers", 32, "float32"),
        (*WRITER, 71, "float32"),
        ("tied", "causal-lm", 71, "float32"),
        ("gpt2", "causal-lm", 71, "float32"),
        ("llama-half", "causal-lm", 71, "bfloat16"),
        (*RERANKER, 1, "float32"),
        ("reranker-modules", "cross-encoder", 1, "float32"),
        ("reranker-folders", "cross-encoder", 1, "float32"),
    ],
)
@pytest.mark.parametrize("texts", [TEXTS, LONG], ids=["short", "long"])
def test_every_shape_of_model(
    tiny_models: Path, smoke_load: Prove, name: str, loader: str, width: int, dtype: str, texts: list[str]
) -> None:
    result = smoke_load(tiny_models / name, loader=loader, texts=texts)
    assert (result["fault"], result["ok"]) == ("", True), result["traceback"]
    assert set(result) == KEYS
    assert (result["width"], result["dtype"]) == (width, dtype)
    assert result["norm"] > 0
    assert min(result[f"{what}_seconds"] for what in ("load", "first", "second")) > 0
    assert "the weights in memory are those of the files: none random, none left out" in result["checks"]
    assert "the tokenizer has the vocabulary of tokenizer.json" in result["checks"]


BESIDE_CLIP = {
    "pytorch_model.bin": b"b" * 10,
    "tf_model.h5": b"h",
    "flax_model.msgpack": b"f",
    "CLIP.png": b"p",
    ".gitattributes": b"",
    "README.md": b"---\nlicense: mit\n---\n",
    "preprocessor_config.json": b'{"image_processor_type": "CLIPImageProcessor"}',
}


def test_a_model_of_words_and_pictures_comes_from_the_hub(tiny_models: Path, tmp_path: Path, user: User) -> None:
    manifest, locked, packed = (tmp_path / name for name in ("m.yaml", "m.lock", "m.tar"))
    before = {one.name: one.read_bytes() for one in (tiny_models / "clip").iterdir()}
    manifest.write_text("name: n\nversion: '1'\nmodels: [{repo: org/clip}]\n")
    with serve_hub() as hub:
        hub.repository("org/clip", before | BESIDE_CLIP)
        told = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "BUNDLE_CACHE": str(tmp_path / "shelf"),
        }
        done = run_bundle("lock", manifest, "-o", locked, env=told)
        assert "there is no smoke load for its architecture CLIPModel" in done.stderr
        assert "'loader: files' carries any files" in done.stderr
        manifest.write_text(manifest.read_text().replace("org/clip", "org/clip, loader: files"))
        done = run_bundle("lock", manifest, "-o", locked, env=told)
        assert done.returncode == 0, done.stderr
        document = json.loads(locked.read_text())
        names = [one["path"].removeprefix("models/clip/") for one in document["artifacts"] if one["kind"] == "model"]
        assert names == sorted([*before, "README.md", "preprocessor_config.json"])
        assert document["closure"] == []
        assert hub.storage.seen == []
        done = run_bundle("build", "--no-rehearse", manifest, "--lock", locked, "-o", packed, env=told)
        assert done.returncode == 0, done.stderr
    subprocess.run(["tar", "xf", packed, "-C", tmp_path, "models"], check=True)
    said = user("clip", tiny_models / "clip", tmp_path / "models/clip")
    assert said["code"] == 0
    ours, made = said["found"]
    assert ours == made
    assert len(ours) == len(ours[0]) == 2


def test_a_reranker_is_missed_what_it_has_in_folders(copy_model: Copy, user: User) -> None:
    folder, name = copy_model("reranker-folders"), "1_LogitScore/config.json"
    names = {str(one.relative_to(folder)): one for one in folder.rglob("*") if one.is_file()}
    files = FileListing(names=names, read_file=lambda one: names[one].read_bytes())
    assert loader_detection.detect_loader("m", files) == "cross-encoder"
    loader_detection.check_files("cross-encoder", "m", files)
    assert user("cross", folder)["code"] == 0
    names.pop(name).unlink()
    with pytest.raises(ResolveError, match=f"m lacks files that cross-encoder needs: {name} "):
        loader_detection.check_files("cross-encoder", "m", files)
    assert user("cross", folder)["code"] == 1


@EACH
def test_by_the_command_line(tiny_models: Path, run: Callable[..., Answer], name: str, loader: str) -> None:
    answer = run(tiny_models / name, loader=loader)
    assert (answer.code, answer.result.get("fault")) == (0, ""), answer.printed
    assert answer.result["network"]["attempts"] == []
    assert answer.result["warnings"] == []


def test_a_prompt_is_continued(tiny_models: Path, smoke_load: Prove) -> None:
    checks = smoke_load(tiny_models / "llama", loader="causal-lm")["checks"]
    assert any("“The cat sat on the mat.” is continued the same way twice, by" in each for each in checks)


def test_a_tokenizer_that_gives_more_than_its_model_takes_is_no_fault_and_is_said(
    copy_model: Callable[[str], Path], smoke_load: Prove
) -> None:
    """As of Polyglot-Ko: ``generate(**tokenizer(text))`` fails, and the pipeline for text generation does not."""
    folder = copy_model("llama")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    result = smoke_load(folder, loader="causal-lm")
    assert (result["fault"], result["ok"]) == ("", True), result["traceback"]
    (said,) = result["warnings"]
    assert said.startswith("The tokenizer also returns token_type_ids, which generate() refuses")


def test_a_writer_that_can_not_decide(case: Callable[[str], str]) -> None:
    assert "“The cat” was continued in two different ways" in case("undecided")


def test_triples_are_not_asked_of_a_language_model(tiny_models: Path, smoke_load: Prove) -> None:
    for triple in (TEXTS, (TEXTS[0], TEXTS[2], TEXTS[1])):
        result = smoke_load(tiny_models / "llama", loader="causal-lm", closer=[triple])
        assert result["ok"], result["fault"]
        assert result["closer"] == []


@pytest.mark.parametrize(
    ("name", "loader", "says"),
    [(*ENCODER, "should be closer to"), (*RERANKER, "should score higher")],
)
def test_triples_one_way_round_and_the_other(
    tiny_models: Path, smoke_load: Prove, name: str, loader: str, says: str
) -> None:
    results = [
        smoke_load(tiny_models / name, loader=loader, closer=[triple])
        for triple in (TEXTS, (TEXTS[0], TEXTS[2], TEXTS[1]))
    ]
    good, wrong = sorted(results, key=lambda result: not result["ok"])
    assert good["ok"]
    assert good["closer"][0]["nearer"] > good["closer"][0]["farther"]
    check_failure(wrong, says)


@EACH
def test_the_hub_view(
    tiny_models: Path, smoke_load: Prove, hub_view: Callable[[Path], str], name: str, loader: str
) -> None:
    result = smoke_load(tiny_models / name, loader=loader, repo_id=hub_view(tiny_models / name))
    assert result["ok"], result["fault"]
    check_failure(smoke_load(tiny_models / name, loader=loader, repo_id="nobody/nothing"), "not find it offline")


@EACH
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "weights are missing"),
        ("tokenizer.json", "vocabulary is missing"),
    ],
)
def test_a_missing_file(copy_model: Copy, smoke_load: Prove, name: str, loader: str, file: str, says: str) -> None:
    folder = copy_model(name)
    (folder / file).unlink()
    (folder / "vocab.txt").unlink(missing_ok=True)
    check_failure(smoke_load(folder, loader=loader), says)


@EACH
def test_no_folder(tmp_path: Path, smoke_load: Prove, name: str, loader: str) -> None:
    check_failure(smoke_load(tmp_path / name, loader=loader), "does not exist")


@EACH
def test_weights_cut_short(copy_model: Copy, smoke_load: Prove, name: str, loader: str) -> None:
    path = copy_model(name) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    check_failure(smoke_load(path.parent, loader=loader), "model.safetensors is cut short")


def test_a_shard_is_missing(copy_model: Copy, smoke_load: Prove) -> None:
    folder = copy_model("encoder-sharded")
    (folder / "model-00002-of-00004.safetensors").unlink()
    check_failure(smoke_load(folder, loader="transformers"), "split over 4 files", "model-00002-of-00004.safetensors")


@EACH
@pytest.mark.parametrize(("count", "says"), [(3, "are random"), (1, "leaves out")])
def test_another_number_of_layers(
    copy_model: Copy, smoke_load: Prove, name: str, loader: str, count: int, says: str
) -> None:
    folder = copy_model(name)
    set_json_keys(folder / "config.json", num_hidden_layers=count)
    check_failure(smoke_load(folder, loader=loader), says, "hold 2 layers", f"built with {count}")


@pytest.mark.parametrize(
    ("name", "loader", "weight"),
    [
        (*ENCODER, "embeddings.LayerNorm.weight"),
        (*WRITER, "lm_head.weight"),
        (*WRITER, "model.norm.weight"),
        (*RERANKER, "classifier.weight"),
        (*RERANKER, "bert.pooler.dense.weight"),
    ],
)
def test_a_weight_is_missing(
    copy_model: Copy, smoke_load: Prove, edit_weights: Edit, name: str, loader: str, weight: str
) -> None:
    folder = copy_model(name)
    edit_weights(folder, "drop", weight)
    check_failure(smoke_load(folder, loader=loader), "files lack 1 weight of", "random", weight)


@pytest.mark.parametrize(
    ("name", "loader", "weight"),
    [
        (*ENCODER, "encoder.layer.1.attention.self.query.weight"),
        (*WRITER, "model.layers.1.self_attn.q_proj.weight"),
        (*RERANKER, "classifier.weight"),
    ],
)
@pytest.mark.parametrize(("number", "says"), [(0.0, "all zero"), (0.5, "one constant, 0.5")])
def test_a_matrix_that_says_nothing(
    copy_model: Copy,
    smoke_load: Prove,
    edit_weights: Edit,
    name: str,
    loader: str,
    weight: str,
    number: float,
    says: str,
) -> None:
    folder = copy_model(name)
    edit_weights(folder, "fill", weight, number)
    check_failure(smoke_load(folder, loader=loader), weight, says)


@pytest.mark.parametrize(
    ("name", "loader", "weight", "says"),
    [
        (*ENCODER, "embeddings.LayerNorm.bias", "The vector of"),
        (*WRITER, "model.norm.weight", "The logit row of"),
        (*RERANKER, "classifier.bias", "The score of"),
    ],
)
def test_answers_that_are_no_numbers(
    copy_model: Copy, smoke_load: Prove, edit_weights: Edit, name: str, loader: str, weight: str, says: str
) -> None:
    folder = copy_model(name)
    edit_weights(folder, "fill", weight, float("nan"))
    check_failure(smoke_load(folder, loader=loader), says, "not made of numbers")


@pytest.mark.parametrize(
    ("name", "loader", "fills", "says"),
    [
        (*ENCODER, {f"{LAST_NORM}.weight": [0.0], f"{LAST_NORM}.bias": [0.0]}, "all zero"),
        (*ENCODER, {f"{LAST_NORM}.weight": [0.0], f"{LAST_NORM}.bias": [0.5]}, "constant"),
        (*ENCODER, {f"{LAST_NORM}.weight": [0.0], f"{LAST_NORM}.bias": [0.5, 0.25]}, "get the same vector"),
        (*WRITER, {"model.norm.weight": [0.0]}, "is all zero (71 components)"),
        ("gpt2", "causal-lm", {"transformer.ln_f.weight": [0.0]}, "is all zero (71 components)"),
        (
            "gpt2",
            "causal-lm",
            {"transformer.ln_f.weight": [0.0], "transformer.ln_f.bias": [0.5, 0.25]},
            "get the same logit row",
        ),
        (*RERANKER, {"classifier.weight": [1e-30, 2e-30], "classifier.bias": [0.5]}, "pairs of texts get the same"),
    ],
)
def test_answers_that_say_nothing(
    copy_model: Copy,
    smoke_load: Prove,
    edit_weights: Edit,
    name: str,
    loader: str,
    fills: dict[str, list[float]],
    says: str,
) -> None:
    folder = copy_model(name)
    for weight, numbers in fills.items():
        edit_weights(folder, "fill", weight, *numbers)
    check_failure(smoke_load(folder, loader=loader), says)


@EACH
def test_tokenizers_of_another_model(copy_model: Copy, smoke_load: Prove, name: str, loader: str) -> None:
    folder = copy_model(name)
    shorten_vocabulary(folder / "tokenizer.json", 5)
    check_failure(smoke_load(folder, loader=loader), "Every token of", "unknown", "holds 5")


@EACH
def test_too_few_tokens_for_the_rows(copy_model: Copy, smoke_load: Prove, name: str, loader: str) -> None:
    folder = copy_model(name)
    shorten_vocabulary(folder / "tokenizer.json", 30)
    check_failure(smoke_load(folder, loader=loader, texts=["a b c", "d e f"]), "knows 30 tokens", "71 rows")


@pytest.mark.parametrize(("name", "loader"), [ENCODER, WRITER, RERANKER, ("tied", "causal-lm")])
def test_another_number_of_rows(copy_model: Copy, smoke_load: Prove, name: str, loader: str) -> None:
    folder = copy_model(name)
    set_json_keys(folder / "config.json", vocab_size=72)
    check_failure(smoke_load(folder, loader=loader), "another shape than config.json asks for")


def test_a_classifier_is_no_reranker(tiny_models: Path, smoke_load: Prove) -> None:
    check_failure(smoke_load(tiny_models / "classifier", loader="cross-encoder"), "3 numbers for a pair", "classifier")


def test_an_encoder_is_no_reranker(tiny_models: Path, smoke_load: Prove) -> None:
    check_failure(smoke_load(tiny_models / "encoder", loader="cross-encoder"), "classifier.weight", "random")


def test_two_towers_are_no_encoder(tiny_models: Path, smoke_load: Prove) -> None:
    check_failure(smoke_load(tiny_models / "raw-t5", loader="transformers"), "encoder with a decoder")


@EACH
def test_more_memory_than_allowed(tiny_models: Path, smoke_load: Prove, name: str, loader: str) -> None:
    check_failure(smoke_load(tiny_models / name, loader=loader, ram_limit=2**20), "the limit is 1.0 MiB")

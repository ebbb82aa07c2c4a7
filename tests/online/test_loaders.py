"""Which loader a model's files call for, and which files that loader needs."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from bundler.errors import ResolveError
from bundler.online import loaders, manifest

PLAIN = {"config.json": b'{"architectures": ["BertModel"]}', "tokenizer.json": b"{}", "model.safetensors": b""}


def configured(architecture: str, **more: Any) -> dict[str, bytes]:
    """The files of a model of transformers alone."""
    return {**PLAIN, "config.json": json.dumps({"architectures": [architecture], "vocab_size": 9, **more}).encode()}


def seen(files: dict[str, bytes]) -> str:
    return loaders.detected("m", sorted(files), files.__getitem__)


@pytest.mark.parametrize(
    ("architecture", "more", "loader"),
    [
        ("BertModel", {}, "transformers"),
        ("XLMRobertaModel", {}, "transformers"),
        ("BertForMaskedLM", {}, "transformers"),
        ("BertForPreTraining", {}, "transformers"),
        ("LlamaForCausalLM", {}, "causal-lm"),
        ("GPT2LMHeadModel", {}, "causal-lm"),
        ("XLMRobertaForSequenceClassification", {"id2label": {"0": "LABEL_0"}}, "cross-encoder"),
        ("BertForSequenceClassification", {"num_labels": 1}, "cross-encoder"),
    ],
)
def test_the_loader_is_seen_from_the_architecture(architecture: str, more: dict[str, Any], loader: str) -> None:
    assert seen(configured(architecture, **more)) == loader


@pytest.mark.parametrize(
    ("architecture", "more", "says"),
    [
        ("T5ForConditionalGeneration", {"is_encoder_decoder": True}, "no smoke load for its architecture T5For"),
        ("T5Model", {"is_encoder_decoder": True}, "T5Model is an encoder with a decoder"),
        ("CLIPModel", {"vision_config": {}}, "no smoke load for its architecture CLIPModel"),
        ("ViTModel", {"vocab_size": None}, "ViTModel does not read text"),
        ("BertForSequenceClassification", {}, "has 2 labels, and a reranker has one"),
        ("BertForSequenceClassification", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "has 3 labels"),
        ("BertForQuestionAnswering", {}, "no smoke load for its architecture BertForQuestionAnswering"),
        ("", {}, "names no architecture"),
    ],
)
def test_no_loader_is_known(architecture: str, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ResolveError, match=says) as caught:
        seen(configured(architecture, **more))
    assert "'loader: files'" in str(caught.value.hint)


@pytest.mark.parametrize(("content", "says"), [(b"<html>", "not a JSON file"), (b"[]", "no JSON object")])
def test_a_broken_configuration(content: bytes, says: str) -> None:
    with pytest.raises(ResolveError, match=says):
        seen({**PLAIN, "config.json": content})


def test_modules_json_goes_before_the_architecture() -> None:
    files = {**configured("BertModel"), "modules.json": b"[]"}
    assert seen(files) == "sentence-transformers"
    files["config_sentence_transformers.json"] = b'{"model_type": "SentenceTransformer"}'
    assert seen(files) == "sentence-transformers"
    files["config_sentence_transformers.json"] = b'{"model_type": "CrossEncoder"}'
    assert seen(files) == "cross-encoder"


ROUTER = {
    "modules.json": json.dumps([{"type": "sentence_transformers.base.modules.Router", "path": ""}]).encode(),
    "router_config.json": json.dumps(
        {
            "types": {
                "query_0_Static": "sentence_transformers.models.StaticEmbedding",
                "document_0_Transformer": "sentence_transformers.models.Transformer",
                "document_1_Normalize": "sentence_transformers.models.Normalize",
            }
        }
    ).encode(),
    "query_0_Static/model.safetensors": b"",
    **{f"document_0_Transformer/{name}": content for name, content in PLAIN.items()},
}


def test_what_stands_behind_a_router_is_looked_for() -> None:
    loaders.check("sentence-transformers", "m", sorted(ROUTER), ROUTER.__getitem__)
    for without, named in (
        ("query_0_Static/model.safetensors", r"query_0_Static/config\.json"),
        ("document_0_Transformer/tokenizer.json", r"document_0_Transformer/tokenizer\.json"),
        ("router_config.json", r"router_config\.json"),
    ):
        files = {name: content for name, content in ROUTER.items() if name != without}
        with pytest.raises(ResolveError, match=named):
            loaders.check("sentence-transformers", "m", sorted(files), files.__getitem__)


def test_the_heads_of_bge_m3_go_before_modules_json() -> None:
    files = {**configured("XLMRobertaModel"), "modules.json": b"[]", "colbert_linear.pt": b"", "sparse_linear.pt": b""}
    assert seen(files) == "flag-embedding-m3"
    loaders.check("flag-embedding-m3", "m", sorted(files), files.__getitem__)


@pytest.mark.parametrize("head", ["colbert_linear.pt", "sparse_linear.pt"])
def test_a_head_of_bge_m3_is_missing(head: str) -> None:
    files = {**PLAIN, "colbert_linear.pt": b"", "sparse_linear.pt": b""}
    del files[head]
    with pytest.raises(ResolveError, match=rf"{head} \(without it the sparse and ColBERT vectors are random"):
        loaders.check("flag-embedding-m3", "m", sorted(files), files.__getitem__)


@pytest.mark.parametrize("loader", ["transformers", "causal-lm", "cross-encoder", "flag-reranker"])
@pytest.mark.parametrize("without", sorted(PLAIN))
def test_a_file_that_the_loader_needs_is_missing(loader: str, without: str) -> None:
    loaders.check(loader, "m", sorted(PLAIN), PLAIN.__getitem__)
    files = {name: data for name, data in PLAIN.items() if name != without}
    with pytest.raises(ResolveError, match=rf"m lacks files that {loader} needs: {without} \("):
        loaders.check(loader, "m", sorted(files), files.__getitem__)


def test_every_loader_of_a_manifest_has_a_probe_and_the_other_way_round() -> None:
    probes = resources.files("bundler") / "payload" / "probes"
    names = {path.name.removesuffix(".py").replace("_", "-") for path in probes.iterdir() if path.name.endswith(".py")}
    assert names - {"--init--"} == set(manifest.LOADERS)

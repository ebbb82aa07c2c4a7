"""Which loader a model's files call for, and which files that loader needs."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from typing import Any

import pytest

from bundler.errors import ResolveError
from bundler.online.inspection import loader_detection, loaders
from bundler.online.inspection.model_files import FileListing
from bundler.online.manifest.schema import ModelSpec
from bundler.online.models import file_selection, model_resolution

M3_HEADS = loaders.FLAG_EMBEDDING_M3.marker_files
PLAIN = {"config.json": b'{"architectures": ["BertModel"]}', "tokenizer.json": b"{}", "model.safetensors": b""}


def make_model_files(architecture: str, **more: Any) -> dict[str, bytes]:
    """The files of a model of transformers alone."""
    return {**PLAIN, "config.json": json.dumps({"architectures": [architecture], "vocab_size": 9, **more}).encode()}


def listing(files: dict[str, bytes]) -> FileListing:
    return FileListing(names=frozenset(files), read_file=files.__getitem__)


def detect_loader(files: dict[str, bytes]) -> str:
    return loader_detection.detect_loader("m", listing(files))


def check_loader(files: dict[str, bytes], **asked: Any) -> str:
    """The loader of a model whose source has these files, of which the patterns of a manifest may remove some."""
    wanted = ModelSpec(**{"path": "m"} | asked)
    names = sorted(set(files) - file_selection.find_removed(files, wanted.include, wanted.exclude))
    return model_resolution._check_selection(wanted, wanted.source, names, tuple(files), files.__getitem__)


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
    assert detect_loader(make_model_files(architecture, **more)) == loader


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
        detect_loader(make_model_files(architecture, **more))
    assert "'loader: files'" in str(caught.value.hint)


@pytest.mark.parametrize(("content", "says"), [(b"<html>", "not a JSON file"), (b"[]", "no JSON object")])
def test_a_broken_configuration(content: bytes, says: str) -> None:
    with pytest.raises(ResolveError, match=says):
        detect_loader({**PLAIN, "config.json": content})


def test_modules_json_goes_before_the_architecture() -> None:
    files = {**make_model_files("BertModel"), "modules.json": b"[]"}
    assert detect_loader(files) == "sentence-transformers"
    files["config_sentence_transformers.json"] = b'{"model_type": "SentenceTransformer"}'
    assert detect_loader(files) == "sentence-transformers"
    files["config_sentence_transformers.json"] = b'{"model_type": "CrossEncoder"}'
    assert detect_loader(files) == "cross-encoder"


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
    "query_0_Static/tokenizer.json": b"{}",
    **{f"document_0_Transformer/{name}": content for name, content in PLAIN.items()},
}


def test_what_stands_behind_a_router_is_looked_for() -> None:
    loader_detection.check_files("sentence-transformers", "m", listing(ROUTER))
    for without, named in (
        ("query_0_Static/model.safetensors", r"query_0_Static/model\.safetensors"),
        ("query_0_Static/tokenizer.json", r"query_0_Static/tokenizer\.json"),
        ("document_0_Transformer/tokenizer.json", r"document_0_Transformer/tokenizer\.json"),
        ("router_config.json", r"router_config\.json"),
    ):
        files = {name: content for name, content in ROUTER.items() if name != without}
        with pytest.raises(ResolveError, match=named):
            loader_detection.check_files("sentence-transformers", "m", listing(files))


OF_A_CROSS_ENCODER = {
    "modules.json": json.dumps(
        [
            {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": "0_Transformer"},
            {"type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore", "path": "1_LogitScore"},
        ]
    ).encode(),
    "config_sentence_transformers.json": b'{"model_type": "CrossEncoder"}',
    **{f"0_Transformer/{name}": content for name, content in make_model_files("LlamaForCausalLM").items()},
    "1_LogitScore/config.json": b'{"true_token_id": 1}',
}


def test_a_cross_encoder_may_stand_in_folders() -> None:
    assert check_loader(OF_A_CROSS_ENCODER) == "cross-encoder"
    for name in ("0_Transformer/config.json", "0_Transformer/model.safetensors", "1_LogitScore/config.json"):
        with pytest.raises(ResolveError, match=rf"m lacks files that cross-encoder needs: {name} \("):
            check_loader({other: content for other, content in OF_A_CROSS_ENCODER.items() if other != name})
        with pytest.raises(ResolveError, match=name):
            check_loader(OF_A_CROSS_ENCODER, exclude=(name,))


def test_of_another_s_modules_a_cross_encoder_takes_none() -> None:
    files = {**make_model_files("BertForSequenceClassification", num_labels=1), "modules.json": b"[]"}
    assert check_loader(files, loader="cross-encoder") == "cross-encoder"


def test_the_heads_of_bge_m3_go_before_modules_json() -> None:
    files = {
        **make_model_files("XLMRobertaModel"),
        "modules.json": b"[]",
        "colbert_linear.pt": b"",
        "sparse_linear.pt": b"",
    }
    assert detect_loader(files) == "flag-embedding-m3"
    loader_detection.check_files("flag-embedding-m3", "m", listing(files))


@pytest.mark.parametrize(
    ("patterns", "lost"),
    [
        ({"exclude": ("*.pt",)}, "colbert_linear.pt and sparse_linear.pt"),
        ({"exclude": ("colbert*",)}, "colbert_linear.pt"),
        ({"exclude": ("sparse*",)}, "sparse_linear.pt"),
        ({"include": ("*.json", "*/config.json", "*.safetensors")}, "colbert_linear.pt and sparse_linear.pt"),
    ],
)
@pytest.mark.parametrize("modules", [{}, {"modules.json": b"[]"}])
def test_a_pattern_that_removes_a_head_of_bge_m3_makes_no_other_model_of_it(
    patterns: dict[str, tuple[str, ...]], lost: str, modules: dict[str, bytes]
) -> None:
    files = make_model_files("XLMRobertaModel") | dict.fromkeys(M3_HEADS, b"") | modules
    other = "sentence-transformers" if modules else "transformers"
    with pytest.raises(ResolveError, match=f"is a model for flag-embedding-m3, and .* removes {lost}$") as caught:
        check_loader(files, **patterns)
    assert f"'loader: {other}', if dense vectors are all" in caught.value.hint
    assert check_loader(files, **patterns, loader=other) == other


def test_a_pattern_that_removes_the_list_of_modules_makes_no_other_model_of_it() -> None:
    files = make_model_files("BertModel") | {"modules.json": b"[]"}
    with pytest.raises(ResolveError, match=r"is a model for sentence-transformers, and .* removes modules\.json$"):
        check_loader(files, exclude=("modules.json",))
    assert check_loader(files, exclude=("modules.json",), loader="transformers") == "transformers"
    files |= dict.fromkeys(M3_HEADS, b"")  # by which it is seen in any case, and which do without
    assert check_loader(files, exclude=("modules.json",)) == "flag-embedding-m3"


def test_either_head_of_bge_m3_tells_its_loader() -> None:
    for head in M3_HEADS:
        assert (
            detect_loader(make_model_files("XLMRobertaModel") | {head: b"", "modules.json": b"[]"})
            == "flag-embedding-m3"
        )


@pytest.mark.parametrize("head", ["colbert_linear.pt", "sparse_linear.pt"])
def test_a_head_of_bge_m3_is_missing(head: str) -> None:
    files = {**PLAIN, "colbert_linear.pt": b"", "sparse_linear.pt": b""}
    del files[head]
    with pytest.raises(ResolveError, match=rf"{head} \(without it the sparse and ColBERT vectors are random"):
        loader_detection.check_files("flag-embedding-m3", "m", listing(files))


@pytest.mark.parametrize("loader", ["transformers", "causal-lm", "cross-encoder", "flag-reranker"])
@pytest.mark.parametrize("without", sorted(PLAIN))
def test_a_file_that_the_loader_needs_is_missing(loader: str, without: str) -> None:
    loader_detection.check_files(loader, "m", listing(PLAIN))
    files = {name: data for name, data in PLAIN.items() if name != without}
    with pytest.raises(ResolveError, match=rf"m lacks files that {loader} needs: {without} \("):
        loader_detection.check_files(loader, "m", listing(files))


def listed(*modules: tuple[str, str]) -> bytes:
    """A modules.json."""
    return json.dumps(
        [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    ).encode()


DENSE = {
    **PLAIN,
    "modules.json": listed(("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_N")),
    "1_Pooling/config.json": b"{}",
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": b"",
    "2_Dense/pytorch_model.bin": b"",
}
ASSEMBLED = {
    "modules.json": listed(("WordEmbeddings", "0_WordEmbeddings"), ("LSTM", "1_LSTM"), ("StaticEmbedding", "2_Static")),
    "0_WordEmbeddings/wordembedding_config.json": b"{}",
    "0_WordEmbeddings/whitespacetokenizer_config.json": b"{}",
    "0_WordEmbeddings/pytorch_model.bin": b"",
    "1_LSTM/lstm_config.json": b"{}",
    "1_LSTM/pytorch_model.bin": b"",
    "2_Static/tokenizer.json": b"{}",
    "2_Static/model.safetensors": b"",
}


@pytest.mark.parametrize(
    ("files", "pattern", "named"),
    [
        (DENSE, "2_Dense/*o*l.*", r"2_Dense/model\.safetensors \(the weights of a Dense\); 2_Dense/pytorch_model\.bin"),
        (DENSE, "2_Dense/config.json", r"2_Dense/config\.json"),
        *((ASSEMBLED, name, name.replace(".", r"\.")) for name in sorted(ASSEMBLED) if name != "modules.json"),
    ],
)
def test_a_module_needs_its_settings_and_its_weights(files: dict[str, bytes], pattern: str, named: str) -> None:
    assert check_loader(files) == "sentence-transformers"
    with pytest.raises(ResolveError, match=f"lacks files that sentence-transformers needs: {named}") as caught:
        check_loader(files, exclude=(pattern,))
    assert "let include and exclude keep " in caught.value.hint


@pytest.mark.parametrize("pattern", ["*.bin", "*.safetensors"])
def test_weights_in_one_format_are_enough(pattern: str) -> None:
    assert check_loader({**DENSE, "pytorch_model.bin": b""}, exclude=(pattern,)) == "sentence-transformers"


SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
SHARDED = {
    "config.json": PLAIN["config.json"],
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
    SHARDS[0]: b"",
}


@pytest.mark.parametrize("folder", ["", "0_Transformer/"])
def test_of_weights_that_are_half_there_the_way_out_is_named(folder: str) -> None:
    loader = "sentence-transformers" if folder else "transformers"
    top = {"modules.json": listed(("Transformer", folder.strip("/")))}
    files = top | {f"{folder}{name}": data for name, data in SHARDED.items()}
    for more, way_out in (
        ({}, "no set of its weights is complete: fetch it again"),
        ({"pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-1.bin"}}'}, "no set of its weights"),
        ({"pytorch_model.bin": b""}, f"'exclude: [\"{folder}model*.safetensors*\"]' takes that instead"),
    ):
        files |= {f"{folder}{name}": data for name, data in more.items()}
        with pytest.raises(ResolveError, match=rf"{folder}{SHARDS[1]} \(a shard of the weights\)$") as caught:
            check_loader(files, loader=loader)
        assert way_out in caught.value.hint
    assert check_loader(files, loader=loader, exclude=(f"{folder}model*.safetensors*",)) == loader
    assert check_loader({**files, f"{folder}{SHARDS[1]}": b""}, loader=loader) == loader
    assert check_loader({**files, f"{folder}model.safetensors": b""}, loader=loader) == loader


def test_half_a_vocabulary_is_none() -> None:
    files = {**make_model_files("LlamaForCausalLM"), "vocab.json": b"{}", "merges.txt": b""}
    assert (
        check_loader(files)
        == check_loader(files, exclude=("merges.txt",))
        == check_loader(files, exclude=("vocab.*",))
        == "causal-lm"
    )
    del files["tokenizer.json"]
    assert check_loader(files) == "causal-lm"
    for name in ("merges.txt", "vocab.json"):
        with pytest.raises(ResolveError, match=rf"lacks files that causal-lm needs: .*{name} "):
            check_loader(files, exclude=(name,))
    del files["merges.txt"]
    with pytest.raises(ResolveError, match=r"merges\.txt \(vocab\.json is no vocabulary without it"):
        check_loader(files)
    assert check_loader({**files, "sentencepiece.bpe.model": b""}) == "causal-lm"
    assert check_loader(
        {**files, "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": "t.T"}}'}, trust_remote_code=True
    )


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        *(("causal-lm", name) for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json")),
        *(("sentence-transformers", name) for name in ("config_sentence_transformers.json", "chat_template.jinja")),
        *(("sentence-transformers", name) for name in ("sentence_bert_config.json", "sentence_xlnet_config.json")),
        *(("cross-encoder", name) for name in ("tokenizer_config.json", "modules.json")),
        *((loader, "special_tokens_map.json") for loader in ("transformers", "flag-embedding-m3", "flag-reranker")),
        ("flag-embedding-m3", "additional_chat_templates/tool.jinja"),
    ],
)
def test_what_a_loader_takes_in_silence_no_pattern_removes(loader: str, name: str) -> None:
    files = {**DENSE, **dict.fromkeys(M3_HEADS, b"")}
    assert check_loader(files, loader=loader) == loader  # where the source has none, none is missed
    files[name] = b"{}"
    assert check_loader(files, loader=loader) == loader
    said = rf"m lacks files that {loader} needs: {name} \(read where it exists, and the source has it\)$"
    for patterns in ({"exclude": (name,)}, {"include": tuple(sorted(set(files) - {name}))}):
        with pytest.raises(ResolveError, match=said) as caught:
            check_loader(files, loader=loader, **patterns)
        assert f"let include and exclude keep {name};" in caught.value.hint
        assert check_loader(files, loader="files", **patterns) == "files"


def test_the_default_choice_leaves_out_nothing_that_a_loader_takes() -> None:
    taken = {name.replace("*", "x") for loader in loaders.REGISTRY for name in loader.optional_files}
    files = dict.fromkeys([*DENSE, *ASSEMBLED, *taken, *M3_HEADS], 1)
    assert {one.path for one in file_selection.select_files(files, (), (), where="m").excluded} == {
        "2_Dense/pytorch_model.bin"
    }


def test_each_loader_has_one_row_and_says_which_optional_files_it_reads() -> None:
    assert len(loaders.REGISTRY) == len(loaders.LOADERS)
    assert all(loader.optional_files for loader in loaders.REGISTRY if loader.is_smoke_loaded)


def test_no_two_loaders_have_the_same_suffix_or_marker_file() -> None:
    for field in ("architecture_suffixes", "marker_files"):
        owners: dict[str, str] = {}
        for loader in loaders.REGISTRY:
            for text in getattr(loader, field):
                owner = owners.setdefault(text, loader.name)
                assert owner == loader.name, f"{field}: {owner} and {loader.name} have {text!r}; remove it from one"


def test_of_two_loaders_with_the_same_suffix_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    later = dataclasses.replace(loaders.CAUSAL_LM, name="later")
    monkeypatch.setattr(loaders, "REGISTRY", (*loaders.REGISTRY, later))
    assert detect_loader(make_model_files("LlamaForCausalLM")) == "causal-lm"
    longer = dataclasses.replace(later, architecture_suffixes=("LlamaForCausalLM",))
    monkeypatch.setattr(loaders, "REGISTRY", (*loaders.REGISTRY, longer))
    assert detect_loader(make_model_files("LlamaForCausalLM")) == "later"


def test_every_loader_of_a_manifest_has_a_probe_and_the_other_way_round() -> None:
    probes = resources.files("bundler") / "payload" / "probes"
    names = {path.name.removesuffix(".py").replace("_", "-") for path in probes.iterdir() if path.name.endswith(".py")}
    assert names - {"--init--"} == set(loaders.LOADERS)

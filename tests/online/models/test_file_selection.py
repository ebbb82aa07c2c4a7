"""Which files travel when nobody says which."""

from __future__ import annotations

import pytest

from bundler.errors import ManifestError, ResolveError
from bundler.online.models import file_selection
from bundler.online.models.file_selection import FileSelection

BGE_M3 = (
    *("1_Pooling/config.json", "README.md", "config.json", "modules.json", "sentence_bert_config.json"),
    *("sentencepiece.bpe.model", "tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"),
    *("config_sentence_transformers.json", "colbert_linear.pt", "sparse_linear.pt", "pytorch_model.bin"),
)
BESIDE_BGE_M3 = (
    "onnx/model.onnx",
    "onnx/model.onnx_data",
    "onnx/tokenizer.json",
    "imgs/bm25.jpg",
    "imgs/x.PNG",
    "long.jpg",
)
INDEX = "model.safetensors.index.json"


def shards(stem: str, end: str, *numbers: int, of: int) -> tuple[str, ...]:
    return tuple(f"{stem}-{number:05}-of-{of:05}.{end}" for number in numbers)


def choose_files(*files: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> FileSelection:
    return file_selection.select_files(dict.fromkeys(files, 10), include, exclude, where="repo:org/m")


def list_excluded(*files: str) -> list[str]:
    return [one.path for one in choose_files(*files).excluded]


def test_what_bge_m3_needs_stays_and_the_rest_goes() -> None:
    found = choose_files(*BGE_M3, *BESIDE_BGE_M3, ".gitattributes")
    assert found.names == tuple(sorted(BGE_M3))
    assert sorted(one.path for one in found.excluded) == sorted(BESIDE_BGE_M3)
    assert found.summary.startswith("leaves out images (3 files); ONNX (3 files); that saves 60 bytes")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "modeling_x.py",
            "chat_template.jinja",
            "additional_chat_templates/tool.jinja",
            "tokenizer.model",
            "merges.txt",
        ),
        *("2_Dense/pytorch_model.bin", "0_Transformer/config.json", "adapter_config.json", "generation_config.json"),
        *("preprocessor_config.json", "LICENSE", "colbert_linear.pt", "model.fp16.safetensors", "vocab.txt"),
    ],
)
def test_what_a_loader_may_need_stays(name: str) -> None:
    assert list_excluded("config.json", "model.safetensors", name) == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "tf_model.h5",
            "flax_model.msgpack",
            "rust_model.ot",
            "model-q4.gguf",
            "openvino/openvino_model.bin",
            "a/b.svg",
        ),
        *(
            "openvino_model.xml",
            "coreml/m.mlmodel",
            "optimizer.pt",
            "checkpoint-1/rng_state_0.pth",
            "training_args.bin",
        ),
        *(
            "original/consolidated.00.pth",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ),
        *shards("pytorch_model", "bin", 1, of=2),
    ],
)
def test_what_no_loader_reads_goes(name: str) -> None:
    assert list_excluded("config.json", "model.safetensors", name) == [name]


def test_bin_goes_only_where_the_safetensors_are_whole() -> None:
    two_bins = shards("pytorch_model", "bin", 1, 2, of=2)
    assert list_excluded(*two_bins, *shards("model", "safetensors", 1, 2, 3, of=3), INDEX) == list(two_bins)
    assert list_excluded(*two_bins, *shards("model", "safetensors", 1, 3, of=3), INDEX) == []
    assert list_excluded(*two_bins, *shards("model", "safetensors", 1, 2, 3, of=3)) == []
    assert list_excluded(*two_bins, INDEX) == []


def test_half_a_set_of_safetensors_goes_where_bin_is_whole() -> None:
    half = (*shards("model", "safetensors", 1, of=2), INDEX)
    found = choose_files("config.json", "pytorch_model.bin", *half)
    assert found.names == ("config.json", "pytorch_model.bin")
    said = "leaves out incomplete safetensors where .bin is complete (2 files); that saves 20 bytes"
    assert found.summary.startswith(said)
    two_bins = shards("pytorch_model", "bin", 1, 2, of=2)
    assert list_excluded(*two_bins, "pytorch_model.bin.index.json", *half) == sorted(half)
    assert list_excluded(*two_bins[:1], "pytorch_model.bin.index.json", *half) == []
    assert list_excluded("a/pytorch_model.bin", *half) == []
    assert list_excluded("adapter_model.bin", *half) == []
    assert list_excluded("pytorch_model.bin", INDEX, "model-1.safetensors") == []  # which the index may name


def test_a_pattern_over_safetensors_takes_their_index_along() -> None:
    found = choose_files(
        "pytorch_model.bin", *shards("model", "safetensors", 1, 2, of=2), INDEX, exclude=("*.safetensors",)
    )
    assert found.names == ("pytorch_model.bin",)


def test_each_folder_and_each_name_is_judged_apart() -> None:
    assert list_excluded("model.safetensors", "2_Dense/pytorch_model.bin") == []
    assert list_excluded("2_Dense/model.safetensors", "2_Dense/pytorch_model.bin") == ["2_Dense/pytorch_model.bin"]
    assert list_excluded("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin") == ["adapter_model.bin"]


def test_exclude_counts_before_the_choice() -> None:
    found = choose_files("model.safetensors", "pytorch_model.bin", "a.json", exclude=("*.safetensors",))
    assert found.names == ("a.json", "pytorch_model.bin")


def test_include_is_exact() -> None:
    found = choose_files("model.safetensors", "onnx/model.onnx", "config.json", include=("onnx/*",))
    assert (found.names, found.excluded, found.summary) == (("onnx/model.onnx",), (), "")
    with pytest.raises(ManifestError, match="no files are left"):
        choose_files("a", include=("b",))


def test_weights_that_are_there_in_other_formats_only_are_not_left_out_in_silence() -> None:
    with pytest.raises(ResolveError, match="the source has weights as GGUF and ONNX only") as caught:
        choose_files("README.md", "m.gguf", "onnx/model.onnx")
    assert "include" in caught.value.hint
    assert choose_files("README.md", "m.gguf", include=("*.gguf",)).names == ("m.gguf",)

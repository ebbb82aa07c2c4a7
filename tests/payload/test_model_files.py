"""What is read from a model's files without any library: weights, vocabularies, names, requests."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from bundler.payload.files import declared_config, tensor_files, vocabulary, weight_names
from bundler.payload.load import request
from bundler.payload.results.failures import CheckFailedError


def safetensors(path: Path, entries: dict[str, Any], content: bytes) -> Path:
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    return path


def entry(begin: int, end: int, *shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def test_a_header_says_where_each_tensor_is(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "model.safetensors", {"__metadata__": {}, "a": entry(0, 8, 2)}, b"01234567")
    (found,) = tensor_files.read_header(path)
    assert (found.name, found.dtype, found.shape) == ("a", "F32", (2,))
    assert path.read_bytes()[found.start : found.end] == b"01234567"


@pytest.mark.parametrize(
    ("entries", "content", "says"),
    [
        ({"a": entry(0, 8, 2)}, b"0123456", "is cut short: its header declares"),
        ({"a": entry(0, 8, 2)}, b"012345678", "is too long"),
        ({"a": {"dtype": "F32"}}, b"", "does not say where a is"),
        ({"a": 1}, b"", "The entry a of model.safetensors"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, entries: dict[str, Any], content: bytes, says: str) -> None:
    path = safetensors(tmp_path / "model.safetensors", entries, content)
    with pytest.raises(CheckFailedError, match=says):
        tensor_files.read_header(path)


@pytest.mark.parametrize("content", [b"", b"\x05", bytes(100), b"\xff" * 100, struct.pack("<Q", 4) + b"{,,}"])
def test_no_header_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckFailedError, match=r"cut short or damaged|is damaged"):
        tensor_files.read_header(path)


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
    assert tensor_files.find_weight_files(tmp_path) == (tmp_path / "model.safetensors",)
    assert tensor_files.find_weight_files(tmp_path / "none") == ()


def test_shards(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "1.safetensors").touch()
    with pytest.raises(CheckFailedError, match=r"split over 2 files, .* missing: 2\.safetensors"):
        tensor_files.find_weight_files(tmp_path)


# Vocabularies ---------------------------------------------------------------------------------------------------------


def sentencepiece(*words: str) -> bytes:
    """A sentencepiece model with these pieces and a field of each other kind behind them."""
    pieces = b"".join(b"\x0a" + bytes([len(word) + 2]) + b"\x0a" + bytes([len(word)]) + word.encode() for word in words)
    return pieces + b"\x12\x02ab" + b"\x18\x96\x01" + b"\x21" + bytes(8) + b"\x2d" + bytes(4)


def test_each_kind_of_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(sentencepiece("a", "bc", "d"))
    assert vocabulary.read_vocabulary(tmp_path) == vocabulary.Vocabulary(source="spiece.model", size=3, ids={})
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}', encoding="utf-8")
    assert vocabulary.read_vocabulary(tmp_path) == vocabulary.Vocabulary(
        source="vocab.json", size=2, ids={"a": 0, "b": 1}
    )
    (tmp_path / "vocab.txt").write_text("a\n\u2028\nb\n", encoding="utf-8")
    found = vocabulary.read_vocabulary(tmp_path)
    assert found is not None
    assert found.ids == {"a": 0, "\u2028": 1, "b": 2}
    unigram = {"model": {"vocab": [["a", 0.0], ["b", -1.0]]}, "added_tokens": [{"id": 2, "content": "[X]"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(unigram), encoding="utf-8")
    found = vocabulary.read_vocabulary(tmp_path)
    assert found is not None
    assert found.ids == {"a": 0, "b": 1, "[X]": 2}


def test_a_tokenizer_without_files(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="vocabulary is missing"):
        vocabulary.read_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}', encoding="utf-8")
    assert vocabulary.read_vocabulary(tmp_path) is None


@pytest.mark.parametrize("cut", [1, 3, 12])
def test_a_sentencepiece_model_cut_short(cut: int) -> None:
    with pytest.raises(CheckFailedError, match="sentencepiece model is"):
        vocabulary.count_pieces(sentencepiece("some", "words")[:-cut])


IDS = {f"t{n}": n for n in range(100)}
FILES = vocabulary.Vocabulary(source="vocab.txt", size=100, ids=IDS)


@pytest.mark.parametrize(
    ("held", "rows", "says"),
    [
        ({token: n for token, n in IDS.items() if n < 5}, 100, "declares 100 tokens, but the loaded tokenizer has 5"),
        ({token: 99 - n for token, n in IDS.items()}, 100, "100 have another number"),
        (IDS, 250, "knows 100 tokens, but the model has 250 rows"),
        (IDS, 50, "50 rows for tokens, and 50 tokens of the tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_the_promised_one(held: dict[str, int], rows: int, says: str) -> None:
    assert vocabulary.check_vocabulary(FILES, IDS, 100) == []
    assert vocabulary.check_vocabulary(FILES, IDS, None) == []
    assert len(vocabulary.check_vocabulary(FILES, IDS, 120)) == 1
    with pytest.raises(CheckFailedError, match=says):
        vocabulary.check_vocabulary(FILES, held, rows)


def test_unknown_tokens() -> None:
    assert vocabulary.check_known_tokens(["a b"], [[1, 2]], 0, 9) == []
    assert vocabulary.check_known_tokens(["a b"], [[0, 2]], 0, 9) == []
    assert vocabulary.check_known_tokens(["a b"], [[0, 0]], None, 9) == []
    assert len(vocabulary.check_known_tokens(["a", "b c"], [[0], [1, 2]], 0, 9, any_language=True)) == 1
    cases: list[tuple[list[str], list[list[int]], str]] = [
        (["a", "b c"], [[0], [1, 2]], "Every token of “a”"),
        (["a"], [[]], "finds no token in “a”"),
        (["a b c"], [[0, 0, 1]], "2 of 3 tokens"),
    ]
    for texts, tokens, says in cases:
        with pytest.raises(CheckFailedError, match=says):
            vocabulary.check_known_tokens(texts, tokens, 0, 9)
    with pytest.raises(CheckFailedError, match="Every token"):
        vocabulary.check_known_tokens(["a", "b"], [[0], [0]], 0, 9, any_language=True)


# Names of weights -----------------------------------------------------------------------------------------------------


def test_names_are_matched_through_prefixes_and_old_names() -> None:
    stored: dict[str, weight_names.Shape] = {
        "bert.a.LayerNorm.gamma": (4,),
        "bert.b.weight": (4, 4),
        "cls.predictions.bias": (9,),
        "bert.embeddings.position_ids": (1, 9),
    }
    held: dict[str, weight_names.Shape] = {
        "a.LayerNorm.weight": (4,),
        "b.weight": (4, 4),
        "pooler.dense.weight": (4, 4),
    }
    found = weight_names.match_weights(stored, held, "bert")
    assert dict(found.pairs) == {"bert.a.LayerNorm.gamma": "a.LayerNorm.weight", "bert.b.weight": "b.weight"}
    assert found.only_in_file == ("cls.predictions.bias",)
    assert found.only_in_memory == ("pooler.dense.weight",)


def test_what_a_library_fuses_counts_as_found() -> None:
    stored: dict[str, weight_names.Shape] = {"e.0.q": (4, 4), "e.0.k": (4, 4), "cls.bias": (3,)}
    found = weight_names.match_weights(stored, {"e.0.qk": (8, 4)}, "")
    assert (found.transformed, found.only_in_file, found.only_in_memory) == (("e.0.q", "e.0.k"), ("cls.bias",), ())
    stored["e.1.q"] = (4, 4)
    found = weight_names.match_weights(stored, {"e.0.qk": (8, 4)}, "")
    assert (found.transformed, len(found.only_in_file)) == ((), 4)
    assert found.only_in_memory == ("e.0.qk",)


def test_another_shape_is_no_match() -> None:
    found = weight_names.match_weights({"a": (4, 4)}, {"a": (4, 5)}, "")
    assert (found.pairs, found.only_in_memory) == ((), ("a",))


def test_what_is_left_over_is_told_apart() -> None:
    names = [
        "bert.encoder.layer.6.w",
        "bert.embeddings.extra",
        "bert.pooler.dense.weight",
        "lm_head.bias",
        "decoder.block.0.w",
        "stranger.weight",
        "position_ids",
    ]
    found = weight_names.sort_unused_weights(names, "bert", ["encoder", "embeddings"], has_decoder=True)
    assert found.heads == ("bert.pooler.dense.weight", "decoder.block.0.w", "lm_head.bias")
    assert found.body == ("bert.embeddings.extra", "bert.encoder.layer.6.w")
    assert found.other == ("stranger.weight",)
    alone = weight_names.sort_unused_weights(["decoder.block.0.w"], "", [], has_decoder=False)
    assert alone.body == ("decoder.block.0.w",)


# Promises and requests ------------------------------------------------------------------------------------------------


def module(folder: Path, kind: str, path: str, **config: object) -> dict[str, str]:
    (folder / path).mkdir(parents=True, exist_ok=True)
    (folder / path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return {"type": f"sentence_transformers.models.{kind}", "path": path}


def make_declared_config(folder: Path, *entries: dict[str, str]) -> declared_config.SentenceModelConfig:
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    safetensors(folder / "model.safetensors", {}, b"")
    return declared_config.read_sentence_model(folder)


def test_width_and_norm_of_a_chain(tmp_path: Path) -> None:
    transformer = module(tmp_path, "Transformer", "", hidden_size=32)
    mean = module(tmp_path, "Pooling", "1", word_embedding_dimension=32, pooling_mode_mean_tokens=True)
    both = module(tmp_path, "Pooling", "2", embedding_dimension=32, pooling_mode=["mean", "cls"])
    old_both = module(
        tmp_path, "Pooling", "3", word_embedding_dimension=32, pooling_mode_max_tokens=True, pooling_mode_cls_token=True
    )
    dense = module(tmp_path, "Dense", "4", in_features=64, out_features=8)
    safetensors(tmp_path / "4" / "model.safetensors", {}, b"")
    normalize = {"type": "sentence_transformers.models.Normalize", "path": "5_Normalize"}
    tokens = module(tmp_path, "Normalize", "6", module_input_name="token_embeddings")
    cases = [
        ((transformer,), 32, False, "config.json"),
        ((transformer, mean), 32, False, "1/config.json"),
        ((transformer, both, normalize), 64, True, "2/config.json"),
        ((transformer, old_both), 64, False, "3/config.json"),
        ((transformer, both, normalize, dense), 8, False, "4/config.json"),
        ((transformer, mean, tokens), 32, False, "1/config.json"),
    ]
    for entries, width, normalised, source in cases:
        found = make_declared_config(tmp_path, *entries)
        assert (found.width, found.is_normalized, found.width_source) == (width, normalised, source)


def test_a_module_outside_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="outside the model's folder"):
        make_declared_config(tmp_path, {"type": "sentence_transformers.models.Pooling", "path": "../1_Pooling"})


def test_a_module_of_an_unknown_kind_needs_its_folder(tmp_path: Path) -> None:
    transformer = module(tmp_path, "Transformer", "", hidden_size=32)
    with pytest.raises(CheckFailedError, match="Whirl in 1_Whirl/, which does not exist"):
        make_declared_config(tmp_path, transformer, {"type": "custom.Whirl", "path": "1_Whirl"})


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("[]", "is not a JSON object"),
        ("{", "is not a JSON file"),
        ({"path": "relative"}, "not an absolute folder"),
        ({"path": 3}, "path: must be a string"),
        ({"texts": "one"}, "texts: must be a list"),
        ({"texts": [1]}, "texts: must be a list of strings"),
        ({"closer": [["a", "b"]]}, "closer: each entry"),
        ({"ram_limit": -1}, "ram_limit"),
        ({"ram_limit": True}, "ram_limit"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_a_request_that_is_wrong(tmp_path: Path, document: object, says: str) -> None:
    path = tmp_path / "request.json"
    whole = {"alias": "a", "loader": "files", "path": "/m"}
    text = document if isinstance(document, str) else json.dumps({**whole, **document})  # type: ignore[dict-item]
    path.write_text(text, encoding="utf-8")
    with pytest.raises(request.RequestError, match=says):
        request.read_request(path)

"""Makes small models with random weights through the real libraries: ``python -I tiny_models.py OUT``."""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WIDTH = 32
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "dog", "sat", "mat", "rain", "train", "green", "music", "river"]
VOCABULARY = [*SPECIAL, *WORDS, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *".,!?"]


def main(out: Path) -> None:
    torch.manual_seed(20)
    raw = out / "raw"
    _bert(raw)
    config = BertConfig.from_pretrained(raw)
    BertModel(config).save_pretrained(raw)
    _assembled(raw, Normalize()).save(str(out / "good"))
    _assembled(raw).save(str(out / "unnormalised"))
    _assembled(raw, Dense(WIDTH, 16, activation_function=torch.nn.Tanh()), Normalize()).save(str(out / "dense"))
    for name in ("rectified", "flat"):
        _assembled(raw, Dense(WIDTH, 16, activation_function=torch.nn.ReLU())).save(str(out / name))
    _half(raw, out)
    _sharded(raw, out)
    _pickled(raw, out)
    _headed(config, raw, out)
    SentenceTransformer(modules=[StaticEmbedding(_any_tokenizer(raw), embedding_dim=WIDTH)]).save(str(out / "static"))
    _two_towers(raw, out)


def _tokenizer() -> dict[str, object]:
    """The content of a tokenizer.json that knows a few words, and all others letter by letter."""
    start, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": {  # as published ones have it
            "strategy": {"Fixed": 24},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [{"id": number, "content": token, **flags} for number, token in enumerate(SPECIAL)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, end, {"Sequence": {"id": "B", "type_id": 1}}, end],
            "special_tokens": {
                token: {"id": token, "ids": [number], "tokens": [token]}
                for number, token in ((2, "[CLS]"), (3, "[SEP]"))
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(VOCABULARY)},
        },
    }


def _any_tokenizer(raw: Path) -> Any:
    """The same for models that bring no class of their own for it."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(raw / "tokenizer.json"),
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _bert(folder: Path) -> None:
    """A folder with all of a BERT but its weights."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    ).save_pretrained(folder)


def _assembled(raw: Path, *more: Any) -> Any:
    return SentenceTransformer(
        modules=[Transformer(str(raw)), Pooling(WIDTH, pooling_mode="mean"), *more], device="cpu"
    )


def _half(raw: Path, out: Path) -> None:
    model = _assembled(raw, Normalize())
    model.half()
    model[0].auto_model.config.torch_dtype = torch.float16
    model.save(str(out / "half"))


def _sharded(raw: Path, out: Path) -> None:
    folder = out / "sharded"
    _assembled(raw, Normalize()).save(str(folder))
    (folder / "model.safetensors").unlink()
    BertModel.from_pretrained(raw).save_pretrained(folder, max_shard_size="30KB")


def _pickled(raw: Path, out: Path) -> None:
    folder = out / "pickled"
    _assembled(raw, Normalize()).save(str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(BertModel.from_pretrained(raw).state_dict(), folder / "pytorch_model.bin")


def _headed(config: Any, raw: Path, out: Path) -> None:
    """As many published models are: trained to guess masked words, so with that head and without a pooler."""
    folder = out / "headed"
    _assembled(raw, Normalize()).save(str(folder))
    BertForMaskedLM(config).save_pretrained(folder)


def _two_towers(tokenizer: Path, out: Path) -> None:
    """An encoder with a decoder, of which embedding uses the encoder only."""
    raw = out / "raw-t5"
    _any_tokenizer(tokenizer).save_pretrained(raw)
    config = T5Config(
        vocab_size=len(VOCABULARY), d_model=WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(raw)
    folder = out / "two-towers"
    _assembled(raw, Normalize()).save(str(folder))
    T5ForConditionalGeneration.from_pretrained(raw).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

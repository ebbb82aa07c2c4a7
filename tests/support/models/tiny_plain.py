"""Makes small models of transformers alone, with random weights: ``python -I tiny_plain.py OUT RAW``.

RAW is the folder of a tokenizer that ``tiny_models.py`` left.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
WORDS = 71
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def main(out: Path, raw: Path) -> None:
    torch.manual_seed(21)
    words = _words(raw, out)
    _encoders(out, raw, words)
    _writers(out, words)
    _rerankers(out, raw)
    _towers(out, words)


def _encoders(out: Path, raw: Path, words: Path) -> None:
    config = BertConfig.from_pretrained(raw)
    _saved(BertModel(config), out / "encoder", raw)
    _saved(BertForMaskedLM(config), out / "masked", raw)
    _saved(BertModel(config).half(), out / "encoder-half", raw)
    _saved(BertModel(config), out / "encoder-sharded", raw, max_shard_size="30KB")
    positions = RobertaConfig(vocab_size=WORDS, max_position_embeddings=40, initializer_range=0.5, **SHAPE)
    _saved(RobertaModel(positions), out / "roberta", words)


def _writers(out: Path, words: Path) -> None:
    shape = {**SHAPE, "vocab_size": WORDS, "max_position_embeddings": 64, "initializer_range": 0.5}
    names = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    _saved(LlamaForCausalLM(LlamaConfig(**shape, **names)), out / "llama", words)
    _saved(LlamaForCausalLM(LlamaConfig(**shape, **names)).bfloat16(), out / "llama-half", words)
    _saved(LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **shape, **names)), out / "tied", words)
    gpt = GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5, **names)
    _saved(GPT2LMHeadModel(gpt), out / "gpt2", words)


def _rerankers(out: Path, raw: Path) -> None:
    config = BertConfig.from_pretrained(raw)
    config.num_labels = 1
    _saved(BertForSequenceClassification(config), out / "reranker", raw)
    CrossEncoder(str(out / "reranker"), device="cpu").save_pretrained(str(out / "reranker-modules"))
    answers = [Transformer(str(out / "llama"), transformer_task="text-generation"), LogitScore(5, 6)]
    CrossEncoder(modules=answers, device="cpu").save_pretrained(str(out / "reranker-folders"))
    config.num_labels = 3
    _saved(BertForSequenceClassification(config), out / "classifier", raw)


def _towers(out: Path, words: Path) -> None:
    """Of words and of pictures."""
    text = {**SHAPE, "vocab_size": WORDS, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3}
    pictures = {**SHAPE, "image_size": 8, "patch_size": 4}
    _saved(CLIPModel(CLIPConfig(text_config=text, vision_config=pictures, projection_dim=16)), out / "clip", words)


def _saved(model: Any, folder: Path, tokenizer: Path, **options: Any) -> None:
    model.save_pretrained(folder, **options)
    for name in TOKENIZER:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder)


def _words(raw: Path, out: Path) -> Path:
    """The same words in a tokenizer without a class of its own, which does not say how long a text may be."""
    folder = out / "words"
    PreTrainedTokenizerFast(
        tokenizer_file=str(raw / "tokenizer.json"),
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

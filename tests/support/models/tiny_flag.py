"""Makes a BGE-M3, a reranker and a model with code of its own: ``python -I tiny_flag.py OUT WORDS``.

WORDS is the folder of a tokenizer that ``tiny_plain.py`` left.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

WORDS = 71
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
CODE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel


class TinyConfig(PreTrainedConfig):
    model_type = "tiny-coded"


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.line = torch.nn.Linear(4, 4)
        self.post_init()

    def forward(self, numbers):
        return self.line(numbers)
"""


def main(out: Path, words: Path) -> None:
    torch.manual_seed(22)
    _saved(XLMRobertaModel(XLMRobertaConfig(**SHAPE)), out / "m3", words)
    torch.save(torch.nn.Linear(32, 32).state_dict(), out / "m3" / "colbert_linear.pt")
    sparse = torch.nn.Linear(32, 1)
    torch.nn.init.ones_(sparse.bias)  # tokens of negative weight get none, and a few should get one
    torch.save(sparse.state_dict(), out / "m3" / "sparse_linear.pt")
    config = XLMRobertaConfig(num_labels=1, **SHAPE)
    _saved(XLMRobertaForSequenceClassification(config), out / "flag-reranker", words)
    _coded(out / "coded", out / "code")


def _saved(model: Any, folder: Path, words: Path) -> None:
    shutil.copytree(words, folder)
    model.save_pretrained(folder)


def _coded(folder: Path, scratch: Path) -> None:
    """As published models with ``trust_remote_code`` are: their class lies beside their weights."""
    scratch.mkdir()
    (scratch / "coding.py").write_text(CODE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("coding", scratch / "coding.py")
    assert spec is not None
    assert spec.loader is not None
    code = sys.modules["coding"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    code.TinyConfig.register_for_auto_class()
    code.TinyModel.register_for_auto_class("AutoModel")
    code.TinyModel(code.TinyConfig()).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

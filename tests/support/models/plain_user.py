"""Code as a person writes it: loads a model from each place given and prints what it says, and who was called.

``python plain_user.py HOW PLACE…``; a place is a repository's name or a folder. After
``serve MODULE…`` each line of standard input is a JSON list of these words. Knows nothing of this project.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

calls: list[str] = []
TEXTS = ["The cat sat on the mat.", "Green rain on a river!"]
PAIRS = [[TEXTS[0], TEXTS[1]], [TEXTS[0], TEXTS[0]]]


def _heard(event: str, details: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        calls.append(f"{event} {details[-2:]}")


sys.addaudithook(_heard)


def sentences(where: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(where, device="cpu").encode(TEXTS).tolist()


def encoder(where: str, **more: Any) -> Any:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(where, **more), AutoModel.from_pretrained(where, **more)
    return model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).last_hidden_state.mean(1).tolist()


def careful_encoder(where: str) -> Any:
    """As one who trusts no variable writes it."""
    return encoder(where, local_files_only=True)


def pipe(where: str) -> Any:
    from transformers import pipeline

    return pipeline("feature-extraction", model=where, device="cpu")(TEXTS[0])[0]


def guessing_pipe(where: str) -> Any:
    """As one who leaves the task out, which the hub would have to name."""
    from transformers import pipeline

    try:
        return pipeline(model=where, device="cpu")(TEXTS[0])[0]
    except RuntimeError as error:
        return [str(error)]


def writer(where: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(where), AutoModelForCausalLM.from_pretrained(where)
    asked = tokenizer(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
    return model.generate(**asked, max_new_tokens=5, do_sample=False).tolist()


def cross(where: str) -> Any:
    from sentence_transformers import CrossEncoder

    return [CrossEncoder(where, device="cpu").predict(PAIRS).tolist()]


def m3(where: str) -> Any:
    from FlagEmbedding import BGEM3FlagModel  # type: ignore[import-not-found]

    model = BGEM3FlagModel(where, use_fp16=False, devices="cpu")
    found = model.encode(TEXTS, return_dense=True, return_sparse=True, return_colbert_vecs=True)
    weights = [[float(one) for one in text.values()] for text in found["lexical_weights"]]
    return [*found["dense_vecs"].tolist(), *weights, *found["colbert_vecs"][0].tolist()]


def reranker(where: str) -> Any:
    from FlagEmbedding import FlagReranker

    return [FlagReranker(where, use_fp16=False, devices="cpu").compute_score(PAIRS)]


def clip(where: str) -> Any:
    import torch
    from transformers import AutoTokenizer, CLIPModel

    tokenizer, model = AutoTokenizer.from_pretrained(where), CLIPModel.from_pretrained(where)
    pictures = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    return model.eval()(
        pixel_values=pictures, **tokenizer(TEXTS, padding=True, return_tensors="pt")
    ).logits_per_image.tolist()


def coded(where: str) -> Any:
    import torch
    from transformers import AutoModel

    return AutoModel.from_pretrained(where, trust_remote_code=True)(torch.ones(1, 4)).tolist()


def caller(where: str) -> Any:
    """What must be heard if anything is."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"http://127.0.0.1:9/{where}", timeout=5)
    except urllib.error.URLError:
        return []
    return None


WAYS: dict[str, Callable[[str], Any]] = {
    each.__name__: each
    for each in (
        sentences, encoder, careful_encoder, pipe, guessing_pipe, writer, cross, m3, reranker, clip, coded, caller,
    )
}  # fmt: skip


def _may_write(folder: str) -> bool:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "scribble").write_text("x", encoding="utf-8")
    except OSError:
        return False
    return True


def _asked() -> list[str]:
    """HOW and PLACE…, given back in a fork for each line where they are served: importing takes longer than the rest."""
    if sys.argv[1] != "serve":
        return sys.argv[1:]
    for name in sys.argv[2:]:
        importlib.import_module(name)
    for line in sys.stdin:
        if not os.fork():
            return list(json.loads(line))
        sys.stdout.write(f"ended:{os.waitstatus_to_exitcode(os.wait()[1])}\n")
        sys.stdout.flush()
    sys.exit()


if __name__ == "__main__":
    how, *places = _asked()
    found = [WAYS[how](place) for place in places]
    writable = {name: _may_write(os.environ[name]) for name in ("HF_HUB_CACHE", "HF_HOME") if name in os.environ}
    told = {"found": found, "calls": calls, "writable": writable}
    sys.stdout.write(f"told:{json.dumps(told)}\n")

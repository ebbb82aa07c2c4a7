"""tiktoken's encodings: the files that each needs, and where tiktoken looks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

TIKTOKEN_VERSION = "0.14.0"
"""The tiktoken release whose ``tiktoken_ext/openai_public.py`` says what stands here."""

_HOST = "https://openaipublic.blob.core.windows.net"
_R50K = (f"{_HOST}/encodings/r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930")
_P50K = (f"{_HOST}/encodings/p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069")
_CL100K = (
    f"{_HOST}/encodings/cl100k_base.tiktoken",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
)
_O200K = (f"{_HOST}/encodings/o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")
_GPT2 = (
    (
        f"{_HOST}/gpt-2/encodings/main/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
    (
        f"{_HOST}/gpt-2/encodings/main/encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
)

ENCODING_FILES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "gpt2": _GPT2,
    "r50k_base": (_R50K,),
    "p50k_base": (_P50K,),
    "p50k_edit": (_P50K,),
    "cl100k_base": (_CL100K,),
    "o200k_base": (_O200K,),
    "o200k_harmony": (_O200K,),
}
"""For each encoding the address and SHA-256 of every file that tiktoken fetches for it."""


_MODELS: Mapping[str, str] = {
    **dict.fromkeys(["o1", "o3", "o4-mini", "gpt-5", "gpt-4.1", "gpt-4o"], "o200k_base"),
    **dict.fromkeys(["gpt-4", "gpt-3.5-turbo", "gpt-3.5", "gpt-35-turbo", "davinci-002", "babbage-002"], "cl100k_base"),
    **dict.fromkeys(["text-embedding-ada-002", "text-embedding-3-small", "text-embedding-3-large"], "cl100k_base"),
    **dict.fromkeys(["text-davinci-003", "text-davinci-002", "davinci-codex", "cushman-codex"], "p50k_base"),
    **dict.fromkeys([f"code-{one}-00{n}" for one in ("davinci", "cushman") for n in (1, 2)], "p50k_base"),
    **dict.fromkeys(["text-davinci-edit-001", "code-davinci-edit-001"], "p50k_edit"),
    **dict.fromkeys([f"text-{one}-001" for one in ("davinci", "curie", "babbage", "ada")], "r50k_base"),
    **dict.fromkeys(["davinci", "curie", "babbage", "ada"], "r50k_base"),
    **dict.fromkeys([f"text-similarity-{one}-001" for one in ("davinci", "curie", "babbage", "ada")], "r50k_base"),
    **dict.fromkeys([f"text-search-{one}-doc-001" for one in ("davinci", "curie", "babbage", "ada")], "r50k_base"),
    **dict.fromkeys([f"code-search-{one}-code-001" for one in ("babbage", "ada")], "r50k_base"),
    **dict.fromkeys(["gpt2", "gpt-2"], "gpt2"),
}
_PREFIXES: Mapping[str, str] = {
    **dict.fromkeys(
        ["o1-", "o3-", "o4-mini-", "gpt-5", "gpt-4.5-", "gpt-4.1-", "chatgpt-4o-", "gpt-4o-"], "o200k_base"
    ),
    **dict.fromkeys(["gpt-4-", "gpt-3.5-turbo-", "gpt-35-turbo-"], "cl100k_base"),
    "gpt-oss-": "o200k_harmony",
    "ft:gpt-4o": "o200k_base",
    **dict.fromkeys(["ft:gpt-4", "ft:gpt-3.5-turbo", "ft:davinci-002", "ft:babbage-002"], "cl100k_base"),
}
"""The encoding that tiktoken takes for a model's name, or for one that begins so; the first that fits."""


def of_model(name: str) -> str:
    """The encoding of a model of OpenAI, as tiktoken's ``encoding_for_model`` finds it; "" where it knows none."""
    return _MODELS.get(name) or next((one for start, one in _PREFIXES.items() if name.startswith(start)), "")


def get_cache_path(url: str) -> str:
    """Where below ``assets/`` tiktoken finds what it would fetch from ``url``: by the SHA-1 of its own address."""
    return f"tiktoken/{hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()}"

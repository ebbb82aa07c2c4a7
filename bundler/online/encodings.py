"""tiktoken's encodings: the files that each needs, and where tiktoken looks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

READ_FROM = "0.14.0"
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

FILES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "gpt2": _GPT2,
    "r50k_base": (_R50K,),
    "p50k_base": (_P50K,),
    "p50k_edit": (_P50K,),
    "cl100k_base": (_CL100K,),
    "o200k_base": (_O200K,),
    "o200k_harmony": (_O200K,),
}
"""For each encoding the address and SHA-256 of every file that tiktoken fetches for it."""


def path_of(url: str) -> str:
    """Where below ``assets/`` tiktoken finds what it would fetch from ``url``: by the SHA-1 of its own address."""
    return f"tiktoken/{hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()}"

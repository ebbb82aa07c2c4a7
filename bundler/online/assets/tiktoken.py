"""Asset provider ``tiktoken``: the files of its encodings.

On the host tiktoken finds them through TIKTOKEN_CACHE_DIR; see ``bundler/payload/network/asset_libraries.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

from bundler.format.documents import InvalidValueError
from bundler.online.assets.provider import AssetFields, AssetFile, AssetProvider, suggest_name
from bundler.online.transfer import urls
from bundler.payload.network import asset_libraries

TIKTOKEN_VERSION = "0.14.0"
"""The tiktoken release whose ``tiktoken_ext/openai_public.py`` and ``tiktoken/model.py`` the tables below follow."""

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
"""For each encoding the URL and SHA-256 of every file that tiktoken downloads for it."""

_MODELS: Mapping[str, str] = {
    **dict.fromkeys(["o1", "o3", "o4-mini", "gpt-5", "gpt-4.1", "gpt-4o"], "o200k_base"),
    **dict.fromkeys(["gpt-4", "gpt-3.5-turbo", "gpt-3.5", "gpt-35-turbo", "davinci-002", "babbage-002"], "cl100k_base"),
    **dict.fromkeys(["text-embedding-ada-002", "text-embedding-3-small", "text-embedding-3-large"], "cl100k_base"),
    **dict.fromkeys(["text-davinci-003", "text-davinci-002", "davinci-codex", "cushman-codex"], "p50k_base"),
    **dict.fromkeys([f"code-{size}-00{n}" for size in ("davinci", "cushman") for n in (1, 2)], "p50k_base"),
    **dict.fromkeys(["text-davinci-edit-001", "code-davinci-edit-001"], "p50k_edit"),
    **dict.fromkeys([f"text-{size}-001" for size in ("davinci", "curie", "babbage", "ada")], "r50k_base"),
    **dict.fromkeys(["davinci", "curie", "babbage", "ada"], "r50k_base"),
    **dict.fromkeys([f"text-similarity-{size}-001" for size in ("davinci", "curie", "babbage", "ada")], "r50k_base"),
    **dict.fromkeys([f"text-search-{size}-doc-001" for size in ("davinci", "curie", "babbage", "ada")], "r50k_base"),
    **dict.fromkeys([f"code-search-{size}-code-001" for size in ("babbage", "ada")], "r50k_base"),
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
"""The encoding that tiktoken takes for a model's name, or for a prefix of it; the first match counts."""


def find_model_encoding(name: str) -> str:
    """Return the encoding of an OpenAI model, as ``tiktoken.encoding_for_model`` finds it; "" if tiktoken has none."""
    return _MODELS.get(name) or next((encoding for start, encoding in _PREFIXES.items() if name.startswith(start)), "")


def get_cache_path(url: str) -> str:
    """Return the path below ``assets/`` where tiktoken looks for a file that it would download from ``url``."""
    return f"{asset_libraries.LIBRARIES['tiktoken'].folder}/{asset_libraries.hash_tiktoken_url(url)}"


class _TiktokenProvider(AssetProvider):
    key = "tiktoken"
    title = "tiktoken"
    calls = MappingProxyType({"get_encoding": "encoding_name", "encoding_for_model": "model_name"})
    wrappers = ("from_tiktoken_encoder", "TokenTextSplitter")
    wrapper_parameters = ("encoding_name", "model_name")
    wrapper_default = "gpt2"
    unknown_name = "no encoding known here"

    def check(self, entry: AssetFields) -> Iterator[InvalidValueError]:
        for name in entry.tiktoken:
            if name not in ENCODING_FILES:
                advice = suggest_name(name, ENCODING_FILES)
                yield InvalidValueError(f"{name!r} is no encoding of tiktoken {TIKTOKEN_VERSION}; {advice}", "tiktoken")

    def list_pinned_files(self, entry: AssetFields) -> Sequence[AssetFile]:
        files = dict.fromkeys(file for name in entry.tiktoken for file in ENCODING_FILES.get(name, ()))
        return tuple(
            AssetFile(
                url=urls.join_url(entry.mirror, urlsplit(url).path) if entry.mirror else url,
                sha256=sha256,
                path=get_cache_path(url),  # tiktoken hashes its own URL, also where a mirror has the file
                publisher=f"tiktoken {TIKTOKEN_VERSION}",
            )
            for url, sha256 in files
        )

    def find_name(self, text: str) -> str:
        return text if text in ENCODING_FILES else find_model_encoding(text)


PROVIDER = _TiktokenProvider()

"""Recognises models that a server runs. Code sends their names to it, so they must not become paths on the host."""

from __future__ import annotations

import re
from dataclasses import dataclass

ENVIRONMENT = "the environment"
"""The group of all variables of .env files, and of those that code reads."""

_MODEL_WORDS = frozenset(["model", "models", "name", "id", "repo", "checkpoint", "path", "dir", "default"])
_URL_WORDS = frozenset(["url", "uri", "host", "endpoint", "server", "address", "base", "api", "inference", "port"])
_URL_ENDINGS = frozenset(["url", "uri", "host", "endpoint", "server", "address", "base"])
_HUB_URL = re.compile(r"://([\w.-]+\.)?(huggingface\.co|hf\.co|hf-mirror\.com|modelscope\.cn)(/|$)")
_CLIENTS = frozenset(
    [
        "ChatOpenAI",
        "AzureChatOpenAI",
        "OpenAI",
        "AzureOpenAI",
        "OpenAILike",
        "OpenAIModel",
        "OpenAIEmbeddings",
        "OpenAIEmbedding",
        "AzureOpenAIEmbeddings",
        "ChatOllama",
        "Ollama",
        "OllamaLLM",
        "OllamaEmbeddings",
        "OllamaEmbedding",
        "ChatAnthropic",
        "ChatLiteLLM",
        "InferenceClient",
        "AsyncInferenceClient",
        "HuggingFaceEndpoint",
        "HuggingFaceEndpointEmbeddings",
        "init_chat_model",
        "TextEmbeddingsInference",
    ]
)
_REQUEST = re.compile(r"(^|\.)((completions|embeddings|responses|messages|images)\.create|(litellm\.)?a?completion)$")
"""Matches calls that send a model's name to a server."""

_CHAT = frozenset(["llm", "chat", "completion", "generation", "generator", "answer"])
_EMBED = frozenset(["embedding", "embeddings", "embed", "embedder", "rerank", "reranker"])
_SERVES = {
    **dict.fromkeys(["openai", "vllm", "ollama", "tgi", "litellm", "lmstudio", "sglang", "xinference"], _CHAT),
    "tei": _EMBED,
}
"""The kind of model that a server program runs, by the program's name in variables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A call that sends names of models, or the variable that holds one, to a server."""

    names: tuple[str, ...]
    variable: str
    location: str
    client: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """The URL of a server in settings or code: what the server is for, and the group of settings."""

    purpose: tuple[str, ...]
    group: str
    location: str
    name: str

    def runs(self, model: str) -> bool:
        """Return whether a variable of that name, in the same group, holds a model of this server."""
        model_purpose = find_model_purpose(model)
        return model_purpose == self.purpose or any(
            _SERVES.get(word, frozenset()) & {*model_purpose} for word in self.purpose
        )


def is_client(origin: str) -> bool:
    """Return whether a function, given by its full name, sends a model's name to a server."""
    return origin.rpartition(".")[2] in _CLIENTS or bool(_REQUEST.search(origin))


def find_model_purpose(name: str) -> tuple[str, ...]:
    """Return what the model in a variable is for: LLM_MODEL_NAME and llm_model are both ``llm``."""
    return _remove_endings(_split_words(name), _MODEL_WORDS)


def find_server_purpose(name: str, value: str) -> tuple[str, ...] | None:
    """Return what a server is for if a variable holds its URL; None if the variable does not.

    OPENAI_API_BASE is for ``openai``. A name without a purpose (API_URL) may be any server, so it gives None;
    BASE_URL and MODEL_URL are for a model and give ().

    Args:
        name: The name of the variable.
        value: Its value; "" if unknown.
    """
    words = _split_words(name)
    is_url = bool(words) and words[-1] in _URL_ENDINGS and (not value or words[-1] != "base" or "://" in value)
    if not is_url or _HUB_URL.search(value) or (value and not re.search(r"://|:\d+|\$|^[\w.-]+$", value)):
        return None
    purpose = _remove_endings(_remove_endings(words, _URL_WORDS), _MODEL_WORDS)
    return purpose if purpose or {*words} & {"base", "model", "inference"} else None


def _split_words(name: str) -> tuple[str, ...]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return tuple(word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word)


def _remove_endings(words: tuple[str, ...], endings: frozenset[str]) -> tuple[str, ...]:
    while words and words[-1] in endings:
        words = words[:-1]
    return words

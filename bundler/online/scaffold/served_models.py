"""Models that a server elsewhere runs: their names are sent to it, and must not become paths of this host."""

from __future__ import annotations

import re
from dataclasses import dataclass

ENVIRONMENT = "the environment"
"""Groups the variables of every .env file, and those that code reads."""

_MODEL = frozenset(["model", "models", "name", "id", "repo", "checkpoint", "path", "dir", "default"])
_ADDRESS = frozenset(["url", "uri", "host", "endpoint", "server", "address", "base", "api", "inference", "port"])
_ENDS = frozenset(["url", "uri", "host", "endpoint", "server", "address", "base"])
_HUB = re.compile(r"://([\w.-]+\.)?(huggingface\.co|hf\.co|hf-mirror\.com|modelscope\.cn)(/|$)")
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
"""Calls that send a model's name to a server."""

_CHAT = frozenset(["llm", "chat", "completion", "generation", "generator", "answer"])
_EMBED = frozenset(["embedding", "embeddings", "embed", "embedder", "rerank", "reranker"])
_SERVES = {
    **dict.fromkeys(["openai", "vllm", "ollama", "tgi", "litellm", "lmstudio", "sglang", "xinference"], _CHAT),
    "tei": _EMBED,
}
"""What kind of model a program serves after which a variable is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Names of models, or the variable that holds one, that a call sends to a server."""

    names: tuple[str, ...]
    variable: str
    where: str
    how: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """The address of a server: what it is for, and the settings among which it stands."""

    purpose: tuple[str, ...]
    group: str
    where: str
    name: str

    def runs(self, model: str) -> bool:
        """Whether a variable of that name, beside this address, holds a model of the server."""
        asked = purpose(model)
        return asked == self.purpose or any(_SERVES.get(one, frozenset()) & {*asked} for one in self.purpose)


def is_client(origin: str) -> bool:
    """Whether a call, by its full name, hands a model's name to a server."""
    return origin.rpartition(".")[2] in _CLIENTS or bool(_REQUEST.search(origin))


def purpose(name: str) -> tuple[str, ...]:
    """What the model is for that a variable names: LLM_MODEL_NAME and llm_model are both ``llm``."""
    return _without(_words(name), _MODEL)


def address(name: str, value: str) -> tuple[str, ...] | None:
    """What a variable's server is for, where it is the address of one; ``value`` may be unknown ("").

    OPENAI_API_BASE is for ``openai``. One that names nothing (API_URL) may be any server; BASE_URL and MODEL_URL are
    a model's.
    """
    words = _words(name)
    is_address = bool(words) and words[-1] in _ENDS and (not value or words[-1] != "base" or "://" in value)
    if not is_address or _HUB.search(value) or (value and not re.search(r"://|:\d+|\$|^[\w.-]+$", value)):
        return None
    left = _without(_without(words, _ADDRESS), _MODEL)
    return left if left or {*words} & {"base", "model", "inference"} else None


def _words(name: str) -> tuple[str, ...]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return tuple(word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word)


def _without(words: tuple[str, ...], endings: frozenset[str]) -> tuple[str, ...]:
    while words and words[-1] in endings:
        words = words[:-1]
    return words

"""Which data a project's code has tiktoken and NLTK fetch, read from calls and never run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bundler.online.manifest import tiktoken_files
from bundler.online.scaffold import constant_values
from bundler.online.scaffold.constant_values import Known

Library = Literal["tiktoken", "nltk"]

COLLECTIONS = frozenset(["all", "all-corpora", "all-nltk", "book", "popular", "tests", "third-party"])
"""Names of NLTK's index that stand for many packages."""

_CALLS: Mapping[tuple[str, str], str] = {
    ("tiktoken", "get_encoding"): "encoding_name",
    ("tiktoken", "encoding_for_model"): "model_name",
    ("nltk", "download"): "info_or_id",
    ("nltk", "find"): "resource_name",
    ("nltk", "load"): "resource_url",
}
"""Functions of each library that reach for data, and the name of their first parameter."""

_SPLITTERS = ("from_tiktoken_encoder", "TokenTextSplitter")
"""What splits texts by tiktoken's tokens, in other libraries; named by keyword, and GPT-2's encoding where nothing is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Data that a library fetches; ``name`` is an encoding or a package, or what was asked for where none is known."""

    library: Library
    name: str
    how: str
    known: bool = True
    where: str = ""


def asked(origin: str, call: ast.Call, known: Known) -> tuple[str, ...] | None:
    """What a call asks a library's data for; empty where only a run could tell, None where it asks for none."""
    name = origin.rpartition(".")[2]
    given = {one.arg: one.value for one in call.keywords if one.arg}
    if name in _SPLITTERS:
        value = given.get("encoding_name", given.get("model_name"))
        return constant_values.value_of(value, known).texts if value is not None else ("gpt2",)
    keyword = _CALLS.get((origin.partition(".")[0], name))
    if keyword is None:
        return None
    value = call.args[0] if call.args else given.get(keyword)
    return constant_values.value_of(value, known).texts


def meant(origin: str, texts: tuple[str, ...]) -> list[Data]:
    """The encodings or packages that are meant."""
    how = ".".join(origin.split(".")[-2:])
    return [_of_nltk(text, how) if origin.startswith("nltk") else _of_tiktoken(text, how) for text in texts]


def _of_tiktoken(text: str, how: str) -> Data:
    name = text if text in tiktoken_files.ENCODING_FILES else tiktoken_files.of_model(text)
    return Data(library="tiktoken", name=name or text, how=how, known=bool(name))


def _of_nltk(text: str, how: str) -> Data:
    """``tokenizers/punkt_tab/english/`` is a place in the package ``punkt_tab``."""
    path = text.removeprefix("nltk:").strip("/").split("/")
    name = (path[1] if len(path) > 1 else path[0]).removesuffix(".zip")
    return Data(library="nltk", name=name, how=how, known=name not in COLLECTIONS and bool(name))

"""Environment variables that sh, dotenv, docker and systemd read alike.

The four disagree on quotes, spaces, ``$``, ``#`` and ``~`` (tried: only sh expands ``C=$HOME/z``, docker keeps quotes
as part of the value). So a value may only have characters that none of them changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bundler.payload.network.asset_libraries import LIBRARIES

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_PLACEHOLDER = re.compile(r"\{(?P<what>model|asset|release)(?::(?P<name>[^{}]*))?\}")
_SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?|PRIVATE_?KEY)(_|$)", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|://[^/@]+:[^/@]+@"
)
_RESERVED_NAME = re.compile(
    r"HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE|HF_DATASETS_OFFLINE|DISABLE_SAFETENSORS_CONVERSION|HF_HUB_DISABLE_TELEMETRY|"
    r"DO_NOT_TRACK|HF_HUB_VERBOSITY|HF_HUB_CACHE|HF_HOME|HF_MODULES_CACHE|HF_DATASETS_CACHE|TORCH_HOME|TORCHINDUCTOR_CACHE_DIR|"
    r"TRITON_CACHE_DIR|SENTENCE_TRANSFORMERS_HOME|TRANSFORMERS_CACHE|"
    r"PYTORCH_(TRANSFORMERS|PRETRAINED_BERT)_CACHE|BUNDLE_GUARD.*|PATH|HOME|IFS|LD_.*|DYLD_.*|PYTHON.*|BASH_ENV|ENV|"
    + "|".join(library.variable for library in LIBRARIES.values())
)
"""Variables that the installer sets so that libraries stay offline, and variables that change every program."""

_HARMLESS_VALUE = re.compile(r"|\d+|true|false|yes|no", re.IGNORECASE)


def find_env_problem(name: str, value: str) -> str:
    """Return why ``.env.offline`` may not have a variable, "" if it may. The text does not repeat the value."""
    text = _PLACEHOLDER.sub("", value)
    if _RESERVED_NAME.fullmatch(name):
        return "is set by the installer or changes every program: choose another name"
    if is_secret(name, text):
        return "looks like a secret, and the bundle is not encrypted: leave it blank and set it on the host"
    if special := sorted(set(_PLAIN_VALUE.sub("", text))):
        return f"contains {special[0]!r}, which sh, dotenv, docker and systemd read differently"
    return ""


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable looks like a password, key or token."""
    return bool(_SECRET_VALUE.search(value) or (_SECRET_NAME.search(name) and not _HARMLESS_VALUE.fullmatch(value)))


def find_placeholders(value: str) -> list[tuple[str, str]]:
    """Return the placeholders of a value as (what, name): ``{model:bge-m3}`` is ("model", "bge-m3")."""
    return [(match["what"], match["name"] or "") for match in _PLACEHOLDER.finditer(value)]


def fill_placeholders(value: str, fill: Callable[[str, str], str]) -> str:
    """Replace each placeholder of ``value`` by the result of ``fill(what, name)``."""
    return _PLACEHOLDER.sub(lambda match: fill(match["what"], match["name"] or ""), value)


def format_line(name: str, value: str) -> str:
    """Return the line ``NAME=value`` of the file.

    A value with other characters, which can only come from the name of a folder on the host, is quoted: sh, dotenv and
    systemd then agree, but docker's ``--env-file`` keeps the quotes. No value has ``$``, a backtick, a backslash or a
    quote, because the installer refuses such folders.
    """
    if _PLAIN_VALUE.fullmatch(value):
        return f"{name}={value}"
    return f'{name}="{value}"'


def is_plain_value(value: str) -> bool:
    """Return whether every reader gets back ``value`` from its line."""
    return _PLAIN_VALUE.fullmatch(value) is not None

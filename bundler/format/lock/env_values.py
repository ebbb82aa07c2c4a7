"""Environment variables that sh, dotenv, docker and systemd read alike.

The four disagree on quotes, spaces, ``$``, ``#`` and ``~`` (tried: ``C=$HOME/z`` is expanded by sh
alone, docker keeps quotes as part of the value), so a value is either made of characters that none
of them touches, or it is refused.
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
"""What the installer sets so that libraries stay on the host, and what would change every program that reads it."""

_HARMLESS_VALUE = re.compile(r"|\d+|true|false|yes|no", re.IGNORECASE)


def find_env_problem(name: str, value: str) -> str:
    """Why a variable may not stand in ``.env.offline``, in words without its value; "" when it may."""
    text = _PLACEHOLDER.sub("", value)
    if _RESERVED_NAME.fullmatch(name):
        return "is set by the installer, or changes every program: choose another name"
    if is_secret(name, text):
        return "looks like a secret, which would travel in the clear: leave it blank and set it on the host"
    if odd := sorted(set(_PLAIN_VALUE.sub("", text))):
        return f"holds {odd[0]!r}, which sh, dotenv, docker and systemd read differently"
    return ""


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like one that nobody but its owner may read."""
    return bool(_SECRET_VALUE.search(value) or (_SECRET_NAME.search(name) and not _HARMLESS_VALUE.fullmatch(value)))


def find_placeholders(value: str) -> list[tuple[str, str]]:
    """The placeholders of a value as (what, name): ``{model:bge-m3}`` is ("model", "bge-m3")."""
    return [(found["what"], found["name"] or "") for found in _PLACEHOLDER.finditer(value)]


def fill_placeholders(value: str, fill: Callable[[str, str], str]) -> str:
    """``value`` with each placeholder replaced by what ``fill(what, name)`` gives."""
    return _PLACEHOLDER.sub(lambda found: fill(found["what"], found["name"] or ""), value)


def format_line(name: str, value: str) -> str:
    """``NAME=value`` as it stands in the file.

    A value with other characters, which only a folder's name on the host can bring in, is put between
    double quotes: sh, dotenv and systemd then agree; docker's ``--env-file`` keeps the quotes. No value may
    hold ``$``, a backtick, a backslash or a quote: the installer refuses a folder named so.
    """
    if _PLAIN_VALUE.fullmatch(value):
        return f"{name}={value}"
    return f'{name}="{value}"'


def is_plain_value(value: str) -> bool:
    """Whether every reader gives back ``value`` from its line."""
    return _PLAIN_VALUE.fullmatch(value) is not None

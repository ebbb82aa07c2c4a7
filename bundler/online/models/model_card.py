"""The metadata of a model card: the YAML between the first two ``---`` lines of a README.md.

Source: huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_METADATA = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MAX_CARD_BYTES = 64 << 10
"""Bytes of a card that are read; metadata stands at its start."""


def read_metadata(card: bytes) -> dict[str, Any]:
    """Read the metadata of a card; empty where it has none, or none that is YAML."""
    match = _METADATA.match(card[:_MAX_CARD_BYTES].decode("utf-8", "replace"))
    try:
        metadata = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:  # a hub refuses such a card, but a folder may have one
        return {}
    return metadata if isinstance(metadata, dict) else {}


def describe_licence(metadata: Mapping[str, Any]) -> str:
    """The licence that the metadata state, in at most 200 printable characters; "" where they state none."""
    licence = metadata.get("license")
    if licence == "other" and metadata.get("license_name"):
        licence = metadata["license_name"]
    names = licence if isinstance(licence, list) else [licence]
    text = ", ".join(name for name in names if isinstance(name, str))
    return "".join(filter(str.isprintable, text))[:200]

"""What tests of the hub share: a hub of their own, and nothing of what this machine's user told the client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.online.transfer.cache import FileCache
from tests.support.hub_fetch import FILES, NAME, HubFetch
from tests.support.servers.hub_server import Hub, serve_hub


@pytest.fixture(autouse=True)
def _no_hub_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("HF_", "HUGGING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub() as place:
        place.repository(NAME, FILES)
        place.members = {"hf_member": True, "hf_stranger": False}
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        yield place


@pytest.fixture
def hub_fetch(hub: Hub, tmp_path: Path) -> HubFetch:
    return HubFetch(hub, FileCache(tmp_path / "shelf"))

"""What the report of a call home says to write: as it stands there, the next build carries it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.format.blocked_requests import BlockedRequest
from bundler.format.lock.target import detect_target
from bundler.online.manifest import loading
from bundler.online.models import model_resolution
from bundler.online.models.safetensors_conversion import ConversionContext
from bundler.online.transfer.context import BuildContext
from tests.support.hub_fetch import HubFetch

FILES = {"config.json": b"{}", "table.json": b'{"scale": 2}'}


@pytest.mark.parametrize(("kind", "folder"), [("repo", "models"), ("dataset", "datasets")])
@pytest.mark.parametrize("revision", ["main", "2.0"])
def test_the_entry_of_a_repository_is_carried_as_it_is_printed(
    hub_fetch: HubFetch, tmp_path: Path, kind: str, folder: str, revision: str
) -> None:
    """Its config.json names no model, and its revision reads as a number."""
    repository = hub_fetch.hub.repository("org/codebook", FILES, kind=folder)
    repository.refs["2.0"] = repository.refs["main"]
    call = BlockedRequest(host="huggingface.co", kind=kind, name="org/codebook", revision=revision, file="table.json")
    asked = loading.parse_manifest(f"name: n\nversion: '1'\n{call.fix}\n".encode(), tmp_path / "m.yaml")
    shop = BuildContext(cache=hub_fetch.cache, config=hub_fetch.config, reporter=hub_fetch.reporter)
    bench = ConversionContext(target=detect_target(), packages=[], context=shop)
    (found,) = (model_resolution.resolve_model(one, asked, shop, bench) for one in asked.manifest.models)
    assert found.model.loader == "files"
    assert set(found.model.revisions) >= {revision}
    assert [file.path for file in found.files] == sorted(FILES)

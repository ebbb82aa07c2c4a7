"""What tests of the online side share: a machine without a configuration of its own, and servers on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.online.transfer import download
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.resolving import ResolverHarness
from tests.support.servers.loopback import Loopback, serve
from tests.support.watched_download import DATA, DIGEST, NAME, WatchedDownload

_SETTINGS = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "BUNDLE_CACHE", "NETRC", "MACOSX_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(scope="session")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv")


@pytest.fixture(autouse=True)
def _no_user_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, uv_cache: Path
) -> None:
    """Keep settings of pip, uv and requests on this machine out of the tests."""
    for name in os.environ:
        if name.startswith(_SETTINGS) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serve() as place:
        yield place


@pytest.fixture
def other_server() -> Iterator[Loopback]:
    with serve() as place:
        yield place


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "shelf")


@pytest.fixture
def harness(tmp_path: Path, server: Loopback, other_server: Loopback, cache: FileCache) -> ResolverHarness:
    config = PipConfig(
        index_url=f"{server.url}/simple", find_links=((tmp_path / "find links, here").as_uri(),), retries=0, timeout=10
    )
    return ResolverHarness(
        wheel_folder=tmp_path / "made",
        cache=cache,
        index=server,
        pytorch=other_server,
        reporter=RecordingReporter(),
        config=config,
    )


@pytest.fixture
def watched_download() -> WatchedDownload:
    return WatchedDownload()


@pytest.fixture
def fetch(cache: FileCache, watched_download: WatchedDownload) -> Any:
    def fetched(*wanted: DownloadRequest, config: PipConfig | None = None, **options: Any) -> Any:
        return download.fetch(
            wanted, cache, config or PipConfig(), watched_download, retry_policy=watched_download.patience, **options
        )

    return fetched


@pytest.fixture
def file(server: Loopback) -> DownloadRequest:
    server.files[NAME] = DATA
    return DownloadRequest(url=server.url + NAME, sha256=DIGEST, size=len(DATA))

"""Room for a file is looked at before its first byte is fetched."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from bundler.errors import FetchError, HostError
from bundler.format import disk
from bundler.format.hashing import compute_sha256
from bundler.online.assets import collect
from bundler.online.manifest import loading
from bundler.online.models import model_resolution
from bundler.online.transfer import http_session, remote_sizes
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.context import BuildContext
from bundler.online.transfer.download import DownloadRequest
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.resolving import LINUX
from tests.support.servers.loopback import Handler, Loopback, status, without_length
from tests.support.watched_download import NAME, WatchedDownload

DATA = b"weights" * 1000


def vast(handler: Handler, _: bytes) -> None:
    """A file that no disk holds."""
    handler.answer(200, b"", {"Content-Length": str(1 << 59)})


@pytest.fixture
def context(cache: FileCache) -> BuildContext:
    return BuildContext(cache=cache, config=PipConfig(retries=0), reporter=RecordingReporter())


def load_spec(tmp_path: Path, text: str) -> loading.LoadedManifest:
    path = tmp_path / "m.yaml"
    path.write_text(f"name: t\nversion: '1'\n{text}\n")
    return loading.load_manifest(path)


def load_model_spec(tmp_path: Path, server: Loopback) -> loading.LoadedManifest:
    server.files["/m.gguf"] = DATA
    return load_spec(tmp_path, f"models: [{{url: '{server.url}/m.gguf', sha256: {compute_sha256(DATA)}, alias: m}}]")


def test_a_model_that_the_disk_has_no_room_for_is_not_fetched(
    tmp_path: Path, server: Loopback, context: BuildContext
) -> None:
    wanted = load_model_spec(tmp_path, server)
    server.faults["/m.gguf"] = [vast]
    with pytest.raises(HostError, match=r"the disk is too small: fetching http://127.*/m\.gguf needs") as caught:
        model_resolution.collect_files(wanted.manifest.models[0], wanted, LINUX, context)
    assert "free" in caught.value.hint
    assert server.asked("GET") == []


def test_an_asset_that_the_disk_has_no_room_for_is_not_fetched(
    tmp_path: Path, server: Loopback, context: BuildContext
) -> None:
    wanted = load_spec(tmp_path, f"assets: [{{url: '{server.url}/a', sha256: {compute_sha256(DATA)}, path: a}}]")
    server.files["/a"] = DATA
    server.faults["/a"] = [vast]
    with pytest.raises(HostError, match="the disk is too small"):
        collect.fetch_assets(wanted.manifest.assets, context)
    assert server.asked("GET") == []


def test_a_size_that_is_not_told_stops_nothing(tmp_path: Path, server: Loopback, context: BuildContext) -> None:
    wanted = load_model_spec(tmp_path, server)
    server.faults["/m.gguf"] = [without_length, without_length]
    found = model_resolution.collect_files(wanted.manifest.models[0], wanted, LINUX, context)
    assert [file.size for file in found.files] == [len(DATA)]
    asked_before = len(server.seen)
    model_resolution.collect_files(wanted.manifest.models[0], wanted, LINUX, context)
    assert len(server.seen) == asked_before, "what is on the shelf is asked of nobody"


def test_what_is_not_there_is_said_before_anything_is_fetched(
    tmp_path: Path, server: Loopback, context: BuildContext
) -> None:
    wanted = load_model_spec(tmp_path, server)
    server.faults["/m.gguf"] = [status(404), status(404)]
    with pytest.raises(FetchError, match="404"):
        model_resolution.collect_files(wanted.manifest.models[0], wanted, LINUX, context)


def test_sizes_are_asked_for_and_not_fetched(server: Loopback, tmp_path: Path) -> None:
    server.files |= {NAME: DATA, "/refuses": b"12", "/vague": b"123", "/silent": b"1234", "/empty": b""}
    server.faults["/refuses"] = [status(403)]  # a signed address, for HEAD
    server.faults["/vague"] = [without_length]
    server.faults["/silent"] = [without_length] * 3
    (tmp_path / "local").write_bytes(b"12345")
    urls = [*(server.url + name for name in server.files), (tmp_path / "local").as_uri()]
    with http_session.open_session(PipConfig()) as session:
        assert list(remote_sizes.fetch_sizes(urls, session).values()) == [len(DATA), 2, 3, 4, 0, 5]
    assert ("GET", NAME) not in [(one.method, one.path) for one in server.seen]


def test_a_size_that_can_not_be_had(server: Loopback, tmp_path: Path, watched_download: WatchedDownload) -> None:
    server.faults[NAME] = [status(503)] * 9
    with http_session.open_session(PipConfig()) as session:
        with pytest.raises(FetchError, match="the server answers 404"):
            remote_sizes.fetch_sizes([f"{server.url}/missing"], session)
        with pytest.raises(FetchError, match="gave up after 3 tries"):
            remote_sizes.fetch_sizes([server.url + NAME], session, watched_download.patience)
        with pytest.raises(FetchError, match="No such file"):
            remote_sizes.fetch_sizes([str(tmp_path / "nothing")], session)
    assert os.environ["HOME"] not in str(watched_download.notes)


def test_a_known_size_is_not_asked_for(server: Loopback, context: BuildContext) -> None:
    server.files[NAME] = DATA
    context.fetch_missing(
        [DownloadRequest(url=server.url + NAME, sha256=compute_sha256(DATA), size=len(DATA))], title="fetch"
    )
    assert server.asked("HEAD") == []


def test_a_shelf_that_can_not_be_read_is_said_in_words(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    wanted = DownloadRequest(url=server.url + NAME, sha256=compute_sha256(DATA), size=len(DATA))
    with pytest.raises(FetchError, match="the cache can't be read or written: Not a directory") as caught:
        remote_sizes.require_free_space([wanted], FileCache(tmp_path / "file"), PipConfig())
    assert "BUNDLE_CACHE" in caught.value.hint


def test_nobody_waits_for_a_server_that_tells_no_size(server: Loopback, context: BuildContext) -> None:
    asked, over = threading.Event(), threading.Event()

    def held(handler: Handler, _: bytes) -> None:
        asked.set()
        over.wait(60)
        handler.answer(200, b"")

    def missing(handler: Handler, _: bytes) -> None:
        asked.wait(10)
        handler.answer(404, b"")

    server.faults |= {"/held": [held], "/missing": [missing, status(404)]}
    started = time.monotonic()
    with pytest.raises(FetchError, match="404"):
        remote_sizes.require_free_space(
            [DownloadRequest(url=f"{server.url}/{name}") for name in ("held", "missing")], context.cache, context.config
        )
    assert time.monotonic() - started < 5
    over.set()


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A disk that has so many bytes free besides those that stay so."""
    had = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: had._replace(free=count + disk.FREE_SPACE_MARGIN))


def test_what_has_come_needs_no_room_and_what_is_wanted_twice_needs_it_once(
    server: Loopback, context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {"/a": DATA, "/again": DATA, "/b": b"b" * 5000}
    sha256, other = compute_sha256(DATA), compute_sha256(b"b" * 5000)
    context.cache.get_partial_path(sha256).write_bytes(DATA[:4000])
    wanted = [
        DownloadRequest(url=f"{server.url}/a", sha256=sha256),
        DownloadRequest(url=f"{server.url}/again", sha256=sha256),
        DownloadRequest(url=f"{server.url}/b", sha256=other),
    ]
    free(monkeypatch, 7999)
    with pytest.raises(HostError, match="needs 67,116,864 bytes"):
        context.fetch_missing(wanted, title="fetch")
    assert server.asked("GET") == []
    free(monkeypatch, 8000)
    context.fetch_missing(wanted, title="fetch")
    assert len(server.asked("GET")) == 2

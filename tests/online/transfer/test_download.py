"""Bytes come home whole, whatever the server and the line do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import FetchError, IntegrityError
from bundler.format.hashing import compute_sha256
from bundler.online.transfer import download
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest
from bundler.online.transfer.pip_config import PipConfig
from tests.support.servers import loopback
from tests.support.servers.loopback import Loopback
from tests.support.watched_download import DATA, DIGEST, NAME, WatchedDownload


def test_a_file_comes_home(
    fetch: Any, file: DownloadRequest, cache: FileCache, watched_download: WatchedDownload
) -> None:
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert cache.require(DIGEST).read_bytes() == DATA
    assert watched_download.total == watched_download.moved == len(DATA)
    assert watched_download.notes == []
    assert [path.suffix for path in cache.get_partial_path(DIGEST).parent.iterdir() if path.suffix != ".lock"] == []


def test_size_and_digest_need_not_be_known(
    fetch: Any, file: DownloadRequest, cache: FileCache, watched_download: WatchedDownload
) -> None:
    assert fetch(DownloadRequest(url=file.url)) == ((len(DATA), DIGEST),)
    assert cache.require(DIGEST).read_bytes() == DATA
    assert (watched_download.total, watched_download.moved) == (0, len(DATA))


def test_many_come_in_the_order_that_was_asked(fetch: Any, server: Loopback, cache: FileCache) -> None:
    contents = [bytes([n]) * (n + 1) for n in range(30)]
    server.files |= {f"/{n}": data for n, data in enumerate(contents)}
    found = fetch(*(DownloadRequest(url=f"{server.url}/{n}") for n in range(30)))
    assert found == tuple((len(data), compute_sha256(data)) for data in contents)
    assert all(cache.require(compute_sha256(data)).read_bytes() == data for data in contents)


def test_the_same_file_twice(fetch: Any, file: DownloadRequest, server: Loopback) -> None:
    server.files["/again"] = DATA
    again = DownloadRequest(url=f"{server.url}/again", sha256=DIGEST, size=len(DATA))
    assert fetch(file, again, file) == ((len(DATA), DIGEST),) * 3
    assert len(server.seen) == 1


def test_what_is_on_the_shelf_is_not_asked_for(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    cache.put_bytes(DATA)
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert server.seen == []


def test_a_connection_that_is_reset_is_tried_again(
    fetch: Any, file: DownloadRequest, server: Loopback, watched_download: WatchedDownload
) -> None:
    server.faults[NAME] = [loopback.reset]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert watched_download.waits == [1]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_an_error_that_may_pass_is_tried_again(
    fetch: Any, file: DownloadRequest, server: Loopback, watched_download: WatchedDownload, code: int
) -> None:
    server.faults[NAME] = [loopback.status(code), loopback.status(code)]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert watched_download.waits == [1, 2]
    assert f"the server answers {code}" in watched_download.notes[0]


@pytest.mark.parametrize(("stated", "waited"), [("7", 7), ("86400", 300), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)])
def test_the_server_says_when(
    fetch: Any, file: DownloadRequest, server: Loopback, watched_download: WatchedDownload, stated: str, waited: float
) -> None:
    server.faults[NAME] = [loopback.status(429, Retry_After=stated)]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert watched_download.waits == [waited]


def test_an_error_that_stays_is_given_up(
    fetch: Any, file: DownloadRequest, server: Loopback, watched_download: WatchedDownload
) -> None:
    server.faults[NAME] = [loopback.status(503)] * 3
    with pytest.raises(FetchError, match="gave up after 3 tries: the server answers 503") as caught:
        fetch(file)
    assert caught.value.where == file.url
    assert "proxy" in caught.value.hint
    assert watched_download.waits == [1, 2]


@pytest.mark.parametrize(
    ("code", "hint"),
    [(401, "netrc"), (403, "access"), (404, "lock again"), (410, "lock again"), (418, "ask"), (511, "log in")],
)
def test_an_error_that_will_not_pass_is_not_tried_again(
    fetch: Any, file: DownloadRequest, server: Loopback, code: int, hint: str
) -> None:
    server.faults[NAME] = [loopback.status(code)] * 2
    with pytest.raises(FetchError, match=f"the server answers {code}") as caught:
        fetch(file)
    assert hint in caught.value.hint
    assert len(server.seen) == 1


def test_a_host_that_is_not_there(fetch: Any) -> None:
    with pytest.raises(FetchError, match="gave up after 3 tries: Connection refused") as caught:
        fetch(DownloadRequest(url="http://user:secret@127.0.0.1:9/x?token=secret"))
    assert caught.value.where == "http://127.0.0.1:9/x"


def test_an_address_that_is_none(fetch: Any) -> None:
    with pytest.raises(FetchError, match="gopher"):
        fetch(DownloadRequest(url="gopher://127.0.0.1/x"))


def test_other_bytes_are_fetched_once_more(fetch: Any, file: DownloadRequest, server: Loopback) -> None:
    server.faults[NAME] = [loopback.instead(DATA[::-1])]
    assert fetch(file) == ((len(DATA), DIGEST),)


def test_other_bytes_for_good_are_refused(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    server.files[NAME] = DATA[::-1]
    with pytest.raises(IntegrityError) as caught:
        fetch(file)
    assert DIGEST in str(caught.value)
    assert compute_sha256(DATA[::-1]) in str(caught.value)
    assert caught.value.where == file.url
    assert len(server.seen) == 2
    assert not cache.get_partial_path(DIGEST).exists()
    assert cache.find(compute_sha256(DATA[::-1])) is None


@pytest.mark.parametrize("other", [b"<html>log in first</html>", DATA + b"x"])
def test_a_file_of_another_size_is_not_fetched_to_its_end(
    fetch: Any, file: DownloadRequest, server: Loopback, other: bytes
) -> None:
    server.files[NAME] = other
    with pytest.raises(IntegrityError, match=f"the server has {len(other)} bytes, 600000 were expected"):
        fetch(file)


def test_a_page_in_place_of_the_rest_leaves_what_had_come(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    """Such as a login page, once: what had come may be days of a slow line."""
    cache.get_partial_path(DIGEST).write_bytes(DATA[:400_000])
    server.faults[NAME] = [lambda handler, _: handler.answer(200, b"<html>log in first</html>")]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert [one.headers.get("Range") for one in server.seen] == ["bytes=400000-"] * 2


def test_a_stream_that_does_not_end_is_left(fetch: Any, file: DownloadRequest, server: Loopback) -> None:
    server.files[NAME] = DATA + b"x"
    server.faults[NAME] = [loopback.without_length] * 2
    with pytest.raises(IntegrityError, match="the server sends more than 600000 bytes"):
        fetch(file)


def test_a_known_size_without_a_digest_counts(fetch: Any, server: Loopback) -> None:
    server.files[NAME] = DATA
    with pytest.raises(IntegrityError, match="600001 were expected"):
        fetch(DownloadRequest(url=server.url + NAME, size=600_001))


def test_no_length_is_no_fault(fetch: Any, file: DownloadRequest, server: Loopback) -> None:
    server.faults[NAME] = [loopback.without_length]
    assert fetch(DownloadRequest(url=file.url)) == ((len(DATA), DIGEST),)


def test_files_and_paths_are_copied(
    fetch: Any, cache: FileCache, tmp_path: Path, watched_download: WatchedDownload
) -> None:
    path = tmp_path / "a file, with + and %41"
    path.write_bytes(DATA)
    assert (
        fetch(DownloadRequest(url=path.as_uri(), sha256=DIGEST), DownloadRequest(url=str(path)))
        == ((len(DATA), DIGEST),) * 2
    )
    assert cache.require(DIGEST).read_bytes() == DATA
    assert watched_download.moved == 2 * len(DATA)


def test_a_path_that_is_not_there(fetch: Any, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="can't be copied: No such file") as caught:
        fetch(DownloadRequest(url=(tmp_path / "nothing").as_uri()))
    assert caught.value.where == str(tmp_path / "nothing")


def test_a_path_with_other_bytes(fetch: Any, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=DIGEST):
        fetch(DownloadRequest(url=(tmp_path / "other").as_uri(), sha256=DIGEST))


def test_a_shelf_that_can_not_be_written(
    file: DownloadRequest, tmp_path: Path, watched_download: WatchedDownload
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="the cache can't be read or written: Not a directory") as caught:
        download.fetch([file], FileCache(tmp_path / "file"), PipConfig(), watched_download)
    assert "BUNDLE_CACHE" in caught.value.hint


def test_credentials_of_the_index_go_to_its_host_alone(fetch: Any, server: Loopback, other_server: Loopback) -> None:
    server.files |= {NAME: DATA, "/other": b"other"}
    server.logins["/"] = "user:p@ss"
    other_server.files["/open"] = b"open"
    config = PipConfig(index_url=f"{server.with_login('user:p%40ss')}/simple")
    fetch(DownloadRequest(url=server.url + NAME), DownloadRequest(url=f"{other_server.url}/open"), config=config)
    assert "Authorization" in server.seen[0].headers
    assert "Authorization" not in other_server.seen[0].headers


def test_credentials_of_an_address_are_used_and_not_told(
    fetch: Any, server: Loopback, watched_download: WatchedDownload
) -> None:
    server.files[NAME] = DATA
    server.logins["/"] = "user:secret"
    server.faults[NAME] = [loopback.status(503), loopback.status(404)]
    with pytest.raises(FetchError) as caught:
        fetch(DownloadRequest(url=server.with_login("user:secret") + NAME))
    assert "Authorization" in server.seen[0].headers
    assert "secret" not in f"{watched_download.notes} {caught.value} {caught.value.where} {caught.value.hint}"


def test_a_redirect_to_another_host_carries_no_credentials(
    fetch: Any, server: Loopback, other_server: Loopback
) -> None:
    server.redirects[NAME] = f"{other_server.url.replace('127.0.0.1', 'localhost')}/there"
    other_server.files["/there"] = DATA
    assert fetch(DownloadRequest(url=server.with_login("user:secret") + NAME, sha256=DIGEST)) == ((len(DATA), DIGEST),)
    assert "Authorization" in server.seen[0].headers
    assert "Authorization" not in other_server.seen[0].headers


def test_the_first_failure_stops_the_rest(fetch: Any, server: Loopback) -> None:
    def endless(handler: loopback.Handler, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _times in range(1000):
            handler.wfile.write(bytes(1 << 16))
            time.sleep(0.01)

    server.faults["/endless"] = [endless]
    started = time.monotonic()
    with pytest.raises(FetchError, match="404"):
        fetch(*(DownloadRequest(url=f"{server.url}/{name}") for name in ("endless", "missing", *map(str, range(40)))))
    assert time.monotonic() - started < 5
    assert len(server.seen) < 42


def test_nobody_waits_for_a_line_that_hangs(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache, watched_download: WatchedDownload
) -> None:
    hangs, over = threading.Event(), threading.Event()

    def held(handler: loopback.Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:300_000])
        hangs.set()
        over.wait(60)
        handler.close_connection = True

    def missing(handler: loopback.Handler, _: bytes) -> None:
        hangs.wait(10)
        while download.get_file_size(cache.get_partial_path(DIGEST)) < 290_000:
            time.sleep(0.01)
        handler.answer(404, b"")

    server.faults |= {NAME: [held], "/missing": [missing]}
    started = time.monotonic()
    with pytest.raises(FetchError, match="404"):
        fetch(file, DownloadRequest(url=f"{server.url}/missing"))
    assert time.monotonic() - started < 5
    assert fetch(file) == ((len(DATA), DIGEST),)
    over.set()
    assert int(server.seen[-1].headers["Range"].strip("bytes=-")) >= 290_000
    assert watched_download.notes == [], "it neither tried again nor held the file against the next one"


def test_a_pause_ends_when_another_file_fails(
    server: Loopback, cache: FileCache, watched_download: WatchedDownload
) -> None:
    def missing(handler: loopback.Handler, _: bytes) -> None:
        while not watched_download.notes:
            time.sleep(0.01)
        handler.answer(404, b"")

    server.faults |= {"/busy": [loopback.status(503, Retry_After="300")], "/missing": [missing]}
    started = time.monotonic()
    with pytest.raises(FetchError, match="404"):
        download.fetch(
            [DownloadRequest(url=f"{server.url}/{name}") for name in ("busy", "missing")],
            cache,
            PipConfig(),
            watched_download,
        )
    assert time.monotonic() - started < 5
    assert server.asked().count("/busy") == 1
    assert len(watched_download.notes) == 1


def test_a_run_waits_for_another_that_fetches_the_same(
    file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    holds, may_go_on = threading.Event(), threading.Event()

    def held(handler: loopback.Handler, data: bytes) -> None:
        holds.set()
        may_go_on.wait(10)
        handler.serve(data)

    server.faults[NAME] = [held]
    first, second = WatchedDownload(), WatchedDownload()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(download.fetch, [file], cache, PipConfig(), first)
        assert holds.wait(10)
        other = pool.submit(download.fetch, [file], cache, PipConfig(), second)
        while not second.notes:
            assert not other.done()
        may_go_on.set()
        assert one.result() == other.result() == ((len(DATA), DIGEST),)
    assert "another run is fetching it" in second.notes[0]
    assert len(server.seen) == 1

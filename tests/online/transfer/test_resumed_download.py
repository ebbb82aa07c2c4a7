"""What has come of a file is not fetched twice, and what is wrong of it does not stay."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.errors import FetchError
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest
from tests.support.servers import loopback
from tests.support.servers.loopback import Loopback
from tests.support.watched_download import DATA, DIGEST, NAME, WatchedDownload, write_partial


def test_a_download_goes_on_where_it_was_left(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache, watched_download: WatchedDownload
) -> None:
    write_partial(cache, file)
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert [one.headers["Range"] for one in server.seen] == ["bytes=1000-"]
    assert watched_download.moved == len(DATA)


def test_what_came_whole_before_is_only_checked(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    write_partial(cache, file, DATA)
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert server.seen == []


def test_without_a_digest_it_goes_on_only_from_the_same_state(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    unknown = DownloadRequest(url=file.url)
    tag = f'"{DIGEST[:8]}"'
    write_partial(cache, unknown, validator=tag)
    assert fetch(unknown) == ((len(DATA), DIGEST),)
    assert (server.seen[0].headers["Range"], server.seen[0].headers["If-Range"]) == ("bytes=1000-", tag)


def test_without_a_digest_a_changed_file_starts_again(fetch: Any, file: DownloadRequest, cache: FileCache) -> None:
    unknown = DownloadRequest(url=file.url)
    write_partial(cache, unknown, b"x" * 1000, validator='"before"')
    assert fetch(unknown) == ((len(DATA), DIGEST),)


def test_without_digest_and_validator_it_starts_again(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    unknown = DownloadRequest(url=file.url)
    write_partial(cache, unknown, b"x" * 1000)
    assert fetch(unknown) == ((len(DATA), DIGEST),)
    assert "Range" not in server.seen[0].headers


def test_a_body_that_is_cut_goes_on(
    fetch: Any, file: DownloadRequest, server: Loopback, watched_download: WatchedDownload
) -> None:
    server.faults[NAME] = [loopback.cut(n << 16) for n in (2, 4, 6, 8)]  # more often than patience alone allows
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert [one.headers.get("Range") for one in server.seen] == [
        None,
        *(f"bytes={n << 16}-" for n in (2, 4, 6, 8)),
    ]
    assert watched_download.moved == len(DATA)
    assert len(watched_download.notes) == 4
    assert "trying again in 1 s" in watched_download.notes[0]


@pytest.mark.parametrize("fault", [loopback.whole, loopback.shifted, loopback.status(416)])
def test_a_server_that_can_not_go_on_starts_again(
    fetch: Any,
    file: DownloadRequest,
    server: Loopback,
    cache: FileCache,
    watched_download: WatchedDownload,
    fault: loopback.Fault,
) -> None:
    write_partial(cache, file)
    server.faults[NAME] = [fault]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert "starting from the beginning" in watched_download.notes[0]
    assert set(watched_download.waits) <= {0}
    assert watched_download.moved == len(DATA)


def test_a_range_of_other_bytes_is_noticed(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache, watched_download: WatchedDownload
) -> None:
    write_partial(cache, file)
    server.faults[NAME] = [loopback.lying]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert "fetching it once more" in watched_download.notes[0]


def test_a_damaged_start_from_before_is_noticed(
    fetch: Any, file: DownloadRequest, cache: FileCache, watched_download: WatchedDownload
) -> None:
    write_partial(cache, file, b"x" * 1000)
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert "fetching it once more" in watched_download.notes[0]


def test_a_longer_start_than_the_file_is_thrown_away(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    write_partial(cache, file, DATA + b"x")
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert "Range" not in server.seen[0].headers


def cut_whole(at: int) -> loopback.Fault:
    """A server that knows no ranges, on a line that breaks."""

    def fault(handler: loopback.Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:at])
        handler.close_connection = True

    return fault


@pytest.mark.parametrize(
    "faults",
    [
        [cut_whole(100_000)] * 3,
        [loopback.status(416), *[loopback.status(503)] * 2],
        [loopback.status(416), cut_whole(9)],
    ],
    ids=["200", "416", "416 and 200"],
)
def test_what_had_come_stays_until_more_has_come(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache, faults: list[loopback.Fault]
) -> None:
    partial = write_partial(cache, file, DATA[:400_000])
    server.faults[NAME] = [*faults, *[loopback.status(503)] * 3]
    with pytest.raises(FetchError, match="gave up after 3 tries"):
        fetch(file)
    assert partial.read_bytes() == DATA[:400_000]
    assert list((cache.root / "incoming").glob("*")) == []
    server.faults.clear()
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert server.seen[-1].headers["Range"] == "bytes=400000-"


def test_of_what_had_come_and_what_came_anew_the_longer_stays(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache, watched_download: WatchedDownload
) -> None:
    write_partial(cache, file, DATA[:200_000])
    server.faults[NAME] = [cut_whole(500_000), cut_whole(300_000)]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert [one.headers["Range"] for one in server.seen] == ["bytes=200000-", *["bytes=500000-"] * 2]
    assert watched_download.moved == len(DATA)


def test_damage_from_before_does_not_outlive_a_server_without_ranges(
    fetch: Any, file: DownloadRequest, server: Loopback, cache: FileCache
) -> None:
    write_partial(cache, file, b"x" * 200_000)
    server.faults[NAME] = [cut_whole(200_000)]
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert cache.require(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("fault", [loopback.status(416), loopback.shifted], ids=["416", "206 moved"])
def test_only_what_is_farther_than_ever_renews_patience(
    fetch: Any, file: DownloadRequest, server: Loopback, watched_download: WatchedDownload, fault: loopback.Fault
) -> None:
    """Else a line that breaks at one place, and a server that can't go on from there, would be asked for ever."""
    server.faults[NAME] = [loopback.cut(70_000), fault] * 20
    with pytest.raises(FetchError, match="gave up after 3 tries"):
        fetch(file)
    assert len(server.seen) == 3
    assert watched_download.waits == [1, 0]


def test_who_starts_again_and_gets_farther_is_not_given_up(fetch: Any, file: DownloadRequest, server: Loopback) -> None:
    again = [fault for n in range(1, 8) for fault in (loopback.cut(n * 70_000), loopback.status(416))]
    server.faults[NAME] = list(again)
    assert fetch(file) == ((len(DATA), DIGEST),)
    assert len(server.seen) == len(again) + 1

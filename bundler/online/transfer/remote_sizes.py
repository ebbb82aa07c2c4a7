"""How large files are, asked before any is fetched, and whether the shelf's disk has room for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial as bound
from http import HTTPStatus

import requests

from bundler.errors import FetchError
from bundler.format import disk
from bundler.online.transfer import download, http, http_session, pip_config, threads
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import IDENTITY_HEADERS, MAX_WORKERS, DownloadRequest, get_file_size
from bundler.online.transfer.http import DEFAULT_RETRY_POLICY, RetryPolicy, redact_url
from bundler.online.transfer.pip_config import PipConfig


def fetch_sizes(
    urls: Iterable[str], session: requests.Session, retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY
) -> dict[str, int]:
    """The size in bytes of what stands at each address, asked and only if need be fetched; raises FetchError."""
    listed = list(dict.fromkeys(urls))
    stop = threading.Event()
    ask = bound(_fetch_size, session=session, retry_policy=retry_policy, stop=stop)
    return dict(zip(listed, threads.run_parallel(ask, listed, MAX_WORKERS, stop), strict=True))


def require_free_space(downloads: Sequence[DownloadRequest], cache: FileCache, config: PipConfig) -> None:
    """Ask how large files are before any is fetched, where that is not known.

    What the server does not say is not counted, nor what an earlier run has brought of a file. Raises HostError when
    the shelf's disk has too little room, FetchError for what can't be had.
    """
    patience = RetryPolicy(max_tries=config.retries + 1)
    stop = threading.Event()
    with http_session.open_session(config, [one.url for one in downloads]) as session:
        ask = bound(_fetch_known_size, session=session, retry_policy=patience, stop=stop)
        told = threads.run_parallel(ask, downloads, MAX_WORKERS, stop)
    needed = count_missing_bytes(zip(downloads, told, strict=True), cache)
    disk.require_free_space([(cache.root, needed, "fetching " + ", ".join(redact_url(one.url) for one in downloads))])


def count_missing_bytes(sized_downloads: Iterable[tuple[DownloadRequest, int | None]], cache: FileCache) -> int:
    """Bytes that are still to come of files of these sizes: an earlier run may have brought some, and one content comes
    once. What is not known is not counted. Raises FetchError where the shelf can't be read or written."""
    known = {one.sha256 or one.url: (one, size) for one, size in sized_downloads if size is not None}
    try:
        here = {
            key: get_file_size(cache.get_partial_path(one.sha256)) if one.sha256 else 0
            for key, (one, _) in known.items()
        }
    except OSError as error:
        raise download.make_cache_error(error, cache) from error
    return sum(max(0, size - here[key]) for key, (_, size) in known.items())


def _fetch_size(url: str, session: requests.Session, retry_policy: RetryPolicy, stop: threading.Event) -> int:
    path = pip_config.get_local_path(url)
    if path is None:
        return http.retry(lambda: _measure_size(url, session), url, retry_policy, stop=stop)
    try:
        return path.stat().st_size
    except OSError as error:
        raise FetchError(f"can't be read: {http.describe_cause(error)}", where=str(path)) from error


def _fetch_known_size(
    request: DownloadRequest, session: requests.Session, retry_policy: RetryPolicy, stop: threading.Event
) -> int | None:
    """The size of a file in bytes, as far as it is said without fetching it."""
    url = request.url
    if request.size is not None:
        return request.size
    if pip_config.get_local_path(url) is not None:
        return _fetch_size(url, session, retry_policy, stop)
    return http.retry(lambda: _fetch_stated_size(url, session), url, retry_policy, stop=stop)


def _measure_size(url: str, session: requests.Session) -> int:
    if (size := _fetch_stated_size(url, session)) is not None:
        return size
    with http.send_request(session, "GET", url, IDENTITY_HEADERS) as response:
        return sum(map(len, http.iter_body(response)))


def _fetch_stated_size(url: str, session: requests.Session) -> int | None:
    with http.send_request(session, "HEAD", url, IDENTITY_HEADERS) as response:
        if response.status_code == HTTPStatus.OK and (size := http.parse_content_length(response)) is not None:
            return size
    # Signed addresses refuse HEAD, and some servers give no length with it.
    with http.send_request(session, "GET", url, IDENTITY_HEADERS | {"Range": "bytes=0-0"}) as response:
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            return http.parse_content_range(response)[1]
        if response.status_code == HTTPStatus.OK:
            return http.parse_content_length(response)
        raise http.make_response_error(response, url)

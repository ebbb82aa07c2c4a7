"""The sizes of remote files before they are fetched, and whether the cache's disk has free space for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial
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
    """Return the size in bytes of the file at each URL; raise FetchError.

    A file whose size the server does not state is fetched to count its bytes.
    """
    unique_urls = list(dict.fromkeys(urls))
    stop = threading.Event()
    fetch_size = partial(_fetch_size, session=session, retry_policy=retry_policy, stop=stop)
    return dict(zip(unique_urls, threads.run_parallel(fetch_size, unique_urls, MAX_WORKERS, stop), strict=True))


def require_free_space(downloads: Sequence[DownloadRequest], cache: FileCache, config: PipConfig) -> None:
    """Require free space in the cache for files, before any is fetched.

    A size that the server does not state does not count, nor do the bytes that an earlier run has fetched.

    Raises:
        HostError: The cache's disk has too little free space.
        FetchError: A server refuses a file or can't be reached.
    """
    retry_policy = RetryPolicy(max_tries=config.retries + 1)
    stop = threading.Event()
    with http_session.open_session(config, [request.url for request in downloads]) as session:
        fetch_size = partial(_fetch_known_size, session=session, retry_policy=retry_policy, stop=stop)
        sizes = threads.run_parallel(fetch_size, downloads, MAX_WORKERS, stop)
    missing_bytes = count_missing_bytes(zip(downloads, sizes, strict=True), cache)
    purpose = "fetching " + ", ".join(redact_url(request.url) for request in downloads)
    disk.require_free_space([(cache.root, missing_bytes, purpose)])


def count_missing_bytes(sized_downloads: Iterable[tuple[DownloadRequest, int | None]], cache: FileCache) -> int:
    """Count the bytes that are still to fetch of files of these sizes.

    Bytes that an earlier run has fetched don't count, the same content counts once, and an unknown size (None) counts
    as nothing. Raises FetchError where the cache can't be read or written.
    """
    sized = {request.sha256 or request.url: (request, size) for request, size in sized_downloads if size is not None}
    try:
        received = {
            key: get_file_size(cache.get_partial_path(request.sha256)) if request.sha256 else 0
            for key, (request, _) in sized.items()
        }
    except OSError as error:
        raise download.make_cache_error(error, cache) from error
    return sum(max(0, size - received[key]) for key, (_, size) in sized.items())


def _fetch_size(url: str, session: requests.Session, retry_policy: RetryPolicy, stop: threading.Event) -> int:
    path = pip_config.get_local_path(url)
    if path is None:
        return http.retry(lambda: _measure_size(url, session), url, retry_policy, stop=stop)
    try:
        return path.stat().st_size
    except OSError as error:
        hint = "check that the file exists and that you may read it"
        raise FetchError(f"can't be read: {http.describe_cause(error)}", where=str(path), hint=hint) from error


def _fetch_known_size(
    request: DownloadRequest, session: requests.Session, retry_policy: RetryPolicy, stop: threading.Event
) -> int | None:
    """Return the size of a file in bytes; None where the server does not state it."""
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
    # Signed URLs refuse HEAD, and some servers give no length with it.
    with http.send_request(session, "GET", url, IDENTITY_HEADERS | {"Range": "bytes=0-0"}) as response:
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            return http.parse_content_range(response)[1]
        if response.status_code == HTTPStatus.OK:
            return http.parse_content_length(response)
        raise http.make_response_error(response, url)

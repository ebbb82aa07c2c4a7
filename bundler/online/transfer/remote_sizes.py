"""How large files are, asked before any is fetched, and whether the shelf's disk has room for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial as bound
from http import HTTPStatus

import requests

from bundler.errors import FetchError
from bundler.format import disk
from bundler.online.transfer import download, http, pip_config, threads
from bundler.online.transfer.cache import Store
from bundler.online.transfer.download import AT_ONCE, PLAIN, Wanted, length
from bundler.online.transfer.http import PATIENCE, Patience, address
from bundler.online.transfer.pip_config import PipConfig


def sizes(urls: Iterable[str], session: requests.Session, patience: Patience = PATIENCE) -> dict[str, int]:
    """The size in bytes of what stands at each address, asked and only if need be fetched; raises FetchError."""
    listed = list(dict.fromkeys(urls))
    stop = threading.Event()
    ask = bound(_size, session=session, patience=patience, stop=stop)
    return dict(zip(listed, threads.each(ask, listed, AT_ONCE, stop), strict=True))


def require(wanted: Sequence[Wanted], store: Store, config: PipConfig) -> None:
    """Ask how large files are before any is fetched, where that is not known.

    What the server does not say is not counted, nor what an earlier run has brought of a file. Raises HostError when
    the shelf's disk has too little room, FetchError for what can't be had.
    """
    patience = Patience(tries=config.retries + 1)
    stop = threading.Event()
    with pip_config.session(config, [one.url for one in wanted]) as session:
        ask = bound(_told, session=session, patience=patience, stop=stop)
        told = threads.each(ask, wanted, AT_ONCE, stop)
    needed = to_come(zip(wanted, told, strict=True), store)
    disk.require([(store.root, needed, "fetching " + ", ".join(address(one.url) for one in wanted))])


def to_come(sized: Iterable[tuple[Wanted, int | None]], store: Store) -> int:
    """Bytes that are still to come of files of these sizes: an earlier run may have brought some, and one content comes
    once. What is not known is not counted. Raises FetchError where the shelf can't be read or written."""
    known = {one.sha256 or one.url: (one, size) for one, size in sized if size is not None}
    try:
        here = {key: length(store.partial(one.sha256)) if one.sha256 else 0 for key, (one, _) in known.items()}
    except OSError as error:
        raise download.unkept(error, store) from error
    return sum(max(0, size - here[key]) for key, (_, size) in known.items())


def _size(url: str, session: requests.Session, patience: Patience, stop: threading.Event) -> int:
    path = pip_config.local_path(url)
    if path is None:
        return http.patiently(lambda: _size_by_asking(url, session), url, patience, stop=stop)
    try:
        return path.stat().st_size
    except OSError as error:
        raise FetchError(f"can't be read: {http.words(error)}", where=str(path)) from error


def _told(wanted: Wanted, session: requests.Session, patience: Patience, stop: threading.Event) -> int | None:
    """The size of a file in bytes, as far as it is said without fetching it."""
    url = wanted.url
    if wanted.size is not None:
        return wanted.size
    if pip_config.local_path(url) is not None:
        return _size(url, session, patience, stop)
    return http.patiently(lambda: _size_by_word(url, session), url, patience, stop=stop)


def _size_by_asking(url: str, session: requests.Session) -> int:
    if (size := _size_by_word(url, session)) is not None:
        return size
    with http.ask(session, "GET", url, PLAIN) as response:
        return sum(map(len, http.body(response)))


def _size_by_word(url: str, session: requests.Session) -> int | None:
    with http.ask(session, "HEAD", url, PLAIN) as response:
        if response.status_code == HTTPStatus.OK and (size := http.content_length(response)) is not None:
            return size
    # Signed addresses refuse HEAD, and some servers give no length with it.
    with http.ask(session, "GET", url, PLAIN | {"Range": "bytes=0-0"}) as response:
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            return http.content_range(response)[1]
        if response.status_code == HTTPStatus.OK:
            return http.content_length(response)
        raise http.refused(response, url)

"""How large files are, asked before any is fetched, and whether the shelf's disk has room for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import requests

from bundler.bundle import disk
from bundler.errors import FetchError
from bundler.online import answers, pipconfig
from bundler.online.answers import PATIENCE, Patience, address
from bundler.online.download import AT_ONCE, PLAIN, Wanted, length
from bundler.online.pipconfig import PipConfig
from bundler.online.store import Store


def sizes(urls: Iterable[str], session: requests.Session, patience: Patience = PATIENCE) -> dict[str, int]:
    """The size in bytes of what stands at each address, asked and only if need be fetched; raises FetchError."""
    listed = list(dict.fromkeys(urls))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sizes") as pool:
        return dict(zip(listed, pool.map(lambda url: _size(url, session, patience), listed), strict=True))


def require(wanted: Sequence[Wanted], store: Store, config: PipConfig) -> None:
    """Ask how large files are before any is fetched.

    What the server does not say is not counted, nor what an earlier run has brought of a file. Raises HostError when
    the shelf's disk has too little room, FetchError for what can't be had.
    """
    patience = Patience(tries=config.retries + 1)
    with pipconfig.session(config, [one.url for one in wanted]) as session, ThreadPoolExecutor(AT_ONCE) as pool:
        told = list(pool.map(lambda one: _told(one.url, session, patience), wanted))
    needed = to_come(zip(wanted, told, strict=True), store)
    disk.require([(store.root, needed, "fetching " + ", ".join(address(one.url) for one in wanted))])


def to_come(sized: Iterable[tuple[Wanted, int | None]], store: Store) -> int:
    """Bytes that are still to come of files of these sizes: an earlier run may have brought some, and one content comes
    once. What is not known is not counted."""
    known = {one.sha256 or one.url: (one, size) for one, size in sized if size is not None}
    here = {key: length(store.partial(one.sha256)) if one.sha256 else 0 for key, (one, _) in known.items()}
    return sum(max(0, size - here[key]) for key, (_, size) in known.items())


def _size(url: str, session: requests.Session, patience: Patience) -> int:
    path = pipconfig.local_path(url)
    if path is None:
        return answers.patiently(lambda: _size_by_asking(url, session), url, patience)
    try:
        return path.stat().st_size
    except OSError as error:
        raise FetchError(f"can't be read: {answers.words(error)}", where=str(path)) from error


def _told(url: str, session: requests.Session, patience: Patience) -> int | None:
    """The size in bytes of what stands at an address, as far as it is said without fetching it."""
    path = pipconfig.local_path(url)
    if path is not None:
        return _size(url, session, patience)
    return answers.patiently(lambda: _size_by_word(url, session), url, patience)


def _size_by_asking(url: str, session: requests.Session) -> int:
    if (size := _size_by_word(url, session)) is not None:
        return size
    with answers.ask(session, "GET", url, PLAIN) as response:
        return sum(map(len, answers.body(response)))


def _size_by_word(url: str, session: requests.Session) -> int | None:
    with answers.ask(session, "HEAD", url, PLAIN) as response:
        if response.status_code == HTTPStatus.OK and (size := answers.content_length(response)) is not None:
            return size
    # Signed addresses refuse HEAD, and some servers give no length with it.
    with answers.ask(session, "GET", url, PLAIN | {"Range": "bytes=0-0"}) as response:
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            return answers.content_range(response)[1]
        if response.status_code == HTTPStatus.OK:
            return answers.content_length(response)
        raise answers.refused(response, url)

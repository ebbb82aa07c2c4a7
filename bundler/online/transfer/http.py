"""What servers answer: what may pass and is tried again, what will not, and what they say of a file."""

from __future__ import annotations

import email.utils
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests
from requests import exceptions
from requests.exceptions import SSLError
from urllib3.exceptions import HTTPError

from bundler.errors import FetchError
from bundler.online.transfer import pip_config

T = TypeVar("T")
_CHUNK = 1 << 20
"""Bytes read at once where that many have come."""
_LONGEST_ORDER = 300.0
"""Seconds that a server may have us wait."""
_PASSING = (
    exceptions.ConnectionError,
    exceptions.Timeout,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)
BUSY = frozenset([408, 425, 429, 500, 502, 503, 504])
"""Answers that may be others a moment later."""


_LOG_IN_FIRST = "the network that you are in wants a login: open an address in a browser, log in, and run this again"
_GONE = "it is gone from there: resolve again, or take another version"
_HINTS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "give user and password in pip's index address or in netrc",
    HTTPStatus.FORBIDDEN: "ask for access, or give user and password in pip's index address or in netrc",
    HTTPStatus.NOT_FOUND: _GONE,
    HTTPStatus.GONE: _GONE,
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED: _LOG_IN_FIRST,
}


class AgainError(Exception):
    """This attempt has failed and another may not: why, and after how many seconds the server wants to see it."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class StoppedError(Exception):
    """Other work has failed that this was for, or the person has had enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often to try again without having got any further, and how long to wait in between, in seconds."""

    tries: int = 6
    first: float = 1.0
    longest: float = 60.0
    pause: Callable[[threading.Event, float], object] = threading.Event.wait

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row."""
        return float(min(self.longest, self.first * 2 ** (failures - 1)))


PATIENCE = Patience()


def patiently(
    attempt: Callable[[], T],
    url: str,
    patience: Patience,
    *,
    note: Callable[[str], object] = lambda _: None,
    got: Callable[[], int] = lambda: 0,
    stop: threading.Event | None = None,
) -> T:
    """What ``attempt`` returns, tried again for as long as it raises AgainError and patience lasts.

    ``got`` counts what is here already: getting further than ever renews patience, getting there once more after
    starting again does not. ``stop`` cuts waiting short, with StoppedError. Raises FetchError in the end.
    """
    stop = stop or threading.Event()
    failures, furthest = 0, got()
    while not stop.is_set():
        try:
            return attempt()
        except AgainError as error:
            if stop.is_set():
                break
            reached = got()
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= patience.tries:
                hint = "see whether the host can be reached from here, and pip's proxy and certificates; then run again"
                raise FetchError(f"given up after {failures} tries: {error}", where=address(url), hint=hint) from error
            delay = patience.delay(failures) if error.after is None else error.after
            note(f"{address(url)}: {error}; trying again in {delay:g} s")
            patience.pause(stop, delay)
    raise StoppedError


@contextmanager
def ask(session: requests.Session, method: str, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """The server's answer, its body unread; raises AgainError for what may pass and FetchError for what won't."""
    try:
        response = session.request(
            method, pip_config.bare(url), headers=dict(headers), stream=True, allow_redirects=True
        )
    except SSLError as error:
        hint = "if a proxy or index here has a certificate of its own, tell pip: pip config set global.cert FILE"
        raise FetchError(f"its certificate is not trusted: {words(error)}", where=address(url), hint=hint) from error
    except _PASSING as error:
        raise AgainError(words(error)) from error
    except requests.RequestException as error:
        raise FetchError(words(error), where=address(url)) from error
    with response:
        if response.status_code in BUSY:
            raise AgainError(f"the server answers {_status(response)}", retry_after(response.headers))
        yield response


def body(response: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer as they come, none held back; raises AgainError where they end too early."""
    try:
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            yield chunk
    except HTTPError as error:
        raise AgainError(f"the connection broke: {words(error)}") from error


def content(response: requests.Response) -> bytes:
    """The whole body; raises AgainError where it ends too early."""
    try:
        return response.content
    except _PASSING as error:
        raise AgainError(f"the connection broke: {words(error)}") from error


def refused(response: requests.Response, url: str) -> FetchError:
    """An answer that will be the same next time, as an error."""
    hint = _HINTS.get(response.status_code, "ask who runs that server")
    return FetchError(f"the server answers {_status(response)}", where=address(url), hint=hint)


def address(url: str) -> str:
    """An address as it may be shown: without user, password, and the query in which signed addresses carry theirs."""
    return urlunsplit(urlsplit(pip_config.bare(url))._replace(query=""))


def validator(response: requests.Response) -> str:
    """A strong validator, or "" (RFC 9110, 8.8: a weak one does not promise the same bytes)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else ""


def content_length(response: requests.Response) -> int | None:
    """Bytes of the body, where that is stated of the file itself and not of a compressed form of it."""
    stated = response.headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() and "Content-Encoding" not in response.headers else None


def content_range(response: requests.Response) -> tuple[int, int | None]:
    """First offset and size of the whole as a 206 states them (RFC 9110, 14.4); -1 and None where it does not."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not found or "Content-Encoding" in response.headers:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server wants to be left alone (RFC 9110, 10.2.3: a number, or a date)."""
    stated = headers.get("Retry-After", "")
    if stated.isdigit():
        return min(float(stated), _LONGEST_ORDER)
    if (when := email.utils.parsedate_tz(stated)) is None:
        return None
    return min(max(0.0, email.utils.mktime_tz(when) - time.time()), _LONGEST_ORDER)


def words(error: BaseException) -> str:
    """What went wrong at the bottom, in the system's words: the layers above add addresses and objects."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()

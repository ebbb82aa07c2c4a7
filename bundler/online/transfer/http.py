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
_CHUNK_BYTES = 1 << 20
"""Bytes read at once where that many have come."""
_MAX_RETRY_AFTER = 300.0
"""Seconds that a server may have us wait."""
_TRANSIENT_ERRORS = (
    exceptions.ConnectionError,
    exceptions.Timeout,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)
TRANSIENT_STATUSES = frozenset([408, 425, 429, 500, 502, 503, 504])
"""Answers that may be others a moment later."""


_LOGIN_HINT = "the network that you are in wants a login: open an address in a browser, log in, and run this again"
_GONE_HINT = "it is gone from there: resolve again, or take another version"
_HINTS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "give user and password in pip's index address or in netrc",
    HTTPStatus.FORBIDDEN: "ask for access, or give user and password in pip's index address or in netrc",
    HTTPStatus.NOT_FOUND: _GONE_HINT,
    HTTPStatus.GONE: _GONE_HINT,
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED: _LOGIN_HINT,
}


class RetryableError(Exception):
    """This attempt has failed and another may not: why, and after how many seconds the server wants to see it."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class CancelledError(Exception):
    """Other work has failed that this was for, or the person has had enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often to try again without having got any further, and how long to wait in between, in seconds."""

    max_tries: int = 6
    first_delay: float = 1.0
    max_delay: float = 60.0
    wait: Callable[[threading.Event, float], object] = threading.Event.wait

    def compute_delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row."""
        return float(min(self.max_delay, self.first_delay * 2 ** (failures - 1)))


DEFAULT_RETRY_POLICY = RetryPolicy()


def retry(
    attempt: Callable[[], T],
    url: str,
    retry_policy: RetryPolicy,
    *,
    note: Callable[[str], object] = lambda _: None,
    count_received: Callable[[], int] = lambda: 0,
    stop: threading.Event | None = None,
) -> T:
    """What ``attempt`` returns, tried again for as long as it raises AgainError and patience lasts.

    ``got`` counts what is here already: getting further than ever renews patience, getting there once more after
    starting again does not. ``stop`` cuts waiting short, with StoppedError. Raises FetchError in the end.
    """
    stop = stop or threading.Event()
    failures, furthest = 0, count_received()
    while not stop.is_set():
        try:
            return attempt()
        except RetryableError as error:
            if stop.is_set():
                break
            reached = count_received()
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= retry_policy.max_tries:
                hint = "see whether the host can be reached from here, and pip's proxy and certificates; then run again"
                raise FetchError(
                    f"given up after {failures} tries: {error}", where=redact_url(url), hint=hint
                ) from error
            delay = retry_policy.compute_delay(failures) if error.retry_after is None else error.retry_after
            note(f"{redact_url(url)}: {error}; trying again in {delay:g} s")
            retry_policy.wait(stop, delay)
    raise CancelledError


@contextmanager
def send_request(
    session: requests.Session, method: str, url: str, headers: Mapping[str, str]
) -> Iterator[requests.Response]:
    """The server's answer, its body unread; raises AgainError for what may pass and FetchError for what won't."""
    try:
        response = session.request(
            method, pip_config.strip_credentials(url), headers=dict(headers), stream=True, allow_redirects=True
        )
    except SSLError as error:
        hint = "if a proxy or index here has a certificate of its own, tell pip: pip config set global.cert FILE"
        raise FetchError(
            f"its certificate is not trusted: {describe_cause(error)}", where=redact_url(url), hint=hint
        ) from error
    except _TRANSIENT_ERRORS as error:
        raise RetryableError(describe_cause(error)) from error
    except requests.RequestException as error:
        raise FetchError(describe_cause(error), where=redact_url(url)) from error
    with response:
        if response.status_code in TRANSIENT_STATUSES:
            raise RetryableError(f"the server answers {_format_status(response)}", parse_retry_after(response.headers))
        yield response


def iter_body(response: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer as they come, none held back; raises AgainError where they end too early."""
    try:
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            yield chunk
    except HTTPError as error:
        raise RetryableError(f"the connection broke: {describe_cause(error)}") from error


def read_body(response: requests.Response) -> bytes:
    """The whole body; raises AgainError where it ends too early."""
    try:
        return response.content
    except _TRANSIENT_ERRORS as error:
        raise RetryableError(f"the connection broke: {describe_cause(error)}") from error


def make_response_error(response: requests.Response, url: str) -> FetchError:
    """An answer that will be the same next time, as an error."""
    hint = _HINTS.get(response.status_code, "ask who runs that server")
    return FetchError(f"the server answers {_format_status(response)}", where=redact_url(url), hint=hint)


def redact_url(url: str) -> str:
    """An address as it may be shown: without user, password, and the query in which signed addresses carry theirs."""
    return urlunsplit(urlsplit(pip_config.strip_credentials(url))._replace(query=""))


def parse_validator(response: requests.Response) -> str:
    """A strong validator, or "" (RFC 9110, 8.8: a weak one does not promise the same bytes)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else ""


def parse_content_length(response: requests.Response) -> int | None:
    """Bytes of the body, where that is stated of the file itself and not of a compressed form of it."""
    stated = response.headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() and "Content-Encoding" not in response.headers else None


def parse_content_range(response: requests.Response) -> tuple[int, int | None]:
    """First offset and size of the whole as a 206 states them (RFC 9110, 14.4); -1 and None where it does not."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not found or "Content-Encoding" in response.headers:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server wants to be left alone (RFC 9110, 10.2.3: a number, or a date)."""
    stated = headers.get("Retry-After", "")
    if stated.isdigit():
        return min(float(stated), _MAX_RETRY_AFTER)
    if (when := email.utils.parsedate_tz(stated)) is None:
        return None
    return min(max(0.0, email.utils.mktime_tz(when) - time.time()), _MAX_RETRY_AFTER)


def describe_cause(error: BaseException) -> str:
    """What went wrong at the bottom, in the system's words: the layers above add addresses and objects."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _format_status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()

"""HTTP requests and responses: retries of temporary errors, messages for others, and what headers say of a file."""

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
"""Bytes to read at once, at most."""
_MAX_RETRY_AFTER = 300.0
"""Seconds to wait at most for a server's Retry-After."""
_TRANSIENT_ERRORS = (
    exceptions.ConnectionError,
    exceptions.Timeout,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)
TRANSIENT_STATUSES = frozenset([408, 425, 429, 500, 502, 503, 504])
"""Statuses of errors that are often temporary."""

ACCESS_HINT = "put user and password into pip's index URL or into netrc, or ask for access"
CERTIFICATE_HINT = "if a proxy or index uses a certificate of its own, tell pip: pip config set global.cert FILE"
ALTERED_FILE_HINT = "the file on the server was altered or damaged, or a proxy answers instead: ask who runs them"
_NETWORK_LOGIN_HINT = "this network requires a login: open any page in a browser, log in, and run this again"
_GONE_HINT = "the server no longer has it: lock again, or choose another version"
_HINTS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: ACCESS_HINT,
    HTTPStatus.FORBIDDEN: ACCESS_HINT,
    HTTPStatus.NOT_FOUND: _GONE_HINT,
    HTTPStatus.GONE: _GONE_HINT,
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED: _NETWORK_LOGIN_HINT,
}


class RetryableError(Exception):
    """A failure that another attempt may avoid; ``retry_after`` are the seconds that the server asks to wait."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class CancelledError(Exception):
    """The work was cancelled, after another failure or by Ctrl-C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """The number of tries without progress, and the delays between them in seconds, doubled after each failure."""

    max_tries: int = 6
    first_delay: float = 1.0
    max_delay: float = 60.0
    wait: Callable[[threading.Event, float], object] = threading.Event.wait

    def compute_delay(self, failures: int) -> float:
        """Return the seconds to wait after this many failures in a row."""
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
    """Return the result of ``attempt``, and call it again while it raises RetryableError.

    Args:
        attempt: The work.
        url: Named in messages.
        retry_policy: The limit of tries and the delays.
        note: Called with a line of text before each wait.
        count_received: Returns the bytes that have arrived so far. The number of tries starts again only when more
            bytes have arrived than ever before.
        stop: Ends the wait when it is set.

    Raises:
        FetchError: No tries are left.
        CancelledError: ``stop`` was set.
    """
    stop = stop or threading.Event()
    failures, most_received = 0, count_received()
    while not stop.is_set():
        try:
            return attempt()
        except RetryableError as error:
            if stop.is_set():
                break
            received = count_received()
            failures = 1 if received > most_received else failures + 1
            most_received = max(most_received, received)
            if failures >= retry_policy.max_tries:
                hint = "check that this machine can reach the host, and pip's proxy and certificates; then run again"
                raise FetchError(
                    f"gave up after {failures} tries: {error}", where=redact_url(url), hint=hint
                ) from error
            delay = retry_policy.compute_delay(failures) if error.retry_after is None else error.retry_after
            note(f"{redact_url(url)}: {error}; trying again in {delay:g} s")
            retry_policy.wait(stop, delay)
    raise CancelledError


@contextmanager
def send_request(
    session: requests.Session, method: str, url: str, headers: Mapping[str, str]
) -> Iterator[requests.Response]:
    """Send a request and yield the response, its body unread.

    Raises:
        RetryableError: The connection failed, or the status is often temporary.
        FetchError: Another attempt would fail as well, such as with an untrusted certificate.
    """
    try:
        response = session.request(
            method, pip_config.strip_credentials(url), headers=dict(headers), stream=True, allow_redirects=True
        )
    except SSLError as error:
        raise FetchError(
            f"the server's certificate is not trusted: {describe_cause(error)}",
            where=redact_url(url),
            hint=CERTIFICATE_HINT,
        ) from error
    except _TRANSIENT_ERRORS as error:
        raise RetryableError(describe_cause(error)) from error
    except requests.RequestException as error:
        hint = "check the URL, and pip's proxy"
        raise FetchError(describe_cause(error), where=redact_url(url), hint=hint) from error
    with response:
        if response.status_code in TRANSIENT_STATUSES:
            raise RetryableError(f"the server answers {_format_status(response)}", parse_retry_after(response.headers))
        yield response


def iter_body(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes of a body as they arrive; raise RetryableError where the connection breaks."""
    try:
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            yield chunk
    except HTTPError as error:
        raise RetryableError(f"the connection broke: {describe_cause(error)}") from error


def read_body(response: requests.Response) -> bytes:
    """Read the whole body; raise RetryableError where the connection breaks."""
    try:
        return response.content
    except _TRANSIENT_ERRORS as error:
        raise RetryableError(f"the connection broke: {describe_cause(error)}") from error


def make_response_error(response: requests.Response, url: str) -> FetchError:
    """Return the error for a response that another attempt would get as well."""
    hint = _HINTS.get(response.status_code, "ask who runs the server")
    return FetchError(f"the server answers {_format_status(response)}", where=redact_url(url), hint=hint)


def redact_url(url: str) -> str:
    """Return a URL without its secrets: user, password, and the query, which holds the signature of a signed URL."""
    return urlunsplit(urlsplit(pip_config.strip_credentials(url))._replace(query=""))


def parse_validator(response: requests.Response) -> str:
    """Return the strong validator, or "" (RFC 9110, 8.8: a weak one does not promise the same bytes)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else ""


def parse_content_length(response: requests.Response) -> int | None:
    """Return the bytes of the body; None where the header is missing or counts a compressed form of the file."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None


def parse_content_range(response: requests.Response) -> tuple[int, int | None]:
    """Return the first offset and the file's size from a 206 (RFC 9110, 14.4); -1 and None where they are unknown."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match or "Content-Encoding" in response.headers:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until the server wants another request (RFC 9110, 10.2.3: a number, or a date)."""
    value = headers.get("Retry-After", "")
    if value.isdigit():
        return min(float(value), _MAX_RETRY_AFTER)
    if (date := email.utils.parsedate_tz(value)) is None:
        return None
    return min(max(0.0, email.utils.mktime_tz(date) - time.time()), _MAX_RETRY_AFTER)


def describe_cause(error: BaseException) -> str:
    """Return the message of the root cause: the layers above it add URLs and objects."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _format_status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()

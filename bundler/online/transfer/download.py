"""Brings files home over HTTP: resumed, checked, several at once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial as bound
from http import HTTPStatus
from pathlib import Path

import filelock
import requests

from bundler.errors import FetchError, IntegrityError
from bundler.format import hashing
from bundler.format.hashing import Sha256
from bundler.online.transfer import http, http_session, pip_config, threads
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.http import CancelledError, RetryableError, RetryPolicy, redact_url
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter, Stage

MAX_WORKERS = 8
_LOCK_POLL_SECONDS = 0.5
"""Seconds between looks at whether to stop while another run holds a file."""
IDENTITY_HEADERS = {"Accept-Encoding": "identity"}
"""Offsets and sizes are those of the file itself, not of a compressed form of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadRequest:
    """A file at an address (http, https, file, or a path), what it must hash to and its size in bytes where known.

    ``git_sha1`` is what git names the content by. ``headers`` go to the address's own host alone: a redirect to
    another drops credentials. ``refusal`` says what an answer other than the file means; its AgainError means
    that asking at ``url`` anew may help. ``patience`` is for servers that need more of it than others.
    """

    url: str
    sha256: str = ""
    git_sha1: str = ""
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    make_error: Callable[[requests.Response, str], Exception] = http.make_response_error
    retry_policy: RetryPolicy | None = None


def fetch(
    downloads: Sequence[DownloadRequest],
    cache: FileCache,
    config: PipConfig,
    reporter: Reporter,
    *,
    title: str = "fetch",
    credential_urls: Iterable[str] = (),
    retry_policy: RetryPolicy | None = None,
) -> tuple[tuple[int, Sha256], ...]:
    """Bring files onto the shelf; for each its size in bytes and SHA-256.

    ``also`` are addresses whose credentials are to be used besides those of pip's configuration. Raises FetchError
    for what can't be had and IntegrityError for what is not what it must be. What has arrived of a file stays and
    the next call goes on from there.
    """
    retry_policy = retry_policy or RetryPolicy(max_tries=config.retries + 1)
    known = [one.size for one in downloads if one.size is not None]
    total = sum(known) if len(known) == len(downloads) else 0
    with (
        http_session.open_session(config, [*credential_urls, *(one.url for one in downloads)]) as session,
        reporter.stage(title, total) as stage,
    ):
        errand = _Downloader(session, cache, reporter, stage, retry_policy)
        return tuple(threads.run_parallel(errand.fetch_file, downloads, MAX_WORKERS, errand.stop, errand.cancel))


def check_file(request: DownloadRequest, path: Path) -> tuple[str, str]:
    """The SHA-256 of a file that is here, and how it differs from what is wanted; "" when it does not."""
    size, sha256 = hashing.compute_file_sha256(path)
    return sha256, _describe_mismatch(request, path, size, sha256)


def make_cache_error(error: OSError, cache: FileCache) -> FetchError:
    """What to say where the shelf can't be read or written."""
    hint = "see whether the disk is full or closed to you; BUNDLE_CACHE names another place"
    return FetchError(f"can't be kept: {http.describe_cause(error)}", where=str(cache.root), hint=hint)


class _ContentMismatchError(Exception):
    """What the server has is not what is wanted."""


class _SizeMismatchError(_ContentMismatchError):
    """A server states another size, before anything of it is written: a login page, or another file than the one that
    some of is here."""


class _DownloadState:
    """What one download has come to: for the progress, which starting again takes back, and its SHA-256."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._offset = 0
        self._digest, self._hashed_bytes = hashlib.sha256(), 0
        self.needs_restart = False
        """Whether the server has to be asked for the whole, since it can't go on."""

    def set_offset(self, offset: int) -> None:
        self._stage.advance(offset - self._offset)
        self._offset = offset

    def add_chunk(self, offset: int, chunk: bytes) -> None:
        """What was written to offset ``at``."""
        if not offset:
            self._digest, self._hashed_bytes = hashlib.sha256(), 0
        if offset == self._hashed_bytes:  # else the file began in an earlier run, and has to be read again
            self._digest.update(chunk)
            self._hashed_bytes += len(chunk)
        self.set_offset(offset + len(chunk))

    def find_sha256(self, size: int) -> str:
        """Of the first ``size`` bytes; "" where not all of them came by here."""
        return self._digest.hexdigest() if self._hashed_bytes == size else ""


@dataclass(frozen=True, slots=True)
class _Downloader:
    """Brings one file after the other; used by several threads."""

    session: requests.Session
    cache: FileCache
    reporter: Reporter
    stage: Stage
    retry_policy: RetryPolicy
    stop: threading.Event = field(default_factory=threading.Event)
    open_responses: set[requests.Response] = field(default_factory=set)
    """Answers that are not at their end."""

    def cancel(self) -> None:
        """End what is being received: a server may have stopped sending without a word."""
        for response in tuple(self.open_responses):
            with suppress(OSError, ValueError, RuntimeError):  # it has just come to its end by itself
                response.raw.shutdown()

    def fetch_file(self, request: DownloadRequest) -> tuple[int, Sha256]:
        tally = _DownloadState(self.stage)
        if (path := pip_config.get_local_path(request.url)) is not None:
            return self._copy(request, path, tally)
        try:
            partial = self.cache.get_partial_path(
                request.sha256 or hashing.compute_sha256(pip_config.strip_credentials(request.url).encode())
            )
            with self._lock_partial(partial, request):
                return self._fetch(request, partial, tally)
        except OSError as error:
            raise make_cache_error(error, self.cache) from error

    def _copy(self, request: DownloadRequest, path: Path, state: _DownloadState) -> tuple[int, Sha256]:
        try:
            size, sha256 = self.cache.copy_in(path)
        except (OSError, EOFError) as error:
            raise FetchError(f"can't be copied: {http.describe_cause(error)}", where=str(path)) from error
        state.set_offset(size)
        if why := _describe_mismatch(request, path, size, sha256):
            raise IntegrityError(why, where=str(path), hint="the file was altered or damaged since: get it anew")
        return size, sha256

    @contextmanager
    def _lock_partial(self, partial: Path, request: DownloadRequest) -> Iterator[None]:
        """Holds what grows at ``partial`` against other runs that want the same file."""
        lock = filelock.FileLock(partial.with_suffix(".lock"))
        if not _try_lock(lock, 0):
            self.reporter.note(f"{redact_url(request.url)}: another run is fetching it; waiting for that")
            while not _try_lock(lock, _LOCK_POLL_SECONDS):
                self._raise_if_cancelled()
        try:
            yield
        finally:
            lock.release()

    def _raise_if_cancelled(self) -> None:
        if self.stop.is_set():
            raise CancelledError

    def _fetch(self, request: DownloadRequest, partial: Path, state: _DownloadState) -> tuple[int, Sha256]:
        if request.sha256 and (here := self.cache.find(request.sha256, request.size)):
            size = here.stat().st_size
            state.set_offset(size)
            return size, Sha256(request.sha256)
        try:
            return self._fetch_once(request, partial, state)
        except _ContentMismatchError as first:
            self.reporter.note(f"{redact_url(request.url)}: {first}; fetching it once more")
        try:
            return self._fetch_once(request, partial, state)
        except _ContentMismatchError as error:
            hint = "the file there was altered or damaged, or something in between answers instead: ask who runs it"
            raise IntegrityError(f"fetched twice: {error}", where=redact_url(request.url), hint=hint) from error

    def _fetch_once(self, request: DownloadRequest, partial: Path, state: _DownloadState) -> tuple[int, Sha256]:
        try:
            http.retry(
                bound(self._try_fetch, request, partial, state),
                request.url,
                request.retry_policy or self.retry_policy,
                note=self.reporter.note,
                count_received=bound(get_file_size, partial),
                stop=self.stop,
            )
            sha256 = _verify_download(request, partial, state)
        except _SizeMismatchError:
            raise  # nothing was written: what is here is as good as before
        except _ContentMismatchError:
            _discard_partial(partial, state)
            raise
        _get_validator_path(partial).unlink(missing_ok=True)
        return self.cache.move_in(partial, sha256)

    def _try_fetch(self, request: DownloadRequest, partial: Path, state: _DownloadState) -> None:
        self._raise_if_cancelled()
        have, mark = get_file_size(partial), _get_validator_path(partial)
        validator = mark.read_text(encoding="latin-1") if mark.exists() else ""
        digested = bool(request.sha256 or request.git_sha1)
        if have and request.size == have and digested:
            state.set_offset(have)
            return  # it came to its end before; hashing will tell
        # Without a digest only a validator can say that the rest belongs to what is here (RFC 9110, 13.1.5).
        if not (digested or validator) or (request.size is not None and have >= request.size):
            have = 0
        kept = have if digested else 0
        if state.needs_restart:
            have, state.needs_restart = 0, False
        headers = dict(request.headers) | IDENTITY_HEADERS | ({"Range": f"bytes={have}-"} if have else {})
        if have and validator:
            headers["If-Range"] = validator
        with http.send_request(self.session, "GET", request.url, headers) as response, self._track_response(response):
            start, total = self._locate_body(response, request, have)
            if start < 0:
                state.needs_restart = True
                raise RetryableError("the server can't go on where it left off, so from the beginning", retry_after=0)
            if start:
                self._receive(response, partial, start, total, state)
                return
            with self._start_over(partial, kept, http.parse_validator(response)) as place:
                self._receive(response, place, 0, total, state)

    @contextmanager
    def _track_response(self, response: requests.Response) -> Iterator[None]:
        self.open_responses.add(response)
        try:
            self._raise_if_cancelled()  # whoever has called it off by now does not know of this one
            yield
        finally:
            self.open_responses.discard(response)

    @contextmanager
    def _start_over(self, partial: Path, existing_bytes: int, validator: str) -> Iterator[Path]:
        """Where a file grows that is sent from its beginning.

        Where ``kept`` bytes of it are here already and a digest will tell whether they are right, it grows beside them
        until it is whole; where the line breaks before, the longer one stays.
        """
        if not existing_bytes:
            _get_validator_path(partial).write_text(validator, encoding="latin-1")
            yield partial
            return
        with self.cache.temporary_path() as path:
            whole = False
            try:
                yield path
                whole = True
            finally:
                if whole or get_file_size(path) >= existing_bytes:
                    path.replace(partial)
                    _get_validator_path(partial).write_text(validator, encoding="latin-1")

    def _locate_body(
        self, response: requests.Response, request: DownloadRequest, existing_bytes: int
    ) -> tuple[int, int | None]:
        """Where the body belongs in the file (-1: nowhere), and the size of the whole as far as it is known."""
        start, total = 0, http.parse_content_length(response)
        if existing_bytes and response.status_code == HTTPStatus.PARTIAL_CONTENT:
            start, total = http.parse_content_range(response)
        elif existing_bytes and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return -1, None
        elif response.status_code != HTTPStatus.OK:
            raise request.make_error(response, request.url)
        elif existing_bytes:
            self.reporter.note(f"{redact_url(request.url)}: the server sends the whole file, so from the beginning")
        if start not in (0, existing_bytes):
            return -1, None
        if None not in (total, request.size) and total != request.size:
            raise _SizeMismatchError(f"the server has {total} bytes, {request.size} were expected")
        return start, total if request.size is None else request.size

    def _receive(
        self, response: requests.Response, partial: Path, start: int, total: int | None, state: _DownloadState
    ) -> None:
        at = start
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            state.set_offset(start)
            for chunk in http.iter_body(response):
                self._raise_if_cancelled()
                file.write(chunk)
                state.add_chunk(at, chunk)
                at += len(chunk)
                if total is not None and at > total:
                    raise _ContentMismatchError(f"the server sends more than {total} bytes")
        self._raise_if_cancelled()  # what was called off ends as if it were whole
        if total is not None and at < total:
            raise RetryableError(f"the connection ended after {at} of {total} bytes")


def _verify_download(request: DownloadRequest, path: Path, state: _DownloadState) -> Sha256:
    size = path.stat().st_size
    sha256 = Sha256(state.find_sha256(size) or hashing.compute_file_sha256(path)[1])
    if why := _describe_mismatch(request, path, size, sha256):
        raise _ContentMismatchError(why)
    return sha256


def _describe_mismatch(request: DownloadRequest, path: Path, size: int, sha256: str) -> str:
    if request.sha256 and sha256 != request.sha256:
        return f"sha256 is {sha256} ({size} bytes), {request.sha256} was expected"
    if request.size is not None and size != request.size:
        return f"it has {size} bytes, {request.size} were expected"
    if request.git_sha1 and (found := _compute_git_sha1(path)) != request.git_sha1:
        return f"git's sha1 is {found} ({size} bytes), {request.git_sha1} was expected"
    return ""


def _compute_git_sha1(path: Path) -> str:
    """What git names a file's content by: SHA-1 of "blob", its size in bytes, NUL, and the content."""
    hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(hashing.CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()


def get_file_size(path: Path) -> int:
    """Bytes of a file that may not be there."""
    return path.stat().st_size if path.exists() else 0


def _get_validator_path(partial: Path) -> Path:
    """Where it is kept which state of the file on the server ``partial`` is a part of."""
    return partial.with_suffix(".validator")


def _discard_partial(partial: Path, state: _DownloadState) -> None:
    partial.unlink(missing_ok=True)
    _get_validator_path(partial).unlink(missing_ok=True)
    state.set_offset(0)


def _try_lock(lock: filelock.BaseFileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except filelock.Timeout:
        return False
    return True

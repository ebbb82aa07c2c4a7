"""Downloads into the cache: resumed, verified, several at once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
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
"""Seconds between two checks for cancellation while another run holds a file."""
IDENTITY_HEADERS = {"Accept-Encoding": "identity"}
"""Makes offsets and sizes those of the file itself, not of a compressed form of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadRequest:
    """A file to download, with its digest and size as far as they are known.

    Attributes:
        url: An http, https or file URL, or a path.
        sha256: The expected SHA-256, or "".
        git_sha1: The expected id of the content as a git blob, or "".
        size: The expected size in bytes.
        headers: Sent to the URL's own host only: a redirect to another host drops credentials.
        make_error: Returns the error for a response without the file; a RetryableError means that another request to
            ``url`` may help.
        retry_policy: Replaces the policy of the whole download, for servers that need longer.
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
    """Fetch files into the cache.

    The bytes that arrived before a failure stay, and the next call resumes there.

    Args:
        downloads: The files.
        cache: Where they go.
        config: The configuration of pip.
        reporter: Where progress and notes go.
        title: The title of the progress bar.
        credential_urls: URLs whose credentials are used besides those of pip's configuration.
        retry_policy: The limit of tries; by default, that of pip's configuration.

    Returns:
        The size in bytes and SHA-256 of each file.

    Raises:
        FetchError: A file can't be fetched.
        IntegrityError: A file has another digest or size than expected.
    """
    retry_policy = retry_policy or RetryPolicy(max_tries=config.retries + 1)
    sizes = [request.size for request in downloads if request.size is not None]
    total = sum(sizes) if len(sizes) == len(downloads) else 0
    with (
        http_session.open_session(config, [*credential_urls, *(request.url for request in downloads)]) as session,
        reporter.stage(title, total) as stage,
    ):
        downloader = _Downloader(session, cache, reporter, stage, retry_policy)
        return tuple(
            threads.run_parallel(downloader.fetch_file, downloads, MAX_WORKERS, downloader.stop, downloader.cancel)
        )


def check_file(request: DownloadRequest, path: Path) -> tuple[str, str]:
    """Return the SHA-256 of a local file, and how it differs from the request; "" where it does not."""
    size, sha256 = hashing.compute_file_sha256(path)
    return sha256, _describe_mismatch(request, path, size, sha256)


def make_cache_error(error: OSError, cache: FileCache) -> FetchError:
    """Return the error for a cache that can't be read or written."""
    hint = "check its permissions and the free space; BUNDLE_CACHE names another folder"
    return FetchError(
        f"the cache can't be read or written: {http.describe_cause(error)}", where=str(cache.root), hint=hint
    )


class _ContentMismatchError(Exception):
    """The server's content differs from what the request expects."""


class _SizeMismatchError(_ContentMismatchError):
    """The server states another size, before any byte is written: a login page, or a file that has changed."""


class _DownloadState:
    """The state of one download: its offset, for the progress bar, and the SHA-256 of what arrived."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._offset = 0
        self._digest, self._hashed_bytes = hashlib.sha256(), 0
        self.needs_restart = False
        """Whether to request the file from its beginning, since the server can't resume it."""

    def set_offset(self, offset: int) -> None:
        self._stage.advance(offset - self._offset)
        self._offset = offset

    def add_chunk(self, offset: int, chunk: bytes) -> None:
        """Count and hash what was written at ``offset``."""
        if not offset:
            self._digest, self._hashed_bytes = hashlib.sha256(), 0
        if offset == self._hashed_bytes:  # else an earlier run wrote the first part, and the file is hashed in the end
            self._digest.update(chunk)
            self._hashed_bytes += len(chunk)
        self.set_offset(offset + len(chunk))

    def find_sha256(self, size: int) -> str:
        """Return the SHA-256 of the first ``size`` bytes; "" where this run did not receive all of them."""
        return self._digest.hexdigest() if self._hashed_bytes == size else ""


@dataclass(frozen=True, slots=True)
class _Downloader:
    """Downloads files one by one in each of several threads."""

    session: requests.Session
    cache: FileCache
    reporter: Reporter
    stage: Stage
    retry_policy: RetryPolicy
    stop: threading.Event = field(default_factory=threading.Event)
    open_responses: set[requests.Response] = field(default_factory=set)
    """Responses that are being received."""

    def cancel(self) -> None:
        """Shut down open connections, since a server may have stopped sending."""
        for response in tuple(self.open_responses):
            with suppress(OSError, ValueError, RuntimeError):  # it has just ended by itself
                response.raw.shutdown()

    def fetch_file(self, request: DownloadRequest) -> tuple[int, Sha256]:
        state = _DownloadState(self.stage)
        if (path := pip_config.get_local_path(request.url)) is not None:
            return self._copy(request, path, state)
        try:
            partial_path = self.cache.get_partial_path(
                request.sha256 or hashing.compute_sha256(pip_config.strip_credentials(request.url).encode())
            )
            with self._lock_partial(partial_path, request):
                return self._fetch(request, partial_path, state)
        except OSError as error:
            raise make_cache_error(error, self.cache) from error

    def _copy(self, request: DownloadRequest, path: Path, state: _DownloadState) -> tuple[int, Sha256]:
        try:
            size, sha256 = self.cache.copy_in(path)
        except (OSError, EOFError) as error:
            hint = "check that the file exists and that you may read it"
            raise FetchError(f"can't be copied: {http.describe_cause(error)}", where=str(path), hint=hint) from error
        state.set_offset(size)
        if mismatch := _describe_mismatch(request, path, size, sha256):
            raise IntegrityError(mismatch, where=str(path), hint="the file was altered or damaged: get a new copy")
        return size, sha256

    @contextmanager
    def _lock_partial(self, partial_path: Path, request: DownloadRequest) -> Iterator[None]:
        """Lock an incomplete file against other runs that fetch the same one."""
        lock = filelock.FileLock(partial_path.with_suffix(".lock"))
        if not _try_lock(lock, 0):
            self.reporter.note(f"{redact_url(request.url)}: another run is fetching it; waiting")
            while not _try_lock(lock, _LOCK_POLL_SECONDS):
                self._raise_if_cancelled()
        try:
            yield
        finally:
            lock.release()

    def _raise_if_cancelled(self) -> None:
        if self.stop.is_set():
            raise CancelledError

    def _fetch(self, request: DownloadRequest, partial_path: Path, state: _DownloadState) -> tuple[int, Sha256]:
        if request.sha256 and (cached_path := self.cache.find(request.sha256, request.size)):
            size = cached_path.stat().st_size
            state.set_offset(size)
            return size, Sha256(request.sha256)
        try:
            return self._fetch_once(request, partial_path, state)
        except _ContentMismatchError as error:
            self.reporter.note(f"{redact_url(request.url)}: {error}; fetching it once more")
        try:
            return self._fetch_once(request, partial_path, state)
        except _ContentMismatchError as error:
            raise IntegrityError(
                f"wrong content in two downloads: {error}", where=redact_url(request.url), hint=http.ALTERED_FILE_HINT
            ) from error

    def _fetch_once(self, request: DownloadRequest, partial_path: Path, state: _DownloadState) -> tuple[int, Sha256]:
        try:
            http.retry(
                partial(self._try_fetch, request, partial_path, state),
                request.url,
                request.retry_policy or self.retry_policy,
                note=self.reporter.note,
                count_received=partial(get_file_size, partial_path),
                stop=self.stop,
            )
            sha256 = _verify_download(request, partial_path, state)
        except _SizeMismatchError:
            raise  # nothing was written: the incomplete file is as good as before
        except _ContentMismatchError:
            _discard_partial(partial_path, state)
            raise
        _get_validator_path(partial_path).unlink(missing_ok=True)
        return self.cache.move_in(partial_path, sha256)

    def _try_fetch(self, request: DownloadRequest, partial_path: Path, state: _DownloadState) -> None:
        self._raise_if_cancelled()
        offset, validator_path = get_file_size(partial_path), _get_validator_path(partial_path)
        validator = validator_path.read_text(encoding="latin-1") if validator_path.exists() else ""
        has_digest = bool(request.sha256 or request.git_sha1)
        if offset and request.size == offset and has_digest:
            state.set_offset(offset)
            return  # an earlier run received all of it; the caller hashes it
        # Without a digest, only a validator shows that the rest belongs to these bytes (RFC 9110, 13.1.5).
        if not (has_digest or validator) or (request.size is not None and offset >= request.size):
            offset = 0
        existing_bytes = offset if has_digest else 0
        if state.needs_restart:
            offset, state.needs_restart = 0, False
        headers = dict(request.headers) | IDENTITY_HEADERS | ({"Range": f"bytes={offset}-"} if offset else {})
        if offset and validator:
            headers["If-Range"] = validator
        with http.send_request(self.session, "GET", request.url, headers) as response, self._track_response(response):
            start, total = self._locate_body(response, request, offset)
            if start < 0:
                state.needs_restart = True
                raise RetryableError("the server can't resume it; starting from the beginning", retry_after=0)
            if start:
                self._receive(response, partial_path, start, total, state)
                return
            with self._start_over(partial_path, existing_bytes, http.parse_validator(response)) as path:
                self._receive(response, path, 0, total, state)

    @contextmanager
    def _track_response(self, response: requests.Response) -> Iterator[None]:
        self.open_responses.add(response)
        try:
            self._raise_if_cancelled()  # cancel() may have run before this response was tracked
            yield
        finally:
            self.open_responses.discard(response)

    @contextmanager
    def _start_over(self, partial_path: Path, existing_bytes: int, validator: str) -> Iterator[Path]:
        """Yield the path for a file that is sent from its beginning.

        Where ``existing_bytes`` of it are here already, and a digest will show whether they are right, the new file
        grows beside them until it is complete. Where the connection breaks before, the longer one stays.
        """
        if not existing_bytes:
            _get_validator_path(partial_path).write_text(validator, encoding="latin-1")
            yield partial_path
            return
        with self.cache.temporary_path() as path:
            complete = False
            try:
                yield path
                complete = True
            finally:
                if complete or get_file_size(path) >= existing_bytes:
                    path.replace(partial_path)
                    _get_validator_path(partial_path).write_text(validator, encoding="latin-1")

    def _locate_body(
        self, response: requests.Response, request: DownloadRequest, existing_bytes: int
    ) -> tuple[int, int | None]:
        """Return the offset of the body in the file (-1: it does not fit), and the file's size where it is known."""
        start, total = 0, http.parse_content_length(response)
        if existing_bytes and response.status_code == HTTPStatus.PARTIAL_CONTENT:
            start, total = http.parse_content_range(response)
        elif existing_bytes and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return -1, None
        elif response.status_code != HTTPStatus.OK:
            raise request.make_error(response, request.url)
        elif existing_bytes:
            self.reporter.note(f"{redact_url(request.url)}: the server can't resume it; starting from the beginning")
        if start not in (0, existing_bytes):
            return -1, None
        if None not in (total, request.size) and total != request.size:
            raise _SizeMismatchError(f"the server has {total} bytes, {request.size} were expected")
        return start, total if request.size is None else request.size

    def _receive(
        self, response: requests.Response, partial_path: Path, start: int, total: int | None, state: _DownloadState
    ) -> None:
        offset = start
        with partial_path.open("r+b" if start else "wb") as file:
            file.seek(start)
            state.set_offset(start)
            for chunk in http.iter_body(response):
                self._raise_if_cancelled()
                file.write(chunk)
                state.add_chunk(offset, chunk)
                offset += len(chunk)
                if total is not None and offset > total:
                    raise _ContentMismatchError(f"the server sends more than {total} bytes")
        self._raise_if_cancelled()  # a connection that cancel() shut down ends like a complete one
        if total is not None and offset < total:
            raise RetryableError(f"the connection ended after {offset} of {total} bytes")


def _verify_download(request: DownloadRequest, path: Path, state: _DownloadState) -> Sha256:
    size = path.stat().st_size
    sha256 = Sha256(state.find_sha256(size) or hashing.compute_file_sha256(path)[1])
    if mismatch := _describe_mismatch(request, path, size, sha256):
        raise _ContentMismatchError(mismatch)
    return sha256


def _describe_mismatch(request: DownloadRequest, path: Path, size: int, sha256: str) -> str:
    if request.sha256 and sha256 != request.sha256:
        return f"sha256 is {sha256} ({size} bytes), {request.sha256} was expected"
    if request.size is not None and size != request.size:
        return f"it has {size} bytes, {request.size} were expected"
    if request.git_sha1 and (git_sha1 := _compute_git_sha1(path)) != request.git_sha1:
        return f"git's sha1 is {git_sha1} ({size} bytes), {request.git_sha1} was expected"
    return ""


def _compute_git_sha1(path: Path) -> str:
    """Compute a file's git blob id: the SHA-1 of "blob", its size in bytes, NUL, and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(hashing.CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def get_file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _get_validator_path(partial_path: Path) -> Path:
    """Return the path of the validator: it says which version on the server an incomplete file belongs to."""
    return partial_path.with_suffix(".validator")


def _discard_partial(partial_path: Path, state: _DownloadState) -> None:
    partial_path.unlink(missing_ok=True)
    _get_validator_path(partial_path).unlink(missing_ok=True)
    state.set_offset(0)


def _try_lock(lock: filelock.BaseFileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except filelock.Timeout:
        return False
    return True

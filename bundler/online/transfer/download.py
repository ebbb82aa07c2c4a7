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
from bundler.online.transfer import http, pip_config, threads
from bundler.online.transfer.cache import Store
from bundler.online.transfer.http import AgainError, Patience, StoppedError, address
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Report, Stage

AT_ONCE = 8
_GLANCE = 0.5
"""Seconds between looks at whether to stop while another run holds a file."""
PLAIN = {"Accept-Encoding": "identity"}
"""Offsets and sizes are those of the file itself, not of a compressed form of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
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
    refusal: Callable[[requests.Response, str], Exception] = http.refused
    patience: Patience | None = None


def fetch(
    wanted: Sequence[Wanted],
    store: Store,
    config: PipConfig,
    report: Report,
    *,
    title: str = "fetch",
    also: Iterable[str] = (),
    patience: Patience | None = None,
) -> tuple[tuple[int, Sha256], ...]:
    """Bring files onto the shelf; for each its size in bytes and SHA-256.

    ``also`` are addresses whose credentials are to be used besides those of pip's configuration. Raises FetchError
    for what can't be had and IntegrityError for what is not what it must be. What has arrived of a file stays and
    the next call goes on from there.
    """
    patience = patience or Patience(tries=config.retries + 1)
    known = [one.size for one in wanted if one.size is not None]
    total = sum(known) if len(known) == len(wanted) else 0
    with (
        pip_config.session(config, [*also, *(one.url for one in wanted)]) as session,
        report.stage(title, total) as stage,
    ):
        errand = _Errand(session, store, report, stage, patience)
        return tuple(threads.each(errand.run, wanted, AT_ONCE, errand.stop, errand.call_off))


def examined(wanted: Wanted, path: Path) -> tuple[str, str]:
    """The SHA-256 of a file that is here, and how it differs from what is wanted; "" when it does not."""
    size, sha256 = hashing.digest_of_file(path)
    return sha256, _difference(wanted, path, size, sha256)


def unkept(error: OSError, store: Store) -> FetchError:
    """What to say where the shelf can't be read or written."""
    hint = "see whether the disk is full or closed to you; BUNDLE_CACHE names another place"
    return FetchError(f"can't be kept: {http.words(error)}", where=str(store.root), hint=hint)


class _WrongError(Exception):
    """What the server has is not what is wanted."""


class _OtherError(_WrongError):
    """A server states another size, before anything of it is written: a login page, or another file than the one that
    some of is here."""


class _Tally:
    """What one download has come to: for the progress, which starting again takes back, and its SHA-256."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._at = 0
        self._hashed, self._hashed_to = hashlib.sha256(), 0
        self.anew = False
        """Whether the server has to be asked for the whole, since it can't go on."""

    def stand(self, at: int) -> None:
        self._stage.advance(at - self._at)
        self._at = at

    def take(self, at: int, chunk: bytes) -> None:
        """What was written to offset ``at``."""
        if not at:
            self._hashed, self._hashed_to = hashlib.sha256(), 0
        if at == self._hashed_to:  # else the file began in an earlier run, and has to be read again
            self._hashed.update(chunk)
            self._hashed_to += len(chunk)
        self.stand(at + len(chunk))

    def sha256(self, size: int) -> str:
        """Of the first ``size`` bytes; "" where not all of them came by here."""
        return self._hashed.hexdigest() if self._hashed_to == size else ""


@dataclass(frozen=True, slots=True)
class _Errand:
    """Brings one file after the other; used by several threads."""

    session: requests.Session
    store: Store
    report: Report
    stage: Stage
    patience: Patience
    stop: threading.Event = field(default_factory=threading.Event)
    receiving: set[requests.Response] = field(default_factory=set)
    """Answers that are not at their end."""

    def call_off(self) -> None:
        """End what is being received: a server may have stopped sending without a word."""
        for response in tuple(self.receiving):
            with suppress(OSError, ValueError, RuntimeError):  # it has just come to its end by itself
                response.raw.shutdown()

    def run(self, wanted: Wanted) -> tuple[int, Sha256]:
        tally = _Tally(self.stage)
        if (path := pip_config.local_path(wanted.url)) is not None:
            return self._copy(wanted, path, tally)
        try:
            partial = self.store.partial(wanted.sha256 or hashing.digest_of(pip_config.bare(wanted.url).encode()))
            with self._alone(partial, wanted):
                return self._bring(wanted, partial, tally)
        except OSError as error:
            raise unkept(error, self.store) from error

    def _copy(self, wanted: Wanted, path: Path, tally: _Tally) -> tuple[int, Sha256]:
        try:
            size, sha256 = self.store.copy_in(path)
        except (OSError, EOFError) as error:
            raise FetchError(f"can't be copied: {http.words(error)}", where=str(path)) from error
        tally.stand(size)
        if why := _difference(wanted, path, size, sha256):
            raise IntegrityError(why, where=str(path), hint="the file was altered or damaged since: get it anew")
        return size, sha256

    @contextmanager
    def _alone(self, partial: Path, wanted: Wanted) -> Iterator[None]:
        """Holds what grows at ``partial`` against other runs that want the same file."""
        lock = filelock.FileLock(partial.with_suffix(".lock"))
        if not _taken(lock, 0):
            self.report.note(f"{address(wanted.url)}: another run is fetching it; waiting for that")
            while not _taken(lock, _GLANCE):
                self._go_on()
        try:
            yield
        finally:
            lock.release()

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise StoppedError

    def _bring(self, wanted: Wanted, partial: Path, tally: _Tally) -> tuple[int, Sha256]:
        if wanted.sha256 and (here := self.store.path_of(wanted.sha256, wanted.size)):
            size = here.stat().st_size
            tally.stand(size)
            return size, Sha256(wanted.sha256)
        try:
            return self._bring_once(wanted, partial, tally)
        except _WrongError as first:
            self.report.note(f"{address(wanted.url)}: {first}; fetching it once more")
        try:
            return self._bring_once(wanted, partial, tally)
        except _WrongError as error:
            hint = "the file there was altered or damaged, or something in between answers instead: ask who runs it"
            raise IntegrityError(f"fetched twice: {error}", where=address(wanted.url), hint=hint) from error

    def _bring_once(self, wanted: Wanted, partial: Path, tally: _Tally) -> tuple[int, Sha256]:
        try:
            http.patiently(
                bound(self._attempt, wanted, partial, tally),
                wanted.url,
                wanted.patience or self.patience,
                note=self.report.note,
                got=bound(length, partial),
                stop=self.stop,
            )
            sha256 = _checked(wanted, partial, tally)
        except _OtherError:
            raise  # nothing was written: what is here is as good as before
        except _WrongError:
            _discard(partial, tally)
            raise
        _mark_of(partial).unlink(missing_ok=True)
        return self.store.adopt(partial, sha256)

    def _attempt(self, wanted: Wanted, partial: Path, tally: _Tally) -> None:
        self._go_on()
        have, mark = length(partial), _mark_of(partial)
        validator = mark.read_text(encoding="latin-1") if mark.exists() else ""
        digested = bool(wanted.sha256 or wanted.git_sha1)
        if have and wanted.size == have and digested:
            tally.stand(have)
            return  # it came to its end before; hashing will tell
        # Without a digest only a validator can say that the rest belongs to what is here (RFC 9110, 13.1.5).
        if not (digested or validator) or (wanted.size is not None and have >= wanted.size):
            have = 0
        kept = have if digested else 0
        if tally.anew:
            have, tally.anew = 0, False
        headers = dict(wanted.headers) | PLAIN | ({"Range": f"bytes={have}-"} if have else {})
        if have and validator:
            headers["If-Range"] = validator
        with http.ask(self.session, "GET", wanted.url, headers) as response, self._opened(response):
            start, total = self._placed(response, wanted, have)
            if start < 0:
                tally.anew = True
                raise AgainError("the server can't go on where it left off, so from the beginning", after=0)
            if start:
                self._receive(response, partial, start, total, tally)
                return
            with self._anew(partial, kept, http.validator(response)) as place:
                self._receive(response, place, 0, total, tally)

    @contextmanager
    def _opened(self, response: requests.Response) -> Iterator[None]:
        self.receiving.add(response)
        try:
            self._go_on()  # whoever has called it off by now does not know of this one
            yield
        finally:
            self.receiving.discard(response)

    @contextmanager
    def _anew(self, partial: Path, kept: int, validator: str) -> Iterator[Path]:
        """Where a file grows that is sent from its beginning.

        Where ``kept`` bytes of it are here already and a digest will tell whether they are right, it grows beside them
        until it is whole; where the line breaks before, the longer one stays.
        """
        if not kept:
            _mark_of(partial).write_text(validator, encoding="latin-1")
            yield partial
            return
        with self.store.fresh() as path:
            whole = False
            try:
                yield path
                whole = True
            finally:
                if whole or length(path) >= kept:
                    path.replace(partial)
                    _mark_of(partial).write_text(validator, encoding="latin-1")

    def _placed(self, response: requests.Response, wanted: Wanted, have: int) -> tuple[int, int | None]:
        """Where the body belongs in the file (-1: nowhere), and the size of the whole as far as it is known."""
        start, total = 0, http.content_length(response)
        if have and response.status_code == HTTPStatus.PARTIAL_CONTENT:
            start, total = http.content_range(response)
        elif have and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return -1, None
        elif response.status_code != HTTPStatus.OK:
            raise wanted.refusal(response, wanted.url)
        elif have:
            self.report.note(f"{address(wanted.url)}: the server sends the whole file, so from the beginning")
        if start not in (0, have):
            return -1, None
        if None not in (total, wanted.size) and total != wanted.size:
            raise _OtherError(f"the server has {total} bytes, {wanted.size} were expected")
        return start, total if wanted.size is None else wanted.size

    def _receive(
        self, response: requests.Response, partial: Path, start: int, total: int | None, tally: _Tally
    ) -> None:
        at = start
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            tally.stand(start)
            for chunk in http.body(response):
                self._go_on()
                file.write(chunk)
                tally.take(at, chunk)
                at += len(chunk)
                if total is not None and at > total:
                    raise _WrongError(f"the server sends more than {total} bytes")
        self._go_on()  # what was called off ends as if it were whole
        if total is not None and at < total:
            raise AgainError(f"the connection ended after {at} of {total} bytes")


def _checked(wanted: Wanted, path: Path, tally: _Tally) -> Sha256:
    size = path.stat().st_size
    sha256 = Sha256(tally.sha256(size) or hashing.digest_of_file(path)[1])
    if why := _difference(wanted, path, size, sha256):
        raise _WrongError(why)
    return sha256


def _difference(wanted: Wanted, path: Path, size: int, sha256: str) -> str:
    if wanted.sha256 and sha256 != wanted.sha256:
        return f"sha256 is {sha256} ({size} bytes), {wanted.sha256} was expected"
    if wanted.size is not None and size != wanted.size:
        return f"it has {size} bytes, {wanted.size} were expected"
    if wanted.git_sha1 and (found := _git_sha1(path)) != wanted.git_sha1:
        return f"git's sha1 is {found} ({size} bytes), {wanted.git_sha1} was expected"
    return ""


def _git_sha1(path: Path) -> str:
    """What git names a file's content by: SHA-1 of "blob", its size in bytes, NUL, and the content."""
    hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(hashing.CHUNK):
            hashed.update(chunk)
    return hashed.hexdigest()


def length(path: Path) -> int:
    """Bytes of a file that may not be there."""
    return path.stat().st_size if path.exists() else 0


def _mark_of(partial: Path) -> Path:
    """Where it is kept which state of the file on the server ``partial`` is a part of."""
    return partial.with_suffix(".validator")


def _discard(partial: Path, tally: _Tally) -> None:
    partial.unlink(missing_ok=True)
    _mark_of(partial).unlink(missing_ok=True)
    tally.stand(0)


def _taken(lock: filelock.BaseFileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except filelock.Timeout:
        return False
    return True

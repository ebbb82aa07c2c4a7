"""SHA-256, and the one loop that copies while it hashes.

Bytes are hashed where they arrived, never where they came from: what is checked is what a later
reader will read. One thread copies, others hash behind it, so that a file costs the longer of the
two and several files use every core (hashlib releases the GIL for large buffers).
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from bundler.format.documents import Invalid

T = TypeVar("T")
R = TypeVar("R")

Advance = Callable[[int], None]
"""Is told of bytes as they are done with, from several threads."""

CHUNK = 1 << 20
"""Bytes hashed at once: stays in a core's cache."""

STRIDE = 16 << 20
"""Bytes copied at once: a multiple of every file system's block, so that extents can be shared."""


_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


class Sha256(str):
    """A SHA-256 in hexadecimal. Raises Invalid for what is not 64 lower-case digits."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__()
        if not _HEXADECIMAL.fullmatch(text):
            raise Invalid("must be 64 lower-case hexadecimal digits")


class ReadError(OSError):
    """A medium does not give bytes back: somewhere from offset ``at`` up to, not including, ``end``."""

    def __init__(self, error: OSError, at: int, size: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.at = at
        self.end = at + size


_BINARY: int = getattr(os, "O_BINARY", 0)
_seeking = threading.Lock()


def open_to_read(path: Path) -> int:
    """A descriptor to read ``path``; raises OSError."""
    return os.open(path, os.O_RDONLY | _BINARY)


def open_to_write(path: Path, mode: int = 0o644) -> int:
    """A descriptor to write and read back ``path``, which must not exist; raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, mode)


def read_at(fd: int, into: memoryview, at: int) -> int:
    """Read bytes at offset ``at`` into ``into``; the number read, 0 at the end of the file. Raises ReadError."""
    try:
        if hasattr(os, "preadv"):
            return os.preadv(fd, [into], at)
        with _seeking:  # Windows has no positioned read
            os.lseek(fd, at, os.SEEK_SET)
            data = os.read(fd, len(into))
    except OSError as error:
        raise ReadError(error, at, len(into)) from error
    into[: len(data)] = data
    return len(data)


def write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of ``data`` at offset ``at``; raises OSError."""
    rest = memoryview(data)
    while rest:
        if hasattr(os, "pwrite"):
            written = os.pwrite(fd, rest, at)
        else:
            with _seeking:  # Windows has no positioned write
                os.lseek(fd, at, os.SEEK_SET)
                written = os.write(fd, rest)
        rest, at = rest[written:], at + written


def digest_of(data: bytes) -> Sha256:
    """SHA-256 of ``data``, 64 hexadecimal digits."""
    return Sha256(hashlib.sha256(data).hexdigest())


def digest_of_file(path: Path, advance: Advance = lambda _: None) -> tuple[int, Sha256]:
    """Size in bytes and SHA-256 of a file; raises OSError."""
    fd = open_to_read(path)
    try:
        size = os.fstat(fd).st_size
        return size, digest_of_range(fd, 0, size, advance)
    finally:
        os.close(fd)


def digest_of_range(fd: int, at: int, size: int, advance: Advance = lambda _: None) -> Sha256:
    """SHA-256 of ``size`` bytes from offset ``at``; raises EOFError when the file ends before."""
    hashed, buffer = hashlib.sha256(), memoryview(bytearray(min(CHUNK, max(size, 1))))
    end = at + size
    while at < end:
        got = read_at(fd, buffer[: min(len(buffer), end - at)], at)
        if not got:
            raise EOFError(f"{end - at} bytes are missing at the end")
        hashed.update(buffer[:got])
        at += got
        advance(got)
    return Sha256(hashed.hexdigest())


class Source(Protocol):
    """Bytes to be copied, in order."""

    def move(self, into: int, at: int, count: int) -> int:
        """Copy up to ``count`` of the next bytes to offset ``at`` of ``into``; 0 when there are no more."""


class FileSource:
    """Bytes of an open file from an offset on; shares extents where the file system can."""

    def __init__(self, fd: int, at: int = 0) -> None:
        self._fd = fd
        self._at = at
        self._in_kernel = hasattr(os, "copy_file_range")

    def move(self, into: int, at: int, count: int) -> int:
        if self._in_kernel:
            try:
                moved = os.copy_file_range(self._fd, into, count, self._at, at)
            except OSError:
                moved = 0
            self._at += moved
            if moved:
                return moved
            # Some file systems refuse, others copy nothing and say so: reading and writing tells what is true.
            self._in_kernel = False
        buffer = memoryview(bytearray(min(count, CHUNK)))
        got = read_at(self._fd, buffer, self._at)
        write_at(into, buffer[:got], at)
        self._at += got
        return got


class _Watermark:
    """How far the copy has come, for the hasher that follows; and the failure of either, for the other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at = 0
        self._error: BaseException | None = None

    def rise(self, to: int) -> None:
        """The copy has come to ``to``; raises what the hasher has failed with."""
        with self._changed:
            if self._error is not None:
                raise self._error
            self._at = to
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wait_beyond(self, at: int) -> int:
        """How far the copy has come once that is beyond ``at``; raises what it has failed with."""
        with self._changed:
            self._changed.wait_for(lambda: self._at > at or self._error is not None)
            if self._error is not None:
                raise self._error
            return self._at


class _Landing:
    """A descriptor that is closed once both the copy and the hasher have done with it."""

    def __init__(self, fd: int, *, close: bool) -> None:
        self._fd, self._users, self._close = fd, 2, close
        self._mutex = threading.Lock()

    def leave(self) -> None:
        with self._mutex:
            self._users -= 1
            last = self._users == 0
        if last and self._close:
            os.close(self._fd)


class HashingCopier(AbstractContextManager["HashingCopier"]):
    """Copies files one after the other while the cores hash what has arrived."""

    def __init__(self, advance: Advance = lambda _: None, workers: int | None = None) -> None:
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="hash")
        self._open = threading.BoundedSemaphore(4 * self._workers)  # bounds open files and buffers
        self._marks: set[_Watermark] = set()
        self._advance = advance

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for mark in list(self._marks):  # no hasher waits for a copy that will not come
                mark.fail(error)
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def copy(self, source: Source, size: int, into: int, at: int, close: bool = False) -> Future[Sha256]:
        """Copy ``size`` bytes to offset ``at`` of ``into``; returns when they are copied.

        The future gives the SHA-256 of what stands there. ``close`` has ``into`` closed after that, whatever
        happens. Raises OSError where copying fails and EOFError where the source ends early.
        """
        landing, mark = _Landing(into, close=close), _Watermark()
        self._open.acquire()
        self._marks.add(mark)
        try:
            digest = self._pool.submit(self._follow, mark, size, into, at)
            digest.add_done_callback(lambda _: self._hashed(mark, landing))
            done = 0
            while done < size:
                moved = source.move(into, at + done, min(STRIDE, size - done))
                if not moved:
                    raise EOFError(f"{size - done} of {size} bytes are missing at the end")
                done += moved
                mark.rise(done)
        except BaseException as error:
            mark.fail(error)
            raise
        finally:
            landing.leave()
        return digest

    def _hashed(self, mark: _Watermark, landing: _Landing) -> None:
        self._marks.discard(mark)
        landing.leave()
        self._open.release()

    def _follow(self, mark: _Watermark, size: int, fd: int, at: int) -> Sha256:
        hashed, buffer, done = hashlib.sha256(), memoryview(bytearray(min(CHUNK, max(size, 1)))), 0
        try:
            while done < size:
                known = mark.wait_beyond(done)
                got = read_at(fd, buffer[: min(len(buffer), known - done)], at + done)
                if not got:
                    raise EOFError("what was written can't be read back")
                hashed.update(buffer[:got])
                done += got
                self._advance(got)
        except BaseException as error:
            mark.fail(error)
            raise
        return Sha256(hashed.hexdigest())


def side_by_side(act: Callable[[T, Advance], R], over: Iterable[T], advance: Advance) -> list[R]:
    """``act(item, advance)`` for every item, on every core, in order; an interruption ends all of it at the next chunk."""
    stop = threading.Event()

    def advance_or_stop(count: int) -> None:
        if stop.is_set():
            raise InterruptedError("another part of the work was ended")
        advance(count)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hash") as pool:
        try:
            return list(pool.map(lambda item: act(item, advance_or_stop), over))
        except BaseException:  # Ctrl-C too must not wait for gigabytes
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

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

from bundler.format.documents import InvalidValueError

T = TypeVar("T")
R = TypeVar("R")

AdvanceCallback = Callable[[int], None]
"""Is told of bytes as they are done with, from several threads."""

CHUNK_BYTES = 1 << 20
"""Bytes hashed at once: stays in a core's cache."""

COPY_BYTES = 16 << 20
"""Bytes copied at once: a multiple of every file system's block, so that extents can be shared."""


_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


class Sha256(str):
    """A SHA-256 in hexadecimal. Raises Invalid for what is not 64 lower-case digits."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__()
        if not _HEXADECIMAL.fullmatch(text):
            raise InvalidValueError("must be 64 lower-case hexadecimal digits")


class ReadError(OSError):
    """A medium does not give bytes back: somewhere from offset ``at`` up to, not including, ``end``."""

    def __init__(self, error: OSError, start: int, size: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.start = start
        self.end = start + size


_BINARY_FLAG: int = getattr(os, "O_BINARY", 0)
_SEEK_LOCK = threading.Lock()


def open_to_read(path: Path) -> int:
    """A descriptor to read ``path``; raises OSError."""
    return os.open(path, os.O_RDONLY | _BINARY_FLAG)


def open_to_write(path: Path, mode: int = 0o644) -> int:
    """A descriptor to write and read back ``path``, which must not exist; raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY_FLAG, mode)


def read_at(fd: int, buffer: memoryview, offset: int) -> int:
    """Read bytes at offset ``at`` into ``into``; the number read, 0 at the end of the file. Raises ReadError."""
    try:
        if hasattr(os, "preadv"):
            return os.preadv(fd, [buffer], offset)
        with _SEEK_LOCK:  # Windows has no positioned read
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(buffer))
    except OSError as error:
        raise ReadError(error, offset, len(buffer)) from error
    buffer[: len(data)] = data
    return len(data)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at offset ``at``; raises OSError."""
    rest = memoryview(data)
    while rest:
        if hasattr(os, "pwrite"):
            written = os.pwrite(fd, rest, offset)
        else:
            with _SEEK_LOCK:  # Windows has no positioned write
                os.lseek(fd, offset, os.SEEK_SET)
                written = os.write(fd, rest)
        rest, offset = rest[written:], offset + written


def compute_sha256(data: bytes) -> Sha256:
    """SHA-256 of ``data``, 64 hexadecimal digits."""
    return Sha256(hashlib.sha256(data).hexdigest())


def compute_file_sha256(path: Path, advance: AdvanceCallback = lambda _: None) -> tuple[int, Sha256]:
    """Size in bytes and SHA-256 of a file; raises OSError."""
    fd = open_to_read(path)
    try:
        size = os.fstat(fd).st_size
        return size, compute_range_sha256(fd, 0, size, advance)
    finally:
        os.close(fd)


def compute_range_sha256(fd: int, offset: int, size: int, advance: AdvanceCallback = lambda _: None) -> Sha256:
    """SHA-256 of ``size`` bytes from offset ``at``; raises EOFError when the file ends before."""
    hashed, buffer = hashlib.sha256(), memoryview(bytearray(min(CHUNK_BYTES, max(size, 1))))
    end = offset + size
    while offset < end:
        got = read_at(fd, buffer[: min(len(buffer), end - offset)], offset)
        if not got:
            raise EOFError(f"{end - offset} bytes are missing at the end")
        hashed.update(buffer[:got])
        offset += got
        advance(got)
    return Sha256(hashed.hexdigest())


class ByteSource(Protocol):
    """Bytes to be copied, in order."""

    def copy_to(self, target_fd: int, target_offset: int, count: int) -> int:
        """Copy up to ``count`` of the next bytes to offset ``at`` of ``into``; 0 when there are no more."""


class FileSource:
    """Bytes of an open file from an offset on; shares extents where the file system can."""

    def __init__(self, fd: int, offset: int = 0) -> None:
        self._fd = fd
        self._offset = offset
        self._uses_copy_file_range = hasattr(os, "copy_file_range")

    def copy_to(self, target_fd: int, target_offset: int, count: int) -> int:
        if self._uses_copy_file_range:
            try:
                moved = os.copy_file_range(self._fd, target_fd, count, self._offset, target_offset)
            except OSError:
                moved = 0
            self._offset += moved
            if moved:
                return moved
            # Some file systems refuse, others copy nothing and say so: reading and writing tells what is true.
            self._uses_copy_file_range = False
        buffer = memoryview(bytearray(min(count, CHUNK_BYTES)))
        got = read_at(self._fd, buffer, self._offset)
        write_at(target_fd, buffer[:got], target_offset)
        self._offset += got
        return got


class _CopyProgress:
    """How far the copy has come, for the hasher that follows; and the failure of either, for the other."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._offset = 0
        self._error: BaseException | None = None

    def advance_to(self, offset: int) -> None:
        """The copy has come to ``to``; raises what the hasher has failed with."""
        with self._condition:
            if self._error is not None:
                raise self._error
            self._offset = offset
            self._condition.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._condition:
            self._error = self._error or error
            self._condition.notify_all()

    def wait_past(self, offset: int) -> int:
        """How far the copy has come once that is beyond ``at``; raises what it has failed with."""
        with self._condition:
            self._condition.wait_for(lambda: self._offset > offset or self._error is not None)
            if self._error is not None:
                raise self._error
            return self._offset


class _SharedDescriptor:
    """A descriptor that is closed once both the copy and the hasher have done with it."""

    def __init__(self, fd: int, *, close: bool) -> None:
        self._fd, self._user_count, self._close_at_end = fd, 2, close
        self._mutex = threading.Lock()

    def release(self) -> None:
        with self._mutex:
            self._user_count -= 1
            last = self._user_count == 0
        if last and self._close_at_end:
            os.close(self._fd)


class HashingCopier(AbstractContextManager["HashingCopier"]):
    """Copies files one after the other while the cores hash what has arrived."""

    def __init__(self, advance: AdvanceCallback = lambda _: None, max_workers: int | None = None) -> None:
        self._max_workers = max_workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._max_workers, thread_name_prefix="hash")
        self._slots = threading.BoundedSemaphore(4 * self._max_workers)  # bounds open files and buffers
        self._active_copies: set[_CopyProgress] = set()
        self._advance = advance

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for mark in list(self._active_copies):  # no hasher waits for a copy that will not come
                mark.fail(error)
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def copy(self, source: ByteSource, size: int, target_fd: int, offset: int, close: bool = False) -> Future[Sha256]:
        """Copy ``size`` bytes to offset ``at`` of ``into``; returns when they are copied.

        The future gives the SHA-256 of what stands there. ``close`` has ``into`` closed after that, whatever
        happens. Raises OSError where copying fails and EOFError where the source ends early.
        """
        landing, mark = _SharedDescriptor(target_fd, close=close), _CopyProgress()
        self._slots.acquire()
        self._active_copies.add(mark)
        try:
            digest = self._pool.submit(self._hash_copy, mark, size, target_fd, offset)
            digest.add_done_callback(lambda _: self._finish(mark, landing))
            done = 0
            while done < size:
                moved = source.copy_to(target_fd, offset + done, min(COPY_BYTES, size - done))
                if not moved:
                    raise EOFError(f"{size - done} of {size} bytes are missing at the end")
                done += moved
                mark.advance_to(done)
        except BaseException as error:
            mark.fail(error)
            raise
        finally:
            landing.release()
        return digest

    def _finish(self, progress: _CopyProgress, descriptor: _SharedDescriptor) -> None:
        self._active_copies.discard(progress)
        descriptor.release()
        self._slots.release()

    def _hash_copy(self, progress: _CopyProgress, size: int, fd: int, offset: int) -> Sha256:
        hashed, buffer, done = hashlib.sha256(), memoryview(bytearray(min(CHUNK_BYTES, max(size, 1)))), 0
        try:
            while done < size:
                known = progress.wait_past(done)
                got = read_at(fd, buffer[: min(len(buffer), known - done)], offset + done)
                if not got:
                    raise EOFError("what was written can't be read back")
                hashed.update(buffer[:got])
                done += got
                self._advance(got)
        except BaseException as error:
            progress.fail(error)
            raise
        return Sha256(hashed.hexdigest())


def map_parallel(function: Callable[[T, AdvanceCallback], R], items: Iterable[T], advance: AdvanceCallback) -> list[R]:
    """``act(item, advance)`` for every item, on every core, in order; an interruption ends all of it at the next chunk."""
    stop = threading.Event()

    def advance_or_stop(count: int) -> None:
        if stop.is_set():
            raise InterruptedError("another part of the work was ended")
        advance(count)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hash") as pool:
        try:
            return list(pool.map(lambda item: function(item, advance_or_stop), items))
        except BaseException:  # Ctrl-C too must not wait for gigabytes
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

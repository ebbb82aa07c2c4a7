"""SHA-256, and copying files while they are hashed.

Bytes are hashed from the copy, never from the source: this checks what a later reader will read. One thread copies
and others hash behind it. A file then takes the longer of the two times, and several files use every core (hashlib
releases the GIL for large buffers).
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
"""Called with a number of finished bytes, from several threads."""

CHUNK_BYTES = 1 << 20
"""Bytes hashed at once; they fit into a core's cache."""

COPY_BYTES = 16 << 20
"""Bytes copied at once; a multiple of every file system's block size, so that extents can be shared."""

_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


class Sha256(str):
    """A SHA-256 of 64 lower-case hexadecimal digits. Raises InvalidValueError for anything else."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__()
        if not _HEXADECIMAL.fullmatch(text):
            raise InvalidValueError("must be 64 lower-case hexadecimal digits")


class ReadError(OSError):
    """A medium can't be read somewhere between the offsets ``start`` and ``end`` (exclusive)."""

    def __init__(self, error: OSError, start: int, size: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.start = start
        self.end = start + size


_BINARY_FLAG: int = getattr(os, "O_BINARY", 0)
_SEEK_LOCK = threading.Lock()


def open_to_read(path: Path) -> int:
    """Open ``path`` to read and return its descriptor. Raises OSError."""
    return os.open(path, os.O_RDONLY | _BINARY_FLAG)


def open_to_write(path: Path, mode: int = 0o644) -> int:
    """Create ``path``, which must not exist, to write and read it. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY_FLAG, mode)


def read_at(fd: int, buffer: memoryview, offset: int) -> int:
    """Read bytes at ``offset`` into ``buffer``. Returns their number, 0 at the end of the file. Raises ReadError."""
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
    """Write all of ``data`` at ``offset``. Raises OSError."""
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
    """Return the SHA-256 of ``data``."""
    return Sha256(hashlib.sha256(data).hexdigest())


def compute_file_sha256(path: Path, advance: AdvanceCallback = lambda _: None) -> tuple[int, Sha256]:
    """Return the size in bytes and the SHA-256 of a file. Raises OSError."""
    fd = open_to_read(path)
    try:
        size = os.fstat(fd).st_size
        return size, compute_range_sha256(fd, 0, size, advance)
    finally:
        os.close(fd)


def compute_range_sha256(fd: int, offset: int, size: int, advance: AdvanceCallback = lambda _: None) -> Sha256:
    """Return the SHA-256 of ``size`` bytes at ``offset``. Raises EOFError when the file ends before."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(CHUNK_BYTES, max(size, 1))))
    end = offset + size
    while offset < end:
        count = read_at(fd, buffer[: min(len(buffer), end - offset)], offset)
        if not count:
            raise EOFError(f"{end - offset} bytes are missing at the end")
        digest.update(buffer[:count])
        offset += count
        advance(count)
    return Sha256(digest.hexdigest())


class ByteSource(Protocol):
    """Bytes that are copied in order."""

    def copy_to(self, target_fd: int, target_offset: int, count: int) -> int:
        """Copy up to ``count`` of the next bytes to an offset of ``target_fd``. Returns their number, 0 at the end."""


class FileSource:
    """Bytes of an open file from an offset on. Copies share extents where the file system can."""

    def __init__(self, fd: int, offset: int = 0) -> None:
        self._fd = fd
        self._offset = offset
        self._uses_copy_file_range = hasattr(os, "copy_file_range")

    def copy_to(self, target_fd: int, target_offset: int, count: int) -> int:
        """Copy up to ``count`` of the next bytes (see `ByteSource`)."""
        if self._uses_copy_file_range:
            try:
                moved = os.copy_file_range(self._fd, target_fd, count, self._offset, target_offset)
            except OSError:
                moved = 0
            self._offset += moved
            if moved:
                return moved
            # some file systems refuse, others copy nothing: reading and writing shows what is true
            self._uses_copy_file_range = False
        buffer = memoryview(bytearray(min(count, CHUNK_BYTES)))
        copied = read_at(self._fd, buffer, self._offset)
        write_at(target_fd, buffer[:copied], target_offset)
        self._offset += copied
        return copied


class _CopyProgress:
    """How far a copy has come, for the hasher behind it, and the error of either, for the other."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._offset = 0
        self._error: BaseException | None = None

    def advance_to(self, offset: int) -> None:
        """Say that the copy has come to ``offset``. Raises the error of the hasher."""
        with self._condition:
            if self._error is not None:
                raise self._error
            self._offset = offset
            self._condition.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the copy and its hasher with an error."""
        with self._condition:
            self._error = self._error or error
            self._condition.notify_all()

    def wait_past(self, offset: int) -> int:
        """Wait until the copy is past ``offset`` and return how far it has come. Raises the error of the copy."""
        with self._condition:
            self._condition.wait_for(lambda: self._offset > offset or self._error is not None)
            if self._error is not None:
                raise self._error
            return self._offset


class _SharedDescriptor:
    """A descriptor that is closed when both the copy and the hasher have released it."""

    def __init__(self, fd: int, *, close: bool) -> None:
        self._fd, self._user_count, self._close_at_end = fd, 2, close
        self._mutex = threading.Lock()

    def release(self) -> None:
        """Give up one use, and close the descriptor after the last."""
        with self._mutex:
            self._user_count -= 1
            is_last = self._user_count == 0
        if is_last and self._close_at_end:
            os.close(self._fd)


class HashingCopier(AbstractContextManager["HashingCopier"]):
    """Copies files one after the other while other threads hash the copies."""

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
            for progress in list(self._active_copies):  # let no hasher wait for a copy that has ended
                progress.fail(error)
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def copy(self, source: ByteSource, size: int, target_fd: int, offset: int, close: bool = False) -> Future[Sha256]:
        """Copy ``size`` bytes to ``offset`` of ``target_fd`` and return when they are copied.

        Args:
            source: where the bytes come from.
            size: how many.
            target_fd: open to write and read.
            offset: where in it the copy begins.
            close: whether to close ``target_fd`` when it is hashed, also after an error.

        Returns:
            A future of the SHA-256 of the copy.

        Raises:
            OSError: Reading or writing failed.
            EOFError: The source has fewer bytes.
        """
        descriptor, progress = _SharedDescriptor(target_fd, close=close), _CopyProgress()
        self._slots.acquire()
        self._active_copies.add(progress)
        try:
            digest = self._pool.submit(self._hash_copy, progress, size, target_fd, offset)
            digest.add_done_callback(lambda _: self._finish(progress, descriptor))
            done = 0
            while done < size:
                copied = source.copy_to(target_fd, offset + done, min(COPY_BYTES, size - done))
                if not copied:
                    raise EOFError(f"{size - done} of {size} bytes are missing at the end")
                done += copied
                progress.advance_to(done)
        except BaseException as error:
            progress.fail(error)
            raise
        finally:
            descriptor.release()
        return digest

    def _finish(self, progress: _CopyProgress, descriptor: _SharedDescriptor) -> None:
        self._active_copies.discard(progress)
        descriptor.release()
        self._slots.release()

    def _hash_copy(self, progress: _CopyProgress, size: int, fd: int, offset: int) -> Sha256:
        digest, buffer, done = hashlib.sha256(), memoryview(bytearray(min(CHUNK_BYTES, max(size, 1)))), 0
        try:
            while done < size:
                available = progress.wait_past(done)
                count = read_at(fd, buffer[: min(len(buffer), available - done)], offset + done)
                if not count:
                    raise EOFError("the copy can't be read back")
                digest.update(buffer[:count])
                done += count
                self._advance(count)
        except BaseException as error:
            progress.fail(error)
            raise
        return Sha256(digest.hexdigest())


def map_parallel(function: Callable[[T, AdvanceCallback], R], items: Iterable[T], advance: AdvanceCallback) -> list[R]:
    """Call ``function(item, advance)`` for every item on every core, and return the results in order.

    An error or an interruption ends all calls at their next ``advance``.
    """
    stop = threading.Event()

    def advance_or_stop(count: int) -> None:
        if stop.is_set():
            raise InterruptedError("another part of the work failed")
        advance(count)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hash") as pool:
        try:
            return list(pool.map(lambda item: function(item, advance_or_stop), items))
        except BaseException:  # Ctrl-C must not wait for gigabytes either
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

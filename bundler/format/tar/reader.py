"""The source of a bundle: a file, read in any order, or a pipe, read once."""

from __future__ import annotations

import hashlib
import os
import select
from collections.abc import Callable
from typing import BinaryIO, Protocol

from bundler.format import hashing
from bundler.format.hashing import ByteSource, FileSource, ReadError

_POLL_SECONDS = 0.2
"""Seconds between two checks for a signal while a pipe is silent."""


class BundleReader(Protocol):
    """Reads bytes at offsets. All methods raise ReadError when the medium can't be read."""

    @property
    def is_seekable(self) -> bool:
        """Whether offsets may be read in any order; if not, only in growing order."""

    @property
    def size(self) -> int | None:
        """Size in bytes, None while it is unknown."""

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``, fewer at the end."""

    def compute_digest(self, offset: int, size: int, advance: Callable[[int], None]) -> str:
        """Return the SHA-256 of ``size`` bytes at ``offset``. Raises EOFError when there are fewer."""

    def get_source(self, offset: int) -> ByteSource:
        """Return the bytes from ``offset`` on, to be copied."""


class FileReader:
    """Reads an open file (see `BundleReader`)."""

    is_seekable = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def size(self) -> int | None:
        """Size in bytes."""
        return os.fstat(self.fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``, fewer at the end."""
        buffer, done = bytearray(size), 0
        while done < size and (count := hashing.read_at(self.fd, memoryview(buffer)[done:], offset + done)):
            done += count
        return bytes(buffer[:done])

    def compute_digest(self, offset: int, size: int, advance: Callable[[int], None]) -> str:
        """Return the SHA-256 of ``size`` bytes at ``offset``. Raises EOFError when there are fewer."""
        return hashing.compute_range_sha256(self.fd, offset, size, advance)

    def get_source(self, offset: int) -> ByteSource:
        """Return the bytes from ``offset`` on, to be copied."""
        return FileSource(self.fd, offset)


class PipeReader:
    """Reads a pipe (see `BundleReader`). It reaches a later offset by reading on."""

    is_seekable = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0
        self._has_ended = False
        self._is_pollable = os.name == "posix" and _has_descriptor(stream)

    @property
    def size(self) -> int | None:
        """Size in bytes, known when the end was reached."""
        return self._offset if self._has_ended else None

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``, fewer at the end."""
        self._skip_to(offset)
        parts: list[bytes] = []
        while size and (data := self._read_some(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def compute_digest(self, offset: int, size: int, advance: Callable[[int], None]) -> str:
        """Return the SHA-256 of ``size`` bytes at ``offset``. Raises EOFError when there are fewer."""
        self._skip_to(offset)
        digest = hashlib.sha256()
        while size:
            data = self._read_some(size)
            if not data:
                raise EOFError(f"{size} bytes are missing at the end")
            digest.update(data)
            size -= len(data)
            advance(len(data))
        return digest.hexdigest()

    def get_source(self, offset: int) -> ByteSource:
        """Return the bytes from ``offset`` on, to be copied."""
        self._skip_to(offset)
        return self

    def copy_to(self, target_fd: int, target_offset: int, count: int) -> int:
        """Copy up to ``count`` of the next bytes (see `hashing.ByteSource`)."""
        data = self._read_some(count)
        hashing.write_at(target_fd, data, target_offset)
        return len(data)

    def _skip_to(self, offset: int) -> None:
        if offset < self._offset:
            raise ValueError(f"a pipe can't go back from {self._offset} to {offset}")
        while self._offset < offset and self._read_some(offset - self._offset):
            pass

    def _read_some(self, max_bytes: int) -> bytes:
        size = min(max_bytes, hashing.CHUNK_BYTES)
        try:
            data = self._read_polling(size) if self._is_pollable else self._stream.read(size)
        except OSError as error:
            raise ReadError(error, self._offset, size) from error
        self._offset += len(data)
        self._has_ended = self._has_ended or not data
        return data

    def _read_polling(self, size: int) -> bytes:
        """Read ``size`` bytes, fewer at the end, and let signals in while the pipe is silent.

        A long blocking read consists of many short ones. A signal between two of them is not handled until the pipe
        gives more, which may be never.
        """
        parts: list[bytes] = []
        while size:
            while not select.select([self._stream], [], [], _POLL_SECONDS)[0]:
                pass
            data = self._stream.read1(size)  # type: ignore[attr-defined]
            if not data:
                break
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


def _has_descriptor(stream: BinaryIO) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, AttributeError):
        return False

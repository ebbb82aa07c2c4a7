"""What a bundle is read from: a file, in any order, or a pipe, once."""

from __future__ import annotations

import hashlib
import os
import select
from collections.abc import Callable
from typing import BinaryIO, Protocol

from bundler.format import hashing
from bundler.format.hashing import ByteSource, FileSource, ReadError

_POLL_SECONDS = 0.2
"""Seconds between two looks for a signal while a pipe gives nothing."""


class BundleReader(Protocol):
    """Bytes at offsets. A carrier that is not ``seekable`` takes offsets in growing order only.

    All raise ReadError where the medium does not give them back.
    """

    @property
    def is_seekable(self) -> bool: ...

    @property
    def size(self) -> int | None:
        """Bytes of the whole, where that is known before they are read."""

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from offset ``at``; fewer at the end."""

    def compute_digest(self, offset: int, size: int, advance: Callable[[int], None]) -> str:
        """SHA-256 of ``size`` bytes from offset ``at``; raises EOFError when there are fewer."""

    def get_source(self, offset: int) -> ByteSource:
        """The bytes from offset ``at`` on, to be copied."""


class FileReader:
    """An open file."""

    is_seekable = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def size(self) -> int | None:
        return os.fstat(self.fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        into, got = bytearray(size), 0
        while got < size and (more := hashing.read_at(self.fd, memoryview(into)[got:], offset + got)):
            got += more
        return bytes(into[:got])

    def compute_digest(self, offset: int, size: int, advance: Callable[[int], None]) -> str:
        return hashing.compute_range_sha256(self.fd, offset, size, advance)

    def get_source(self, offset: int) -> ByteSource:
        return FileSource(self.fd, offset)


class PipeReader:
    """A pipe: what is asked for at a later offset is reached by reading on."""

    is_seekable = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0
        self._has_ended = False
        self._is_pollable = os.name == "posix" and _has_descriptor(stream)

    @property
    def size(self) -> int | None:
        """Known once the end was reached."""
        return self._offset if self._has_ended else None

    def read(self, offset: int, size: int) -> bytes:
        self._skip_to(offset)
        parts: list[bytes] = []
        while size and (data := self._read_some(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def compute_digest(self, offset: int, size: int, advance: Callable[[int], None]) -> str:
        self._skip_to(offset)
        hashed = hashlib.sha256()
        while size:
            data = self._read_some(size)
            if not data:
                raise EOFError(f"{size} bytes are missing at the end")
            hashed.update(data)
            size -= len(data)
            advance(len(data))
        return hashed.hexdigest()

    def get_source(self, offset: int) -> ByteSource:
        self._skip_to(offset)
        return self

    def copy_to(self, target_fd: int, target_offset: int, count: int) -> int:
        """Copy up to ``count`` of the next bytes to offset ``at`` of ``into`` (see hashing.Source)."""
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
        """``size`` bytes; fewer at the end.

        One long read is many short ones inside, and a signal that comes between two of them is not seen until the
        pipe gives more, which it may never do.
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

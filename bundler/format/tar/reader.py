"""What a bundle is read from: a file, in any order, or a pipe, once."""

from __future__ import annotations

import hashlib
import os
import select
from collections.abc import Callable
from typing import BinaryIO, Protocol

from bundler.format import hashing
from bundler.format.hashing import FileSource, ReadError, Source

_TURN = 0.2
"""Seconds between two looks for a signal while a pipe gives nothing."""


class Carrier(Protocol):
    """Bytes at offsets. A carrier that is not ``seekable`` takes offsets in growing order only.

    All raise ReadError where the medium does not give them back.
    """

    @property
    def seekable(self) -> bool: ...

    @property
    def size(self) -> int | None:
        """Bytes of the whole, where that is known before they are read."""

    def read(self, at: int, size: int) -> bytes:
        """``size`` bytes from offset ``at``; fewer at the end."""

    def digest(self, at: int, size: int, advance: Callable[[int], None]) -> str:
        """SHA-256 of ``size`` bytes from offset ``at``; raises EOFError when there are fewer."""

    def source(self, at: int) -> Source:
        """The bytes from offset ``at`` on, to be copied."""


class FileCarrier:
    """An open file."""

    seekable = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def size(self) -> int | None:
        return os.fstat(self.fd).st_size

    def read(self, at: int, size: int) -> bytes:
        into, got = bytearray(size), 0
        while got < size and (more := hashing.read_at(self.fd, memoryview(into)[got:], at + got)):
            got += more
        return bytes(into[:got])

    def digest(self, at: int, size: int, advance: Callable[[int], None]) -> str:
        return hashing.digest_of_range(self.fd, at, size, advance)

    def source(self, at: int) -> Source:
        return FileSource(self.fd, at)


class StreamCarrier:
    """A pipe: what is asked for at a later offset is reached by reading on."""

    seekable = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._at = 0
        self._ended = False
        self._waits = os.name == "posix" and _has_descriptor(stream)

    @property
    def size(self) -> int | None:
        """Known once the end was reached."""
        return self._at if self._ended else None

    def read(self, at: int, size: int) -> bytes:
        self._reach(at)
        parts: list[bytes] = []
        while size and (data := self._take(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def digest(self, at: int, size: int, advance: Callable[[int], None]) -> str:
        self._reach(at)
        hashed = hashlib.sha256()
        while size:
            data = self._take(size)
            if not data:
                raise EOFError(f"{size} bytes are missing at the end")
            hashed.update(data)
            size -= len(data)
            advance(len(data))
        return hashed.hexdigest()

    def source(self, at: int) -> Source:
        self._reach(at)
        return self

    def move(self, into: int, at: int, count: int) -> int:
        """Copy up to ``count`` of the next bytes to offset ``at`` of ``into`` (see hashing.Source)."""
        data = self._take(count)
        hashing.write_at(into, data, at)
        return len(data)

    def _reach(self, at: int) -> None:
        if at < self._at:
            raise ValueError(f"a pipe can't go back from {self._at} to {at}")
        while self._at < at and self._take(at - self._at):
            pass

    def _take(self, most: int) -> bytes:
        size = min(most, hashing.CHUNK)
        try:
            data = self._in_turns(size) if self._waits else self._stream.read(size)
        except OSError as error:
            raise ReadError(error, self._at, size) from error
        self._at += len(data)
        self._ended = self._ended or not data
        return data

    def _in_turns(self, size: int) -> bytes:
        """``size`` bytes; fewer at the end.

        One long read is many short ones inside, and a signal that comes between two of them is not seen until the
        pipe gives more, which it may never do.
        """
        parts: list[bytes] = []
        while size:
            while not select.select([self._stream], [], [], _TURN)[0]:
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

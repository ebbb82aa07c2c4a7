"""A download that is watched: the file that it is to bring, what was said of it, and what an earlier run left."""

from __future__ import annotations

import random
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.format.hashing import compute_sha256
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest
from bundler.online.transfer.http import RetryPolicy

DATA = random.Random(7).randbytes(600_000)
DIGEST = compute_sha256(DATA)
NAME = "/file.bin"


@dataclass
class WatchedDownload(AbstractContextManager["WatchedDownload"]):
    """A report that keeps everything, and a patience that waits for nothing but remembers."""

    notes: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    total: int = 0
    moved: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def stage(self, title: str, total: int = 0) -> WatchedDownload:
        assert title == "fetch"
        self.total = total
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, count: int) -> None:
        with self.lock:
            self.moved += count

    def set_phase(self, words: str, read: int = 0) -> None:
        raise AssertionError(words)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        raise AssertionError(text)

    @property
    def patience(self) -> RetryPolicy:
        return RetryPolicy(max_tries=3, wait=lambda _, seconds: self.waits.append(seconds))


def write_partial(store: FileCache, wanted: DownloadRequest, data: bytes = DATA[:1000], validator: str = "") -> Path:
    """What an earlier run left of a download."""
    partial = store.get_partial_path(wanted.sha256 or compute_sha256(wanted.url.encode()))
    partial.write_bytes(data)
    if validator:
        partial.with_suffix(".validator").write_text(validator)
    return partial

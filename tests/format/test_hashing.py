"""The loop that copies while it hashes: right digests, and no hang or leak when something fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bundler.format import hashing
from bundler.format.hashing import FileSource, HashingCopier


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Failing:
    """A source that fails after some bytes."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    def copy_to(self, target_fd: int, target_offset: int, count: int) -> int:
        self.calls += 1
        if self.calls > 1:
            raise self.error
        hashing.write_at(target_fd, b"x" * 10, target_offset)
        return 10


def test_what_arrived_is_what_is_hashed(tmp_path: Path) -> None:
    before = open_files()
    sizes = [0, 1, hashing.CHUNK_BYTES, hashing.COPY_BYTES + 7]
    with HashingCopier() as copier:
        found = []
        for size in sizes:
            source = tmp_path / f"from {size}"
            source.write_bytes(os.urandom(size))
            fd = hashing.open_to_read(source)
            into = hashing.open_to_write(tmp_path / f"to {size}")
            found.append((source, copier.copy(FileSource(fd), size, into, 0, close=True)))
            os.close(fd)
        for source, digest in found:
            assert digest.result() == hashing.compute_sha256(source.read_bytes())
            assert source.with_name(source.name.replace("from", "to")).read_bytes() == source.read_bytes()
    assert open_files() == before


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["read error", "Ctrl-C"])
def test_a_copy_that_fails_ends_with_its_own_error_and_leaves_nothing_open(
    tmp_path: Path, error: BaseException
) -> None:
    before = open_files()

    def run() -> None:
        with HashingCopier() as copier:
            for number in range(20):
                into = hashing.open_to_write(tmp_path / str(number))
                copier.copy(Failing(error), 100, into, 0, close=True)

    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error
    assert open_files() == before


def test_a_hasher_that_dies_ends_the_copy_with_the_reason(tmp_path: Path) -> None:
    """As a read error of the destination would: the copy must not go on, nor hide it behind a closed descriptor."""
    before = open_files()
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(40 * hashing.COPY_BYTES)
    reason = OSError(5, "Input/output error")

    def refuse(_: int) -> None:
        raise reason

    def run() -> None:
        fd = hashing.open_to_read(source)
        try:
            with HashingCopier(refuse) as copier:
                into = hashing.open_to_write(tmp_path / "into")
                copier.copy(FileSource(fd), 40 * hashing.COPY_BYTES, into, 0, close=True).result()
        finally:
            os.close(fd)

    with pytest.raises(OSError, match="Input/output error") as caught:
        run()
    assert caught.value is reason
    assert open_files() == before


def test_a_source_that_ends_early(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"short")
    fd = hashing.open_to_read(source)
    with pytest.raises(EOFError, match="5 of 10 bytes are missing"), HashingCopier() as copier:
        copier.copy(FileSource(fd), 10, hashing.open_to_write(tmp_path / "into"), 0, close=True)
    os.close(fd)


def test_work_side_by_side_ends_at_the_first_failure() -> None:
    done = []

    def act(item: int, advance: hashing.AdvanceCallback) -> int:
        if item == 0:
            raise OSError(5, "Input/output error")
        for _ in range(100_000):
            advance(1)
            done.append(item)
        return item

    with pytest.raises(OSError, match="Input/output error"):
        hashing.map_parallel(act, range(50), lambda _: None)
    assert len(done) < 50 * 100_000

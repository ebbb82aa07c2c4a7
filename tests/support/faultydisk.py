"""A disk that can be cut off and can fail: a file system of one file, served to the kernel by this program.

The kernel's loop driver makes a block device of that file; what a file system writes there arrives here in order, with
a mark wherever it had the disk flush its cache. From that log a test makes the disk as a power cut at any moment leaves
it: all that was flushed, and any part of what was not. Reads of chosen bytes can fail as those of a worn medium do.

Speaks the kernel's FUSE protocol itself (include/uapi/linux/fuse.h): requests of a fixed form on /dev/fuse.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.programs import require_tool

NAME = "disk"
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS, _RELEASE = 1, 2, 3, 4, 14, 15, 16, 17, 18
_FSYNC, _FLUSH, _INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET = 20, 25, 26, 36, 38, 42
_UNANSWERED = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_DONE = (_FSYNC, _FLUSH, _RELEASE, _DESTROY)
_IN, _OUT = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
_LARGEST = 128 << 10
_BIG_WRITES = 1 << 5
_ENTRY = struct.Struct("<qI")
_FLUSHED = -1
"""Stands for an offset where the log says that all before it is safe."""


@dataclass(frozen=True, slots=True)
class _Server:
    """The file ``backing``, its log, and the (start, end) ranges whose reads fail."""

    backing: int
    log: int
    bad: tuple[tuple[int, int], ...]

    def answer(self, code: int, node: int, body: bytes) -> bytes:
        """The reply to one request. Raises OSError with what the kernel shall be told."""
        if code in _DONE:
            if code == _FSYNC:
                os.write(self.log, _ENTRY.pack(_FLUSHED, 0))
            return b""
        answers = {_INIT: self._init, _LOOKUP: self._lookup, _READ: self._read, _WRITE: self._write}
        if code in answers:
            return answers[code](body)
        if code in (_GETATTR, _SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if code == _OPEN:
            return struct.pack("<QII", 1, 0, 0)
        if code == _STATFS:
            return struct.pack("<QQQQQIII28x", 1 << 20, 1 << 20, 1 << 20, 9, 9, 4096, 255, 4096)
        raise OSError(errno.ENOSYS, "")

    def _init(self, body: bytes) -> bytes:
        _, _, ahead, _ = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, ahead, _BIG_WRITES, 16, 12, _LARGEST, 1, 0, 0, 0)

    def _lookup(self, body: bytes) -> bytes:
        if body.rstrip(b"\0") != NAME.encode():
            raise OSError(errno.ENOENT, "")
        return struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + self._attributes(2)

    def _read(self, body: bytes) -> bytes:
        _, at, size = struct.unpack_from("<QQI", body)
        if any(start < at + size and at < end for start, end in self.bad):
            raise OSError(errno.EIO, "")
        return os.pread(self.backing, size, at)

    def _write(self, body: bytes) -> bytes:
        _, at, size = struct.unpack_from("<QQI", body)
        data = body[40 : 40 + size]
        os.pwrite(self.backing, data, at)
        os.write(self.log, _ENTRY.pack(at, size) + data)
        return struct.pack("<II", size, 0)

    def _attributes(self, node: int) -> bytes:
        size, mode = (os.fstat(self.backing).st_size, 0o100600) if node == 2 else (0, 0o040700)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def serve(self, device: int) -> None:
        while True:
            try:
                request = os.read(device, _LARGEST + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                raise
            _, code, unique, node, *_ = _IN.unpack_from(request)
            if code in _UNANSWERED:
                continue
            try:
                said, failed = self.answer(code, node, request[_IN.size :]), 0
            except OSError as error:
                said, failed = b"", -(error.errno or errno.EIO)
            os.write(device, _OUT.pack(_OUT.size + len(said), failed, unique) + said)


def _main(backing: str, log: str, folder: str, ranges: Sequence[str]) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"faulty", folder.encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    bad = tuple((int(start), int(end)) for start, end in (one.split("-") for one in ranges))
    kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _Server(os.open(backing, os.O_RDWR), kept, bad).serve(device)


@contextmanager
def served(backing: Path, log: Path, folder: Path, *bad: tuple[int, int]) -> Iterator[Path]:
    """``backing`` as a file that this program serves, mounted at ``folder``; writes go to ``log``."""
    if not Path("/dev/fuse").exists():
        pytest.skip("this kernel has no FUSE: no disk can be made to fail")
    folder.mkdir(exist_ok=True)
    ranges = [f"{start}-{end}" for start, end in bad]
    command = [sys.executable, __file__, str(backing), str(log), str(folder), *ranges]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield folder / NAME
        finally:
            _unmount(folder)


def _unmount(folder: Path) -> None:
    """The loop driver lets go of a file a moment after its file system is gone."""
    for _ in range(100):
        done = subprocess.run(["umount", folder], check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "--lazy", folder], check=True)
    pytest.fail(f"{folder} is still in use: {done.stderr}")


@contextmanager
def mounted(image: Path, folder: Path, *options: str) -> Iterator[Path]:
    """The file system in an image, through the kernel's loop driver."""
    require_tool("losetup")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", ",".join(["loop", *options]), image, folder], check=True)
    try:
        yield folder
    finally:
        _unmount(folder)


def make(kind: str, image: Path, size: int) -> None:
    """An empty file system in a new image."""
    with image.open("wb") as file:
        file.truncate(size)
    options = {"ext4": ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"], "xfs": ["-q"]}
    subprocess.run([require_tool(f"mkfs.{kind}"), *options[kind], image], check=True)


@dataclass(frozen=True, slots=True)
class Write:
    """One write of the log: where its data stands there, and where it goes on the disk; none at a flush."""

    log_at: int
    at: int
    size: int

    @property
    def flush(self) -> bool:
        return self.at == _FLUSHED


def entries(log: Path) -> list[Write]:
    """What a disk was told, in order."""
    found: list[Write] = []
    with log.open("rb") as file:
        while head := file.read(_ENTRY.size):
            at, size = _ENTRY.unpack(head)
            found.append(Write(file.tell(), at, size))
            file.seek(size, os.SEEK_CUR)
    return found


def cut(base: Path, log: Path, told: Sequence[Write], point: int, chance: random.Random, out: Path) -> None:
    """The disk after a power cut before entry ``point``: what was flushed, and of what was not any part."""
    safe = max((number for number, write in enumerate(told[:point]) if write.flush), default=0)
    share = chance.random()
    shutil.copyfile(base, out)
    with log.open("rb") as source, out.open("r+b") as disk:
        for number, write in enumerate(told[:point]):
            if not write.flush and (number < safe or chance.random() < share):
                source.seek(write.log_at)
                disk.seek(write.at)
                disk.write(source.read(write.size))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])

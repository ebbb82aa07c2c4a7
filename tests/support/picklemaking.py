"""Pickles, and what they are hidden in."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable


class Reduced:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


def archive(**members: bytes) -> bytes:
    """A zip archive; ``__`` in a name stands for a slash, ``_dot_`` for a dot."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, data in members.items():
            packed.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return out.getvalue()


def tar(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return out.getvalue()


def moved(data: bytes, by: int) -> bytes:
    """A zip that says that all of it stands so many bytes further on, as it does behind other content."""
    out = bytearray(data)

    def add(at: int) -> int:
        before = int.from_bytes(out[at : at + 4], "little")
        out[at : at + 4] = (before + by).to_bytes(4, "little")
        return before

    at = add(data.rindex(b"PK\5\6") + 16)
    while out[at : at + 4] == b"PK\1\2":
        add(at + 42)
        at += 46 + sum(int.from_bytes(out[at + field : at + field + 2], "little") for field in (28, 30, 32))
    return bytes(out)


def table_of(data: bytes) -> int:
    """Where a zip says that its table of contents stands."""
    return int.from_bytes(data[data.rindex(b"PK\5\6") :][16:20], "little")


def two_tables(shown: bytes, hidden: bytes) -> bytes:
    """A zip with the table of contents that Python finds right before its end, and that which the end says."""
    return hidden[: hidden.rindex(b"PK\5\6")] + moved(shown, table_of(hidden) - table_of(shown))


def safetensors(length: int = 640) -> bytes:
    """One tensor of four bytes behind a head of so many; from 0x80 0x02 on its length begins as a pickle does."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return length.to_bytes(8, "little") + head.ljust(length) + b"\0\0\x80?"


SYSTEM = Reduced(os.system, "true")
NO_FILE = (1 << 62).to_bytes(8, "little")
"""The length of bytes in a pickle, of which there are not as many in the world."""
RUNS = b"cos\nsystem\n(S'true'\ntR."
BY_MEMO = b"\x80\x02X\2\0\0\0os\x80\x04\x940h\0\x8c\x06system\x93(S'true'\ntR."
HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
ARRAY = b"\x93NUMPY\x01\0" + len(HEADER).to_bytes(2, "little") + HEADER + RUNS
REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nctorch\nFloatStorage\nccollections\nOrderedDict\n."

"""Reads and writes safetensors files with the standard library, so that tests can break them byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path


class Weights:
    """A safetensors file taken apart: ``heads`` has dtype and shape of each tensor, ``bytes`` its content."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        self.path = path
        self.metadata = header.pop("__metadata__", {})
        self.heads: dict[str, tuple[str, list[int]]] = {}
        self.bytes: dict[str, bytes] = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            self.heads[name] = (entry["dtype"], entry["shape"])
            self.bytes[name] = raw[8 + length + begin : 8 + length + end]

    def fill(self, name: str, *numbers: float) -> None:
        """Repeats these 32-bit numbers all over a tensor."""
        pattern = struct.pack(f"<{len(numbers)}f", *numbers)
        size = len(self.bytes[name])
        self.bytes[name] = (pattern * (size // len(pattern) + 1))[:size]

    def rename(self, old: str, new: str) -> None:
        self.heads[new], self.bytes[new] = self.heads.pop(old), self.bytes.pop(old)

    def drop(self, *names: str) -> None:
        for name in names:
            del self.heads[name], self.bytes[name]

    def write(self) -> None:
        header: dict[str, object] = {"__metadata__": self.metadata}
        place = 0
        for name, content in self.bytes.items():
            dtype, shape = self.heads[name]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(content)]}
            place += len(content)
        lead = json.dumps(header).encode()
        lead += b" " * (-len(lead) % 8)
        self.path.write_bytes(struct.pack("<Q", len(lead)) + lead + b"".join(self.bytes.values()))

"""A zip, read so strictly that no two programs can find different files in it."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bundler.format import hashing

_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_WIDE_END = 56 + 20
"""Bytes of the end record's wide form and of what points to it."""
_LARGEST_TABLE = 32 << 20
"""Bytes of a table of contents that are read; PyTorch's takes one and a half million."""
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIBED_BEHIND, _UTF8 = 0x1, 0x8, 0x800
_WIDE = 0xFFFFFFFF
_WIDE_SIZES, _UNICODE_PATH = 0x0001, 0x7075
_HOW_HARD = 0x6
"""Flags that say how hard a file was packed, which writers leave out of one header or the other."""


class Malformed(ValueError):
    """What is wrong with a zip, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file in a zip. Sizes are in bytes; ``packed`` is what it takes in the zip, from offset ``content_at`` on."""

    name: str
    size: int
    packed: int
    crc: int
    deflated: bool
    content_at: int


def entries(path: Path) -> list[Entry]:
    """The files of a zip, in its order.

    Raises Malformed that names every fault: entries that overlap or have something between them, local headers
    that say other than the table of contents, two tables, links, devices, encryption, names without one reading.
    """
    fd = hashing.open_to_read(path)
    try:
        size = os.fstat(fd).st_size
        table = table_at(lambda at, count: read_at(fd, at, count), size)
        try:
            with zipfile.ZipFile(path) as known:
                infos = sorted(known.infolist(), key=lambda info: info.header_offset)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
            raise Malformed(f"its table of contents can't be read: {error}") from error
        faults: list[str] = []
        found: list[Entry] = []
        end = 0
        for info in infos:
            if info.header_offset != end:
                faults.append(f"{info.filename!a} does not begin where the file before it ends")
            entry, end, wrong = _entry(fd, info)
            faults += [f"{info.filename!a} {why}" for why in wrong]
            if not info.filename.endswith("/"):
                found.append(entry)
        if end != table:
            faults.append("something stands between its files and its table of contents")
        if faults:
            raise Malformed("; ".join(faults[:20]))
        return found
    finally:
        os.close(fd)


def table_at(read: Callable[[int, int], bytes], size: int) -> int:
    """Where the table of contents of a zip of ``size`` bytes begins, which with its end record is the last of it.

    ``read`` gives bytes from an offset on. Raises Malformed where it is not there, or larger than any that is read.
    """
    end = max(0, size - _END.size)
    tail = read(end, _END.size)
    if len(tail) < _END.size or not tail.startswith(b"PK\5\6"):
        raise Malformed("it does not end with the record that ends a zip")
    _, disk, start_disk, here, count, length, at, comment = _END.unpack(tail)
    if disk or start_disk or here != count or comment:
        raise Malformed("it is one of several parts, or has a comment")
    wide = read(max(0, end - _WIDE_END), _WIDE_END)
    if wide[56:60] == b"PK\6\7":
        if not wide.startswith(b"PK\6\6") or int.from_bytes(wide[64:72], "little") != end - _WIDE_END:
            raise Malformed("its end record's wide form is not where it is said to be")
        length, at = int.from_bytes(wide[40:48], "little"), int.from_bytes(wide[48:56], "little")
        end -= _WIDE_END
    if length > _LARGEST_TABLE:
        raise Malformed(f"its table of contents claims {length:,} bytes")
    if at + length != end:
        raise Malformed("its table of contents is not where its end record says")
    return int(at)


def _entry(fd: int, info: zipfile.ZipInfo) -> tuple[Entry, int, list[str]]:
    """An entry, where what belongs to it ends, and what is wrong with it."""
    header = read_at(fd, info.header_offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise Malformed(f"{info.filename!a} has no header of its own")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    behind = read_at(fd, info.header_offset + _LOCAL.size, name_length + extra_length)
    name, extra = behind[:name_length], behind[name_length:]
    wrong = [*_wrong_name(info, name, extra), *_wrong_kind(info)]
    if (flags ^ info.flag_bits) & ~_HOW_HARD or method != info.compress_type:
        wrong.append("is packed otherwise in its own header")
    stated = (crc, *_wide_sizes(extra, packed, size))
    described = bool(info.flag_bits & _DESCRIBED_BEHIND)
    if stated != (info.CRC, info.compress_size, info.file_size) and not (described and not any(stated)):
        wrong.append("has other sizes in its own header")
    entry = Entry(
        name=info.filename,
        size=info.file_size,
        packed=info.compress_size,
        crc=info.CRC,
        deflated=method == _DEFLATED,
        content_at=info.header_offset + _LOCAL.size + name_length + extra_length,
    )
    end = entry.content_at + entry.packed
    if described:
        length = _descriptor_length(fd, end, entry)
        wrong += [] if length else ["has other sizes in the record behind it"]
        end += length
    return entry, end, wrong


def _wrong_name(info: zipfile.ZipInfo, name: bytes, extra: bytes) -> list[str]:
    """What is wrong with the name of an entry, which stands in its own header as ``name``."""
    plain = bool(info.flag_bits & _UTF8)
    if not info.filename:
        return ["has no name"]
    if name != info.orig_filename.encode("utf-8" if plain else "cp437"):
        return [f"is {name.decode('utf-8', 'replace')!a} in its own header"]
    if info.orig_filename != info.filename or not (name.isascii() or plain):
        return ["has a name that is read in more than one way"]
    second = _UNICODE_PATH in _extras(info.extra) or _UNICODE_PATH in _extras(extra)
    return ["has a second name"] if second else []


def _wrong_kind(info: zipfile.ZipInfo) -> list[str]:
    """What is wrong with what an entry is."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    folder = info.filename.endswith("/")  # ZipInfo.is_dir stumbles over an empty name before Python 3.12
    wrong = ["is encrypted"] if info.flag_bits & _ENCRYPTED else []
    if info.compress_type not in (_STORED, _DEFLATED):
        wrong.append(f"is packed by method {info.compress_type}")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not folder):
        wrong.append("is a link or a device, or a folder by its mode alone")
    if folder and info.file_size:
        wrong.append("is a folder with content")
    return wrong


def _descriptor_length(fd: int, at: int, entry: Entry) -> int:
    """Bytes of the record behind an entry that says its sizes; 0 where what stands there is none of it."""
    found = read_at(fd, at, 24)
    sizes = [struct.pack("<2Q", entry.packed, entry.size)]
    if max(entry.packed, entry.size) < _WIDE:
        sizes.append(struct.pack("<2L", entry.packed, entry.size))
    expected = [mark + struct.pack("<L", entry.crc) + two for two in sizes for mark in (b"PK\7\x08", b"")]
    return next((len(one) for one in expected if found.startswith(one)), 0)


def _wide_sizes(extra: bytes, packed: int, size: int) -> tuple[int, int]:
    """Packed and unpacked size, from the extra field where they need more than four bytes."""
    wide = _extras(extra).get(_WIDE_SIZES, b"")
    numbers = list(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
    size = numbers.pop(0) if size == _WIDE and numbers else size
    packed = numbers.pop(0) if packed == _WIDE and numbers else packed
    return packed, size


def _extras(extra: bytes) -> dict[int, bytes]:
    """What stands in an extra field, by kind."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        found[kind] = extra[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def content(fd: int, entry: Entry) -> Iterator[bytes]:
    """The bytes of an entry in pieces, never more than it states; raises Malformed where they are not what it states."""
    left, crc = entry.size, 0
    for piece in _inflated(fd, entry) if entry.deflated else _packed(fd, entry):
        if len(piece) > left:
            raise Malformed(f"{entry.name!a} unpacks to more than it states")
        left -= len(piece)
        crc = zlib.crc32(piece, crc)
        yield piece
    if left:
        raise Malformed(f"{entry.name!a} unpacks to less than it states")
    if crc != entry.crc:
        raise Malformed(f"{entry.name!a} is not what its checksum says")


def _packed(fd: int, entry: Entry) -> Iterator[bytes]:
    at, end = entry.content_at, entry.content_at + entry.packed
    while at < end:
        data = read_at(fd, at, min(hashing.CHUNK, end - at))
        if not data:
            raise Malformed(f"{entry.name!a} ends before its content does")
        at += len(data)
        yield data


def _inflated(fd: int, entry: Entry) -> Iterator[bytes]:
    unpack = zlib.decompressobj(-15)
    try:
        for data in _packed(fd, entry):
            if unpack.eof:
                raise Malformed(f"{entry.name!a} has something behind its content")
            rest = data
            while rest and not unpack.eof:
                yield unpack.decompress(rest, hashing.CHUNK)
                rest = unpack.unconsumed_tail
        while not unpack.eof and (more := unpack.decompress(b"", hashing.CHUNK)):
            yield more
    except zlib.error as error:
        raise Malformed(f"{entry.name!a} can't be unpacked") from error
    if not unpack.eof:
        raise Malformed(f"{entry.name!a} ends before its content does")
    if unpack.unused_data:
        raise Malformed(f"{entry.name!a} has something behind its content")


def text(path: Path, entry: Entry, most: int = 16 << 20) -> bytes:
    """The bytes of a small entry; raises Malformed where they are not what it states."""
    if entry.size > most:
        raise Malformed(f"{entry.name!a} claims {entry.size:,} bytes; at most {most:,} are read")
    fd = hashing.open_to_read(path)
    try:
        return b"".join(content(fd, entry))
    finally:
        os.close(fd)


def read_at(fd: int, at: int, size: int) -> bytes:
    """``size`` bytes of a file from an offset on; fewer at its end."""
    into, got = bytearray(size), 0
    while got < size and (more := hashing.read_at(fd, memoryview(into)[got:], at + got)):
        got += more
    return bytes(into[:got])

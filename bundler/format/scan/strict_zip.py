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

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_END_RECORD = struct.Struct("<4s4H2LH")
_ZIP64_END_BYTES = 56 + 20
"""Bytes of the end record's wide form and of what points to it."""
_MAX_DIRECTORY_BYTES = 32 << 20
"""Bytes of a table of contents that are read; PyTorch's takes one and a half million."""
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _HAS_DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800
_ZIP64_MARK = 0xFFFFFFFF
_ZIP64_SIZES, _UNICODE_PATH = 0x0001, 0x7075
_LEVEL_FLAGS = 0x6
"""Flags that say how hard a file was packed, which writers leave out of one header or the other."""


class MalformedZipError(ValueError):
    """What is wrong with a zip, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipEntry:
    """A file in a zip. Sizes are in bytes; ``packed`` is what it takes in the zip, from offset ``content_at`` on."""

    name: str
    size: int
    compressed_size: int
    crc: int
    is_deflated: bool
    content_offset: int


def read_entries(path: Path) -> list[ZipEntry]:
    """The files of a zip, in its order.

    Raises Malformed that names every fault: entries that overlap or have something between them, local headers
    that say other than the table of contents, two tables, links, devices, encryption, names without one reading.
    """
    fd = hashing.open_to_read(path)
    try:
        size = os.fstat(fd).st_size
        table = find_directory(lambda at, count: read_at(fd, at, count), size)
        try:
            with zipfile.ZipFile(path) as known:
                infos = sorted(known.infolist(), key=lambda info: info.header_offset)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
            raise MalformedZipError(f"its table of contents can't be read: {error}") from error
        faults: list[str] = []
        found: list[ZipEntry] = []
        end = 0
        for info in infos:
            if info.header_offset != end:
                faults.append(f"{info.filename!a} does not begin where the file before it ends")
            entry, end, wrong = _read_entry(fd, info)
            faults += [f"{info.filename!a} {why}" for why in wrong]
            if not info.filename.endswith("/"):
                found.append(entry)
        if end != table:
            faults.append("something stands between its files and its table of contents")
        if faults:
            raise MalformedZipError("; ".join(faults[:20]))
        return found
    finally:
        os.close(fd)


def find_directory(read_range: Callable[[int, int], bytes], size: int) -> int:
    """Where the table of contents of a zip of ``size`` bytes begins, which with its end record is the last of it.

    ``read`` gives bytes from an offset on. Raises Malformed where it is not there, or larger than any that is read.
    """
    end = max(0, size - _END_RECORD.size)
    tail = read_range(end, _END_RECORD.size)
    if len(tail) < _END_RECORD.size or not tail.startswith(b"PK\5\6"):
        raise MalformedZipError("it does not end with the record that ends a zip")
    _, disk, start_disk, here, count, length, at, comment = _END_RECORD.unpack(tail)
    if disk or start_disk or here != count or comment:
        raise MalformedZipError("it is one of several parts, or has a comment")
    wide = read_range(max(0, end - _ZIP64_END_BYTES), _ZIP64_END_BYTES)
    if wide[56:60] == b"PK\6\7":
        if not wide.startswith(b"PK\6\6") or int.from_bytes(wide[64:72], "little") != end - _ZIP64_END_BYTES:
            raise MalformedZipError("its end record's wide form is not where it is said to be")
        length, at = int.from_bytes(wide[40:48], "little"), int.from_bytes(wide[48:56], "little")
        end -= _ZIP64_END_BYTES
    if length > _MAX_DIRECTORY_BYTES:
        raise MalformedZipError(f"its table of contents claims {length:,} bytes")
    if at + length != end:
        raise MalformedZipError("its table of contents is not where its end record says")
    return int(at)


def _read_entry(fd: int, info: zipfile.ZipInfo) -> tuple[ZipEntry, int, list[str]]:
    """An entry, where what belongs to it ends, and what is wrong with it."""
    header = read_at(fd, info.header_offset, _LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise MalformedZipError(f"{info.filename!a} has no header of its own")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    behind = read_at(fd, info.header_offset + _LOCAL_HEADER.size, name_length + extra_length)
    name, extra = behind[:name_length], behind[name_length:]
    wrong = [*_find_name_problems(info, name, extra), *_find_kind_problems(info)]
    if (flags ^ info.flag_bits) & ~_LEVEL_FLAGS or method != info.compress_type:
        wrong.append("is packed otherwise in its own header")
    stated = (crc, *_read_zip64_sizes(extra, packed, size))
    described = bool(info.flag_bits & _HAS_DESCRIPTOR)
    if stated != (info.CRC, info.compress_size, info.file_size) and not (described and not any(stated)):
        wrong.append("has other sizes in its own header")
    entry = ZipEntry(
        name=info.filename,
        size=info.file_size,
        compressed_size=info.compress_size,
        crc=info.CRC,
        is_deflated=method == _DEFLATED,
        content_offset=info.header_offset + _LOCAL_HEADER.size + name_length + extra_length,
    )
    end = entry.content_offset + entry.compressed_size
    if described:
        length = _read_descriptor_length(fd, end, entry)
        wrong += [] if length else ["has other sizes in the record behind it"]
        end += length
    return entry, end, wrong


def _find_name_problems(info: zipfile.ZipInfo, name: bytes, extra: bytes) -> list[str]:
    """What is wrong with the name of an entry, which stands in its own header as ``name``."""
    plain = bool(info.flag_bits & _UTF8)
    if not info.filename:
        return ["has no name"]
    if name != info.orig_filename.encode("utf-8" if plain else "cp437"):
        return [f"is {name.decode('utf-8', 'replace')!a} in its own header"]
    if info.orig_filename != info.filename or not (name.isascii() or plain):
        return ["has a name that is read in more than one way"]
    second = _UNICODE_PATH in _parse_extra_fields(info.extra) or _UNICODE_PATH in _parse_extra_fields(extra)
    return ["has a second name"] if second else []


def _find_kind_problems(info: zipfile.ZipInfo) -> list[str]:
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


def _read_descriptor_length(fd: int, offset: int, entry: ZipEntry) -> int:
    """Bytes of the record behind an entry that says its sizes; 0 where what stands there is none of it."""
    found = read_at(fd, offset, 24)
    sizes = [struct.pack("<2Q", entry.compressed_size, entry.size)]
    if max(entry.compressed_size, entry.size) < _ZIP64_MARK:
        sizes.append(struct.pack("<2L", entry.compressed_size, entry.size))
    expected = [mark + struct.pack("<L", entry.crc) + two for two in sizes for mark in (b"PK\7\x08", b"")]
    return next((len(one) for one in expected if found.startswith(one)), 0)


def _read_zip64_sizes(extra: bytes, compressed_size: int, size: int) -> tuple[int, int]:
    """Packed and unpacked size, from the extra field where they need more than four bytes."""
    wide = _parse_extra_fields(extra).get(_ZIP64_SIZES, b"")
    numbers = list(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
    size = numbers.pop(0) if size == _ZIP64_MARK and numbers else size
    compressed_size = numbers.pop(0) if compressed_size == _ZIP64_MARK and numbers else compressed_size
    return compressed_size, size


def _parse_extra_fields(extra: bytes) -> dict[int, bytes]:
    """What stands in an extra field, by kind."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        found[kind] = extra[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def iter_content(fd: int, entry: ZipEntry) -> Iterator[bytes]:
    """The bytes of an entry in pieces, never more than it states; raises Malformed where they are not what it states."""
    left, crc = entry.size, 0
    for piece in _iter_inflated(fd, entry) if entry.is_deflated else _iter_compressed(fd, entry):
        if len(piece) > left:
            raise MalformedZipError(f"{entry.name!a} unpacks to more than it states")
        left -= len(piece)
        crc = zlib.crc32(piece, crc)
        yield piece
    if left:
        raise MalformedZipError(f"{entry.name!a} unpacks to less than it states")
    if crc != entry.crc:
        raise MalformedZipError(f"{entry.name!a} is not what its checksum says")


def _iter_compressed(fd: int, entry: ZipEntry) -> Iterator[bytes]:
    at, end = entry.content_offset, entry.content_offset + entry.compressed_size
    while at < end:
        data = read_at(fd, at, min(hashing.CHUNK_BYTES, end - at))
        if not data:
            raise MalformedZipError(f"{entry.name!a} ends before its content does")
        at += len(data)
        yield data


def _iter_inflated(fd: int, entry: ZipEntry) -> Iterator[bytes]:
    unpack = zlib.decompressobj(-15)
    try:
        for data in _iter_compressed(fd, entry):
            if unpack.eof:
                raise MalformedZipError(f"{entry.name!a} has something behind its content")
            rest = data
            while rest and not unpack.eof:
                yield unpack.decompress(rest, hashing.CHUNK_BYTES)
                rest = unpack.unconsumed_tail
        while not unpack.eof and (more := unpack.decompress(b"", hashing.CHUNK_BYTES)):
            yield more
    except zlib.error as error:
        raise MalformedZipError(f"{entry.name!a} can't be unpacked") from error
    if not unpack.eof:
        raise MalformedZipError(f"{entry.name!a} ends before its content does")
    if unpack.unused_data:
        raise MalformedZipError(f"{entry.name!a} has something behind its content")


def read_small(path: Path, entry: ZipEntry, max_bytes: int = 16 << 20) -> bytes:
    """The bytes of a small entry; raises Malformed where they are not what it states."""
    if entry.size > max_bytes:
        raise MalformedZipError(f"{entry.name!a} claims {entry.size:,} bytes; at most {max_bytes:,} are read")
    fd = hashing.open_to_read(path)
    try:
        return b"".join(iter_content(fd, entry))
    finally:
        os.close(fd)


def read_at(fd: int, offset: int, size: int) -> bytes:
    """``size`` bytes of a file from an offset on; fewer at its end."""
    into, got = bytearray(size), 0
    while got < size and (more := hashing.read_at(fd, memoryview(into)[got:], offset + got)):
        got += more
    return bytes(into[:got])

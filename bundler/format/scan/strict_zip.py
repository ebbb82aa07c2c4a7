"""Zips, read so strictly that no two programs can find different files in them."""

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
"""Bytes of the ZIP64 end record and its locator."""
_MAX_DIRECTORY_BYTES = 32 << 20
"""Bytes of a central directory that are read; PyTorch's has one and a half million."""
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _HAS_DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800
_ZIP64_MARK = 0xFFFFFFFF
_ZIP64_SIZES, _UNICODE_PATH = 0x0001, 0x7075
_LEVEL_FLAGS = 0x6
"""Flags for the level of compression. Some writers set them in only one of the two headers."""


class MalformedZipError(ValueError):
    """A zip is malformed. The message says how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipEntry:
    """A file in a zip. Sizes and ``content_offset``, where its compressed bytes begin, are in bytes."""

    name: str
    size: int
    compressed_size: int
    crc: int
    is_deflated: bool
    content_offset: int


def read_entries(path: Path) -> list[ZipEntry]:
    """Read the entries of a zip in order, without folders.

    Raises:
        MalformedZipError: The message has every problem: entries that overlap or have gaps, local headers that differ
            from the central directory, two directories, links, devices, encryption, ambiguous names.
    """
    fd = hashing.open_to_read(path)
    try:
        size = os.fstat(fd).st_size
        directory_offset = find_directory(lambda offset, count: read_at(fd, offset, count), size)
        try:
            with zipfile.ZipFile(path) as archive:
                infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
            raise MalformedZipError(f"its central directory can't be read: {error}") from error
        problems: list[str] = []
        entries: list[ZipEntry] = []
        end = 0
        for info in infos:
            if info.header_offset != end:
                problems.append(f"{info.filename!a} does not begin where the file before it ends")
            entry, end, entry_problems = _read_entry(fd, info)
            problems += [f"{info.filename!a} {problem}" for problem in entry_problems]
            if not info.filename.endswith("/"):
                entries.append(entry)
        if end != directory_offset:
            problems.append("there are bytes between its files and its central directory")
        if problems:
            raise MalformedZipError("; ".join(problems[:20]))
        return entries
    finally:
        os.close(fd)


def find_directory(read_range: Callable[[int, int], bytes], size: int) -> int:
    """Return the offset of the central directory, which must be at the end of the zip with its end record.

    Args:
        read_range: returns a number of bytes from an offset on.
        size: bytes of the zip.

    Raises:
        MalformedZipError: The directory is not there or too large.
    """
    end = max(0, size - _END_RECORD.size)
    tail = read_range(end, _END_RECORD.size)
    if len(tail) < _END_RECORD.size or not tail.startswith(b"PK\5\6"):
        raise MalformedZipError("it does not end with the record that ends a zip")
    _, disk, start_disk, disk_count, count, length, offset, comment = _END_RECORD.unpack(tail)
    if disk or start_disk or disk_count != count or comment:
        raise MalformedZipError("it is one of several parts, or has a comment")
    zip64 = read_range(max(0, end - _ZIP64_END_BYTES), _ZIP64_END_BYTES)
    if zip64[56:60] == b"PK\6\7":
        if not zip64.startswith(b"PK\6\6") or int.from_bytes(zip64[64:72], "little") != end - _ZIP64_END_BYTES:
            raise MalformedZipError("its ZIP64 end record is not where its locator says")
        length, offset = int.from_bytes(zip64[40:48], "little"), int.from_bytes(zip64[48:56], "little")
        end -= _ZIP64_END_BYTES
    if length > _MAX_DIRECTORY_BYTES:
        raise MalformedZipError(f"its central directory states {length:,} bytes")
    if offset + length != end:
        raise MalformedZipError("its central directory is not where its end record says")
    return int(offset)


def _read_entry(fd: int, info: zipfile.ZipInfo) -> tuple[ZipEntry, int, list[str]]:
    """Read an entry. Returns it, the offset where it ends, and its problems."""
    header = read_at(fd, info.header_offset, _LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise MalformedZipError(f"{info.filename!a} has no local header")
    _, _, flags, method, _, _, crc, compressed_size, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    variable_part = read_at(fd, info.header_offset + _LOCAL_HEADER.size, name_length + extra_length)
    name, extra = variable_part[:name_length], variable_part[name_length:]
    problems = [*_find_name_problems(info, name, extra), *_find_kind_problems(info)]
    if (flags ^ info.flag_bits) & ~_LEVEL_FLAGS or method != info.compress_type:
        problems.append("has another compression in its local header")
    stated = (crc, *_read_zip64_sizes(extra, compressed_size, size))
    has_descriptor = bool(info.flag_bits & _HAS_DESCRIPTOR)
    if stated != (info.CRC, info.compress_size, info.file_size) and not (has_descriptor and not any(stated)):
        problems.append("has other sizes in its local header")
    entry = ZipEntry(
        name=info.filename,
        size=info.file_size,
        compressed_size=info.compress_size,
        crc=info.CRC,
        is_deflated=method == _DEFLATED,
        content_offset=info.header_offset + _LOCAL_HEADER.size + name_length + extra_length,
    )
    end = entry.content_offset + entry.compressed_size
    if has_descriptor:
        length = _read_descriptor_length(fd, end, entry)
        problems += [] if length else ["has other sizes in its data descriptor"]
        end += length
    return entry, end, problems


def _find_name_problems(info: zipfile.ZipInfo, name: bytes, extra: bytes) -> list[str]:
    """List the problems of an entry's name. ``name`` and ``extra`` are from its local header."""
    is_utf8 = bool(info.flag_bits & _UTF8)
    if not info.filename:
        return ["has no name"]
    if name != info.orig_filename.encode("utf-8" if is_utf8 else "cp437"):
        return [f"is {name.decode('utf-8', 'replace')!a} in its local header"]
    if info.orig_filename != info.filename or not (name.isascii() or is_utf8):
        return ["has a name that programs read differently"]
    has_second_name = _UNICODE_PATH in _parse_extra_fields(info.extra) or _UNICODE_PATH in _parse_extra_fields(extra)
    return ["has a second name"] if has_second_name else []


def _find_kind_problems(info: zipfile.ZipInfo) -> list[str]:
    """List the problems of an entry's file type and compression."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    is_folder = info.filename.endswith("/")  # ZipInfo.is_dir fails for an empty name before Python 3.12
    problems = ["is encrypted"] if info.flag_bits & _ENCRYPTED else []
    if info.compress_type not in (_STORED, _DEFLATED):
        problems.append(f"uses compression method {info.compress_type}")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not is_folder):
        problems.append("is a link, a device, or a folder without a slash")
    if is_folder and info.file_size:
        problems.append("is a folder with content")
    return problems


def _read_descriptor_length(fd: int, offset: int, entry: ZipEntry) -> int:
    """Return the length of the data descriptor at ``offset``, 0 if it does not have the sizes of the entry."""
    data = read_at(fd, offset, 24)
    sizes = [struct.pack("<2Q", entry.compressed_size, entry.size)]
    if max(entry.compressed_size, entry.size) < _ZIP64_MARK:
        sizes.append(struct.pack("<2L", entry.compressed_size, entry.size))
    descriptors = [mark + struct.pack("<L", entry.crc) + pair for pair in sizes for mark in (b"PK\7\x08", b"")]
    return next((len(descriptor) for descriptor in descriptors if data.startswith(descriptor)), 0)


def _read_zip64_sizes(extra: bytes, compressed_size: int, size: int) -> tuple[int, int]:
    """Return compressed size and size, from the extra field if they need more than four bytes."""
    data = _parse_extra_fields(extra).get(_ZIP64_SIZES, b"")
    numbers = list(struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8]))
    size = numbers.pop(0) if size == _ZIP64_MARK and numbers else size
    compressed_size = numbers.pop(0) if compressed_size == _ZIP64_MARK and numbers else compressed_size
    return compressed_size, size


def _parse_extra_fields(extra: bytes) -> dict[int, bytes]:
    """Return the values of extra fields by their kind."""
    fields: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, offset)
        fields[kind] = extra[offset + 4 : offset + 4 + length]
        offset += 4 + length
    return fields


def iter_content(fd: int, entry: ZipEntry) -> Iterator[bytes]:
    """Yield the bytes of an entry in pieces, never more than its stated size. Raises MalformedZipError if they differ."""
    remaining, crc = entry.size, 0
    for piece in _iter_inflated(fd, entry) if entry.is_deflated else _iter_compressed(fd, entry):
        if len(piece) > remaining:
            raise MalformedZipError(f"{entry.name!a} unpacks to more than its stated size")
        remaining -= len(piece)
        crc = zlib.crc32(piece, crc)
        yield piece
    if remaining:
        raise MalformedZipError(f"{entry.name!a} unpacks to less than its stated size")
    if crc != entry.crc:
        raise MalformedZipError(f"{entry.name!a} does not match its checksum")


def _iter_compressed(fd: int, entry: ZipEntry) -> Iterator[bytes]:
    offset, end = entry.content_offset, entry.content_offset + entry.compressed_size
    while offset < end:
        data = read_at(fd, offset, min(hashing.CHUNK_BYTES, end - offset))
        if not data:
            raise MalformedZipError(f"{entry.name!a} ends before its content does")
        offset += len(data)
        yield data


def _iter_inflated(fd: int, entry: ZipEntry) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(-15)
    try:
        for data in _iter_compressed(fd, entry):
            if decompressor.eof:
                raise MalformedZipError(f"{entry.name!a} has bytes after its content")
            rest = data
            while rest and not decompressor.eof:
                yield decompressor.decompress(rest, hashing.CHUNK_BYTES)
                rest = decompressor.unconsumed_tail
        while not decompressor.eof and (piece := decompressor.decompress(b"", hashing.CHUNK_BYTES)):
            yield piece
    except zlib.error as error:
        raise MalformedZipError(f"{entry.name!a} can't be unpacked") from error
    if not decompressor.eof:
        raise MalformedZipError(f"{entry.name!a} ends before its content does")
    if decompressor.unused_data:
        raise MalformedZipError(f"{entry.name!a} has bytes after its content")


def read_small(path: Path, entry: ZipEntry, max_bytes: int = 16 << 20) -> bytes:
    """Read a small entry at once. Raises MalformedZipError if it is too large or differs from what it states."""
    if entry.size > max_bytes:
        raise MalformedZipError(f"{entry.name!a} states {entry.size:,} bytes; at most {max_bytes:,} are allowed")
    fd = hashing.open_to_read(path)
    try:
        return b"".join(iter_content(fd, entry))
    finally:
        os.close(fd)


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Read ``size`` bytes of a file at ``offset``, fewer at its end."""
    buffer, done = bytearray(size), 0
    while done < size and (count := hashing.read_at(fd, memoryview(buffer)[done:], offset + done)):
        done += count
    return bytes(buffer[:done])

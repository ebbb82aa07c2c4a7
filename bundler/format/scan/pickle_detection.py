"""Finding pickles in files. A pickle can run code when it is loaded."""

from __future__ import annotations

import ast
import json
import os
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from bundler.format import hashing
from bundler.format.scan import pickle_opcodes, strict_zip
from bundler.format.scan.pickle_machine import TooLargeError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""Suffixes of files that libraries unpickle, whatever their content."""

_ARRAY_SUFFIXES = (".npy", ".npz")
"""Suffixes of files that NumPy can unpickle if they have no array."""

HEAD_BYTES = 512
"""First bytes of a file that show what it is."""

_PROTOCOL_STARTS = tuple(bytes((0x80, version)) for version in range(6))
_ZIP_START, _ARRAY_START = b"PK\x03\x04", b"\x93NUMPY"
_TORCH_TAR_MEMBERS = ("pickle", "storages", "tensors")
"""Members of torch's own tar format that it unpickles."""
_MAX_ODD_ZIP_BYTES = 64 << 20
"""Bytes of a zip that is opened although the size of its central directory can't be checked first."""
_PICKLE_MEMBER_NAME = re.compile(rb"\.(?:pkl|npy)", re.IGNORECASE)
_MAX_ARRAY_HEADER_BYTES = 64 << 10
_MAX_SAFETENSORS_HEADER_BYTES = 100 << 20
"""The limit of the library safetensors. Its files begin with the length of a JSON header in eight bytes."""
_ZIP_END_MARK, _ZIP64_END_MARK, _ZIP_DIRECTORY_MARK = b"PK\5\6", b"PK\6\7", b"PK\1\2"
_ZIP_TAIL_BYTES = 22 + 0xFFFF
"""Bytes at the end of a file that contain a zip's end record and its comment."""
_MAX_TAR_MEMBERS = 100_000
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What zipfile raises for a file that is not a zip, or that it can't unpack."""


class UnreadableFileError(ValueError):
    """It is unclear what a loader would find in a file. The message is the rest of a sentence about it."""


PickleLocation = tuple[str, int]
"""Member of a zip ("" for the file itself), and the offset in bytes where a pickle begins."""


def has_pickle_suffix(path: str) -> bool:
    """Return whether libraries unpickle a file of this name."""
    return path.lower().endswith(PICKLE_SUFFIXES)


def has_loadable_suffix(path: str) -> bool:
    """Return whether libraries unpickle a file of this name, or NumPy does if it has no array."""
    return path.lower().endswith((*PICKLE_SUFFIXES, *_ARRAY_SUFFIXES))


def has_pickle_start(head: bytes) -> bool:
    """Return whether these first bytes of a file state a pickle protocol, as from protocol 2 on (PEP 307).

    Pickles that do not state one are recognised by what they do.
    """
    return head.startswith(_PROTOCOL_STARTS) and head[2:3] != b"\0"  # not an opcode: such bytes start a length


def find_pickles(path: Path, *, has_suffix: bool = False) -> tuple[PickleLocation, ...]:
    """Find the pickles in a file by its content.

    Every zip is searched, whatever its name and whatever comes before it: torch reads ``data.pkl`` anywhere in it, and
    NumPy reads its members. Any other file is read as an unpickler would, which ends at once in nearly all files
    without a pickle.

    Args:
        path: the file.
        has_suffix: whether libraries unpickle a file of this name. Then any import counts.

    Raises:
        UnreadableFileError: Different programs could find different things in the file.
        OSError: The file can't be read.
    """
    locations: list[PickleLocation] = []
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(_ZIP_START) or _has_zip_end(file):
            locations += _find_in_zip(file, path)
        file.seek(0)
        if head.startswith(_ARRAY_START):
            offset = _find_array_pickle(file)
            return (*locations, *([] if offset is None else [("", offset)]))
        if _is_tar(head):
            _refuse_torch_tar(path)
        states_protocol = has_pickle_start(head) and not _is_safetensors(file)
        file.seek(0)
        if states_protocol or _has_effective_import(file, has_suffix=has_suffix):
            locations.append(("", 0))
    return tuple(locations)


def _has_effective_import(file: IO[bytes], *, has_suffix: bool) -> bool:
    """Return whether an unpickler would import something here and call it, change it, or return it.

    By then code has run, whatever follows. Text can look like an import by accident, and so can the number of an
    extension, which means nothing unless a library has registered it.
    """
    try:
        for trace in pickle_opcodes.trace_pickles(file):
            if has_suffix and (trace.imports or (trace.uses_extensions and trace.is_complete)):
                return True
            if (trace.runs_code or trace.is_complete) and any(
                imported.has_valid_name or not imported.is_known for imported in trace.imports
            ):
                return True
    except TooLargeError as error:
        raise UnreadableFileError(str(error)) from error
    return False


def _is_safetensors(file: IO[bytes]) -> bool:
    """Return whether a file is valid safetensors: its header and all tensors are within the file."""
    size = file.seek(0, os.SEEK_END)
    length = int.from_bytes(_read_at(file, 0, 8), "little")
    if length > min(size - 8, _MAX_SAFETENSORS_HEADER_BYTES) or _read_at(file, 8, 1) != b"{":
        return False
    try:
        tensors = json.loads(_read_at(file, 8, length))
        tensors.pop("__metadata__", None)
        ends = [(int(begin), int(end)) for tensor in tensors.values() for begin, end in [tensor["data_offsets"]]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return False
    return all(0 <= begin <= end <= size - 8 - length for begin, end in ends)


def _has_zip_end(file: IO[bytes]) -> bool:
    """Return whether a file ends with the central directory of a zip, where readers search it."""
    size = file.seek(0, os.SEEK_END)
    begin = max(0, size - _ZIP_TAIL_BYTES)
    tail = _read_at(file, begin, _ZIP_TAIL_BYTES)
    for match in re.finditer(re.escape(_ZIP_END_MARK), tail):
        offset = match.start()
        length, stated = struct.unpack_from("<2L", tail.ljust(offset + 22, b"\0"), offset + 12)
        candidates = {
            (stated, _ZIP_DIRECTORY_MARK),
            (begin + offset - length, _ZIP_DIRECTORY_MARK),
            (begin + offset - 20, _ZIP64_END_MARK),
        }
        if any(_read_at(file, max(0, position), 4) == mark for position, mark in candidates):
            return True
    return False


def _find_in_zip(file: IO[bytes], path: Path) -> list[PickleLocation]:
    """Find the pickles of a zip, wherever in the file it begins.

    A zip whose central directory is not where it must be can be read in more than one way. Names of members are not
    compressed, so a file without the name of a pickle anywhere has none.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        strict_zip.find_directory(lambda offset, count: _read_at(file, offset, count), size)
    except strict_zip.MalformedZipError as error:
        is_at_start = _read_at(file, 0, len(_ZIP_START)) == _ZIP_START
        if (is_at_start and size > _MAX_ODD_ZIP_BYTES) or _has_match(file, _PICKLE_MEMBER_NAME):
            raise UnreadableFileError(f"is a zip that can be read in more than one way: {error}") from error
        if not is_at_start:
            return []  # NumPy looks at the first bytes
    try:
        with zipfile.ZipFile(path) as archive:
            return _find_member_pickles(archive)
    except UnreadableFileError:
        raise
    except ZIP_ERRORS as error:
        raise UnreadableFileError(
            "begins or ends like a zip and can't be opened as one, but a loader may open it"
        ) from error


def _has_match(file: IO[bytes], pattern: re.Pattern[bytes]) -> bool:
    """Return whether a pattern of four bytes matches anywhere in a file."""
    file.seek(0)
    previous_end = b""
    while data := file.read(hashing.CHUNK_BYTES):
        if pattern.search(previous_end + data):
            return True
        previous_end = data[-3:]
    return False


def _read_at(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _find_member_pickles(archive: zipfile.ZipFile) -> list[tuple[str, int]]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    locations = [(name, 0) for name in names if name.lower().endswith(".pkl")]
    for info in infos:
        if info.is_dir() or info.filename.lower().endswith(".pkl"):
            continue
        with archive.open(info) as member:  # NumPy looks at the first bytes, not at the name
            offset = _find_array_pickle(member)
        locations += [] if offset is None else [(info.filename, offset)]
    # torch ignores case, takes the other of two members with one name, and reads names as they are stored
    if (
        len({name.lower() for name in names}) < len(names)
        or any(not name.endswith(".pkl") for name in names if name.lower().endswith(".pkl"))
        or any(info.orig_filename != info.filename for info in infos)
    ):
        raise UnreadableFileError("has members that a loader and the scanner would read differently")
    return locations


def _find_array_pickle(file: IO[bytes]) -> int | None:
    """Return the offset of the pickle in a NumPy array of Python objects; None for an array of numbers (NEP 1)."""
    start = file.read(12)
    if not start.startswith(_ARRAY_START) or len(start) < 12:
        return None
    width, header_offset = (2, 10) if start[6] == 1 else (4, 12)
    length = int.from_bytes(start[8 : 8 + width], "little")
    header = (start[header_offset:] + file.read(min(length, _MAX_ARRAY_HEADER_BYTES)))[:length]
    try:
        dtype = ast.literal_eval(header.decode("utf-8", "replace").strip())["descr"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return header_offset + length  # NumPy may read what this can't
    return header_offset + length if _has_objects(dtype) else None


def _has_objects(dtype: object) -> bool:
    """Return whether a NumPy type has Python objects: by its name, its fields, or its base type."""
    if isinstance(dtype, str):
        return "O" in dtype or "object" in dtype
    if isinstance(dtype, tuple) and len(dtype) == 2:
        return _has_objects(dtype[0])
    if isinstance(dtype, list):
        return any(not isinstance(field, tuple) or len(field) < 2 or _has_objects(field[1]) for field in dtype)
    return True


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _refuse_torch_tar(path: Path) -> None:
    """Raise UnreadableFileError for a tar that torch can load: its first versions put a pickle there.

    No library loads other tars.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                if member.name.removeprefix("./") in _TORCH_TAR_MEMBERS:
                    raise UnreadableFileError(
                        "is a tar in the format of torch's first versions, whose pickle can't be checked"
                    )
                if number > _MAX_TAR_MEMBERS:
                    raise UnreadableFileError("is a tar with more files than are checked")
    except UnreadableFileError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise UnreadableFileError("begins like a tar and can't be read as one, but a loader may read it") from error

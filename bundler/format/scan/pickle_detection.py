"""Where pickles stand, which can run code when they are loaded: what tells a file that holds any from data."""

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
"""How files end that libraries unpickle, whatever is in them."""

_ARRAY_SUFFIXES = (".npy", ".npz")
"""Names that NumPy takes for pickles where it finds no array, if it is asked to."""

HEAD_BYTES = 512
"""How many of a file's first bytes are looked at to tell what it is."""

_PROTOCOL_STARTS = tuple(bytes((0x80, version)) for version in range(6))
_ZIP_START, _ARRAY_START = b"PK\x03\x04", b"\x93NUMPY"
_TORCH_TAR_MEMBERS = ("pickle", "storages", "tensors")
"""What torch unpickles of a tar of its own, each by itself."""
_MAX_ODD_ZIP_BYTES = 64 << 20
"""Bytes of a zip that is opened although its table of contents is not where it can be measured beforehand."""
_PICKLE_MEMBER_NAME = re.compile(rb"\.(?:pkl|npy)", re.IGNORECASE)
_MAX_ARRAY_HEADER_BYTES = 64 << 10
_MAX_SAFETENSORS_HEADER_BYTES = 100 << 20
"""What the library safetensors reads; its files begin with eight bytes for the length of a head in JSON."""
_ZIP_END_MARK, _ZIP64_END_MARK, _ZIP_DIRECTORY_MARK = b"PK\5\6", b"PK\6\7", b"PK\1\2"
_ZIP_TAIL_BYTES = 22 + 0xFFFF
"""Bytes at the end of a file in which a zip's end record stands, which a comment may follow."""
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
"""What zipfile raises over a zip that is none, or one that it can't unpack."""


class UnreadableFileError(ValueError):
    """Why nobody can say what a loader would find in a file, as the rest of a sentence."""


PickleLocation = tuple[str, int]
"""Where a pickle begins: in which member of a zip, "" for the file itself, and at which offset."""


def has_pickle_suffix(path: str) -> bool:
    """Whether a file has a name that libraries unpickle."""
    return path.lower().endswith(PICKLE_SUFFIXES)


def has_loadable_suffix(path: str) -> bool:
    """Whether a file has a name that libraries unpickle, or that NumPy does where it finds no array."""
    return path.lower().endswith((*PICKLE_SUFFIXES, *_ARRAY_SUFFIXES))


def has_pickle_start(head: bytes) -> bool:
    """Whether a file with these first bytes states a pickle's protocol, as pickles do from protocol 2 on (PEP 307).

    Older ones, and newer ones that leave their protocol out, are told by what they do.
    """
    return head.startswith(_PROTOCOL_STARTS) and head[2:3] != b"\0"  # no opcode: such bytes start a length


def find_pickles(path: Path, *, has_suffix: bool = False) -> tuple[PickleLocation, ...]:
    """Where a file holds pickles; none where its content does not say that it does. ``named``: its name alone has
    libraries unpickle it, so that any import counts.

    A zip is looked through whatever its name, and whatever stands before it: torch reads ``data.pkl`` wherever it
    stands, NumPy its members. Any file is read as an unpickler would read it, which ends at once in nearly all that is
    no pickle. Raises Unreadable where programs could find different things in it, and OSError.
    """
    found: list[PickleLocation] = []
    with path.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
        if head.startswith(_ZIP_START) or _has_zip_end(opened):
            found += _find_in_zip(opened, path)
        opened.seek(0)
        if head.startswith(_ARRAY_START):
            at = _find_array_pickle(opened)
            return (*found, *([] if at is None else [("", at)]))
        if _is_tar(head):
            _refuse_torch_tar(path)
        begins = has_pickle_start(head) and not _is_safetensors(opened)
        opened.seek(0)
        if begins or _has_effective_import(opened, has_suffix=has_suffix):
            found.append(("", 0))
    return tuple(found)


def _has_effective_import(file: IO[bytes], *, has_suffix: bool) -> bool:
    """Whether an unpickler would import something here and call it, put something into it, or give it to its caller.

    By then code has run, whatever follows. Text can look like an import, by names that are none, or by a line or two
    that are; numbers of extensions stand in data as well, and mean nothing where no library has given them a meaning.
    """
    try:
        for read in pickle_opcodes.trace_pickles(file):
            if has_suffix and (read.imports or (read.uses_extensions and read.is_complete)):
                return True
            if (read.runs_code or read.is_complete) and any(
                one.has_valid_name or not one.is_known for one in read.imports
            ):
                return True
    except TooLargeError as error:
        raise UnreadableFileError(str(error)) from error
    return False


def _is_safetensors(file: IO[bytes]) -> bool:
    """Whether a file is safetensors from its first byte to its last: head and tensors fit into it."""
    size = file.seek(0, os.SEEK_END)
    length = int.from_bytes(_read_at(file, 0, 8), "little")
    if length > min(size - 8, _MAX_SAFETENSORS_HEADER_BYTES) or _read_at(file, 8, 1) != b"{":
        return False
    try:
        tensors = json.loads(_read_at(file, 8, length))
        tensors.pop("__metadata__", None)
        ends = [(int(begin), int(end)) for one in tensors.values() for begin, end in [one["data_offsets"]]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return False
    return all(0 <= begin <= end <= size - 8 - length for begin, end in ends)


def _has_zip_end(file: IO[bytes]) -> bool:
    """Whether a zip's table of contents ends a file, which is where its readers look for it."""
    size = file.seek(0, os.SEEK_END)
    begin = max(0, size - _ZIP_TAIL_BYTES)
    tail = _read_at(file, begin, _ZIP_TAIL_BYTES)
    for found in re.finditer(re.escape(_ZIP_END_MARK), tail):
        at = found.start()
        length, stated = struct.unpack_from("<2L", tail.ljust(at + 22, b"\0"), at + 12)
        likely = {
            (stated, _ZIP_DIRECTORY_MARK),
            (begin + at - length, _ZIP_DIRECTORY_MARK),
            (begin + at - 20, _ZIP64_END_MARK),
        }
        if any(_read_at(file, max(0, where), 4) == sign for where, sign in likely):
            return True
    return False


def _find_in_zip(file: IO[bytes], path: Path) -> list[PickleLocation]:
    """The pickles of a zip, wherever in the file it begins.

    One whose table of contents does not stand where it must can be read in more than one way. Names stand in any
    table as they are, so that a file in which no such name stands anywhere holds none.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        strict_zip.find_directory(lambda at, count: _read_at(file, at, count), size)
    except strict_zip.MalformedZipError as error:
        begins = _read_at(file, 0, len(_ZIP_START)) == _ZIP_START
        if (begins and size > _MAX_ODD_ZIP_BYTES) or _has_match(file, _PICKLE_MEMBER_NAME):
            raise UnreadableFileError(f"is a zip that can be read in more than one way: {error}") from error
        if not begins:
            return []  # NumPy asks for the first bytes
    try:
        with zipfile.ZipFile(path) as archive:
            return _find_member_pickles(archive)
    except UnreadableFileError:
        raise
    except ZIP_ERRORS as error:
        raise UnreadableFileError(
            "begins or ends as a zip and can't be opened as one, which a loader may not mind"
        ) from error


def _has_match(file: IO[bytes], pattern: re.Pattern[bytes]) -> bool:
    """Whether a file holds such words anywhere; they have four bytes."""
    file.seek(0)
    before = b""
    while data := file.read(hashing.CHUNK_BYTES):
        if pattern.search(before + data):
            return True
        before = data[-3:]
    return False


def _read_at(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _find_member_pickles(archive: zipfile.ZipFile) -> list[tuple[str, int]]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    found = [(name, 0) for name in names if name.lower().endswith(".pkl")]
    for info in infos:
        if info.is_dir() or info.filename.lower().endswith(".pkl"):
            continue
        with archive.open(info) as member:  # NumPy asks for the first bytes, and not for the name
            at = _find_array_pickle(member)
        found += [] if at is None else [(info.filename, at)]
    # torch looks a member up whatever its case, takes another of two that bear one name, and a name as it is written
    if (
        len({name.lower() for name in names}) < len(names)
        or any(not name.endswith(".pkl") for name in names if name.lower().endswith(".pkl"))
        or any(info.orig_filename != info.filename for info in infos)
    ):
        raise UnreadableFileError("holds members that a loader and the scanner would not read as the same")
    return found


def _find_array_pickle(file: IO[bytes]) -> int | None:
    """Where the pickle of a NumPy array of Python objects begins; None for an array of numbers (NEP 1)."""
    start = file.read(12)
    if not start.startswith(_ARRAY_START) or len(start) < 12:
        return None
    width, begins = (2, 10) if start[6] == 1 else (4, 12)
    length = int.from_bytes(start[8 : 8 + width], "little")
    header = (start[begins:] + file.read(min(length, _MAX_ARRAY_HEADER_BYTES)))[:length]
    try:
        described = ast.literal_eval(header.decode("utf-8", "replace").strip())["descr"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return begins + length  # NumPy may read what this does not
    return begins + length if _has_objects(described) else None


def _has_objects(dtype: object) -> bool:
    """Whether a type has Python objects in it: a name, its fields, or a type with a shape."""
    if isinstance(dtype, str):
        return "O" in dtype or "object" in dtype
    if isinstance(dtype, tuple) and len(dtype) == 2:
        return _has_objects(dtype[0])
    if isinstance(dtype, list):
        return any(not isinstance(one, tuple) or len(one) < 2 or _has_objects(one[1]) for one in dtype)
    return True


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _refuse_torch_tar(path: Path) -> None:
    """torch loads tars of its first versions, which hold a pickle; no other tar is loaded by anything."""
    try:
        with tarfile.open(path, "r:") as packed:
            for number, one in enumerate(packed):
                if one.name.removeprefix("./") in _TORCH_TAR_MEMBERS:
                    raise UnreadableFileError(
                        "is a tar as torch wrote them in its first versions, whose pickle is not looked into"
                    )
                if number > _MAX_TAR_MEMBERS:
                    raise UnreadableFileError("is a tar of more files than are looked at")
    except UnreadableFileError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise UnreadableFileError("begins as a tar and can't be read as one, which a loader may not mind") from error

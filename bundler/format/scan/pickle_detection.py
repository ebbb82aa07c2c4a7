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

NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""How files end that libraries unpickle, whatever is in them."""

_ARRAYS = (".npy", ".npz")
"""Names that NumPy takes for pickles where it finds no array, if it is asked to."""

HEAD = 512
"""How many of a file's first bytes are looked at to tell what it is."""

_PROTOCOLS = tuple(bytes((0x80, version)) for version in range(6))
_ZIP, _ARRAY = b"PK\x03\x04", b"\x93NUMPY"
_OF_TORCH_S_TAR = ("pickle", "storages", "tensors")
"""What torch unpickles of a tar of its own, each by itself."""
_LARGEST_ODD_ZIP = 64 << 20
"""Bytes of a zip that is opened although its table of contents is not where it can be measured beforehand."""
_NAMES_IN_ZIP = re.compile(rb"\.(?:pkl|npy)", re.IGNORECASE)
_LARGEST_ARRAY_HEAD = 64 << 10
_LARGEST_SAFETENSORS_HEAD = 100 << 20
"""What the library safetensors reads; its files begin with eight bytes for the length of a head in JSON."""
_ZIP_END, _ZIP_WIDE_END, _ZIP_TABLE = b"PK\5\6", b"PK\6\7", b"PK\1\2"
_TAIL = 22 + 0xFFFF
"""Bytes at the end of a file in which a zip's end record stands, which a comment may follow."""
_MOST_TAR_MEMBERS = 100_000
BROKEN_ZIP = (
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


class Unreadable(ValueError):
    """Why nobody can say what a loader would find in a file, as the rest of a sentence."""


Place = tuple[str, int]
"""Where a pickle begins: in which member of a zip, "" for the file itself, and at which offset."""


def named_like_one(path: str) -> bool:
    """Whether a file has a name that libraries unpickle."""
    return path.lower().endswith(NAMES)


def taken_for_one(path: str) -> bool:
    """Whether a file has a name that libraries unpickle, or that NumPy does where it finds no array."""
    return path.lower().endswith((*NAMES, *_ARRAYS))


def begins_like_one(head: bytes) -> bool:
    """Whether a file with these first bytes states a pickle's protocol, as pickles do from protocol 2 on (PEP 307).

    Older ones, and newer ones that leave their protocol out, are told by what they do.
    """
    return head.startswith(_PROTOCOLS) and head[2:3] != b"\0"  # no opcode: such bytes start a length


def places(path: Path, *, named: bool = False) -> tuple[Place, ...]:
    """Where a file holds pickles; none where its content does not say that it does. ``named``: its name alone has
    libraries unpickle it, so that any import counts.

    A zip is looked through whatever its name, and whatever stands before it: torch reads ``data.pkl`` wherever it
    stands, NumPy its members. Any file is read as an unpickler would read it, which ends at once in nearly all that is
    no pickle. Raises Unreadable where programs could find different things in it, and OSError.
    """
    found: list[Place] = []
    with path.open("rb") as opened:
        head = opened.read(HEAD)
        if head.startswith(_ZIP) or _ends_as_zip(opened):
            found += _in_zip(opened, path)
        opened.seek(0)
        if head.startswith(_ARRAY):
            at = _behind_header(opened)
            return (*found, *([] if at is None else [("", at)]))
        if _is_tar(head):
            _refuse_torch_s_tar(path)
        begins = begins_like_one(head) and not _is_safetensors(opened)
        opened.seek(0)
        if begins or _runs_as_one(opened, named=named):
            found.append(("", 0))
    return tuple(found)


def _runs_as_one(opened: IO[bytes], *, named: bool) -> bool:
    """Whether an unpickler would import something here and call it, put something into it, or give it to its caller.

    By then code has run, whatever follows. Text can look like an import, by names that are none, or by a line or two
    that are; numbers of extensions stand in data as well, and mean nothing where no library has given them a meaning.
    """
    try:
        for read in pickle_opcodes.read_all(opened):
            if named and (read.imports or (read.extended and read.ended)):
                return True
            if (read.ran or read.ended) and any(one.named or not one.known for one in read.imports):
                return True
    except TooLargeError as error:
        raise Unreadable(str(error)) from error
    return False


def _is_safetensors(opened: IO[bytes]) -> bool:
    """Whether a file is safetensors from its first byte to its last: head and tensors fit into it."""
    size = opened.seek(0, os.SEEK_END)
    length = int.from_bytes(_read_at(opened, 0, 8), "little")
    if length > min(size - 8, _LARGEST_SAFETENSORS_HEAD) or _read_at(opened, 8, 1) != b"{":
        return False
    try:
        tensors = json.loads(_read_at(opened, 8, length))
        tensors.pop("__metadata__", None)
        ends = [(int(begin), int(end)) for one in tensors.values() for begin, end in [one["data_offsets"]]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return False
    return all(0 <= begin <= end <= size - 8 - length for begin, end in ends)


def _ends_as_zip(opened: IO[bytes]) -> bool:
    """Whether a zip's table of contents ends a file, which is where its readers look for it."""
    size = opened.seek(0, os.SEEK_END)
    begin = max(0, size - _TAIL)
    tail = _read_at(opened, begin, _TAIL)
    for found in re.finditer(re.escape(_ZIP_END), tail):
        at = found.start()
        length, stated = struct.unpack_from("<2L", tail.ljust(at + 22, b"\0"), at + 12)
        likely = {(stated, _ZIP_TABLE), (begin + at - length, _ZIP_TABLE), (begin + at - 20, _ZIP_WIDE_END)}
        if any(_read_at(opened, max(0, where), 4) == sign for where, sign in likely):
            return True
    return False


def _in_zip(opened: IO[bytes], path: Path) -> list[Place]:
    """The pickles of a zip, wherever in the file it begins.

    One whose table of contents does not stand where it must can be read in more than one way. Names stand in any
    table as they are, so that a file in which no such name stands anywhere holds none.
    """
    size = opened.seek(0, os.SEEK_END)
    try:
        strict_zip.table_at(lambda at, count: _read_at(opened, at, count), size)
    except strict_zip.Malformed as error:
        begins = _read_at(opened, 0, len(_ZIP)) == _ZIP
        if (begins and size > _LARGEST_ODD_ZIP) or _says(opened, _NAMES_IN_ZIP):
            raise Unreadable(f"is a zip that can be read in more than one way: {error}") from error
        if not begins:
            return []  # NumPy asks for the first bytes
    try:
        with zipfile.ZipFile(path) as archive:
            return _members(archive)
    except Unreadable:
        raise
    except BROKEN_ZIP as error:
        raise Unreadable("begins or ends as a zip and can't be opened as one, which a loader may not mind") from error


def _says(opened: IO[bytes], words: re.Pattern[bytes]) -> bool:
    """Whether a file holds such words anywhere; they have four bytes."""
    opened.seek(0)
    before = b""
    while data := opened.read(hashing.CHUNK):
        if words.search(before + data):
            return True
        before = data[-3:]
    return False


def _read_at(opened: IO[bytes], at: int, count: int) -> bytes:
    opened.seek(at)
    return opened.read(count)


def _members(archive: zipfile.ZipFile) -> list[tuple[str, int]]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    found = [(name, 0) for name in names if name.lower().endswith(".pkl")]
    for info in infos:
        if info.is_dir() or info.filename.lower().endswith(".pkl"):
            continue
        with archive.open(info) as member:  # NumPy asks for the first bytes, and not for the name
            at = _behind_header(member)
        found += [] if at is None else [(info.filename, at)]
    # torch looks a member up whatever its case, takes another of two that bear one name, and a name as it is written
    if (
        len({name.lower() for name in names}) < len(names)
        or any(not name.endswith(".pkl") for name in names if name.lower().endswith(".pkl"))
        or any(info.orig_filename != info.filename for info in infos)
    ):
        raise Unreadable("holds members that a loader and the scanner would not read as the same")
    return found


def _behind_header(array: IO[bytes]) -> int | None:
    """Where the pickle of a NumPy array of Python objects begins; None for an array of numbers (NEP 1)."""
    start = array.read(12)
    if not start.startswith(_ARRAY) or len(start) < 12:
        return None
    width, begins = (2, 10) if start[6] == 1 else (4, 12)
    length = int.from_bytes(start[8 : 8 + width], "little")
    header = (start[begins:] + array.read(min(length, _LARGEST_ARRAY_HEAD)))[:length]
    try:
        described = ast.literal_eval(header.decode("utf-8", "replace").strip())["descr"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return begins + length  # NumPy may read what this does not
    return begins + length if _has_objects(described) else None


def _has_objects(described: object) -> bool:
    """Whether a type has Python objects in it: a name, its fields, or a type with a shape."""
    if isinstance(described, str):
        return "O" in described or "object" in described
    if isinstance(described, tuple) and len(described) == 2:
        return _has_objects(described[0])
    if isinstance(described, list):
        return any(not isinstance(one, tuple) or len(one) < 2 or _has_objects(one[1]) for one in described)
    return True


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _refuse_torch_s_tar(path: Path) -> None:
    """torch loads tars of its first versions, which hold a pickle; no other tar is loaded by anything."""
    try:
        with tarfile.open(path, "r:") as packed:
            for number, one in enumerate(packed):
                if one.name.removeprefix("./") in _OF_TORCH_S_TAR:
                    raise Unreadable(
                        "is a tar as torch wrote them in its first versions, whose pickle is not looked into"
                    )
                if number > _MOST_TAR_MEMBERS:
                    raise Unreadable("is a tar of more files than are looked at")
    except Unreadable:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise Unreadable("begins as a tar and can't be read as one, which a loader may not mind") from error

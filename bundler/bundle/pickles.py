"""Where pickles stand, which can run code when they are loaded: what tells a file that holds any from data."""

from __future__ import annotations

import ast
import os
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bundler.bundle import hashing, zipform

NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""How files end that libraries unpickle, whatever is in them."""

HEAD = 512
"""How many of a file's first bytes `begins_like_one` asks for."""

_PROTOCOLS = tuple(bytes((0x80, version)) for version in range(6))
_ZIP, _ARRAY = b"PK\x03\x04", b"\x93NUMPY"
_MEMBER = b"data.pkl"
_OF_TORCH_S_TAR = ("pickle", "storages", "tensors")
"""What torch unpickles of a tar of its own, each by itself."""
_LARGEST_ODD_ZIP = 64 << 20
"""Bytes of a zip that is opened although its table of contents is not where it can be measured beforehand."""
_LARGEST_ARRAY_HEAD = 64 << 10
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Where pickles stand: from these offsets on, each in a member of a zip, or in the file itself ("").

    ``surely`` is off where the first bytes can be those of safetensors as well.
    """

    at: tuple[tuple[str, int], ...]
    surely: bool = True


def named_like_one(path: str) -> bool:
    """Whether a file has a name that libraries unpickle."""
    return path.lower().endswith(NAMES)


def begins_like_one(head: bytes) -> bool:
    """Whether a file with these first bytes is a pickle, or what torch.save writes.

    From protocol 2 on a pickle starts with its protocol (PEP 307); torch.save writes a zip archive whose first member
    is ``…/data.pkl``. Older pickles can't be told from text, nor can newer ones that leave their protocol out.
    """
    if head.startswith(_PROTOCOLS):
        return head[2:3] != b"\0"  # safetensors: such bytes can start the length of its header
    return head.startswith(_ZIP) and _MEMBER in head[:HEAD]


def holder(path: Path) -> Holder | None:
    """Where a file surely holds pickles; None where its content does not say that it does.

    A zip is looked through whatever its name: torch reads ``data.pkl`` wherever it stands, NumPy its members. Raises
    Unreadable where programs could find different things in it, and OSError.
    """
    with path.open("rb") as opened:
        head = opened.read(HEAD)
    if head.startswith(_ZIP):
        return _in_zip(path)
    if head.startswith(_ARRAY):
        with path.open("rb") as opened:
            at = _behind_header(opened)
        return None if at is None else Holder(at=(("", at),))
    if _is_tar(head):
        _refuse_torch_s_tar(path)
        return None
    # safetensors begin with eight bytes for the length of their header, which is JSON and below 100 MB
    ambiguous = head[4:9] == b"\0\0\0\0{"
    return Holder(at=(("", 0),), surely=not ambiguous) if begins_like_one(head) else None


def _in_zip(path: Path) -> Holder | None:
    fd = hashing.open_to_read(path)
    try:
        size = os.fstat(fd).st_size
        zipform.table_at(lambda at, count: zipform.read_at(fd, at, count), size)
    except zipform.Malformed as error:
        if size > _LARGEST_ODD_ZIP:
            raise Unreadable(f"is a zip that is not read: {error}") from error
    finally:
        os.close(fd)
    try:
        with zipfile.ZipFile(path) as archive:
            found = _members(archive)
    except Unreadable:
        raise
    except BROKEN_ZIP as error:
        raise Unreadable("begins as a zip and can't be opened as one, which a loader may not mind") from error
    return Holder(at=tuple(found)) if found else None


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

"""Where pickles stand, which can run code when they are loaded: what tells a file that holds any from data."""

from __future__ import annotations

import ast
import os
import struct
import tarfile
import zipfile
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
_LARGEST_ODD_ZIP = 64 << 20
"""Bytes of a zip that is opened although its table of contents is not where it can be measured beforehand."""
_LARGEST_ARRAY_HEAD = 64 << 10


class Unreadable(ValueError):
    """Why nobody can say what a loader would find in a file, as the rest of a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Where pickles stand: from these offsets on, each in a member of a zip, or in the file itself ("")."""

    at: tuple[tuple[str, int], ...]


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
    return Holder(at=(("", 0),)) if begins_like_one(head) else None


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
            names = archive.namelist()
            found = [(name, 0) for name in names if name.lower().endswith(".pkl")]
            # torch looks a member up whatever its case, and takes another of two that bear one name
            if len({name.lower() for name in names}) < len(names) or any(
                not name.endswith(".pkl") for name, _ in found
            ):
                raise Unreadable("holds members that a loader and the scanner would not read as the same")
            for name in names:
                if name.lower().endswith(".npy"):
                    with archive.open(name) as member:
                        at = _behind_header(member)
                    found += [] if at is None else [(name, at)]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error) as error:
        raise Unreadable("begins as a zip and can't be opened as one, which a loader may not mind") from error
    return Holder(at=tuple(found)) if found else None


def _behind_header(array: IO[bytes]) -> int | None:
    """Where the pickle of a NumPy array of Python objects begins; None for an array of numbers (NEP 1)."""
    start = array.read(12)
    if not start.startswith(_ARRAY) or len(start) < 12:
        return None
    width, begins = (2, 10) if start[6] == 1 else (4, 12)
    length = int.from_bytes(start[8 : 8 + width], "little")
    header = (start[begins:] + array.read(min(length, _LARGEST_ARRAY_HEAD)))[:length]
    try:
        described = str(ast.literal_eval(header.decode("utf-8", "replace").strip())["descr"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return begins + length  # NumPy may read what this does not
    return begins + length if "O" in described or "object" in described else None


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
            if any(one.name.removeprefix("./") == "pickle" for one in packed):
                raise Unreadable("is a tar as torch wrote them in its first versions, whose pickle is not looked into")
    except (tarfile.TarError, EOFError) as error:
        raise Unreadable("begins as a tar and can't be read as one, which a loader may not mind") from error

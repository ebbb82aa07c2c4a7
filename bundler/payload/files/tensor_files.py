"""The weight files of a model, read without any library: which there are, whether they are whole, what they hold."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..results.failures import DAMAGED_HINT, REBUILD_HINT, CheckFailedError, format_list
from .json_files import read_object, require_object

# In the order in which transformers looks for them.
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LFS_POINTER_START = b"version https://git-lfs"
PICKLE_START = b"\x80"  # a pickle that is no archive: torch before 1.6
LENGTH_BYTES = 8  # bytes of the number that leads a safetensors file
OFFSET_COUNT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorHeader:
    """One tensor in a safetensors file; its bytes are those from ``start`` up to ``end`` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


def find_weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that transformers takes the weights of `folder` from; none if there are none.

    :raises CheckFailed: an index names a file that is missing
    """
    for whole, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            return _find_shards(folder, index)
    return ()


def check_weight_file(path: Path) -> None:
    """Checks that a weight file was not cut short or replaced, as far as that shows without loading it."""
    with path.open("rb") as file:
        first = file.read(len(LFS_POINTER_START))
    if first == LFS_POINTER_START:
        raise CheckFailedError(f"{path.name} holds no weights: it is a Git LFS pointer of a few lines.", DAMAGED_HINT)
    if path.suffix == ".safetensors":
        read_header(path)
    elif not zipfile.is_zipfile(path) and not first.startswith(PICKLE_START):
        raise CheckFailedError(f"{path.name} is cut short, or is no file that torch wrote.", DAMAGED_HINT)


def read_header(path: Path) -> tuple[TensorHeader, ...]:
    """The tensors of a safetensors file: 8 bytes of length (little-endian), that much JSON, then all the content.

    :raises CheckFailed: the file is not as long as its header says, or has none
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        lead = file.read(LENGTH_BYTES)
        length = struct.unpack("<Q", lead)[0] if len(lead) == LENGTH_BYTES else 0
        if not 0 < length <= size - LENGTH_BYTES:
            raise CheckFailedError(
                f"{path.name} is cut short or damaged: it has no whole safetensors header.", DAMAGED_HINT
            )
        raw = file.read(length)
    try:
        entries = require_object(json.loads(raw), path.name)
    except ValueError as error:
        raise CheckFailedError(
            f"{path.name} is damaged: its safetensors header can not be read.", DAMAGED_HINT
        ) from error
    base = LENGTH_BYTES + length
    found = tuple(_parse_tensor(name, entry, path, base) for name, entry in entries.items() if name != "__metadata__")
    promised = max((tensor.end for tensor in found), default=base)
    if promised != size:
        raise CheckFailedError(
            f"{path.name} is {'cut short' if size < promised else 'too long'}: its header promises {promised} bytes "
            f"and it has {size}.",
            DAMAGED_HINT,
        )
    return found


def _parse_tensor(name: str, entry: object, path: Path, content_offset: int) -> TensorHeader:
    values = require_object(entry, f"The entry {name} of {path.name}")
    shape, offsets = values.get("shape"), values.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != OFFSET_COUNT:
        raise CheckFailedError(f"{path.name} is damaged: its header does not say where {name} is.", DAMAGED_HINT)
    return TensorHeader(
        name=name,
        dtype=str(values.get("dtype")),
        shape=tuple(int(each) for each in shape),
        file=path,
        start=content_offset + int(offsets[0]),
        end=content_offset + int(offsets[1]),
    )


def _find_shards(folder: Path, index_name: str) -> tuple[Path, ...]:
    places = require_object(read_object(folder / index_name).get("weight_map"), f"weight_map of {index_name}")
    names = sorted({str(place) for place in places.values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckFailedError(
            f"The weights are split over {len(names)} files, and not all are there; missing: {format_list(missing)}.",
            REBUILD_HINT,
        )
    return tuple(folder / name for name in names)

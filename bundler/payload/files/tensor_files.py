"""The weight files of a model, read without a library: which exist, whether they are complete, what they contain."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..results.failures import DAMAGED_HINT, REBUILD_HINT, CheckFailedError, format_list
from .json_files import read_object, require_object

# In the order in which transformers searches for them.
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LFS_POINTER_START = b"version https://git-lfs"
PICKLE_START = b"\x80"  # a pickle without an archive: torch before 1.6
LENGTH_BYTES = 8  # of the number at the start of a safetensors file
OFFSET_COUNT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorHeader:
    """One tensor in a safetensors file; ``start`` and ``end`` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


def find_weight_files(folder: Path) -> tuple[Path, ...]:
    """Find the files from which transformers loads the weights of `folder`.

    Raises:
        CheckFailedError: An index names a file that is missing.
    """
    for name, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if (folder / name).is_file():
            return (folder / name,)
        if (folder / index).is_file():
            return _find_shards(folder, index)
    return ()


def check_weight_file(path: Path) -> None:
    """Check that a weight file is not cut short or replaced, as far as possible without loading it."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER_START))
    if start == LFS_POINTER_START:
        raise CheckFailedError(f"{path.name} has no weights: it is a Git LFS pointer.", DAMAGED_HINT)
    if path.suffix == ".safetensors":
        read_header(path)
    elif not zipfile.is_zipfile(path) and not start.startswith(PICKLE_START):
        raise CheckFailedError(f"{path.name} is cut short, or is not a file of torch.", DAMAGED_HINT)


def read_header(path: Path) -> tuple[TensorHeader, ...]:
    """Read the header of a safetensors file: 8 bytes with its length (little-endian), then JSON, then the content.

    Raises:
        CheckFailedError: The file has no header, or another length than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length_field = file.read(LENGTH_BYTES)
        length = struct.unpack("<Q", length_field)[0] if len(length_field) == LENGTH_BYTES else 0
        if not 0 < length <= size - LENGTH_BYTES:
            raise CheckFailedError(
                f"{path.name} is cut short or damaged: its safetensors header is incomplete.", DAMAGED_HINT
            )
        raw = file.read(length)
    try:
        entries = require_object(json.loads(raw), path.name)
    except ValueError as error:
        raise CheckFailedError(
            f"{path.name} is damaged: its safetensors header can not be read.", DAMAGED_HINT
        ) from error
    base = LENGTH_BYTES + length
    tensors = tuple(_parse_tensor(name, entry, path, base) for name, entry in entries.items() if name != "__metadata__")
    expected = max((tensor.end for tensor in tensors), default=base)
    if expected != size:
        raise CheckFailedError(
            f"{path.name} is {'cut short' if size < expected else 'too long'}: its header declares {expected} bytes, but "
            f"it has {size}.",
            DAMAGED_HINT,
        )
    return tensors


def _parse_tensor(name: str, entry: object, path: Path, content_offset: int) -> TensorHeader:
    values = require_object(entry, f"The entry {name} of {path.name}")
    shape, offsets = values.get("shape"), values.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != OFFSET_COUNT:
        raise CheckFailedError(f"{path.name} is damaged: its header does not say where {name} is.", DAMAGED_HINT)
    return TensorHeader(
        name=name,
        dtype=str(values.get("dtype")),
        shape=tuple(int(dimension) for dimension in shape),
        file=path,
        start=content_offset + int(offsets[0]),
        end=content_offset + int(offsets[1]),
    )


def _find_shards(folder: Path, index_name: str) -> tuple[Path, ...]:
    weight_map = require_object(read_object(folder / index_name).get("weight_map"), f"weight_map of {index_name}")
    names = sorted({str(name) for name in weight_map.values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckFailedError(
            f"The weights are split over {len(names)} files, but some are missing: {format_list(missing)}.",
            REBUILD_HINT,
        )
    return tuple(folder / name for name in names)

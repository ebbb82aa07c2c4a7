"""The weight files of a model, read without any library: which there are, whether they are whole, what they hold."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..results.failures import DAMAGED, REBUILD, CheckFailed, listed
from .json_files import as_mapping, mapping

# In the order in which transformers looks for them.
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
POINTER = b"version https://git-lfs"
PICKLE = b"\x80"  # a pickle that is no archive: torch before 1.6
LENGTH = 8  # bytes of the number that leads a safetensors file
OFFSETS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One tensor in a safetensors file; its bytes are those from ``start`` up to ``end`` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that transformers takes the weights of `folder` from; none if there are none.

    :raises CheckFailed: an index names a file that is missing
    """
    for whole, index in zip(WHOLE, INDEXES, strict=True):
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            return _shards(folder, index)
    return ()


def whole(path: Path) -> None:
    """Checks that a weight file was not cut short or replaced, as far as that shows without loading it."""
    with path.open("rb") as file:
        first = file.read(len(POINTER))
    if first == POINTER:
        raise CheckFailed(f"{path.name} holds no weights: it is a Git LFS pointer of a few lines.", DAMAGED)
    if path.suffix == ".safetensors":
        header(path)
    elif not zipfile.is_zipfile(path) and not first.startswith(PICKLE):
        raise CheckFailed(f"{path.name} is cut short, or is no file that torch wrote.", DAMAGED)


def header(path: Path) -> tuple[Stored, ...]:
    """The tensors of a safetensors file: 8 bytes of length (little-endian), that much JSON, then all the content.

    :raises CheckFailed: the file is not as long as its header says, or has none
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        lead = file.read(LENGTH)
        length = struct.unpack("<Q", lead)[0] if len(lead) == LENGTH else 0
        if not 0 < length <= size - LENGTH:
            raise CheckFailed(f"{path.name} is cut short or damaged: it has no whole safetensors header.", DAMAGED)
        raw = file.read(length)
    try:
        entries = as_mapping(json.loads(raw), path.name)
    except ValueError as error:
        raise CheckFailed(f"{path.name} is damaged: its safetensors header can not be read.", DAMAGED) from error
    base = LENGTH + length
    found = tuple(_stored(name, entry, path, base) for name, entry in entries.items() if name != "__metadata__")
    promised = max((tensor.end for tensor in found), default=base)
    if promised != size:
        raise CheckFailed(
            f"{path.name} is {'cut short' if size < promised else 'too long'}: its header promises {promised} bytes "
            f"and it has {size}.",
            DAMAGED,
        )
    return found


def _stored(name: str, entry: object, path: Path, base: int) -> Stored:
    values = as_mapping(entry, f"The entry {name} of {path.name}")
    shape, offsets = values.get("shape"), values.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != OFFSETS:
        raise CheckFailed(f"{path.name} is damaged: its header does not say where {name} is.", DAMAGED)
    return Stored(
        name=name,
        dtype=str(values.get("dtype")),
        shape=tuple(int(each) for each in shape),
        file=path,
        start=base + int(offsets[0]),
        end=base + int(offsets[1]),
    )


def _shards(folder: Path, index: str) -> tuple[Path, ...]:
    places = as_mapping(mapping(folder / index).get("weight_map"), f"weight_map of {index}")
    names = sorted({str(place) for place in places.values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckFailed(
            f"The weights are split over {len(names)} files, and not all are there; missing: {listed(missing)}.",
            REBUILD,
        )
    return tuple(folder / name for name in names)

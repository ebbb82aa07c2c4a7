"""Whether the weights in memory are those of the files: all of them, only them, and with their values."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..checks import model_checks
from ..checks.model_checks import Vector
from ..results.failures import DAMAGED, LIBRARIES, NOT_THIS_MODEL, CheckFailed, counted, listed
from . import tensor_files, weight_names

SAMPLE = 65536  # bytes compared at each end of a tensor; the hashes of the bundle speak for the rest
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Entry(Protocol):
    """One tensor in a file."""

    @property
    def shape(self) -> weight_names.Shape: ...

    def part(self, begin: int, count: int) -> Any:
        """`count` numbers from number `begin` on, flat; None where this kind of number can not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InSafetensors:
    """A tensor in a safetensors file; only the part asked for is read."""

    stored: tensor_files.Stored

    @property
    def shape(self) -> weight_names.Shape:
        return self.stored.shape

    def part(self, begin: int, count: int) -> Any:
        dtype = _DTYPES.get(self.stored.dtype)
        if dtype is None:
            return None
        with self.stored.file.open("rb") as file:
            file.seek(self.stored.start + begin * dtype.itemsize)
            return torch.frombuffer(bytearray(file.read(count * dtype.itemsize)), dtype=dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class InPickle:
    """A tensor in a file that torch wrote, which torch maps into memory."""

    tensor: Any

    @property
    def shape(self) -> weight_names.Shape:
        return tuple(self.tensor.shape)

    def part(self, begin: int, count: int) -> Any:
        return self.tensor.reshape(-1)[begin : begin + count]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is only in the model (names in memory) and only in the files (names there).

    ``unsure`` are names in the files whose values could not be compared; ``gap`` is about layers.
    """

    missing: tuple[str, ...]
    leftover: weight_names.Leftover
    unsure: tuple[str, ...]
    gap: str


def entries(folder: Path) -> dict[str, Entry]:
    """Every tensor in the weight files of `folder`."""
    found: dict[str, Entry] = {}
    for path in tensor_files.weight_files(folder):
        if path.suffix == ".safetensors":
            found.update({stored.name: InSafetensors(stored=stored) for stored in tensor_files.header(path)})
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            found.update({str(name): InPickle(tensor=tensor) for name, tensor in content.items()})
    return found


def compare(
    files: dict[str, Entry], model: Any, unexpected: Sequence[str] = (), *, two_towers: bool = False
) -> Comparison:
    """Holds the files against the model by names, shapes and values.

    `unexpected` are names that the library itself said it did not use; `two_towers` says that the files hold a
    decoder too.

    :raises CheckFailed: a weight was loaded and has another value now
    """
    held = dict(model.state_dict())
    prefix = str(getattr(model, "base_model_prefix", "") or "")
    found = weight_names.match(
        {name: entry.shape for name, entry in files.items()},
        {name: tuple(tensor.shape) for name, tensor in held.items()},
        prefix,
    )
    _same_values(files, held, found.pairs)
    loaded = {held[name].data_ptr() for _, name in found.pairs}  # two names for one tensor are stored once
    missing = tuple(name for name in found.only_held if not (held[name].numel() and held[name].data_ptr() in loaded))
    unused = {*found.only_stored, *unexpected}
    return Comparison(
        missing=missing,
        leftover=weight_names.leftover(
            unused,
            prefix,
            [name for part in (model, getattr(model, prefix, model)) for name, _ in part.named_children()],
            two_towers=two_towers,
        ),
        unsure=found.remade,
        gap=weight_names.layer_gap(files, held, prefix),
    )


def all_used(comparison: Comparison) -> list[str]:
    """No weight of the files that belongs to the body of the model was left out. Returns warnings."""
    rest = comparison.leftover
    if rest.body:
        gap = f"; {comparison.gap}" if comparison.gap else ""
        raise CheckFailed(
            f"The model leaves out {counted(rest.body)} of its files: {listed(rest.body)}{gap}.",
            NOT_THIS_MODEL,
        )
    warnings = []
    if rest.heads:
        warnings.append(f"Weights for another task are not used, as it should be: {listed(rest.heads)}.")
    if comparison.unsure:
        warnings.append(
            f"The library joins or renames {counted(comparison.unsure)} as it loads them, so their values were not "
            f"compared: {listed(comparison.unsure)}."
        )
    if rest.other:
        warnings.append(f"Some weights in the files are not used by the model: {listed(rest.other)}.")
    return warnings


def none_invented(model: Any, missing: Sequence[str], gap: str, embed: Callable[[], Sequence[Vector]]) -> list[str]:
    """No weight that the files lack, and that was drawn at random, has a say in the vectors.

    `embed` gives the vectors of some texts with the model as it is; each weight in question is overwritten and the
    vectors are made again. Returns a warning for those that provably do nothing, such as an unused pooler.
    """
    if not missing:
        return []
    # A layer that one text does not reach (an expert, say) another may: for layers there is no such proof.
    at_work = [name for name in missing if weight_names.numbered(name)] or reaching(model, missing, embed)
    if at_work:
        raise CheckFailed(
            f"The files lack {counted(missing)} of the model, and random numbers stand there: {listed(at_work)}"
            f"{f'; {gap}' if gap else ''}.",
            NOT_THIS_MODEL,
        )
    names = listed(missing)
    return [f"The files lack {names}: random numbers stand there, and it was shown that they do not reach the vectors."]


def reaching(model: Any, names: Sequence[str], embed: Callable[[], Sequence[Vector]]) -> list[str]:
    """Those of the weights that the vectors depend on, or for which that can not be found out."""
    before = embed()
    found = []
    for name in names:
        tensor = _named(model, name)
        if tensor is None or not tensor.is_floating_point() or _moves(tensor, embed, before):
            found.append(name)
    return found


def _moves(tensor: Any, embed: Callable[[], Sequence[Vector]], before: Sequence[Vector]) -> bool:
    """Whether the vectors change with `tensor`: NaN shows in all that is computed from it, a number where NaN is
    filtered out."""
    with torch.no_grad():
        saved = tensor.detach().clone()
        try:
            for stranger in (math.nan, 7.0):
                tensor.fill_(stranger)
                if model_checks.moved(before, embed()):
                    return True
        finally:
            tensor.copy_(saved)
    return False


def _named(model: Any, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    try:
        return getattr(model.get_submodule(owner), last)
    except AttributeError:
        return None


def _same_values(files: dict[str, Entry], held: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> None:
    """A library may fill a weight anew after it was loaded; no list of names shows that, only the values do."""
    changed = [name for stored, name in pairs if not _same_value(files[stored], held[name])]
    if changed:
        raise CheckFailed(
            f"After loading, {counted(changed)} no longer had the values of the files: {listed(changed)}. A library "
            "drew numbers at random there, or changed them.",
            LIBRARIES,
        )


def _same_value(entry: Entry, tensor: Any) -> bool:
    flat = tensor.detach().reshape(-1)
    count = min(len(flat), SAMPLE // max(1, tensor.element_size()))
    if tensor.is_meta:
        return False
    for begin in {0, len(flat) - count}:
        part = entry.part(begin, count)
        if part is None:
            return True
        if len(part) != count:
            raise CheckFailed("A weight file ends within a tensor.", DAMAGED)
        if not torch.equal(part.to(tensor.dtype), flat[begin : begin + count].cpu()):
            return False
    return True

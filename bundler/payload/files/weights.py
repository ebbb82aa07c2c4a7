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
from ..results.failures import DAMAGED_HINT, LIBRARIES_HINT, MISMATCH_HINT, CheckFailedError, format_list, pluralize
from . import tensor_files, weight_names

SAMPLE_BYTES = 65536  # bytes compared at each end of a tensor; the hashes of the bundle speak for the rest
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


class WeightTensor(Protocol):
    """One tensor in a file."""

    @property
    def shape(self) -> weight_names.Shape: ...

    def read_part(self, start: int, count: int) -> Any:
        """`count` numbers from number `begin` on, flat; None where this kind of number can not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsTensor:
    """A tensor in a safetensors file; only the part asked for is read."""

    header: tensor_files.TensorHeader

    @property
    def shape(self) -> weight_names.Shape:
        return self.header.shape

    def read_part(self, start: int, count: int) -> Any:
        dtype = _DTYPES.get(self.header.dtype)
        if dtype is None:
            return None
        with self.header.file.open("rb") as file:
            file.seek(self.header.start + start * dtype.itemsize)
            return torch.frombuffer(bytearray(file.read(count * dtype.itemsize)), dtype=dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class PickledTensor:
    """A tensor in a file that torch wrote, which torch maps into memory."""

    tensor: Any

    @property
    def shape(self) -> weight_names.Shape:
        return tuple(self.tensor.shape)

    def read_part(self, start: int, count: int) -> Any:
        return self.tensor.reshape(-1)[start : start + count]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightComparison:
    """What is only in the model (names in memory) and only in the files (names there).

    ``unsure`` are names in the files whose values could not be compared; ``gap`` is about layers.
    """

    missing: tuple[str, ...]
    unused: weight_names.UnusedWeights
    uncompared: tuple[str, ...]
    layer_gap: str


def read_tensors(folder: Path) -> dict[str, WeightTensor]:
    """Every tensor in the weight files of `folder`."""
    found: dict[str, WeightTensor] = {}
    for path in tensor_files.find_weight_files(folder):
        if path.suffix == ".safetensors":
            found.update({stored.name: SafetensorsTensor(header=stored) for stored in tensor_files.read_header(path)})
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            found.update({str(name): PickledTensor(tensor=tensor) for name, tensor in content.items()})
    return found


def compare_weights(
    file_tensors: dict[str, WeightTensor], model: Any, unexpected: Sequence[str] = (), *, has_decoder: bool = False
) -> WeightComparison:
    """Holds the files against the model by names, shapes and values.

    `unexpected` are names that the library itself said it did not use; `two_towers` says that the files hold a
    decoder too.

    :raises CheckFailed: a weight was loaded and has another value now
    """
    held = dict(model.state_dict())
    prefix = str(getattr(model, "base_model_prefix", "") or "")
    found = weight_names.match_weights(
        {name: entry.shape for name, entry in file_tensors.items()},
        {name: tuple(tensor.shape) for name, tensor in held.items()},
        prefix,
    )
    _check_values(file_tensors, held, found.pairs)
    loaded = {held[name].data_ptr() for _, name in found.pairs}  # two names for one tensor are stored once
    missing = tuple(
        name for name in found.only_in_memory if not (held[name].numel() and held[name].data_ptr() in loaded)
    )
    unused = {*found.only_in_file, *unexpected}
    return WeightComparison(
        missing=missing,
        unused=weight_names.sort_unused_weights(
            unused,
            prefix,
            [name for part in (model, getattr(model, prefix, model)) for name, _ in part.named_children()],
            has_decoder=has_decoder,
        ),
        uncompared=found.transformed,
        layer_gap=weight_names.describe_layer_gap(file_tensors, held, prefix),
    )


def check_all_used(comparison: WeightComparison) -> list[str]:
    """No weight of the files that belongs to the body of the model was left out. Returns warnings."""
    rest = comparison.unused
    if rest.body:
        gap = f"; {comparison.layer_gap}" if comparison.layer_gap else ""
        raise CheckFailedError(
            f"The model leaves out {pluralize(rest.body)} of its files: {format_list(rest.body)}{gap}.",
            MISMATCH_HINT,
        )
    warnings = []
    if rest.heads:
        warnings.append(f"Weights for another task are not used, as it should be: {format_list(rest.heads)}.")
    if comparison.uncompared:
        warnings.append(
            f"The library joins or renames {pluralize(comparison.uncompared)} as it loads them, so their values were not "
            f"compared: {format_list(comparison.uncompared)}."
        )
    if rest.other:
        warnings.append(f"Some weights in the files are not used by the model: {format_list(rest.other)}.")
    return warnings


def check_none_random(
    model: Any, missing: Sequence[str], layer_gap: str, embed: Callable[[], Sequence[Vector]]
) -> list[str]:
    """No weight that the files lack, and that was drawn at random, has a say in the vectors.

    `embed` gives the vectors of some texts with the model as it is; each weight in question is overwritten and the
    vectors are made again. Returns a warning for those that provably do nothing, such as an unused pooler.
    """
    if not missing:
        return []
    # A layer that one text does not reach (an expert, say) another may: for layers there is no such proof.
    at_work = [name for name in missing if weight_names.is_in_layer(name)] or find_effective_weights(
        model, missing, embed
    )
    if at_work:
        raise CheckFailedError(
            f"The files lack {pluralize(missing)} of the model, and random numbers stand there: {format_list(at_work)}"
            f"{f'; {layer_gap}' if layer_gap else ''}.",
            MISMATCH_HINT,
        )
    names = format_list(missing)
    return [f"The files lack {names}: random numbers stand there, and it was shown that they do not reach the vectors."]


def find_effective_weights(model: Any, names: Sequence[str], embed: Callable[[], Sequence[Vector]]) -> list[str]:
    """Those of the weights that the vectors depend on, or for which that can not be found out."""
    before = embed()
    found = []
    for name in names:
        tensor = _find_tensor(model, name)
        if tensor is None or not tensor.is_floating_point() or _has_effect(tensor, embed, before):
            found.append(name)
    return found


def _has_effect(tensor: Any, embed: Callable[[], Sequence[Vector]], vectors: Sequence[Vector]) -> bool:
    """Whether the vectors change with `tensor`: NaN shows in all that is computed from it, a number where NaN is
    filtered out."""
    with torch.no_grad():
        saved = tensor.detach().clone()
        try:
            for stranger in (math.nan, 7.0):
                tensor.fill_(stranger)
                if model_checks.has_changed(vectors, embed()):
                    return True
        finally:
            tensor.copy_(saved)
    return False


def _find_tensor(model: Any, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    try:
        return getattr(model.get_submodule(owner), last)
    except AttributeError:
        return None


def _check_values(
    file_tensors: dict[str, WeightTensor], loaded: dict[str, Any], pairs: Sequence[tuple[str, str]]
) -> None:
    """A library may fill a weight anew after it was loaded; no list of names shows that, only the values do."""
    changed = [name for stored, name in pairs if not _is_same_value(file_tensors[stored], loaded[name])]
    if changed:
        raise CheckFailedError(
            f"After loading, {pluralize(changed)} no longer had the values of the files: {format_list(changed)}. A library "
            "drew numbers at random there, or changed them.",
            LIBRARIES_HINT,
        )


def _is_same_value(file_tensor: WeightTensor, tensor: Any) -> bool:
    flat = tensor.detach().reshape(-1)
    count = min(len(flat), SAMPLE_BYTES // max(1, tensor.element_size()))
    if tensor.is_meta:
        return False
    for begin in {0, len(flat) - count}:
        part = file_tensor.read_part(begin, count)
        if part is None:
            return True
        if len(part) != count:
            raise CheckFailedError("A weight file ends within a tensor.", DAMAGED_HINT)
        if not torch.equal(part.to(tensor.dtype), flat[begin : begin + count].cpu()):
            return False
    return True

"""Checks that the weights in memory are those of the files: all of them, only them, and with their values."""

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

SAMPLE_BYTES = 65536  # compared at each end of a tensor; the bundle's digests cover the files
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
    def shape(self) -> weight_names.Shape:
        """Its dimensions."""

    def read_part(self, start: int, count: int) -> Any:
        """Read `count` numbers from index `start`, flat; None if this dtype can not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsTensor:
    """A tensor in a safetensors file; `read_part` reads only that part."""

    header: tensor_files.TensorHeader

    @property
    def shape(self) -> weight_names.Shape:
        """Its dimensions."""
        return self.header.shape

    def read_part(self, start: int, count: int) -> Any:
        """Read `count` numbers from index `start`, flat; None if this dtype can not be read."""
        dtype = _DTYPES.get(self.header.dtype)
        if dtype is None:
            return None
        with self.header.file.open("rb") as file:
            file.seek(self.header.start + start * dtype.itemsize)
            return torch.frombuffer(bytearray(file.read(count * dtype.itemsize)), dtype=dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class PickledTensor:
    """A tensor in a file of torch, which torch maps into memory."""

    tensor: Any

    @property
    def shape(self) -> weight_names.Shape:
        """Its dimensions."""
        return tuple(self.tensor.shape)

    def read_part(self, start: int, count: int) -> Any:
        """Read `count` numbers from index `start`, flat."""
        return self.tensor.reshape(-1)[start : start + count]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightComparison:
    """The differences between a model and its files.

    ``missing`` are names in memory that the files lack; ``unused`` are names in the files that the model does not
    use; ``uncompared`` are names in the files whose values could not be compared; ``layer_gap`` describes a
    difference in the number of layers.
    """

    missing: tuple[str, ...]
    unused: weight_names.UnusedWeights
    uncompared: tuple[str, ...]
    layer_gap: str


def read_tensors(folder: Path) -> dict[str, WeightTensor]:
    """Read the tensors in the weight files of `folder`, by name."""
    tensors: dict[str, WeightTensor] = {}
    for path in tensor_files.find_weight_files(folder):
        if path.suffix == ".safetensors":
            headers = tensor_files.read_header(path)
            tensors.update({header.name: SafetensorsTensor(header=header) for header in headers})
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            tensors.update({str(name): PickledTensor(tensor=tensor) for name, tensor in content.items()})
    return tensors


def compare_weights(
    file_tensors: dict[str, WeightTensor], model: Any, unexpected: Sequence[str] = (), *, has_decoder: bool = False
) -> WeightComparison:
    """Compare the files with the model by names, shapes and values.

    Args:
        file_tensors: The tensors of the files, by name.
        model: The loaded model.
        unexpected: Names that the library itself reported as unused.
        has_decoder: Whether the files have a decoder too.

    Raises:
        CheckFailedError: A weight has another value in memory than in its file.
    """
    state = dict(model.state_dict())
    prefix = str(getattr(model, "base_model_prefix", "") or "")
    match = weight_names.match_weights(
        {name: tensor.shape for name, tensor in file_tensors.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        prefix,
    )
    _check_values(file_tensors, state, match.pairs)
    matched_pointers = {state[name].data_ptr() for _, name in match.pairs}  # a tensor with two names is stored once
    missing = tuple(
        name
        for name in match.only_in_memory
        if not (state[name].numel() and state[name].data_ptr() in matched_pointers)
    )
    unused = {*match.only_in_file, *unexpected}
    return WeightComparison(
        missing=missing,
        unused=weight_names.sort_unused_weights(
            unused,
            prefix,
            [name for part in (model, getattr(model, prefix, model)) for name, _ in part.named_children()],
            has_decoder=has_decoder,
        ),
        uncompared=match.transformed,
        layer_gap=weight_names.describe_layer_gap(file_tensors, state, prefix),
    )


def check_all_used(comparison: WeightComparison) -> list[str]:
    """Check that the model uses every weight of the files that belongs to its body, and return warnings."""
    unused = comparison.unused
    if unused.body:
        gap = f"; {comparison.layer_gap}" if comparison.layer_gap else ""
        raise CheckFailedError(
            f"The model leaves out {pluralize(unused.body)} of its files: {format_list(unused.body)}{gap}.",
            MISMATCH_HINT,
        )
    warnings = []
    if unused.heads:
        warnings.append(f"Weights for another task are not used, which is correct: {format_list(unused.heads)}.")
    if comparison.uncompared:
        warnings.append(
            f"The library joins or renames {pluralize(comparison.uncompared)} when it loads them, so their values were not "
            f"compared: {format_list(comparison.uncompared)}."
        )
    if unused.other:
        warnings.append(f"The model does not use some weights of the files: {format_list(unused.other)}.")
    return warnings


def check_none_random(
    model: Any, missing: Sequence[str], layer_gap: str, embed: Callable[[], Sequence[Vector]]
) -> list[str]:
    """Check that no weight that the files lack, and that was therefore initialized at random, affects the vectors.

    Each such weight is overwritten for a moment and the vectors are computed again.

    Args:
        model: The loaded model.
        missing: Names of the weights that the files lack.
        layer_gap: A description of missing layers, for the error.
        embed: Computes the vectors of some texts with the model.

    Returns:
        A warning about weights without effect, such as an unused pooler.
    """
    if not missing:
        return []
    # A text may not reach a layer that another text reaches (such as an expert): layers always count as effective.
    effective = [name for name in missing if weight_names.is_in_layer(name)] or find_effective_weights(
        model, missing, embed
    )
    if effective:
        raise CheckFailedError(
            f"The files lack {pluralize(missing)} of the model, so these are random: {format_list(effective)}"
            f"{f'; {layer_gap}' if layer_gap else ''}.",
            MISMATCH_HINT,
        )
    names = format_list(missing)
    return [
        f"The files lack {names}. These weights are random, but a check showed that they do not affect the vectors."
    ]


def find_effective_weights(model: Any, names: Sequence[str], embed: Callable[[], Sequence[Vector]]) -> list[str]:
    """Find the weights that affect the vectors; one that can not be checked counts too."""
    before = embed()
    effective = []
    for name in names:
        tensor = _find_tensor(model, name)
        if tensor is None or not tensor.is_floating_point() or _has_effect(tensor, embed, before):
            effective.append(name)
    return effective


def _has_effect(tensor: Any, embed: Callable[[], Sequence[Vector]], vectors: Sequence[Vector]) -> bool:
    """Whether the vectors change with `tensor`.

    NaN affects everything that is computed from it; a number is tried too, for code that filters NaN out.
    """
    with torch.no_grad():
        saved = tensor.detach().clone()
        try:
            for value in (math.nan, 7.0):
                tensor.fill_(value)
                if model_checks.has_changed(vectors, embed()):
                    return True
        finally:
            tensor.copy_(saved)
    return False


def _find_tensor(model: Any, name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(model.get_submodule(module), attribute)
    except AttributeError:
        return None


def _check_values(
    file_tensors: dict[str, WeightTensor], loaded: dict[str, Any], pairs: Sequence[tuple[str, str]]
) -> None:
    """Compare values: a library may initialize a weight again after it was loaded, and only the values show that."""
    changed = [name for stored, name in pairs if not _is_same_value(file_tensors[stored], loaded[name])]
    if changed:
        raise CheckFailedError(
            f"After loading, {pluralize(changed)} no longer had the values of the files: {format_list(changed)}. A library "
            "changed them or initialized them at random.",
            LIBRARIES_HINT,
        )


def _is_same_value(file_tensor: WeightTensor, tensor: Any) -> bool:
    flat = tensor.detach().reshape(-1)
    count = min(len(flat), SAMPLE_BYTES // max(1, tensor.element_size()))
    if tensor.is_meta:
        return False
    for start in {0, len(flat) - count}:
        part = file_tensor.read_part(start, count)
        if part is None:
            return True
        if len(part) != count:
            raise CheckFailedError("A weight file ends within a tensor.", DAMAGED_HINT)
        if not torch.equal(part.to(tensor.dtype), flat[start : start + count].cpu()):
            return False
    return True

"""Writes weights that torch unpickles as safetensors, and compares every tensor; runs in an environment of its own."""

# Started as a program by convert.py, under a Python that has torch and safetensors and nothing of this program.
from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class ConversionError(ValueError):
    """The weights can't be written as safetensors; the message says why."""


def main(source: str, destination: str, refusal: str) -> None:
    """Convert one file; why that can't be is written to the file ``refusal``."""
    try:
        convert_file(Path(source), Path(destination))
    except ConversionError as error:
        Path(refusal).write_text(str(error), encoding="utf-8")


def convert_file(source: Path, destination: Path) -> None:
    """Write one file of weights.

    Tensors that share their memory (tied weights) are written under each of their names: which of them a library looks
    for is its own affair, and the values are the same.
    """
    tensors = {name: one.detach().clone().contiguous() for name, one in sorted(_load_tensors(source).items())}
    save_file(tensors, destination, metadata={"format": "pt"})
    written = load_file(destination)
    if written.keys() != tensors.keys():
        raise ConversionError("other tensors were written than were read")
    for name, one in tensors.items():
        other = written[name]
        if (one.dtype, one.shape) != (other.dtype, other.shape) or not torch.equal(
            _view_bytes(one), _view_bytes(other)
        ):
            raise ConversionError(f"{name} was not written as it was read")


def _load_tensors(source: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; only what is needed for tensors is unpickled."""
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # any of many errors, all of which mean the same
        # its words advise to read it without weights_only, which would run what is in it
        raise ConversionError(f"torch does not read it as weights alone ({type(error).__name__})") from error
    if not isinstance(found, dict) or not found:
        raise ConversionError(f"it holds a {type(found).__name__}, and not named tensors")
    for name, one in found.items():
        if not isinstance(name, str) or not isinstance(one, torch.Tensor):
            raise ConversionError(f"{name!r} in it is a {type(one).__name__}, and safetensors hold tensors alone")
        if one.layout != torch.strided or one.is_quantized:
            raise ConversionError(f"{name} is a sparse or quantised tensor, which safetensors do not hold")
    return found


def _view_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes, in which NaN equals itself and 0.0 is not -0.0."""
    return tensor.reshape(-1).view(torch.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])

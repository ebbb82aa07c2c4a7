"""Writes weights that torch unpickles as safetensors, and compares every tensor."""

# safetensors_conversion starts this file as a program, in a virtual environment that lacks our packages.
from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class ConversionError(ValueError):
    """The weights can't be written as safetensors; the message is the reason."""


def main(source: str, destination: str, reason_file: str) -> None:
    """Convert one file; where that is impossible, write the reason to ``reason_file``."""
    try:
        convert_file(Path(source), Path(destination))
    except ConversionError as error:
        Path(reason_file).write_text(str(error), encoding="utf-8")


def convert_file(source: Path, destination: Path) -> None:
    """Write one file of weights as safetensors.

    Tensors that share memory (tied weights) are written under each of their names: a library may look for any of them.
    """
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in sorted(_load_tensors(source).items())}
    save_file(tensors, destination, metadata={"format": "pt"})
    written = load_file(destination)
    if written.keys() != tensors.keys():
        raise ConversionError("the written file has other tensors than the source")
    for name, tensor in tensors.items():
        copy = written[name]
        if (tensor.dtype, tensor.shape) != (copy.dtype, copy.shape) or not torch.equal(
            _view_bytes(tensor), _view_bytes(copy)
        ):
            raise ConversionError(f"the written tensor {name} differs from the source")


def _load_tensors(source: Path) -> dict[str, torch.Tensor]:
    """Load the tensors of a file; torch unpickles only what tensors need."""
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        # The message of torch is left out: it advises to load without weights_only, which would run the file's code.
        raise ConversionError(f"torch can't read it as plain weights ({type(error).__name__})") from error
    if not isinstance(tensors, dict) or not tensors:
        raise ConversionError(f"it holds a {type(tensors).__name__} instead of named tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ConversionError(f"{name!r} in it is a {type(tensor).__name__}, and safetensors hold only tensors")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ConversionError(f"{name} is a sparse or quantised tensor, which safetensors can't hold")
    return tensors


def _view_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes, in which NaN equals itself and 0.0 differs from -0.0."""
    return tensor.reshape(-1).view(torch.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The device policy of all loaders: the load uses the device that was requested, or it fails."""

from __future__ import annotations

from typing import Any

import torch

from ..results.failures import LIBRARIES_HINT, CheckFailedError, format_list, pluralize


def choose_device(requested: str) -> str:
    """Choose the device: ``cpu`` or ``cuda`` as requested, the best available one for ``auto``.

    Raises:
        CheckFailedError: The request is for a GPU and torch finds none.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA at all"
        raise CheckFailedError(
            f"The request is for the device cuda, but torch finds no GPU (this torch was built for {built}).",
            "Install the NVIDIA driver and build the bundle for an accelerator that fits it, or choose the device cpu.",
        )
    if requested != "auto":
        return requested
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(model: Any, device: str) -> None:
    """Check that all of the model is on `device`, and that a model on the CPU uses no GPU memory."""
    strays = [name for name, tensor in model.named_parameters() if tensor.device.type != device]
    if strays:
        raise CheckFailedError(
            f"The load put {pluralize(strays)} on another device than {device}: {format_list(strays)}.", LIBRARIES_HINT
        )
    if device == "cpu" and torch.cuda.is_initialized() and torch.cuda.memory_allocated():
        raise CheckFailedError("The request is for the device cpu, but the load took GPU memory.", LIBRARIES_HINT)

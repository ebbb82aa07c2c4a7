"""One device policy that every loader obeys: what is asked for is what is used, or the load fails."""

from __future__ import annotations

from typing import Any

import torch

from ..results.failures import LIBRARIES_HINT, CheckFailedError, format_list, pluralize


def choose_device(requested: str) -> str:
    """The device for `asked`: ``cpu``, ``cuda``, or the best there is for ``auto``.

    :raises CheckFailed: a GPU is asked for and torch sees none
    """
    if requested == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA at all"
        raise CheckFailedError(
            f"The device cuda is asked for, and torch sees no GPU (this torch was built for {built}).",
            "Install the NVIDIA driver and build the bundle for an accelerator that fits it, or choose the device cpu.",
        )
    if requested != "auto":
        return requested
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(model: Any, device: str) -> None:
    """All of the model is on `device`, and a model for the CPU left the GPU alone."""
    strays = [name for name, tensor in model.named_parameters() if tensor.device.type != device]
    if strays:
        raise CheckFailedError(
            f"The load put {pluralize(strays)} on another device than {device}: {format_list(strays)}.", LIBRARIES_HINT
        )
    if device == "cpu" and torch.cuda.is_initialized() and torch.cuda.memory_allocated():
        raise CheckFailedError("The device cpu is asked for, and the load took memory on the GPU.", LIBRARIES_HINT)

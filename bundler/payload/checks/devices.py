"""One device policy that every loader obeys: what is asked for is what is used, or the load fails."""

from __future__ import annotations

from typing import Any

import torch

from ..results.failures import LIBRARIES, CheckFailed, counted, listed


def chosen(asked: str) -> str:
    """The device for `asked`: ``cpu``, ``cuda``, or the best there is for ``auto``.

    :raises CheckFailed: a GPU is asked for and torch sees none
    """
    if asked == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA at all"
        raise CheckFailed(
            f"The device cuda is asked for, and torch sees no GPU (this torch was built for {built}).",
            "Install the NVIDIA driver and build the bundle for an accelerator that fits it, or choose the device cpu.",
        )
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def obeyed(model: Any, device: str) -> None:
    """All of the model is on `device`, and a model for the CPU left the GPU alone."""
    strays = [name for name, tensor in model.named_parameters() if tensor.device.type != device]
    if strays:
        raise CheckFailed(
            f"The load put {counted(strays)} on another device than {device}: {listed(strays)}.", LIBRARIES
        )
    if device == "cpu" and torch.cuda.is_initialized() and torch.cuda.memory_allocated():
        raise CheckFailed("The device cpu is asked for, and the load took memory on the GPU.", LIBRARIES)

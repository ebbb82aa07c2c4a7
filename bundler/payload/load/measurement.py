"""Measurements of a load: time, peak memory, and the library versions."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

VERSIONED_LIBRARIES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "FlagEmbedding",
    "accelerate",
    "huggingface_hub",
    "tokenizers",
    "safetensors",
)

Answer = TypeVar("Answer")


def measure_time(work: Callable[[], Answer]) -> tuple[Answer, float]:
    """Run `work` and return its result and the seconds it took."""
    start = time.perf_counter()
    answer = work()
    return answer, round(time.perf_counter() - start, 4)


def read_versions() -> dict[str, str]:
    """Read the versions of the installed libraries that a model's outputs depend on."""
    return {name: version for name in VERSIONED_LIBRARIES if (version := _find_version(name))}


def read_peak_memory() -> int:
    """Read the peak memory of this process, in bytes; 0 if the system does not say.

    VmHWM starts from zero in each program; getrusage would also count the parent's memory before it started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _read_rusage_peak()
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return _read_rusage_peak()


def _find_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read_rusage_peak() -> int:
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 - Windows has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kibibytes

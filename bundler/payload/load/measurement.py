"""What a load costs: time, memory at its peak, and which library versions it was measured with."""

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
    """What `work` returned, and the seconds it took."""
    begun = time.perf_counter()
    answer = work()
    return answer, round(time.perf_counter() - begun, 4)


def read_versions() -> dict[str, str]:
    """The installed version of each library that decides what a load gives; absent ones are left out."""
    return {name: version for name in VERSIONED_LIBRARIES if (version := _find_version(name))}


def read_peak_memory() -> int:
    """The most memory this process has held so far, in bytes; 0 where the system does not say.

    VmHWM starts anew with each program, where getrusage would count what the parent held before it started this one.
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

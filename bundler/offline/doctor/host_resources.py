"""What the host has: processors, memory, room on the disk, GPUs; asked without a library."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bundler import process

_CGROUP = Path("/sys/fs/cgroup")
"""Where a process in a container finds the bounds of its own (cgroup v2, docs.kernel.org)."""

_GPU_FIELDS = "index,name,memory.total,memory.free"
_MAX_DRIVER_SECONDS = 20.0
"""Seconds that a driver may take to answer: one that hangs is as good as none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMemory:
    """Bytes that a process here may have in all, and has free now."""

    total: int
    free: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU as its driver names it; no memory where the driver does not say, as of one that shares the host's."""

    name: str
    memory: HostMemory | None


def count_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_load() -> float | None:
    """Processes that wanted a processor, on average over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def read_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> HostMemory | None:
    """The host's memory, or the container's where that is bounded; None where the system does not say."""
    try:
        told = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        total, free = (int(told[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        return None
    bound, used = (_read_number(cgroup / name) for name in ("memory.max", "memory.current"))
    if bound is not None and used is not None and bound < total:
        # what the kernel can drop from its cache of files counts as used there
        free = min(free, bound - used + (_read_inactive_file_bytes(cgroup) or 0))
        total = bound
    return HostMemory(total=total, free=free)


def get_free_space(folder: Path) -> int:
    """Bytes free on the disk of a folder; raises OSError."""
    return shutil.disk_usage(folder).free


def list_gpus() -> list[Gpu]:
    """The GPUs that NVIDIA's driver shows; raises ProgramError where it does not answer."""
    asked = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    hint = "install NVIDIA's driver; in a container, start it with the GPUs (docker: --gpus all)"
    return [_parse_gpu(line) for line in process.run(asked, timeout=_MAX_DRIVER_SECONDS, hint=hint).stdout.splitlines()]


def _parse_gpu(line: str) -> Gpu:
    number, name, *amounts = (part.strip() for part in line.split(","))
    try:
        total, free = (int(amount) << 20 for amount in amounts)
    except ValueError:
        return Gpu(name=f"{number} ({name})", memory=None)
    return Gpu(name=f"{number} ({name})", memory=HostMemory(total=total, free=free))


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max": no bound
        return None


def _read_inactive_file_bytes(cgroup: Path) -> int | None:
    try:
        told = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(told["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None

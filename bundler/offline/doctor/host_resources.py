"""The host's resources, read without a library: processors, memory, free disk space, GPUs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bundler import process

_CGROUP = Path("/sys/fs/cgroup")
"""Folder with the limits of the container that this process runs in (cgroup v2, docs.kernel.org)."""

_GPU_FIELDS = "index,name,memory.total,memory.free"
_MAX_DRIVER_SECONDS = 20.0
"""Seconds that a driver may take to answer; a driver that hangs counts as missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMemory:
    """Memory in bytes: in total, and free now."""

    total: int
    free: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU by its driver's name; ``memory`` is None if the driver reports none, as for one that shares the host's."""

    name: str
    memory: HostMemory | None


def count_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_load() -> float | None:
    """Return the load average of the last minute; None if the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def read_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> HostMemory | None:
    """Return the host's memory, or the container's if it has a limit; None if the system does not tell."""
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        return None
    limit, used = (_read_number(cgroup / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None and limit < total:
        # memory.current includes file cache that the kernel can drop.
        free = min(free, limit - used + (_read_inactive_file_bytes(cgroup) or 0))
        total = limit
    return HostMemory(total=total, free=free)


def get_free_space(folder: Path) -> int:
    """Return the bytes free on the disk of a folder; raise OSError if it can't be read."""
    return shutil.disk_usage(folder).free


def list_gpus() -> list[Gpu]:
    """List the GPUs that NVIDIA's driver shows; raise ProgramError if it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    hint = "install NVIDIA's driver; in a container, start it with the GPUs (docker: --gpus all)"
    output = process.run(command, timeout=_MAX_DRIVER_SECONDS, hint=hint).stdout
    return [_parse_gpu(line) for line in output.splitlines()]


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
    except (OSError, ValueError):  # "max" means no limit
        return None


def _read_inactive_file_bytes(cgroup: Path) -> int | None:
    try:
        fields = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(fields["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None

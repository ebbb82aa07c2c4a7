"""What the host says of itself: its own words, and those of a container's bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bundler.errors import ProgramError
from bundler.offline.doctor import host_resources

MEMINFO = "MemTotal:       16384 kB\nMemFree:  100 kB\nMemAvailable:    8192 kB\nHugePages_Total:       0\n"


def write_cgroup(folder: Path, **files: str) -> tuple[Path, Path]:
    (folder / "meminfo").write_text(MEMINFO)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder / "meminfo", folder


def test_the_memory_of_this_machine() -> None:
    there = host_resources.read_memory()
    assert there is not None
    assert 0 < there.free <= there.total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_container_s_bound_counts_less_what_the_kernel_can_drop(tmp_path: Path) -> None:
    asked = write_cgroup(
        tmp_path, memory_max="4194304\n", memory_current="3145728\n", memory_stat="inactive_file 1048576\n"
    )
    assert host_resources.read_memory(*asked) == host_resources.HostMemory(total=4 << 20, free=2 << 20)


@pytest.mark.parametrize("bound", ["max\n", str(1 << 50)])
def test_a_container_without_a_bound(tmp_path: Path, bound: str) -> None:
    asked = write_cgroup(tmp_path, memory_max=bound, memory_current="3145728\n")
    assert host_resources.read_memory(*asked) == host_resources.HostMemory(total=16 << 20, free=8 << 20)


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert host_resources.read_memory(tmp_path / "none", tmp_path) is None


def test_what_nvidia_s_driver_says() -> None:
    """The lines that nvidia-smi's --query-gpu documents; [N/A] stands where a GPU shares the host's memory."""
    gpu = host_resources._parse_gpu("0, NVIDIA H200, 143771, 143247")
    assert gpu == host_resources.Gpu(
        name="0 (NVIDIA H200)", memory=host_resources.HostMemory(total=143771 << 20, free=143247 << 20)
    )
    assert host_resources._parse_gpu("0, NVIDIA GB10, [N/A], [N/A]") == host_resources.Gpu(
        name="0 (NVIDIA GB10)", memory=None
    )


def test_a_host_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match="nvidia-smi can't be run") as caught:
        host_resources.list_gpus()
    assert "install NVIDIA's driver" in caught.value.hint


def test_the_processors_of_this_process() -> None:
    assert 1 <= host_resources.count_processors() <= (os.cpu_count() or 1)
    assert (host_resources.get_load() or 0) >= 0

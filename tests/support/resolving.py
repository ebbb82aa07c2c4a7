"""A workbench for resolving: an index of each kind on this machine, and wheels to put there."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages import resolution
from bundler.online.packages.resolution import PackageRequest, ResolvedWheel
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.servers.loopback import Loopback
from tests.support.wheelmaking import make_wheel

LINUX = Target(python="3.11", platform="linux-x86_64", libc="glibc-2.28", accelerator="cpu")
WINDOWS = Target(python="3.11", platform="windows-x86_64", libc="", accelerator="cpu")
MACOS = Target(python="3.11", platform="macos-arm64", libc="", accelerator="cpu")
ON_LINUX = "cp311-cp311-manylinux_2_28_x86_64"


@dataclasses.dataclass
class ResolverHarness:
    """Everything that resolving takes, with an index of each kind."""

    wheel_folder: Path
    cache: FileCache
    index: Loopback
    pytorch: Loopback
    reporter: RecordingReporter
    config: PipConfig

    @property
    def find_links_folder(self) -> Path:
        return self.wheel_folder.parent / "find links, here"

    def add_to_index(self, name: str, version: str, **options: Any) -> Path:
        """On the index."""
        path = make_wheel(self.wheel_folder, name, version, **options)
        self.index.offer(path)
        return path

    def add_to_find_links(self, name: str, version: str, **options: Any) -> Path:
        """In the find-links folder."""
        return make_wheel(self.find_links_folder, name, version, **options)

    def add_pytorch_build(self, name: str, version: str, accelerator: str = "cpu", **options: Any) -> None:
        """On PyTorch's index."""
        wheel = make_wheel(
            self.wheel_folder / accelerator, name, f"{version}+{accelerator}", **{"tag": ON_LINUX} | options
        )
        self.pytorch.offer(wheel, f"/whl/{accelerator}")

    def resolve(self, *requirements: str, target: Target = LINUX, **wanted: Any) -> dict[str, ResolvedWheel]:
        found = resolution.resolve_packages(
            PackageRequest(requirements=requirements, **wanted),
            target,
            self.config,
            self.cache,
            self.reporter,
            pytorch_index=f"{self.pytorch.url}/whl",
        )
        assert [wheel.name for wheel in found] == sorted(wheel.name for wheel in found)
        return {wheel.name: wheel for wheel in found}

    def resolve_versions(self, *requirements: str, target: Target = LINUX, **wanted: Any) -> dict[str, str]:
        return {name: wheel.version for name, wheel in self.resolve(*requirements, target=target, **wanted).items()}

    def get_resolve_error(self, *requirements: str, target: Target = LINUX, **wanted: Any) -> ResolveError:
        with pytest.raises(ResolveError) as caught:
            self.resolve(*requirements, target=target, **wanted)
        return caught.value


def make_sdist(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        data = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n".encode()
        entry = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return path

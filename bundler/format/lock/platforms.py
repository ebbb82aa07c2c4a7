"""The platforms that a bundle can be built for, one row each.

To add one, add a row to `_ROWS`. A row without one of the properties can't be made, and no other module may decide
anything by the name of a platform.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from packaging import tags

from bundler.errors import HostError

LibcVersion = tuple[str, int, int]
"""Name, major and minor version of a C library."""

_MACOS_RELEASE = (14, 0)
"""The macOS release that wheels are chosen for. A manifest can't name one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingSystem:
    """What the platforms of one operating system share."""

    name: str
    """First part of a platform's name."""
    sys_platform: str
    """``sys.platform``, also the environment marker."""
    platform_system: str
    """``platform.system()``, also the environment marker."""
    os_name: str
    """``os.name``, also the environment marker."""
    default_libc: str
    """Oldest C library where the manifest names none; "" where a target has no C library to choose."""
    has_accelerator_builds: bool
    """Whether PyTorch is published once for each accelerator, on indexes of its own."""
    uv_env: Mapping[str, str]
    """Variables that uv needs to resolve for it."""
    scripts_folder: str
    """Programs of a virtual environment, relative to it."""
    site_packages: str
    """Packages of a virtual environment, relative to it; ``{python}`` is the minor version."""
    program_suffix: str
    """Ends the file name of a program."""

    @property
    def venv_python(self) -> str:
        """The interpreter of a virtual environment, relative to it."""
        return f"{self.scripts_folder}/python{self.program_suffix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """One row of the table: everything that the program knows about a platform."""

    name: str
    """As manifests and locks have it."""
    system: OperatingSystem
    machine_names: tuple[str, ...]
    """What ``platform.machine()`` gives there, in lower case."""
    platform_machine: str
    """The environment marker."""
    iter_wheel_tags: Callable[[LibcVersion | None], Iterable[str]]
    """Platform tags of the wheels that fit hosts with at least this C library, best first."""
    uv_names: Mapping[str, str]
    """uv's name for it, by the name of the C library ("" where there is none); ``{minor}`` is the version of glibc 2."""
    oci_architecture: str
    """Architecture of its container images; "" where there are none."""


def _iter_linux_tags(machine: str, legacy: Mapping[int, str], libc: LibcVersion | None) -> Iterator[str]:
    """Yield manylinux or musllinux tags (PEP 600, PEP 656).

    Args:
        machine: as the tags have it.
        legacy: older names of manylinux tags, by minor version of glibc 2.
        libc: the oldest C library of the hosts.
    """
    if libc is None:
        raise ValueError("a Linux target needs a C library")
    name, major, minor = libc
    for number in range(minor, 4, -1) if name == "glibc" else ():
        yield f"manylinux_{major}_{number}_{machine}"
        if number in legacy:
            yield f"{legacy[number]}_{machine}"
    for number in range(minor, -1, -1) if name == "musl" else ():
        yield f"musllinux_{major}_{number}_{machine}"
    yield f"linux_{machine}"


LINUX = OperatingSystem(
    name="linux",
    sys_platform="linux",
    platform_system="Linux",
    os_name="posix",
    default_libc="glibc-2.28",
    has_accelerator_builds=True,
    uv_env={},
    scripts_folder="bin",
    site_packages="lib/python{python}/site-packages",
    program_suffix="",
)
MACOS = OperatingSystem(
    name="macos",
    sys_platform="darwin",
    platform_system="Darwin",
    os_name="posix",
    default_libc="",
    has_accelerator_builds=False,
    # uv would assume an older release than the one that the wheel tags are for
    uv_env={"MACOSX_DEPLOYMENT_TARGET": ".".join(map(str, _MACOS_RELEASE))},
    scripts_folder="bin",
    site_packages="lib/python{python}/site-packages",
    program_suffix="",
)
WINDOWS = OperatingSystem(
    name="windows",
    sys_platform="win32",
    platform_system="Windows",
    os_name="nt",
    default_libc="",
    has_accelerator_builds=True,
    uv_env={},
    scripts_folder="Scripts",
    site_packages="Lib/site-packages",
    program_suffix=".exe",
)

_ROWS = (
    Platform(
        name="linux-x86_64",
        system=LINUX,
        machine_names=("x86_64", "amd64"),
        platform_machine="x86_64",
        iter_wheel_tags=partial(
            _iter_linux_tags, "x86_64", {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        ),
        uv_names={"glibc": "x86_64-manylinux_2_{minor}", "musl": "x86_64-unknown-linux-musl"},
        oci_architecture="amd64",
    ),
    Platform(
        name="linux-aarch64",
        system=LINUX,
        machine_names=("aarch64", "arm64"),
        platform_machine="aarch64",
        iter_wheel_tags=partial(_iter_linux_tags, "aarch64", {17: "manylinux2014"}),
        uv_names={"glibc": "aarch64-manylinux_2_{minor}", "musl": "aarch64-unknown-linux-musl"},
        oci_architecture="arm64",
    ),
    Platform(
        name="macos-arm64",
        system=MACOS,
        machine_names=("arm64",),
        platform_machine="arm64",
        iter_wheel_tags=lambda _: tags.mac_platforms(_MACOS_RELEASE, "arm64"),
        uv_names={"": "aarch64-apple-darwin"},
        oci_architecture="",
    ),
    Platform(
        name="macos-x86_64",
        system=MACOS,
        machine_names=("x86_64",),
        platform_machine="x86_64",
        iter_wheel_tags=lambda _: tags.mac_platforms(_MACOS_RELEASE, "x86_64"),
        uv_names={"": "x86_64-apple-darwin"},
        oci_architecture="",
    ),
    Platform(
        name="windows-x86_64",
        system=WINDOWS,
        machine_names=("amd64", "x86_64"),
        platform_machine="AMD64",
        iter_wheel_tags=lambda _: ("win_amd64",),
        uv_names={"": "x86_64-pc-windows-msvc"},
        oci_architecture="",
    ),
)
PLATFORMS: Mapping[str, Platform] = {row.name: row for row in _ROWS}
"""Every platform by its name."""

SYSTEMS: Mapping[str, OperatingSystem] = {row.system.sys_platform: row.system for row in _ROWS}
"""Their operating systems by ``sys.platform``."""


def detect_name() -> str:
    """Return the name of this machine's platform, or a name that is not in `PLATFORMS`."""
    machine = platform.machine().lower()
    for row in _ROWS:
        if row.system.sys_platform == sys.platform and machine in row.machine_names:
            return row.name
    system = SYSTEMS.get(sys.platform)
    return f"{system.name if system else sys.platform}-{machine}"


def detect_system() -> OperatingSystem:
    """Return the operating system of this machine. Raises HostError."""
    if sys.platform not in SYSTEMS:
        names = ", ".join(system.name for system in SYSTEMS.values())
        raise HostError(f"the operating system {sys.platform!r} is not supported", hint=f"use one of: {names}")
    return SYSTEMS[sys.platform]

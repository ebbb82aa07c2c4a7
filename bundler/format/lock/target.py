"""The kind of machine that a bundle is for, and the wheels that are compatible with it."""

from __future__ import annotations

import functools
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass

from packaging import tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from bundler.format import documents
from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.lock import platforms
from bundler.format.lock.platforms import PLATFORMS, LibcVersion, Platform

_LIBC = re.compile(r"(glibc|musl)-([0-9]{1,3})\.([0-9]{1,3})")
_ACCELERATOR = re.compile(r"cpu|cu[0-9]{2,3}|rocm[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?|xpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The isolated host, as far as it decides which wheels are compatible.

    ``libc`` is the oldest C library that the host may have (``glibc-2.28``, ``musl-1.2``), empty outside Linux.
    ``accelerator`` selects the build of PyTorch.
    """

    python: str = describe_field("minor version of CPython on the host, such as '3.11'")
    platform: str = describe_field("operating system and machine: " + ", ".join(PLATFORMS))
    libc: str = describe_field("oldest C library of a Linux host: glibc-2.28, musl-1.2")
    accelerator: str = describe_field("cpu, cu126, rocm6.4 …: which build of PyTorch")

    def __post_init__(self) -> None:
        documents.raise_together(self._iter_errors())

    def _iter_errors(self) -> Iterator[InvalidValueError]:
        if not re.fullmatch(r"3\.[0-9]{1,2}", self.python):
            yield InvalidValueError(f"must be a minor version such as '3.11', not {self.python!r}", "python")
        if self.platform not in PLATFORMS:
            yield InvalidValueError(f"must be one of {', '.join(PLATFORMS)}, not {self.platform!r}", "platform")
        known = PLATFORMS.get(self.platform)
        misplaced = known is not None and bool(self.libc) != bool(known.system.default_libc)
        if misplaced or (self.libc and not _LIBC.fullmatch(self.libc)):
            yield InvalidValueError(
                f"must be such as glibc-2.28 or musl-1.2 on Linux and empty elsewhere, not {self.libc!r}", "libc"
            )
        if not _ACCELERATOR.fullmatch(self.accelerator):
            yield InvalidValueError(f"must be such as cpu, cu126 or rocm6.4, not {self.accelerator!r}", "accelerator")

    @property
    def platform_info(self) -> Platform:
        """The platform's row in the table of platforms."""
        return PLATFORMS[self.platform]

    @property
    def libc_version(self) -> LibcVersion:
        """Name, major and minor version of the C library. Raises ValueError outside Linux."""
        match = _LIBC.fullmatch(self.libc)
        if match is None:
            raise ValueError("this target has no C library")
        return match[1], int(match[2]), int(match[3])

    def __str__(self) -> str:
        return "-".join(filter(None, [self.platform, self.libc, f"py{self.python}", self.accelerator]))

    @property
    def slug(self) -> str:
        """The target in a file name: ``linux-x86_64-py311-cpu``."""
        return f"{self.platform}-py{self.python.replace('.', '')}-{self.accelerator}"

    def iter_platform_tags(self) -> Iterator[str]:
        """Yield the platform tags of compatible wheels, best first."""
        return iter(self.platform_info.iter_wheel_tags(self.libc_version if self.libc else None))

    def is_compatible(self, file_name: str) -> bool:
        """Return whether a wheel of this file name is compatible; False if it is not the name of a wheel."""
        try:
            *_, wheel_tags = parse_wheel_filename(file_name)
        except InvalidWheelFilename:
            return False
        return not rank_wheel_tags(self).keys().isdisjoint(wheel_tags)


@functools.lru_cache
def rank_wheel_tags(target: Target) -> dict[tags.Tag, int]:
    """Return every compatible tag with its rank, 0 for the best.

    Source: packaging.python.org, "Platform compatibility tags".
    """
    version = (3, int(target.python.partition(".")[2]))
    platform_tags = list(target.iter_platform_tags())
    compatible_tags = [
        *tags.cpython_tags(version, platforms=platform_tags),
        *tags.compatible_tags(version, f"cp{version[0]}{version[1]}", platform_tags),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(compatible_tags)))}


def detect_target() -> Target:
    """Return the target of this machine and Python, without an accelerator."""
    return Target(
        python=f"3.{sys.version_info.minor}", platform=platforms.detect_name(), libc=_detect_libc(), accelerator="cpu"
    )


def _detect_libc() -> str:
    system = platforms.SYSTEMS.get(sys.platform)
    if system is None or not system.default_libc:
        return ""
    name, version = platform.libc_ver()
    if name == "glibc":
        return "glibc-" + ".".join(version.split(".")[:2])
    # platform.libc_ver only knows glibc; for musl, ask how CPython was built
    return "musl-1.2" if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "") else "glibc-2.17"

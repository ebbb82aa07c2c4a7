"""Checks, before any work starts, that this host fits the bundle."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bundler import process
from bundler.errors import HostError, ProgramError
from bundler.format import disk
from bundler.format.documents import InvalidValueError
from bundler.format.lock import target
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.target import Target
from bundler.format.paths import find_unprintable
from bundler.format.tar.archive import OpenBundle
from bundler.offline.placement import PlacementPlan, estimate_space
from bundler.offline.prefix.releases import Release

_VERSION_SCRIPT = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys.maxsize > 2**32, sys._base_executable)"


def check_platform(lock: Lock) -> None:
    """Raise HostError if the bundle was built for another kind of machine."""
    required = lock.target
    try:
        local = target.detect_target()
    except InvalidValueError as error:
        raise HostError(f"no bundle can be built for a machine like this one: its platform {error}") from error
    problem = ""
    if local.platform != required.platform:
        problem = f"it is for {required.platform}, this is {local.platform}"
    elif required.libc and _is_older(local, required):
        problem = f"it needs {required.libc} or newer, this host has {local.libc}"
    if problem:
        hint = f"have it built with target: {{platform: {local.platform}, libc: {local.libc}}}"
        raise HostError(f"the bundle is for another host: {problem}", where=lock.file_name, hint=hint)


def _is_older(local: Target, required: Target) -> bool:
    return local.libc_version[0] != required.libc_version[0] or local.libc_version < required.libc_version


def check_prefix(prefix: Path) -> None:
    """Raise HostError for a prefix whose name readers of environment files would parse differently."""
    if unsafe_characters := sorted({c for c in str(prefix) if c in '$`"\\' or find_unprintable(c)}):
        hint = "choose a --prefix without it: sh, dotenv, docker and systemd would read .env.offline differently"
        raise HostError(f"the prefix holds {unsafe_characters[0]!a}", where=str(prefix), hint=hint)


def find_python(required: Target) -> Path:
    """Find the interpreter to create the environment from.

    Raises:
        HostError: This host has no CPython of that version.
    """
    rejected: list[str] = []
    for candidate in _iter_candidates(required):
        try:
            completed = process.run(
                [candidate, "-I", "-c", _VERSION_SCRIPT], env=process.inherit_env(drop_prefixes=["PYTHON"])
            )
        except ProgramError:  # for example a version manager's shim without that version
            continue
        name, version, is_64_bit, executable = [*completed.stdout.strip().split(" ", 3), "", "", "", ""][:4]
        if (name, version, is_64_bit) == ("cpython", required.python, "True"):
            return Path(executable)
        rejected.append(f"{candidate} is {name} {version}")
    raise HostError(
        f"the bundle needs CPython {required.python} and this host has none on PATH"
        + "".join(f"; {reason}" for reason in rejected),
        hint=f"install python{required.python} (without pip or venv is enough), or have the bundle built for another Python",
    )


def _iter_candidates(required: Target) -> Iterator[str]:
    yield sys.executable
    names = [f"python{required.python}", "python3", "python"]
    for folder in os.get_exec_path():
        for name in names:
            if path := shutil.which(name, path=folder):
                yield path


def check_disk(bundle: OpenBundle, plan: PlacementPlan, release: Release) -> None:
    """Raise HostError if the prefix's disk has too little free space, or is mounted noexec."""
    disk.require_free_space([(release.prefix, estimate_space(bundle, plan, release), "installing")])
    if hasattr(os, "statvfs") and os.statvfs(release.prefix).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise HostError(
            "the prefix is on a file system mounted noexec: compiled libraries can't be loaded from it",
            where=str(release.prefix),
            hint="choose a --prefix on a file system without noexec",
        )

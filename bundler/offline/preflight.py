"""Is this host the one that the bundle is for? Asked before any work starts."""

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
    """Raises HostError when the bundle was built for another kind of machine."""
    there = lock.target
    try:
        here = target.detect_target()
    except InvalidValueError as error:
        raise HostError(f"no bundle is made for a machine like this one: its platform {error}") from error
    wrong = []
    if here.platform != there.platform:
        wrong.append(f"it is for {there.platform}, this is {here.platform}")
    elif there.libc and _is_older(here, there):
        wrong.append(f"it needs {there.libc} or newer, this host has {here.libc}")
    if wrong:
        hint = f"have it built with target: {{platform: {here.platform}, libc: {here.libc}}}"
        raise HostError(f"the bundle is for another host: {'; '.join(wrong)}", where=lock.file_name, hint=hint)


def _is_older(local: Target, required: Target) -> bool:
    return local.libc_version[0] != required.libc_version[0] or local.libc_version < required.libc_version


def check_prefix(prefix: Path) -> None:
    """Raises HostError for a prefix whose name the readers of environment files would not agree on."""
    if odd := sorted({c for c in str(prefix) if c in '$`"\\' or find_unprintable(c)}):
        hint = "choose a --prefix without it: .env.offline could not name it for every reader"
        raise HostError(f"the prefix holds {odd[0]!a}", where=str(prefix), hint=hint)


def find_python(required: Target) -> Path:
    """The interpreter to make the environment from; raises HostError when the host has none of that version."""
    seen: list[str] = []
    for candidate in _iter_candidates(required):
        try:
            said = process.run(
                [candidate, "-I", "-c", _VERSION_SCRIPT], env=process.inherit_env(drop_prefixes=["PYTHON"])
            )
        except ProgramError:  # such as a shim of a version manager that has no such version: look further
            continue
        name, version, wide, executable = [*said.stdout.strip().split(" ", 3), "", "", "", ""][:4]
        if (name, version, wide) == ("cpython", required.python, "True"):
            return Path(executable)
        seen.append(f"{candidate} is {name} {version}")
    raise HostError(
        f"the bundle needs CPython {required.python} and this host has none on PATH"
        + "".join(f"; {one}" for one in seen),
        hint=f"install python{required.python} (without pip or venv is enough), or have the bundle built for another Python",
    )


def _iter_candidates(required: Target) -> Iterator[str]:
    yield sys.executable
    names = [f"python{required.python}", "python3", "python"]
    for folder in os.get_exec_path():
        for name in names:
            if found := shutil.which(name, path=folder):
                yield found


def check_disk(bundle: OpenBundle, plan: PlacementPlan, release: Release) -> None:
    """Raises HostError when the prefix's disk has too little room, or forbids what is installed to run."""
    disk.require_free_space([(release.prefix, estimate_space(bundle, plan, release), "installing")])
    if hasattr(os, "statvfs") and os.statvfs(release.prefix).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise HostError(
            "the prefix lies on a file system mounted noexec, where no compiled library can be loaded",
            where=str(release.prefix),
            hint="choose a --prefix on a file system that may hold programs",
        )

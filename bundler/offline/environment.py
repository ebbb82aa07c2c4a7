"""A Python environment out of the bundle's wheels alone."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from bundler import process
from bundler.bundle.lock import Lock
from bundler.errors import ProgramError
from bundler.offline.releases import Release
from bundler.progress import Report

_FOREIGN = ("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA", "__PYVENV")
"""Variables that would make an installer look elsewhere than into the bundle."""


def create(release: Release, locked: Lock, base: Path, report: Report) -> None:
    """Make the release's environment from the interpreter ``base`` and the placed wheels, with no index.

    uv out of the bundle installs; where the host does not let it run, pip does, run from its wheel.
    ``ensurepip``, which some distributions leave out, is not needed. Raises ProgramError.
    """
    quiet = process.clean_environment(without=_FOREIGN)
    with report.stage("environment"):
        process.run([base, "-I", "-m", "venv", "--without-pip", release.path / "venv"], environment=quiet)
        if not locked.python.packages:
            return
        try:
            uv = _unpacked_uv(release, locked)
            process.run([uv, "--version"], environment=quiet)
        except ProgramError as error:
            report.warn(f"uv does not run on this host, pip installs instead and takes longer: {error}")
            _install_with_pip(release, locked, quiet)
        else:
            _install_with_uv(uv, release, quiet)


def _install_with_uv(uv: Path, release: Release, environment: dict[str, str]) -> None:
    cache = release.work / "uv-cache"
    process.run(
        [
            uv, "pip", "install", "--no-config", "--offline", "--no-index", "--no-python-downloads",
            "--python", release.python, "--find-links", release.work / "wheels", "--require-hashes",
            "--cache-dir", cache, "--link-mode", "hardlink", "--requirement", release.work / "requirements.txt",
        ],
        environment=environment,
    )  # fmt: skip
    shutil.rmtree(cache)  # its files live on in the environment: hard links


def _install_with_pip(release: Release, locked: Lock, environment: dict[str, str]) -> None:
    pip = release.work / _tool(locked, "pip") / "pip"
    process.run(
        [
            release.python, "-I", pip, "install", "--isolated", "--no-index", "--no-cache-dir", "--no-compile",
            "--disable-pip-version-check", "--find-links", release.work / "wheels", "--require-hashes",
            "--requirement", release.work / "requirements.txt",
        ],
        environment=environment | {"PIP_CONFIG_FILE": os.devnull},
    )  # fmt: skip


def _unpacked_uv(release: Release, locked: Lock) -> Path:
    """uv's program, out of its wheel; zipfile drops the bit that lets it run."""
    program = "uv.exe" if locked.target.system == "windows" else "uv"
    with zipfile.ZipFile(release.work / _tool(locked, "uv")) as wheel:
        inside = next(name for name in wheel.namelist() if name.endswith(f".data/scripts/{program}"))
        into = release.work / program
        with wheel.open(inside) as packed, into.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    into.chmod(0o755)
    return into


def _tool(locked: Lock, name: str) -> str:
    paths = [tool.path for tool in locked.of_kind("tool") if tool.path.startswith(f"tools/{name}-")]
    if not paths:
        raise ProgramError(f"the bundle carries no {name}", hint="have it built again")
    return paths[0]

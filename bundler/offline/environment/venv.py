"""A Python environment out of the bundle's wheels alone."""

from __future__ import annotations

import filecmp
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bundler import process
from bundler.errors import ProgramError
from bundler.format import disk
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import wheel_check
from bundler.offline.prefix.releases import Release
from bundler.progress import Report, counted

_FOREIGN = ("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA", "__PYVENV")
"""Variables that would make an installer look elsewhere than into the bundle."""

_LONGEST = 60.0
"""Seconds that an interpreter may take to start, on a host that is busy."""


_ASK = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys.prefix)"

_ALL = "requirements.txt"
_SOME = "mend.txt"


def create(release: Release, locked: Lock, base: Path, report: Report) -> None:
    """Make the release's environment from the interpreter ``base`` and the placed wheels, with no index.

    uv out of the bundle installs; where the host does not let it run, pip does, run from its wheel.
    ``ensurepip``, which some distributions leave out, is not needed. Raises ProgramError, and UnsafeError where a
    wheel is not what it says, before anything opens it.
    """
    _vet(release, locked, report)
    with report.stage("environment") as stage:
        stage.set_phase("create")
        _make(release, base)
        if count := len(locked.python.packages):
            stage.set_phase(f"install {counted(count, 'package')}")
            _install(release, locked, _ALL, [], report)


def fault_of(release: Release, locked: Lock) -> str:
    """Why the environment's Python is not the one that the release needs, in words; "" when it is."""
    quiet = process.clean_environment(without=_FOREIGN)
    try:
        said = process.run([release.python, "-I", "-B", "-c", _ASK], environment=quiet, seconds=_LONGEST)
    except ProgramError as error:
        return str(error)
    name, version, prefix = [*said.stdout.rstrip("\n").split(" ", 2), "", "", ""][:3]
    if (name, version) != ("cpython", locked.target.python):
        return f"it is {name} {version}, and the release needs CPython {locked.target.python}"
    if not Path(prefix).exists() or not Path(prefix).samefile(release.venv):
        return f"it starts outside of the environment, in {prefix}: pyvenv.cfg is missing or damaged"
    return ""


def mend(release: Release, locked: Lock, base: Path, broken: Sequence[str], report: Report) -> None:
    """Put right what differs in an environment that may be in use, file by file, each with one atomic replacement.

    ``broken`` names the packages to install again, from wheels that are placed: beside the environment, for what
    is as it must be stays as it is. What Python compiled goes: nothing vouches for it. Raises what ``create`` raises.
    """
    _vet(release, locked, report)
    with report.stage("environment") as stage:
        venv = release.venv
        if fault_of(release, locked):
            for link in release.python.parent.glob("python*"):
                link.unlink()  # venv leaves links alone, also such as lead nowhere
            _make(release, base)
        if broken:
            digests = {artifact.path: artifact.sha256 for artifact in locked.of_kind("wheel")}
            lines = [
                f"{package.name}=={package.version} --hash=sha256:{digests[package.wheel]}\n"
                for package in locked.python.packages
                if package.name in broken
            ]
            (release.work / _SOME).write_text("".join(lines), encoding="utf-8")
            shadow = release.work / "shadow"
            stage.set_phase(f"install {counted(len(broken), 'package')} again")
            _install(release, locked, _SOME, ["--no-deps", "--prefix", shadow], report)
            _take_over(shadow, venv)
        for compiled in venv.rglob("__pycache__"):
            shutil.rmtree(compiled)


def _vet(release: Release, locked: Lock, report: Report) -> None:
    """Look at the wheels that are placed before anything opens them; where little is mended these are few."""
    wheels = wheel_check.of(locked, lambda one: release.work / one.path)
    wheel_check.refuse([wheel for wheel in wheels if wheel.path.exists()], report, contents=False)


def _make(release: Release, base: Path) -> None:
    quiet = process.clean_environment(without=_FOREIGN)
    process.run([base, "-I", "-m", "venv", "--without-pip", release.venv], environment=quiet)


def _take_over(shadow: Path, venv: Path) -> None:
    """Move each file of ``shadow`` that differs to its place in ``venv``; what waits beside it is whole and synced."""
    differing = []
    for above, _, names in os.walk(shadow):
        for name in names:
            made = Path(above, name)
            place = venv / made.relative_to(shadow)
            if not _same(made, place):
                differing.append((made, place))
    disk.sync_file_system(shadow)
    for made, place in differing:
        place.parent.mkdir(parents=True, exist_ok=True)
        made.replace(place)


def _same(made: Path, place: Path) -> bool:
    if place.is_symlink() or not place.is_file() or place.stat().st_mode != made.stat().st_mode:
        return False
    try:
        return filecmp.cmp(made, place, shallow=False)
    except OSError:  # a disk that can't give it back
        return False


def _install(release: Release, locked: Lock, asked: str, options: Sequence[str | Path], report: Report) -> None:
    """Install the requirements of a file in the release's work folder."""
    quiet = process.clean_environment(without=_FOREIGN)
    options = [*options, "--requirement", release.work / asked]
    try:
        uv = _unpacked_uv(release, locked)
        process.run([uv, "--version"], environment=quiet)
    except ProgramError as error:
        report.warn(f"uv does not run on this host, pip installs instead and takes longer: {error}")
        _install_with_pip(release, locked, options, quiet)
    else:
        _install_with_uv(uv, release, options, quiet)


def _install_with_uv(uv: Path, release: Release, options: Sequence[str | Path], environment: dict[str, str]) -> None:
    cache = release.work / "uv-cache"
    process.run(
        [
            uv, "pip", "install", "--no-config", "--offline", "--no-index", "--no-python-downloads",
            "--python", release.python, "--find-links", release.work / "wheels", "--require-hashes",
            "--cache-dir", cache, "--link-mode", "hardlink", *options,
        ],
        environment=environment,
    )  # fmt: skip
    shutil.rmtree(cache)  # its files live on in the environment: hard links


def _install_with_pip(
    release: Release, locked: Lock, options: Sequence[str | Path], environment: dict[str, str]
) -> None:
    pip = release.work / _tool(locked, "pip") / "pip"
    process.run(
        [
            release.python, "-I", pip, "install", "--isolated", "--no-index", "--no-cache-dir", "--no-compile",
            "--disable-pip-version-check", "--ignore-installed", "--find-links", release.work / "wheels",
            "--require-hashes", *options,
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

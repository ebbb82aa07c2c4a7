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
from bundler.progress import Reporter, pluralize

_FOREIGN_PREFIXES = ("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA", "__PYVENV")
"""Variables that would make an installer look elsewhere than into the bundle."""

_MAX_START_SECONDS = 60.0
"""Seconds that an interpreter may take to start, on a host that is busy."""


_VERSION_SCRIPT = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys.prefix)"

_REQUIREMENTS_FILE = "requirements.txt"
_REPAIR_FILE = "mend.txt"


def create_venv(release: Release, lock: Lock, interpreter: Path, reporter: Reporter) -> None:
    """Make the release's environment from the interpreter ``base`` and the placed wheels, with no index.

    uv out of the bundle installs; where the host does not let it run, pip does, run from its wheel.
    ``ensurepip``, which some distributions leave out, is not needed. Raises ProgramError, and UnsafeError where a
    wheel is not what it says, before anything opens it.
    """
    _check_wheels(release, lock, reporter)
    with reporter.stage("environment") as stage:
        stage.set_phase("create")
        _make_venv(release, interpreter)
        if count := len(lock.python.packages):
            stage.set_phase(f"install {pluralize(count, 'package')}")
            _install_requirements(release, lock, _REQUIREMENTS_FILE, [], reporter)


def find_interpreter_problem(release: Release, lock: Lock) -> str:
    """Why the environment's Python is not the one that the release needs, in words; "" when it is."""
    quiet = process.inherit_env(drop_prefixes=_FOREIGN_PREFIXES)
    try:
        said = process.run([release.python, "-I", "-B", "-c", _VERSION_SCRIPT], env=quiet, timeout=_MAX_START_SECONDS)
    except ProgramError as error:
        return str(error)
    name, version, prefix = [*said.stdout.rstrip("\n").split(" ", 2), "", "", ""][:3]
    if (name, version) != ("cpython", lock.target.python):
        return f"it is {name} {version}, and the release needs CPython {lock.target.python}"
    if not Path(prefix).exists() or not Path(prefix).samefile(release.venv):
        return f"it starts outside of the environment, in {prefix}: pyvenv.cfg is missing or damaged"
    return ""


def repair_venv(
    release: Release, lock: Lock, interpreter: Path, broken_packages: Sequence[str], reporter: Reporter
) -> None:
    """Put right what differs in an environment that may be in use, file by file, each with one atomic replacement.

    ``broken`` names the packages to install again, from wheels that are placed: beside the environment, for what
    is as it must be stays as it is. What Python compiled goes: nothing vouches for it. Raises what ``create`` raises.
    """
    _check_wheels(release, lock, reporter)
    with reporter.stage("environment") as stage:
        venv = release.venv
        if find_interpreter_problem(release, lock):
            for link in release.python.parent.glob("python*"):
                link.unlink()  # venv leaves links alone, also such as lead nowhere
            _make_venv(release, interpreter)
        if broken_packages:
            digests = {artifact.path: artifact.sha256 for artifact in lock.list_artifacts("wheel")}
            lines = [
                f"{package.name}=={package.version} --hash=sha256:{digests[package.wheel]}\n"
                for package in lock.python.packages
                if package.name in broken_packages
            ]
            (release.work_folder / _REPAIR_FILE).write_text("".join(lines), encoding="utf-8")
            shadow = release.work_folder / "shadow"
            stage.set_phase(f"install {pluralize(len(broken_packages), 'package')} again")
            _install_requirements(release, lock, _REPAIR_FILE, ["--no-deps", "--prefix", shadow], reporter)
            _replace_files(shadow, venv)
        for compiled in venv.rglob("__pycache__"):
            shutil.rmtree(compiled)


def _check_wheels(release: Release, lock: Lock, reporter: Reporter) -> None:
    """Look at the wheels that are placed before anything opens them; where little is mended these are few."""
    wheels = wheel_check.list_wheels(lock, lambda one: release.work_folder / one.path)
    wheel_check.check_wheels([wheel for wheel in wheels if wheel.path.exists()], reporter, compare_contents=False)


def _make_venv(release: Release, interpreter: Path) -> None:
    quiet = process.inherit_env(drop_prefixes=_FOREIGN_PREFIXES)
    process.run([interpreter, "-I", "-m", "venv", "--without-pip", release.venv], env=quiet)


def _replace_files(staging: Path, venv: Path) -> None:
    """Move each file of ``shadow`` that differs to its place in ``venv``; what waits beside it is whole and synced."""
    differing = []
    for above, _, names in os.walk(staging):
        for name in names:
            made = Path(above, name)
            place = venv / made.relative_to(staging)
            if not _is_same(made, place):
                differing.append((made, place))
    disk.sync_file_system(staging)
    for made, place in differing:
        place.parent.mkdir(parents=True, exist_ok=True)
        made.replace(place)


def _is_same(source: Path, target: Path) -> bool:
    if target.is_symlink() or not target.is_file() or target.stat().st_mode != source.stat().st_mode:
        return False
    try:
        return filecmp.cmp(source, target, shallow=False)
    except OSError:  # a disk that can't give it back
        return False


def _install_requirements(
    release: Release, lock: Lock, requirements_file: str, options: Sequence[str | Path], reporter: Reporter
) -> None:
    """Install the requirements of a file in the release's work folder."""
    quiet = process.inherit_env(drop_prefixes=_FOREIGN_PREFIXES)
    options = [*options, "--requirement", release.work_folder / requirements_file]
    try:
        uv = _unpack_uv(release, lock)
        process.run([uv, "--version"], env=quiet)
    except ProgramError as error:
        reporter.warn(f"uv does not run on this host, pip installs instead and takes longer: {error}")
        _install_with_pip(release, lock, options, quiet)
    else:
        _install_with_uv(uv, release, options, quiet)


def _install_with_uv(uv: Path, release: Release, options: Sequence[str | Path], env: dict[str, str]) -> None:
    cache = release.work_folder / "uv-cache"
    process.run(
        [
            uv, "pip", "install", "--no-config", "--offline", "--no-index", "--no-python-downloads",
            "--python", release.python, "--find-links", release.work_folder / "wheels", "--require-hashes",
            "--cache-dir", cache, "--link-mode", "hardlink", *options,
        ],
        env=env,
    )  # fmt: skip
    shutil.rmtree(cache)  # its files live on in the environment: hard links


def _install_with_pip(release: Release, lock: Lock, options: Sequence[str | Path], env: dict[str, str]) -> None:
    pip = release.work_folder / _find_tool(lock, "pip") / "pip"
    process.run(
        [
            release.python, "-I", pip, "install", "--isolated", "--no-index", "--no-cache-dir", "--no-compile",
            "--disable-pip-version-check", "--ignore-installed", "--find-links", release.work_folder / "wheels",
            "--require-hashes", *options,
        ],
        env=env | {"PIP_CONFIG_FILE": os.devnull},
    )  # fmt: skip


def _unpack_uv(release: Release, lock: Lock) -> Path:
    """uv's program, out of its wheel; zipfile drops the bit that lets it run."""
    program = f"uv{lock.target.platform_info.system.program_suffix}"
    with zipfile.ZipFile(release.work_folder / _find_tool(lock, "uv")) as wheel:
        inside = next(name for name in wheel.namelist() if name.endswith(f".data/scripts/{program}"))
        into = release.work_folder / program
        with wheel.open(inside) as packed, into.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    into.chmod(0o755)
    return into


def _find_tool(lock: Lock, name: str) -> str:
    paths = [tool.path for tool in lock.list_artifacts("tool") if tool.path.startswith(f"tools/{name}-")]
    if not paths:
        raise ProgramError(f"the bundle carries no {name}", hint="have it built again")
    return paths[0]

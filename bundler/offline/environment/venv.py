"""Creates and repairs the release's virtual environment, from the bundle's wheels alone."""

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
"""Prefixes of variables that could make an installer use something other than the bundle."""

_MAX_START_SECONDS = 60.0
"""Seconds that an interpreter may take to start on a busy host."""

_VERSION_SCRIPT = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys.prefix)"

_REQUIREMENTS_FILE = "requirements.txt"
_REPAIR_FILE = "repair.txt"


def create_venv(release: Release, lock: Lock, interpreter: Path, reporter: Reporter) -> None:
    """Create the release's environment from ``interpreter`` and the placed wheels, without an index.

    The bundle's uv installs; if it does not run on this host, the bundle's pip does, from its wheel. ``ensurepip``,
    which some distributions leave out, is not needed.

    Raises:
        ProgramError: Python or the installer failed.
        UnsafeError: A wheel differs from what it declares; nothing has opened it then.
    """
    _check_wheels(release, lock, reporter)
    with reporter.stage("environment") as stage:
        stage.set_phase("create")
        _make_venv(release, interpreter)
        if count := len(lock.python.packages):
            stage.set_phase(f"install {pluralize(count, 'package')}")
            _install_requirements(release, lock, _REQUIREMENTS_FILE, [], reporter)


def find_interpreter_problem(release: Release, lock: Lock) -> str:
    """Describe why the environment's Python is not the one that the release needs; "" if it is."""
    env = process.inherit_env(drop_prefixes=_FOREIGN_PREFIXES)
    command: list[str | Path] = [release.python, "-I", "-B", "-c", _VERSION_SCRIPT]
    try:
        output = process.run(command, env=env, timeout=_MAX_START_SECONDS).stdout
    except ProgramError as error:
        return str(error)
    name, version, prefix = [*output.rstrip("\n").split(" ", 2), "", "", ""][:3]
    if (name, version) != ("cpython", lock.target.python):
        return f"it is {name} {version}, but the release needs CPython {lock.target.python}"
    if not Path(prefix).exists() or not Path(prefix).samefile(release.venv):
        return f"it starts outside the environment, in {prefix}: pyvenv.cfg is missing or damaged"
    return ""


def repair_venv(
    release: Release, lock: Lock, interpreter: Path, broken_packages: Sequence[str], reporter: Reporter
) -> None:
    """Repair an environment that may be in use: replace each file that differs atomically, and remove all bytecode.

    ``broken_packages`` are installed again from their placed wheels, into a folder beside the environment, so that
    intact files stay as they are. Bytecode is removed because no RECORD has its digest. Raises the errors of
    `create_venv`.
    """
    _check_wheels(release, lock, reporter)
    with reporter.stage("environment") as stage:
        venv = release.venv
        if find_interpreter_problem(release, lock):
            for link in release.python.parent.glob("python*"):
                link.unlink()  # venv does not replace links, even broken ones
            _make_venv(release, interpreter)
        if broken_packages:
            digests = {artifact.path: artifact.sha256 for artifact in lock.list_artifacts("wheel")}
            lines = [
                f"{package.name}=={package.version} --hash=sha256:{digests[package.wheel]}\n"
                for package in lock.python.packages
                if package.name in broken_packages
            ]
            (release.work_folder / _REPAIR_FILE).write_text("".join(lines), encoding="utf-8")
            staging = release.work_folder / "staging"
            stage.set_phase(f"install {pluralize(len(broken_packages), 'package')} again")
            _install_requirements(release, lock, _REPAIR_FILE, ["--no-deps", "--prefix", staging], reporter)
            _replace_files(staging, venv)
        for bytecode_folder in venv.rglob("__pycache__"):
            shutil.rmtree(bytecode_folder)


def _check_wheels(release: Release, lock: Lock, reporter: Reporter) -> None:
    """Check the placed wheels before anything opens them; a repair places only some."""
    wheels = wheel_check.list_wheels(lock, lambda artifact: release.work_folder / artifact.path)
    wheel_check.check_wheels([wheel for wheel in wheels if wheel.path.exists()], reporter, compare_contents=False)


def _make_venv(release: Release, interpreter: Path) -> None:
    env = process.inherit_env(drop_prefixes=_FOREIGN_PREFIXES)
    process.run([interpreter, "-I", "-m", "venv", "--without-pip", release.venv], env=env)


def _replace_files(staging: Path, venv: Path) -> None:
    """Move each file of ``staging`` that differs to its path in ``venv``, after all of them are synced to the disk."""
    differing = []
    for parent, _, names in os.walk(staging):
        for name in names:
            source = Path(parent, name)
            target = venv / source.relative_to(staging)
            if not _is_same(source, target):
                differing.append((source, target))
    disk.sync_file_system(staging)
    for source, target in differing:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _is_same(source: Path, target: Path) -> bool:
    if target.is_symlink() or not target.is_file() or target.stat().st_mode != source.stat().st_mode:
        return False
    try:
        return filecmp.cmp(source, target, shallow=False)
    except OSError:  # the disk can't read the file
        return False


def _install_requirements(
    release: Release, lock: Lock, requirements_file: str, options: Sequence[str | Path], reporter: Reporter
) -> None:
    """Install the requirements of a file in the release's work folder, with uv, or with pip if uv does not run."""
    env = process.inherit_env(drop_prefixes=_FOREIGN_PREFIXES)
    options = [*options, "--requirement", release.work_folder / requirements_file]
    try:
        uv = _unpack_uv(release, lock)
        process.run([uv, "--version"], env=env)
    except ProgramError as error:
        reporter.warn(f"uv does not run on this host, pip installs instead and takes longer: {error}")
        _install_with_pip(release, lock, options, env)
    else:
        _install_with_uv(uv, release, options, env)


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
    shutil.rmtree(cache)  # the environment has hard links to its files


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
    """Extract uv's program from its wheel, and make it executable, which zipfile does not."""
    program = f"uv{lock.target.platform_info.system.program_suffix}"
    path = release.work_folder / program
    with zipfile.ZipFile(release.work_folder / _find_tool(lock, "uv")) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(f".data/scripts/{program}"))
        with wheel.open(member) as packed, path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    path.chmod(0o755)
    return path


def _find_tool(lock: Lock, name: str) -> str:
    paths = [tool.path for tool in lock.list_artifacts("tool") if tool.path.startswith(f"tools/{name}-")]
    if not paths:
        raise ProgramError(f"the bundle has no {name}", hint="have the bundle built again")
    return paths[0]

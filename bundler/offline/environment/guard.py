"""Installs the guard: a module that sets, at each start of Python, the variables that keep libraries on this host."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bundler import process
from bundler.errors import ProgramError
from bundler.format import disk
from bundler.format.lock.lockfile import Lock
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import env_file

PTH_FILE = "00-airgap-guard.pth"
"""Python runs ``.pth`` files in the order of their names, so this one runs before those of packages."""
MODULE_NAME = "_airgap_guard"
_VALUES_FILE = f"{MODULE_NAME}.env"
_PTH_LINE = f"import {MODULE_NAME}; {MODULE_NAME}.begin()\n"
_STATE_SCRIPT = """
import json, os, sys
guard = sys.modules.get(sys.argv[1])
def is_writable(folder):
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
kept = guard.kept if guard else {}
print(json.dumps({
    "ran": bool(guard and guard.began),
    "overridden": {name: [os.environ[name], kept[name]] for name in kept},
    "caches": {name: os.environ[name] for name in sys.argv[2:] if name in os.environ},
    "unwritable": [name for name in sys.argv[2:] if name in os.environ and not is_writable(os.environ[name])],
}))
"""
"""Prints the state of the guard in a new Python; works with a guard of any version, and without one."""

READER_USER_ID = 65534
"""The user ``nobody``: with root rights, we test as this user what a user with read access alone sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardState:
    """State of the guard in a new Python of the release.

    ``overridden_variables`` maps the variables that this process sets differently to pairs (value in this process,
    value of the release). ``caches`` maps variables to the folders that libraries write to; ``unwritable`` names the
    variables of folders that the user can neither write to nor create.
    """

    has_run: bool
    overridden_variables: Mapping[str, tuple[str, str]]
    caches: Mapping[str, str]
    unwritable: Sequence[str]


def write_files(release: Release, lock: Lock) -> None:
    """Write the guard into the release's environment, and check that it runs.

    Raises:
        ProgramError: It does not run.
    """
    for path, data in render_files(release, lock).items():
        disk.write_atomically(path, data)
    if not read_state(release, lock).has_run:
        hint = "check whether something on this host, such as a sitecustomize.py, keeps Python from running .pth files"
        where = get_site_packages(release, lock) / PTH_FILE
        raise ProgramError("the guard of the environment does not run", where=str(where), hint=hint)


def render_files(release: Release, lock: Lock) -> dict[Path, bytes]:
    """Return the content of each file of the guard; the ``.pth`` file, which makes Python run it, comes last."""
    site_packages = get_site_packages(release, lock)
    source = resources.files("bundler").joinpath("payload", "network", "guard.py")
    return {
        site_packages / f"{MODULE_NAME}.py": source.read_bytes(),
        site_packages / _VALUES_FILE: _format_values(release).encode(),
        site_packages / PTH_FILE: _PTH_LINE.encode(),
    }


def find_differing_files(release: Release, lock: Lock) -> list[Path]:
    """Find files of the guard that differ from what `write_files` writes."""
    return [path for path, data in render_files(release, lock).items() if not disk.has_content(path, data)]


def get_site_packages(release: Release, lock: Lock) -> Path:
    """Return the environment's ``site-packages``."""
    template = lock.target.platform_info.system.site_packages
    return release.venv / template.format(python=lock.target.python)


def read_state(release: Release, lock: Lock) -> GuardState:
    """Start the release's Python with the variables of this process, and read the state of the guard.

    Python starts without a guard, and with one that fails, so only this shows it.

    Raises:
        ProgramError: Python itself does not start.
    """
    env = process.inherit_env(drop_prefixes=("PYTHON", "BUNDLE_GUARD"))
    state = _query_state(release, env)
    hub = str(release.live_path / "hub")
    legacy = {name: (env[name], hub) for name in _list_legacy_caches(lock) if env.get(name, hub) != hub}
    return dataclasses.replace(state, overridden_variables={**state.overridden_variables, **legacy})


def read_reader_state(release: Release) -> GuardState | None:
    """Read the state for a user with read access alone and no home folder.

    None if Python does not start for that user, or this process can't run as another user.
    """
    if os.name == "nt" or os.geteuid() != 0:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="bundle-doctor-") as folder:
            Path(folder).chmod(0o1777)  # as /tmp; it is removed with what the guard creates in it
            return _query_state(release, {"TMPDIR": folder}, user=READER_USER_ID)
    except (OSError, ProgramError):
        return None


def _query_state(release: Release, env: Mapping[str, str], user: int | None = None) -> GuardState:
    command: list[str | Path] = [release.python, "-I", "-c", _STATE_SCRIPT, MODULE_NAME, *env_file.CACHES]
    output = process.run(command, env=env, user=user).stdout
    state = json.loads(output.strip().splitlines()[-1])
    return GuardState(
        has_run=state["ran"],
        overridden_variables={name: (actual, expected) for name, (actual, expected) in state["overridden"].items()},
        caches=state["caches"],
        unwritable=tuple(state["unwritable"]),
    )


def _list_legacy_caches(lock: Lock) -> tuple[str, ...]:
    """List the variables that this release's transformers reads before those that the guard sets."""
    version = next((package.version for package in lock.python.packages if package.name == "transformers"), "")
    return env_file.LEGACY_CACHE_VARIABLES if version.partition(".")[0] == "4" else ()


def _format_values(release: Release) -> str:
    """Format the guard's values file.

    Its first line is the folder ``var``. Each other line is ``NAME=value``: the variables of ``.env.offline``, and those
    below ``{cache}``, the folder that the guard chooses at each start.
    """
    fixed = [f"{name}={value}" for name, value in env_file.make_library_variables(release.live_path).items()]
    below_cache = [f"{name}={{cache}}/{subfolder}" for name, subfolder in env_file.CACHES.items()]
    return "".join(f"{line}\n" for line in [str(release.writable_folder), *fixed, *below_cache])

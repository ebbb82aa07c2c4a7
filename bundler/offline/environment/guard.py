"""What the environment does at each start of Python: set the variables that keep libraries on this host."""

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
"""Python runs these files in the order of their names, and this one before those of packages."""
MODULE_NAME = "_airgap_guard"
_VALUES_FILE = f"{MODULE_NAME}.env"
_PTH_LINE = f"import {MODULE_NAME}; {MODULE_NAME}.begin()\n"
_STATE_SCRIPT = """
import json, os, sys
guard = sys.modules.get(sys.argv[1])
def makes(folder):
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
kept = guard.kept if guard else {}
print(json.dumps({
    "ran": bool(guard and guard.began),
    "overridden": {name: [os.environ[name], kept[name]] for name in kept},
    "caches": {name: os.environ[name] for name in sys.argv[2:] if name in os.environ},
    "closed": [name for name in sys.argv[2:] if name in os.environ and not makes(os.environ[name])],
}))
"""
"""What a start of Python says of itself: also one that a guard of another version guards, or none."""

READER = 65534
"""The number of the user ``nobody``: as root, what a user sees who may only read is tried as this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardState:
    """What a start of a release's Python showed: whether the guard ran, and whose values won.

    ``overridden`` holds the variables that this process has set to something else than the release wants: name to
    (value here, value of the release). ``caches`` says where libraries would write, by variable; ``closed`` names
    those of them that the user can't write to, nor make.
    """

    has_run: bool
    overridden_variables: Mapping[str, tuple[str, str]]
    caches: Mapping[str, str]
    closed: Sequence[str]


def write_files(release: Release, lock: Lock) -> None:
    """Put the guard into the release's environment and see it run. Raises ProgramError when it does not."""
    for path, data in render_files(release, lock).items():
        disk.write_atomically(path, data)
    if not read_state(release, lock).has_run:
        hint = "see whether something on this host keeps Python from running .pth files, such as a sitecustomize.py"
        where = get_site_packages(release, lock) / PTH_FILE
        raise ProgramError("the guard of the environment does not run", where=str(where), hint=hint)


def render_files(release: Release, lock: Lock) -> dict[Path, bytes]:
    """Every file of the guard, and its bytes; the one that has Python run it comes last."""
    place = get_site_packages(release, lock)
    source = resources.files("bundler").joinpath("payload", "network", "guard.py")
    return {
        place / f"{MODULE_NAME}.py": source.read_bytes(),
        place / _VALUES_FILE: _format_values(release).encode(),
        place / PTH_FILE: _PTH_LINE.encode(),
    }


def differing(release: Release, lock: Lock) -> list[Path]:
    """Files of the guard that are not as ``lay_out`` makes them."""
    return [path for path, data in render_files(release, lock).items() if not disk.has_content(path, data)]


def get_site_packages(release: Release, lock: Lock) -> Path:
    """Where the environment's packages are."""
    inside = lock.target.platform_info.system.site_packages
    return release.venv / inside.format(python=lock.target.python)


def read_state(release: Release, lock: Lock) -> GuardState:
    """Start the release's Python in the environment of this process and ask. A guard that is not there, or that fails,
    keeps no Python from starting, so only this shows it. Raises ProgramError when Python itself does not start."""
    plain = process.inherit_env(drop_prefixes=("PYTHON", "BUNDLE_GUARD"))
    found = _asked(release, plain)
    hub = str(release.live_path / "hub")
    older = {name: (plain[name], hub) for name in _list_legacy_caches(lock) if plain.get(name, hub) != hub}
    return dataclasses.replace(found, overridden_variables={**found.overridden_variables, **older})


def state_for_reader(release: Release) -> GuardState | None:
    """The same for a user who has no home and may only read; None where Python does not start for that one, or this
    process may not become another user."""
    if os.name == "nt" or os.geteuid() != 0:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="bundle-doctor-") as folder:
            Path(folder).chmod(0o1777)  # open to all as /tmp is, and gone afterwards with what the guard makes there
            return _asked(release, {"TMPDIR": folder}, user=READER)
    except (OSError, ProgramError):
        return None


def _asked(release: Release, environment: Mapping[str, str], user: int | None = None) -> GuardState:
    command: list[str | Path] = [release.python, "-I", "-c", _STATE_SCRIPT, MODULE_NAME, *env_file.CACHES]
    said = process.run(command, env=environment, user=user).stdout
    told = json.loads(said.strip().splitlines()[-1])
    overridden = {name: (here, wanted) for name, (here, wanted) in told["overridden"].items()}
    return GuardState(
        has_run=told["ran"], overridden_variables=overridden, caches=told["caches"], closed=tuple(told["closed"])
    )


def _list_legacy_caches(lock: Lock) -> tuple[str, ...]:
    """The variables that this release's transformers reads before those that the guard sets."""
    found = next((one.version for one in lock.python.packages if one.name == "transformers"), "")
    return env_file.LEGACY_CACHE_VARIABLES if found.partition(".")[0] == "4" else ()


def _format_values(release: Release) -> str:
    """The folder ``var``, then one ``NAME=value`` a line: the variables of ``.env.offline`` as they are, and those that
    lead below the folder that the guard chooses at each start."""
    fixed = [f"{name}={value}" for name, value in env_file.make_library_variables(release.live_path).items()]
    chosen = [f"{name}={{cache}}/{part}" for name, part in env_file.CACHES.items()]
    return "".join(f"{line}\n" for line in [str(release.writable_folder), *fixed, *chosen])

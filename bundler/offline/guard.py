"""What the environment does at each start of Python: set the variables that keep libraries on this host."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bundler import process
from bundler.bundle import disk
from bundler.bundle.lock import Lock
from bundler.errors import ProgramError
from bundler.offline import emit
from bundler.offline.releases import Release

PATH_FILE = "00-airgap-guard.pth"
"""Python runs these files in the order of their names, and this one before those of packages."""
MODULE = "_airgap_guard"
_VALUES = f"{MODULE}.env"
_LINE = f"import {MODULE}; {MODULE}.begin()\n"
_ASK = (
    "import json, os, sys; g = sys.modules.get('" + MODULE + "'); "
    "print(json.dumps([bool(g and g.began), g.kept if g else {}, {n: os.environ[n] for n in (g.kept if g else {})}]))"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """What a start of a release's Python showed: whether the guard ran, and whose values won.

    ``overridden`` holds the variables that this process has set to something else than the release wants: name to
    (value here, value of the release).
    """

    ran: bool
    overridden: Mapping[str, tuple[str, str]]


def lay_out(release: Release, locked: Lock) -> None:
    """Put the guard into the release's environment and see it run. Raises ProgramError when it does not."""
    for path, data in files(release, locked).items():
        disk.write_whole(path, data)
    if not state(release, locked).ran:
        hint = "see whether something on this host keeps Python from running .pth files, such as a sitecustomize.py"
        where = site_packages(release, locked) / PATH_FILE
        raise ProgramError("the guard of the environment does not run", where=str(where), hint=hint)


def files(release: Release, locked: Lock) -> dict[Path, bytes]:
    """Every file of the guard, and its bytes; the one that has Python run it comes last."""
    place = site_packages(release, locked)
    source = resources.files("bundler").joinpath("payload", "guard.py")
    return {
        place / f"{MODULE}.py": source.read_bytes(),
        place / _VALUES: _values(release).encode(),
        place / PATH_FILE: _LINE.encode(),
    }


def differing(release: Release, locked: Lock) -> list[Path]:
    """Files of the guard that are not as ``lay_out`` makes them."""
    return [path for path, data in files(release, locked).items() if not disk.holds(path, data)]


def site_packages(release: Release, locked: Lock) -> Path:
    """Where the environment's packages are."""
    inside = "Lib/site-packages" if os.name == "nt" else f"lib/python{locked.target.python}/site-packages"
    return release.venv / inside


def state(release: Release, locked: Lock) -> Guard:
    """Start the release's Python in the environment of this process and ask. A guard that is not there, or that fails,
    keeps no Python from starting, so only this shows it. Raises ProgramError when Python itself does not start."""
    plain = process.clean_environment(without=("PYTHON", "BUNDLE_GUARD"))
    said = process.run([release.python, "-I", "-c", _ASK], environment=plain).stdout
    ran, wanted, here = json.loads(said.strip().splitlines()[-1])
    hub = str(release.live / "hub")
    older = {name: (plain[name], hub) for name in _older_caches(locked) if plain.get(name, hub) != hub}
    return Guard(ran=ran, overridden={name: (here[name], wanted[name]) for name in wanted} | older)


def _older_caches(locked: Lock) -> tuple[str, ...]:
    """The variables that this release's transformers reads before those that the guard sets."""
    found = next((one.version for one in locked.python.packages if one.name == "transformers"), "")
    return emit.OLDER_CACHES if found.partition(".")[0] == "4" else ()


def _values(release: Release) -> str:
    """One ``NAME=value`` a line, the value as it is: the same variables as in ``.env.offline``."""
    values = emit.library_variables(release.live, release.writable)
    return "".join(f"{name}={value}\n" for name, value in values.items())

"""Programs that tests run: the command line, the installer, tools of the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import Program

INSTALLER = ("bundler.cli", "bundler.offline.install", "bundler.offline.prefix.removal", "filelock", "jinja2")
"""Modules of ``bundle.pyz`` that its runs import; they are compiled each time that they come from a zip."""


def require_tool(name: str) -> str:
    """A program that a test needs; fails where it is missing, since CI installs it."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not on this machine; .ci/run installs it (see docs/developing.md)")
    return found


def make_nobody_command() -> tuple[str, ...]:
    """What goes before a command to run it as a user without rights; nothing where the tests run as one."""
    return (require_tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups") if os.getuid() == 0 else ()


def find_public_python() -> str:
    """A Python 3.11 that every user may run; .ci/run installs the system's."""
    for place in (shutil.which("python3.11"), "/usr/bin/python3.11"):
        # setpriv itself may still start what that user may not: a shell of the user's own asks
        asked = [*make_nobody_command(), "sh", "-c", '"$0" -c ""', str(place)]
        if place and not subprocess.run(asked, check=False, capture_output=True).returncode:
            return place
    pytest.fail("no Python 3.11 here can be run by other users; .ci/run installs the system's")


def grant_read_access(*files: Path) -> None:
    """Let other users reach these files through the folders above them."""
    for path in {parent for file in files for parent in [file, *file.parents]} - {Path("/")}:
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


_BUNDLE = Program(
    python=(sys.executable,),
    path=Path(sys.executable).with_name("bundle"),
    modules=("bundler.cli", "bundler.online.build", "bundler.online.rehearsal", "cryptography.fernet"),
)


def run_bundle(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does."""
    return _BUNDLE.run(*arguments, **options)


_EACH = """
import json, runpy, sys
for argv in json.loads(sys.argv[1]):
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
"""


def run_scripts(python: str, environment: dict[str, str], *scripts: tuple[Path, ...]) -> None:
    """Run scripts that make models, each with its folders, in one process: they import the same libraries."""
    command = [python, "-I", "-c", _EACH, json.dumps([[str(path) for path in script] for script in scripts])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


Run = Callable[..., tuple[int, dict[str, Any]]]


def install_packages(*arguments: str | Path) -> None:
    """Install packages with pip into the folder that is the last argument."""
    *packages, folder = map(str, arguments)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *packages], check=True)

"""``bundle.pyz`` on whatever Python a host has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import bundle


def interpreter(version: str) -> str:
    """A Python of this minor version, on PATH or where pyenv keeps them; the test is skipped where there is none."""
    kept = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    for place in filter(None, [shutil.which(f"python{version}"), *map(str, sorted(kept))]):
        if subprocess.run([place, "-c", ""], check=False, capture_output=True).returncode == 0:
            return place
    pytest.skip(f"this machine has no Python {version}, and no package of its system brings one")


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_it_runs_with_nothing_installed(installer: Path, version: str) -> None:
    done = subprocess.run(
        [interpreter(version), "-I", "-S", installer, "--version"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bundle, version ")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8", "3.9"])
def test_an_older_python_finds_a_newer_one(installer: Path, version: str) -> None:
    done = subprocess.run([interpreter(version), installer, "--version"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(",")[0]) == (0, "bundle"), done.stderr


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_an_older_python_alone_says_what_to_do(installer: Path, version: str, tmp_path: Path) -> None:
    shim = tmp_path / "python3.12"  # as a version manager leaves them: there, and of no use
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    done = subprocess.run(
        [interpreter(version), installer, "--version"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
    )
    assert done.returncode == 9
    assert f"this is Python {version}, and Python 3.10 or newer is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_online_verbs_say_where_they_belong(installer: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [interpreter("3.11"), "-I", "-S", installer, "build", tmp_path / "m.yaml"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "this verb belongs to the online side" in done.stderr) == (2, True)


def test_the_exported_installer_is_the_one_in_bundles(installer: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    done = bundle("installer", "-o", again)
    assert again.read_bytes() == installer.read_bytes()
    assert os.access(again, os.X_OK)
    assert (
        done.stdout.split()[0]
        == subprocess.run(["sha256sum", again], check=True, capture_output=True, text=True).stdout.split()[0]
    )

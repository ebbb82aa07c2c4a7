"""``bundle.pyz`` on whatever Python a host has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format.hashing import compute_sha256
from bundler.online import installer as making
from tests.support.bundles import SMALL, PackedBundle
from tests.support.programs import Run, require_tool, run_bundle


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
    assert f"this is Python {version}, but Python 3.10 or newer is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_online_verbs_say_where_they_belong(installer: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [interpreter("3.11"), "-I", "-S", installer, "build", tmp_path / "m.yaml"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "this verb needs the online side" in done.stderr) == (2, True)


def test_the_hint_names_nothing_that_a_stranger_could_publish(installer: Path, tmp_path: Path) -> None:
    command = [require_tool("python3.11"), "-I", "-S", str(installer), "build", str(tmp_path / "m.yaml"), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    hint = json.loads(done.stdout)["error"]["hint"]
    assert "'pip install .' in this tool's source tree" in hint
    assert "never install it by name" in hint


def test_the_exported_installer_is_the_one_in_bundles(installer: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    done = run_bundle("installer", "-o", again)
    assert again.read_bytes() == installer.read_bytes()
    assert os.access(again, os.X_OK)
    assert (
        done.stdout.split()[0]
        == subprocess.run(["sha256sum", again], check=True, capture_output=True, text=True).stdout.split()[0]
    )


def test_an_installer_that_is_there_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bundle-installer.pyz"
    path.write_bytes(b"the one that is trusted")
    code, told = run("installer", "-o", path)
    assert (code, told["error"]["where"]) == (2, str(path))
    assert told["error"]["message"] == "another file has this name, and an installer never overwrites a file"
    assert compute_sha256(making.build_installer()) in told["error"]["hint"]
    assert path.read_bytes() == b"the one that is trusted"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert run("installer", "-o", path)[0] == 2
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_installer_is_left_and_said_to_be_there(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bundle-installer.pyz"
    assert run("installer", "-o", path)[1]["result"]["written"]
    before = path.stat()
    code, told = run("installer", "-o", path)
    assert (code, told["result"]["written"], path.stat().st_ino) == (0, False, before.st_ino)
    assert "already existed with the same content" in run_bundle("installer", "-o", path).stdout


def test_a_folder_that_is_missing_is_named_with_the_line_that_makes_it(run: Run, tmp_path: Path) -> None:
    code, told = run("installer", "-o", tmp_path / "my trusted" / "bundle-installer.pyz")
    assert (code, told["error"]["where"]) == (9, str(tmp_path / "my trusted"))
    assert told["error"]["hint"] == f"create it: mkdir -p '{tmp_path}/my trusted'"


def test_without_a_name_it_is_not_the_one_that_bundles_hold(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told = run("installer")
    assert (code, told["warnings"], list(tmp_path.iterdir())) == (0, [], [tmp_path / "bundle-installer.pyz"])
    code, told = run("installer", "-o", "bundle.pyz")
    assert code == 0
    assert "give -o bundle-installer.pyz instead" in told["warnings"][0]


def test_unpacking_a_bundle_leaves_the_trusted_installer(
    run: Run, pack: Callable[..., PackedBundle], tmp_path: Path
) -> None:
    """In the very folder that it should not be in."""
    packed = pack(SMALL)
    trusted = tmp_path / "bundle-installer.pyz"
    run("installer", "-o", trusted)
    before = trusted.read_bytes()
    subprocess.run([require_tool("tar"), "xf", packed.path, "-C", tmp_path], check=True)
    assert (tmp_path / "bundle.pyz").read_bytes() == SMALL["bundle.pyz"]
    assert trusted.read_bytes() == before

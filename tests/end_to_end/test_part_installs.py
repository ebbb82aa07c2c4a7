"""Parts of a bundle placed ahead of the rest, as the layers of an image are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.format.lock import lockfile
from tests.support.small_bundles import SmallBundle, get_live_release, read_result

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]
TEXT = """\
name: small
version: "{version}"
target: {{python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}}
python: {{requirements: [alpha]}}
models:
  - {{path: vendor, alias: m, loader: files, include: ["*.bin", "sub/*"]}}
  - {{path: vendor, alias: n, loader: files}}
app: {{path: vendor, entrypoint: [python, main.py]}}
sequence: {sequence}
"""
FILES = {"config.json": b"{}", "weights.bin": b"w" * 5000, "sub/same.bin": b"w" * 5000, "main.py": b"print(1)"}


@pytest.fixture
def small(build: Build) -> SmallBundle:
    return build(text=TEXT, files=FILES)


def list_paths(prefix: Path) -> set[str]:
    return {path.relative_to(prefix).as_posix() for path in prefix.rglob("*")}


def test_a_model_s_part_is_its_folder_and_its_mark_with_one_time(
    small: SmallBundle, run_installer: Far, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt"
    done = run_installer("install", small.path, "--prefix", prefix, "--only", "model:m", "--json", umask=0o077)
    assert done.returncode == 0, done.stderr
    home = Path(read_result(done)["result"]["path"])  # type: ignore[index]
    assert home.parent == prefix / "models"
    assert list_paths(prefix) - {".lock"} == {
        "models",
        f"models/{home.name}",
        f"models/.{home.name}.made",
        *(f"models/{home.name}/{name}" for name in ("weights.bin", "sub", "sub/same.bin")),
    }
    found = {(path.stat().st_mtime, path.stat().st_mode & 0o777) for path in prefix.glob("models/**/*")}
    assert found == {(lockfile.ZIP_EPOCH, 0o755), (lockfile.ZIP_EPOCH, 0o644)}


def test_parts_are_taken_over_by_the_install_that_finishes(
    small: SmallBundle, run_installer: Far, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt"
    for part in ("model:m", "model:n", "environment", "app"):
        done = run_installer("install", small.path, "--prefix", prefix, "--only", part)
        assert done.returncode == 0, done.stderr
        assert not (prefix / "current").exists()
    (release,) = (prefix / "releases").glob("[!.]*")
    kept = (release / "venv" / "pyvenv.cfg", release / "app" / "main.py", *(prefix / "models").glob("[!.]*"))
    before = {path: path.stat().st_ino for path in kept}
    done = run_installer("install", small.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_ino for path in before} == before
    assert get_live_release(prefix) == release.name
    assert not (release / ".parts").exists()
    assert [*prefix.glob("*/.*.made")] == []
    assert (prefix / "current" / "app" / "main.py").read_bytes() == b"print(1)"
    assert (prefix / "current" / "bundle.pyz").is_file()
    assert (
        subprocess.run([prefix / "current" / "venv" / "bin" / "python", "-c", "import alpha"], check=False).returncode
        == 0
    )
    assert run_installer("install", small.path, "--prefix", prefix, "--only", "environment").returncode == 0, (
        "nothing to do"
    )
    assert get_live_release(prefix) == release.name


def test_what_was_placed_ahead_is_looked_at_again(small: SmallBundle, run_installer: Far, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    assert run_installer("install", small.path, "--prefix", prefix, "--only", "model:n").returncode == 0
    (weights,) = (prefix / "models").glob("n-*/weights.bin")
    weights.write_bytes(b"v" * 5000)
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
    assert weights.read_bytes() == b"w" * 5000
    assert {Path(above).stat().st_mtime for above, _, _ in os.walk(weights.parent)} == {lockfile.ZIP_EPOCH}


def test_an_environment_of_another_bundle_is_not_taken_over(
    small: SmallBundle, run_installer: Far, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt"
    assert run_installer("install", small.path, "--prefix", prefix, "--only", "environment").returncode == 0
    (release,) = (prefix / "releases").glob("[!.]*")
    (release / ".parts").write_text(f"{'0' * 64}\nenvironment")
    (release / "venv" / "stranger").touch()
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
    assert not (release / "venv" / "stranger").exists()


@pytest.mark.parametrize("part", ["model:x", "application", ""])
def test_a_part_that_there_is_not(small: SmallBundle, run_installer: Far, tmp_path: Path, part: str) -> None:
    done = run_installer("install", small.path, "--prefix", tmp_path / "opt", "--only", part)
    assert done.returncode == 2
    assert f"the bundle has no part {part!r}" in done.stderr
    assert "its parts are: model:m, model:n, environment, app;" in done.stderr


def test_an_application_that_was_placed_ahead_is_looked_at_again(
    small: SmallBundle, run_installer: Far, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt"
    for part in ("app", "environment"):  # in any order
        assert run_installer("install", small.path, "--prefix", prefix, "--only", part).returncode == 0
    (release,) = (prefix / "releases").glob("[!.]*")
    (release / "app" / "main.py").write_bytes(b"print(2)")
    untouched = (release / "app" / "weights.bin").stat().st_ino
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
    assert (release / "app" / "main.py").read_bytes() == b"print(1)"
    assert (release / "app" / "weights.bin").stat().st_ino == untouched


def test_an_application_that_fails_leaves_the_environment_that_stood_there(
    small: SmallBundle, run_installer: Far, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt"
    assert run_installer("install", small.path, "--prefix", prefix, "--only", "environment").returncode == 0
    before = list_paths(prefix)
    data = small.path.read_bytes()
    at = data.rindex(b"print(1)")
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(data[:at] + b"X" + data[at + 1 :])
    done = run_installer("install", damaged, "--prefix", prefix, "--only", "app")
    assert (done.returncode, "main.py" in done.stderr) == (6, True), done.stderr
    assert list_paths(prefix) == before


def test_an_environment_that_fails_leaves_nothing(small: SmallBundle, run_installer: Far, tmp_path: Path) -> None:
    data = small.path.read_bytes()
    at = data.index(b"alpha/__init__.py")
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(data[:at] + b"X" + data[at + 1 :])
    prefix = tmp_path / "opt"
    done = run_installer("install", damaged, "--prefix", prefix, "--only", "environment")
    assert (done.returncode, "damaged" in done.stderr) == (6, True), done.stderr
    assert not [name for name in list_paths(prefix) if name.startswith("releases/")]


def test_a_model_that_fails_leaves_nothing(small: SmallBundle, run_installer: Far, tmp_path: Path) -> None:
    data = small.path.read_bytes()
    at = data.index(b"w" * 5000)
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(data[:at] + b"X" + data[at + 1 :])
    prefix = tmp_path / "opt"
    done = run_installer("install", damaged, "--prefix", prefix, "--only", "model:m")
    assert (done.returncode, "same.bin" in done.stderr) == (6, True), done.stderr
    assert list((prefix / "models").iterdir()) == []

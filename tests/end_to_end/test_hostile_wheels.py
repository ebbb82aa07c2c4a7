"""Wheels that lie, by the whole route: refused while building, and by the installer before uv or pip sees them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from bundler.format.hashing import compute_sha256
from bundler.format.lock import entries, lockfile
from tests.support.bundles import make_bundle_bytes, make_lock
from tests.support.programs import Run, run_bundle
from tests.support.wheelmaking import make_wheel

EVIL = "import pathlib; pathlib.Path({victim!r}).write_text('ran')\n"


def make_lying_wheel(folder: Path, victim: Path) -> Path:
    """A wheel that would write outside of the environment, and says that it does."""
    files = {"../../../../evil.py": b"evil", "zzz.pth": EVIL.format(victim=str(victim)).encode()}
    return make_wheel(folder, "alpha", "1.0", files=files)


def make_wheel_bundle(wheel: Path) -> bytes:
    """A bundle that holds a wheel, whole and consistent from its lock down."""
    name, data = f"wheels/{wheel.name}", wheel.read_bytes()
    python = entries.PythonEnvironment(packages=(entries.Package(name="alpha", version="1.0", wheel=name),))
    first = make_lock({"bundle.pyz": b"x"})
    artifact = entries.Artifact(path=name, kind="wheel", size=len(data), sha256=compute_sha256(data), origin="a test")
    text = lockfile.format_requirements(python, [artifact])
    listed = entries.Artifact(
        path="requirements.txt", kind="requirements", size=len(text), sha256=compute_sha256(text), origin="a test"
    )
    locked = lockfile.replace_fields(first, python=python, artifacts=(first.artifacts[0], listed, artifact))
    return make_bundle_bytes(locked, {"bundle.pyz": b"x", "requirements.txt": text, name: data})


def test_the_installer_refuses_before_anything_opens_it(run: Run, tmp_path: Path) -> None:
    victim, prefix = tmp_path / "victim", tmp_path / "opt"
    data = make_wheel_bundle(make_lying_wheel(tmp_path / "made", victim))
    assert run("verify", "-", stdin=data)[0] == 0  # as a bundle it is whole: what it carries is not
    path = tmp_path / "b.tar"
    path.write_bytes(data)
    for source, stdin in ((path, b""), ("-", data)):
        code, told = run("install", source, "--prefix", prefix, stdin=stdin)
        assert code == 8, told
        assert "'../../../../evil.py' leads out of its folder" in told["error"]["message"]
        assert "wheels/alpha-1.0-py3-none-any.whl" in told["error"]["message"]
    assert not victim.exists()
    assert not list(tmp_path.rglob("evil.py"))
    assert not list((prefix / "releases").iterdir())
    assert not (prefix / "current").is_symlink()


def test_the_builder_refuses_too(wheels: Path, builder_env: dict[str, str], tmp_path: Path) -> None:
    made = tmp_path / "made"
    good = make_wheel(made, "alpha", "1.0")
    with zipfile.ZipFile(good) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    files["alpha/__init__.py"] = files["alpha/__init__.py"].replace(b"1", b"2")
    with zipfile.ZipFile(good, "w") as packed:
        for name, data in files.items():
            packed.writestr(zipfile.ZipInfo(name), data)
    for tool in (*wheels.glob("pip-*.whl"), *wheels.glob("uv-*.whl")):
        os.link(tool, made / tool.name)
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        'name: small\nversion: "1"\ntarget: {python: "3.11", platform: linux-x86_64, libc: glibc-2.17}\n'
        "python: {requirements: [alpha]}\n"
    )
    out = tmp_path / "x.tar"
    done = run_bundle(
        "build", "--no-rehearse", manifest, "-o", out, env=builder_env | {"PIP_FIND_LINKS": made.as_uri()}
    )
    assert (done.returncode, "'alpha/__init__.py' differs from RECORD" in done.stderr) == (8, True), done.stderr
    assert not out.exists()


@pytest.mark.parametrize("hook", [b"import os\n", b"import sys; sys.path\n"])
def test_code_that_runs_at_each_start_is_told_of(run: Run, tmp_path: Path, hook: bytes) -> None:
    wheel = make_wheel(tmp_path, "alpha", "1.0", files={"hook.pth": hook})
    path = tmp_path / "b.tar"
    path.write_bytes(make_wheel_bundle(wheel))
    _, told = run("install", path, "--prefix", tmp_path / "opt")
    assert any("runs code whenever this environment's Python starts: hook.pth" in one for one in told["warnings"])

"""The rehearsal: what the far side will do is done before a bundle gets its name."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bundler.format import hashing
from bundler.format.lock import lockfile
from bundler.format.lock.target import Target
from bundler.online import rehearsal
from tests.support.bundles import SMALL, make_lock
from tests.support.paths import ROOT
from tests.support.programs import run_bundle
from tests.support.small_bundles import MANIFEST
from tests.support.wheelmaking import make_wheel

Far = Callable[..., subprocess.CompletedProcess[str]]
Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ask_worker(builder_env: dict[str, str], wheels: Path, tmp_path: Path) -> Ask:
    """Builds the small bundle with a package alpha that holds the given files; ``small.tar`` where it works."""

    def built(
        *more: object, text: str = MANIFEST, files: Mapping[str, bytes] | None = None, name: str = "small.tar"
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "vendor").mkdir(exist_ok=True)
        (tmp_path / "vendor" / "config.json").write_text("{}")
        manifest = tmp_path / "small.yaml"
        manifest.write_text(text.format(version="1", sequence="1"))
        own = tmp_path / "own wheels"
        make_wheel(own, "alpha", "1.1", files=files or {})
        told = builder_env | {"PIP_FIND_LINKS": f"{wheels.as_uri()} {own.as_uri()}"}
        return run_bundle("build", manifest, "-o", tmp_path / name, *more, env=told)

    return built


def check_nothing_left(folder: Path) -> None:
    assert not [path.name for path in folder.iterdir() if path.name.endswith((".tar", ".partial"))]
    assert not list((folder / "shelf" / "rehearsals").iterdir())


def test_a_bundle_is_rehearsed_and_says_so_and_a_kept_lock_gives_it_again(
    ask_worker: Ask, run_installer: Far, tmp_path: Path
) -> None:
    left = tmp_path / "shelf" / "rehearsals" / "of a killed run"
    left.mkdir(parents=True)
    left.with_suffix(".lock").touch()
    done = ask_worker()
    assert done.returncode == 0, done.stderr
    assert "rehearse: in" in done.stderr
    assert "rehearsed  yes, by the builder; no model was loaded" in run_bundle("inspect", tmp_path / "small.tar").stdout
    assert not list((tmp_path / "shelf" / "rehearsals").iterdir())
    installed = run_installer("install", tmp_path / "small.tar", "--prefix", tmp_path / "opt", "--json")
    assert installed.returncode == 0, installed.stderr
    assert "not rehearsed" not in installed.stderr
    assert json.loads(installed.stdout)["result"]["rehearsed"]
    kept = tmp_path / "opt" / "current" / lockfile.LOCK_FILE
    again = ask_worker("--lock", kept, name="again.tar")
    assert again.returncode == 0, again.stderr
    assert hashing.compute_file_sha256(tmp_path / "again.tar") == hashing.compute_file_sha256(tmp_path / "small.tar")


def test_the_reviewed_digest_is_the_same_from_lock_to_bundle_to_host(
    builder_env: dict[str, str], run_installer: Far, tmp_path: Path
) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "config.json").write_text("{}")
    manifest, kept, packed = tmp_path / "small.yaml", tmp_path / "small.lock.json", tmp_path / "small.tar"
    manifest.write_text(MANIFEST.format(version="1", sequence="1"))
    locked = run_bundle("lock", manifest, env=builder_env)
    assert locked.returncode == 0, locked.stderr
    reviewed, before = (
        lockfile.read_lock(kept.read_bytes(), "").reviewed_digest,
        lockfile.read_lock(kept.read_bytes(), "").digest,
    )
    assert f"  reviewed   {reviewed}\n" in locked.stdout
    assert f"  digest     {before}\n             of this lock; the bundle's digest differs" in locked.stdout
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    (script,) = [block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "rehearsed" in block]
    done = subprocess.run(["sh", "-ec", script.replace("LOCK", str(kept))], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [reviewed]
    built = run_bundle("build", manifest, "--lock", kept, "-o", packed, env=builder_env)
    assert built.returncode == 0, built.stderr
    sealed = lockfile.read_lock(kept.read_bytes(), "").digest
    assert sealed != before
    assert (
        f"  sha256     {hashing.compute_file_sha256(packed)[1]}\n             of the file, as sha256sum" in built.stdout
    )
    prefix = tmp_path / "opt"
    said = [
        built,
        run_bundle("inspect", packed),
        run_bundle("verify", packed),
        run_installer("install", packed, "--prefix", prefix),
    ]
    for one in (*said, run_installer("list", "--prefix", prefix)):
        assert one.returncode == 0, one.stderr
        assert (f"  digest     {sealed}" in one.stdout, f"  reviewed   {reviewed}" in one.stdout) == (True, True)
    told = [run_bundle(verb, packed, "--json") for verb in ("inspect", "verify")]
    results = [json.loads(one.stdout)["result"] for one in told]
    results += json.loads(run_installer("list", "--prefix", prefix, "--json").stdout)["result"]["releases"]
    assert {(one["digest"], one["reviewed_digest"]) for one in results} == {(sealed, reviewed)}


def test_what_was_not_rehearsed_says_so_in_the_lock_in_inspect_and_at_install(
    ask_worker: Ask, run_installer: Far, tmp_path: Path
) -> None:
    assert ask_worker("--no-rehearse").returncode == 0
    told = json.loads(run_bundle("inspect", tmp_path / "small.tar", "--json").stdout)["result"]
    assert (told["rehearsed"], told["unrehearsed"]) == (False, "the builder left it out (--no-rehearse)")
    assert f"rehearsed  no: {told['unrehearsed']}" in run_bundle("inspect", tmp_path / "small.tar").stdout
    installed = run_installer("install", tmp_path / "small.tar", "--prefix", tmp_path / "opt", "--json")
    assert f"this bundle was not rehearsed: {told['unrehearsed']}" in installed.stderr
    assert not json.loads(installed.stdout)["result"]["rehearsed"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (Target(python="3.11", platform="macos-arm64", libc="", accelerator="cpu"), "and the target macos-arm64"),
        (Target(python="3.11", platform="linux-x86_64", libc="glibc-9.1", accelerator="cpu"), "the target glibc-9.1"),
        (Target(python="3.11", platform="linux-x86_64", libc="musl-1.2", accelerator="cpu"), "the target musl-1.2"),
        (Target(python="3.99", platform="linux-x86_64", libc="glibc-2.17", accelerator="cpu"), "no Python 3.99"),
        (Target(python="3.11", platform="linux-x86_64", libc="glibc-2.17", accelerator="cpu"), ""),
    ],
)
def test_a_machine_says_why_it_can_t_rehearse(target: Target, why: str) -> None:
    said = rehearsal.find_obstacle(make_lock(SMALL, target=target))
    assert (why in said) if why else (said == "")


def test_a_package_that_undoes_the_guard_is_found_before_the_bundle_travels(ask_worker: Ask, tmp_path: Path) -> None:
    done = ask_worker(files={"zz-alpha.pth": b"import os; os.environ['HF_HUB_OFFLINE'] = '0'\n"})
    assert done.returncode == 11
    assert "the rehearsal failed, so no bundle was written" in done.stderr
    assert "these variables have other values: HF_HUB_OFFLINE" in done.stderr
    check_nothing_left(tmp_path)


TRACKER = b"""
import socket
def report():
    try:
        socket.create_connection(("stats.example", 443), timeout=5)
    except Exception:
        pass
report()
"""


def test_a_call_home_that_loads_survive_fails_the_build_unless_it_is_named(ask_worker: Ask, tmp_path: Path) -> None:
    files = {"zz-alpha.pth": b"import alpha.tracker\n", "alpha/tracker.py": TRACKER}
    done = ask_worker("--json", files=files)
    assert done.returncode == 12
    error = json.loads(done.stdout)["error"]
    assert (error["code"], "all models load, but they call home. Blocked requests:" in error["message"]) == (12, True)
    assert "    host      stats.example\n" in error["message"]
    assert 'asked by  alpha/tracker.py:5 in report: socket.create_connection(("stats.example", 443)' in error["message"]
    assert "fix       smoke: {tolerate_calls: [stats.example]}" in error["message"]
    check_nothing_left(tmp_path)
    named = MANIFEST + "smoke: {{tolerate_calls: [stats.example]}}\n"
    done = ask_worker(text=named, files=files)
    assert done.returncode == 0, done.stderr
    assert "rehearsed  yes" in done.stdout

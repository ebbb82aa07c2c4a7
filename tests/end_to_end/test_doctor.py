"""doctor names what is wrong, all at once, and installing again mends it, file by file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.offline.findings import REINSTALL_HINT
from bundler.offline.prefix import ownership_markers, releases
from tests.support.programs import find_public_python, grant_read_access, make_nobody_command
from tests.support.small_bundles import MANIFEST, SmallBundle
from tests.support.trees import read_tree

Build = Callable[..., SmallBundle]
Far = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "opt"


@pytest.fixture
def run_installer(installer: Path) -> Far:
    """Runs the installer by a Python that other users may run too."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [find_public_python(), "-I", "-S", str(installer), *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    return run


@pytest.fixture
def small(build: Build, run_installer: Far, prefix: Path) -> SmallBundle:
    """A release that is installed, reachable for every user, with two files in its model."""
    made = build()
    done = run_installer("install", made.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    grant_read_access(prefix)
    return made


def get_site_packages(prefix: Path) -> Path:
    return prefix / "current" / "venv" / "lib" / "python3.11" / "site-packages"


def read_findings(done: subprocess.CompletedProcess[str], level: str) -> list[dict[str, Any]]:
    """What doctor found of one level; how busy the machine of the tests is does not count."""
    found = json.loads(done.stdout)["result"]["findings"]
    return [one for one in found if one["level"] == level and one["check"] not in ("processors", "memory")]


@pytest.mark.usefixtures("small")
def test_a_sound_release(run_installer: Far, prefix: Path) -> None:
    for depth in ([], ["--quick"], ["--deep"]):
        done = run_installer("doctor", "--prefix", prefix, *depth, "--json")
        assert (done.returncode, read_findings(done, "critical"), read_findings(done, "warning")) == (0, [], []), (
            done.stdout
        )
        told = json.loads(done.stdout)["result"]
        assert told["release"] == releases.require_live(prefix).name
    words = run_installer("doctor", "--prefix", prefix, "--deep").stdout
    assert "healthy   model m: 2 files: every byte is as in the bundle" in words
    assert "healthy   packages: " in words
    assert "healthy   python: CPython 3.11 starts" in words
    assert run_installer("doctor", "--prefix", prefix, "--deep", "--quick").returncode == 2


def test_all_that_is_wrong_is_named_at_once_and_mended(small: SmallBundle, run_installer: Far, prefix: Path) -> None:
    whole, current, home = read_tree(prefix), prefix / "current", next((prefix / "models").iterdir())
    snapshot = next((current / "hub").glob("*/snapshots/*"))
    (home / "weights.bin").write_bytes(b"w" * 99_999 + b"v")
    (home / "config.json").unlink()
    beta = get_site_packages(prefix) / "beta" / "__init__.py"
    beta.write_text("VERSION = '6.6'\n")
    shutil.rmtree(get_site_packages(prefix) / "alpha-1.0.dist-info")
    (get_site_packages(prefix) / "alpha" / "__init__.py").write_text("import nothing")
    (snapshot / "config.json").unlink()
    (current / ".env.offline").unlink()
    (current / "payload" / "network" / "netcut.py").write_text("")
    (current / "Dockerfile.offline").write_text("FROM scratch\n")
    inodes = {path: path.stat().st_ino for path in (get_site_packages(prefix) / "beta-2.0.dist-info").iterdir()}
    done = run_installer("doctor", "--prefix", prefix, "--deep", "--json")
    assert done.returncode == 14, done.stdout
    assert json.loads(done.stdout)["error"]["code"] == 14
    critical = {finding["check"]: finding for finding in read_findings(done, "critical")}
    assert set(critical) == {"model m", "packages", "hub view", ".env.offline"}, "one line for each"
    named = {name: {Path(one["path"]).name for one in finding["files"]} for name, finding in critical.items()}
    assert named == {
        "model m": {"weights.bin", "config.json"}, "packages": {"__init__.py", "RECORD"},
        "hub view": {"config.json"}, ".env.offline": set(),
    }  # fmt: skip
    assert "alpha, beta: 2 files are not as installed: RECORD is missing, " in critical["packages"]["message"]
    assert critical["model m"]["where"] == str(home)
    assert {finding["check"] for finding in read_findings(done, "warning")} == {"payload", "Dockerfile.offline"}
    damaged = next(one for one in critical["model m"]["files"] if one["path"] == str(home / "weights.bin"))
    assert "is damaged: sha256 " in damaged["message"]
    quick = run_installer("doctor", "--prefix", prefix, "--quick")
    assert (quick.returncode, "weights.bin" in quick.stdout, "config.json is missing" in quick.stdout) == (
        14,
        False,
        True,
    )
    assert "error: 1 critical problem: model m: config.json is missing" in quick.stderr
    again = run_installer("install", small.path, "--prefix", prefix)
    assert again.returncode == 0, again.stderr
    assert (
        "beta/__init__.py its content is not what was installed: it is installed again from its wheel" in again.stderr
    )
    assert read_tree(prefix) == whole
    assert run_installer("doctor", "--prefix", prefix, "--deep").returncode == 0
    changed = [path.name for path, inode in inodes.items() if path.stat().st_ino != inode]
    assert sorted(changed) in ([], ["RECORD", "uv_cache.json"]), "what was right was not touched"


@pytest.mark.parametrize("what", ["bin/python3.11", "pyvenv.cfg", "lib64", "bin"])
def test_a_broken_interpreter_is_mended_where_it_stands(
    small: SmallBundle, run_installer: Far, prefix: Path, what: str
) -> None:
    whole, broken = read_tree(prefix), prefix / "current" / "venv" / what
    if broken.is_dir() and not broken.is_symlink():
        shutil.rmtree(broken)
    else:
        broken.unlink()
    if what == "bin/python3.11":
        broken.symlink_to("/nowhere/python3.11")
    done = run_installer("doctor", "--prefix", prefix)
    if what != "lib64":  # nothing goes through it
        assert (done.returncode, "critical  python: " in done.stdout) == (14, True), done.stdout
    done = run_installer("install", small.path, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    if what != "lib64":
        assert read_tree(prefix) == whole
    assert run_installer("doctor", "--prefix", prefix).returncode == 0


def test_a_broken_package_is_one_line_and_smoke_says_the_same(run_installer: Far, build: Build, prefix: Path) -> None:
    """The model is gone, so that its load fails, and with it some files of the package alpha."""
    assert run_installer("install", build().path, "--prefix", prefix).returncode == 0
    grant_read_access(prefix)
    gone = [path for path in get_site_packages(prefix).glob("alpha*/*") if path.name != "RECORD" and path.is_file()]
    for path in gone:
        path.unlink()
    for name in ("config.json", "weights.bin"):
        (prefix / "current" / "models" / "m" / name).unlink()
    named = [path.name for path in gone]
    done = run_installer("doctor", "--prefix", prefix)
    packages = next(line for line in done.stdout.splitlines() if line.startswith("critical  packages: "))
    assert packages.startswith(f"critical  packages: alpha: {len(named)} files are not as installed: ")
    told = json.loads(run_installer("doctor", "--prefix", prefix, "--json").stdout)["result"]["findings"]
    (finding,) = [one for one in told if one["check"] == "packages"]
    assert sorted(Path(one["path"]).name for one in finding["files"]) == sorted(named)
    smoke = run_installer("smoke", "--prefix", prefix, "--json")
    error = json.loads(smoke.stdout)["error"]
    assert smoke.returncode == 11, smoke.stdout
    assert packages.removeprefix("critical  ") in error["message"]
    assert "model m: 2 files are not as installed: config.json is missing, weights.bin is missing" in error["message"]
    assert error["hint"] == finding["hint"] == REINSTALL_HINT


@pytest.mark.usefixtures("small")
def test_nothing_live_and_what_is_not_a_release(run_installer: Far, prefix: Path, tmp_path: Path) -> None:
    done = run_installer("doctor", "--prefix", tmp_path / "none", "--json")
    assert (done.returncode, read_findings(done, "critical")[0]["message"]) == (14, "nothing is installed here")
    assert not (tmp_path / "none").exists()
    (prefix / "current").unlink()
    (prefix / "current").symlink_to("releases/9-z")
    assert "current leads to 9-z, which does not exist" in run_installer("doctor", "--prefix", prefix).stdout
    (prefix / "current").unlink()
    (prefix / "current").mkdir()
    assert "current is not a link to a release" in run_installer("doctor", "--prefix", prefix).stdout


def test_a_lost_receipt_and_a_lock_that_is_another_s(small: SmallBundle, run_installer: Far, prefix: Path) -> None:
    current = prefix / "current"
    kept = (current / "bundle.json").read_bytes()
    (current / "receipt.json").write_text("{")
    (current / "bundle.json").write_bytes(kept.replace(b'"sequence":1', b'"sequence":2'))
    done = run_installer("doctor", "--prefix", prefix, "--json")
    damaged, *others = [finding["message"] for finding in read_findings(done, "critical")]
    assert damaged.startswith("the receipt of a release is damaged: it is not JSON: ")
    assert others == [
        "its lock is that of another bundle",
    ]
    (current / "bundle.json").unlink()
    done = run_installer("doctor", "--prefix", prefix, "--json")
    assert "its lock can't be read: No such file" in read_findings(done, "critical")[1]["message"]
    assert run_installer("install", small.path, "--prefix", prefix).returncode == 0
    assert run_installer("doctor", "--prefix", prefix, "--deep").returncode == 0


@pytest.mark.usefixtures("small")
def test_warnings_alone_are_no_failure(run_installer: Far, prefix: Path) -> None:
    (prefix / "releases" / "2-bbbbbbbb" / ".work").mkdir(parents=True)
    ownership_markers.add_marker(prefix / "models" / f"m-{'2' * 12}")
    (prefix / "models" / f".m-{'2' * 12}.partial").mkdir()
    (prefix / "models" / "somebody-s own").mkdir()
    (get_site_packages(prefix) / "evil.pth").write_text("import nothing\n")
    (prefix / "current" / "models" / "m" / "weights.bin").chmod(0o600)
    done = run_installer("doctor", "--prefix", prefix)
    assert done.returncode == 0, done.stdout
    assert "warning   packages: evil.pth belongs to no wheel\n" in done.stdout
    warnings = [
        finding["message"]
        for finding in read_findings(run_installer("doctor", "--prefix", prefix, "--json"), "warning")
    ]
    assert len(warnings) == 5
    assert "somebody-s own was not made by this program" in warnings
    assert [
        message
        for message in warnings
        if message.startswith("other users can't read ") and message.endswith("weights.bin")
    ]
    assert sum("belongs to no release" in message for message in warnings) == 2


def test_quick_as_any_user_on_a_read_only_root_writes_nothing(build: Build, prefix: Path, installer: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a folder read-only and become another user")
    program = (find_public_python(), "-I", "-S", installer)
    install = [*program, "install", build().path, "--prefix", prefix]
    assert subprocess.run([str(part) for part in install], check=False, capture_output=True).returncode == 0
    grant_read_access(installer, prefix)
    read_only = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && ! touch "$1/x" 2>/dev/null && shift && exec "$@"'
    )
    before = ("unshare", "-m", "sh", "-c", read_only, "sh", prefix.parent, *make_nobody_command())
    command = [*before, *program, "doctor", "--prefix", prefix, "--quick", "--json"]
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    assert (done.returncode, read_findings(done, "critical")) == (0, []), done.stdout + done.stderr
    assert read_findings(done, "warning") == [], "nobody need write to var"
    (prefix / "current" / "models" / "m" / "config.json").chmod(0o600)
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    assert (done.returncode, read_findings(done, "critical")[0]["message"]) == (14, "this user can't read config.json")


@pytest.mark.usefixtures("small")
def test_doctor_needs_no_lock_and_reads_only(run_installer: Far, prefix: Path) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in [prefix, *prefix.rglob("*")] if path.name != "__pycache__"}

    before = stamps()
    with releases.lock_prefix(prefix):
        assert run_installer("doctor", "--prefix", prefix, "--deep").returncode == 0
    (prefix / ".lock").unlink(missing_ok=True)
    before.pop(prefix / ".lock", None)
    run_installer("doctor", "--prefix", prefix)
    after = stamps()
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {prefix}


def test_a_release_without_packages_or_a_repo_id(build: Build, run_installer: Far, prefix: Path) -> None:
    text = MANIFEST.replace("python: {{requirements: [alpha]}}\n", "").replace("repo_id: org/m, ", "")
    made = build(text=text)
    assert run_installer("install", made.path, "--prefix", prefix).returncode == 0
    done = run_installer("doctor", "--prefix", prefix, "--deep")
    assert done.returncode == 0, done.stdout
    assert "packages" not in done.stdout
    (prefix / "current" / "models" / "m").unlink()
    assert "hub view: m must be a link, but is not" in run_installer("doctor", "--prefix", prefix).stdout
    (prefix / "current" / "models" / "m").symlink_to("../../elsewhere")
    assert "must lead to " in run_installer("doctor", "--prefix", prefix).stdout
    assert run_installer("install", made.path, "--prefix", prefix).returncode == 0
    assert run_installer("doctor", "--prefix", prefix).returncode == 0

"""A bundle that is signed as it is built, and what a builder's children get to see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.programs import run_bundle
from tests.support.small_bundles import SmallBundle

SECRET = "correct horse 배터리"
WATCHED = """
import json, os, sys
from bundler.cli import main
out = open(sys.argv.pop(1), "w")
def hook(event, arguments):
    if event == "subprocess.Popen":
        executable, command, folder, environment = arguments
        known = dict(os.environ if environment is None else environment)
        out.write(json.dumps([[os.fspath(part) for part in command], known]) + "\\n")
sys.addaudithook(hook)
sys.exit(main())
"""


def test_signed_while_it_is_built(
    build: Callable[..., SmallBundle], run_installer: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    small = build()
    environment = small.environment | {"BUNDLE_KEY_PASSPHRASE": SECRET}
    told = [run_bundle("keygen", "-o", tmp_path / name, "--json", env=environment) for name in ("one", "two", "three")]
    fingerprints = [json.loads(done.stdout)["result"]["fingerprint"] for done in told]
    keys = [part for name in ("one", "two", "three") for part in ("--key", str(tmp_path / f"{name}.key"))]
    out, seen = tmp_path / "signed.tar", tmp_path / "children"
    command = ["build", str(small.manifest), "-o", str(out), "--json", "--debug", *keys]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, seen, *command], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["signed_by"] == sorted(fingerprints)
    children = [json.loads(line) for line in seen.read_text().splitlines()]
    assert any("uv" in command[0] for command, _ in children)
    assert SECRET not in seen.read_text() + done.stdout + done.stderr
    assert not any("BUNDLE_KEY_PASSPHRASE" in known for _, known in children)
    trusted = [part for name in ("one", "two", "three") for part in ("--trust", tmp_path / f"{name}.pub")]
    checked = run_installer("verify", out, *trusted, "--trust-threshold", 3)
    assert checked.returncode == 0, checked.stderr


def test_a_key_that_does_not_open_is_said_before_anything_is_built(
    build: Callable[..., SmallBundle], tmp_path: Path
) -> None:
    small = build()
    assert (
        run_bundle("keygen", "-o", tmp_path / "k", env=small.environment | {"BUNDLE_KEY_PASSPHRASE": "x"}).returncode
        == 0
    )
    out = tmp_path / "signed.tar"
    command = ["build", small.manifest, "-o", out, "--key", tmp_path / "k.key"]
    done = run_bundle(*command, env=small.environment | {"BUNDLE_KEY_PASSPHRASE": "y"})
    assert (done.returncode, "the passphrase is wrong for this key" in done.stderr) == (2, True)
    assert "resolve" not in done.stderr
    assert not out.exists()

"""The demo bundle, built, carried and installed by real parts; then used by code that knows nothing of it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundler.format.lock import lockfile
from bundler.offline.findings import REINSTALL_HINT
from tests.support.bundles import InstalledBundle
from tests.support.paths import ROOT
from tests.support.programs import require_tool, run_bundle

REPO_ID = "sentence-transformers/all-MiniLM-L6-v2"
ALIAS = "all-MiniLM-L6-v2"

CODE = f"""
import json, os, socket
from pathlib import Path
from huggingface_hub import snapshot_download
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer
texts = ["a cat", "a kitten", "interest rates"]
by_id = SentenceTransformer("{REPO_ID}").encode(texts)
by_path = SentenceTransformer(os.environ["EMBEDDING_MODEL_PATH"]).encode(texts)
model, tokenizer = AutoModel.from_pretrained("{REPO_ID}"), AutoTokenizer.from_pretrained("{REPO_ID}")
hidden = model(**tokenizer("a cat", return_tensors="pt")).last_hidden_state.mean(1)[0]
hidden = (hidden / hidden.norm()).detach().numpy()
print("told:" + json.dumps({{
    "width": int(by_id.shape[1]),
    "norms": [float((one ** 2).sum() ** 0.5) for one in by_id],
    "same": bool((by_id == by_path).all()),
    "transformers agrees": float(abs(hidden - by_id[0]).max()),
    "near": float(by_id[0] @ by_id[1]), "far": float(by_id[0] @ by_id[2]),
    "snapshot": snapshot_download("{REPO_ID}"),
    "interfaces": [name for _, name in socket.if_nameindex()],
}}))
"""


@pytest.fixture(scope="session")
def used(demo: InstalledBundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What unmodified code says in the installed environment, with .env.offline and no network but loopback."""
    script = tmp_path_factory.mktemp("app") / "app.py"
    script.write_text(CODE)
    started = 'set -a; . "$1/.env.offline"; set +a; exec "$1/venv/bin/python" "$2"'
    done = subprocess.run(
        [require_tool("unshare"), "-rn" if os.getuid() else "-n", "sh", "-c", started, "sh", demo.current, script],
        check=False, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": str(script.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("told:"))[5:]))


def test_unmodified_code_embeds_by_id_and_by_path_with_no_network(used: dict[str, Any]) -> None:
    assert used["interfaces"] == ["lo"]
    assert used["width"] == 384
    assert all(abs(norm - 1) < 1e-5 for norm in used["norms"])
    assert used["near"] > used["far"] + 0.3
    assert used["same"]
    assert used["transformers agrees"] < 1e-4


def test_one_copy_on_disk_serves_both_ways_of_loading(demo: InstalledBundle, used: dict[str, Any]) -> None:
    shared = [path for path in demo.prefix.rglob("*.safetensors") if path.is_file() and not path.is_symlink()]
    assert len({path.stat().st_ino for path in shared}) == 1
    assert shared[0].parent.parent == demo.prefix / "models"
    assert (demo.current / "models" / ALIAS / "model.safetensors").samefile(shared[0])
    assert Path(used["snapshot"], "model.safetensors").samefile(shared[0])


def test_the_hub_view_is_what_the_libraries_look_for(demo: InstalledBundle) -> None:
    repo = demo.current / "hub" / ("models--" + REPO_ID.replace("/", "--"))
    commit = (repo / "refs" / "main").read_bytes().decode()
    assert len(commit) == 40
    assert sorted(path.name for path in repo.iterdir()) == [".no_exist", "refs", "snapshots"]
    assert (repo / ".no_exist" / commit / "adapter_config.json").read_bytes() == b""
    for link in (repo / "snapshots" / commit).rglob("*"):
        assert link.is_dir() or (link.is_symlink() and not link.readlink().is_absolute() and link.exists())


def test_the_smoke_load_says_what_it_proved(demo: InstalledBundle) -> None:
    (proof,) = demo.result["result"]["smoke"]
    assert (proof["ok"], proof["alias"], proof["width"]) == (True, ALIAS, 384)
    assert abs(proof["norm"] - 1) < 1e-3
    assert proof["network"]["cut"] == "namespace"
    assert proof["network"]["interfaces"] == ["lo"]
    assert all(one["nearer"] > one["farther"] for one in proof["closer"])
    assert proof["load_seconds"] > 0 < proof["peak_rss_bytes"] < 4 << 30
    assert {"torch", "transformers", "sentence-transformers"} <= proof["versions"].keys()
    assert json.loads((demo.current / "smoke.json").read_bytes()) == [proof]


def test_a_service_user_can_read_everything_whatever_the_umask_was(demo: InstalledBundle) -> None:
    """All but the lock: who can open it can keep every installer out."""
    for path in set(demo.prefix.rglob("*")) - {demo.prefix / ".lock"}:
        if re.search(r"\.pyc\.\d+$", path.name):
            continue  # a Python of another test is compiling
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            assert mode & 0o055 == 0o055, path
        elif stat.S_ISREG(mode):
            assert mode & 0o044 == 0o044, path


def test_placed_models_have_one_time_and_one_mode(demo: InstalledBundle) -> None:
    (home,) = (demo.prefix / "models").iterdir()
    for path in home.rglob("*"):
        if path.is_file():
            assert (path.stat().st_mtime, path.stat().st_mode & 0o777) == (lockfile.ZIP_EPOCH, 0o644)


def test_nothing_of_the_work_is_left(demo: InstalledBundle) -> None:
    release = demo.current.resolve()
    assert not (release / ".work").exists()
    assert not list(demo.prefix.rglob("*.partial"))
    assert not list(release.rglob("*.whl"))


def test_the_receipt_and_the_lock_say_what_is_installed(demo: InstalledBundle) -> None:
    receipt = json.loads((demo.current / "receipt.json").read_bytes())
    locked = lockfile.read_lock((demo.current / "bundle.json").read_bytes(), "")
    assert receipt == demo.result["result"]
    assert (receipt["release"], receipt["digest"]) == (locked.release_name, locked.digest)
    assert demo.current.readlink() == Path("releases") / locked.release_name


def test_the_environment_holds_exactly_the_locked_packages(demo: InstalledBundle) -> None:
    locked = lockfile.read_lock((demo.current / "bundle.json").read_bytes(), "")
    code = "import importlib.metadata as m, json; print(json.dumps(sorted([d.name.lower().replace('_','-').replace('.','-'), d.version] for d in m.distributions())))"
    done = subprocess.run([demo.python, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == sorted([package.name, package.version] for package in locked.python.packages)


def test_inspect_and_verify_say_what_the_bundle_holds(demo: InstalledBundle) -> None:
    told = json.loads(run_bundle("inspect", demo.bundle, "--json").stdout)["result"]
    assert (told["name"], told["version"], told["signed_by"], told["rehearsed"]) == ("demo", "1.0", [], True)
    assert told["target"]["platform"] == "linux-x86_64"
    assert [model["alias"] for model in told["models"]] == [ALIAS]
    assert any(wheel["name"] == "torch" for wheel in told["wheels"])
    assert told["artifacts"]["count"] > 50
    verified = run_bundle("verify", demo.bundle)
    assert verified.returncode == 0
    assert "every byte matches the lock" in verified.stdout


def test_smoke_proves_the_live_release_again(demo: InstalledBundle) -> None:
    done = subprocess.run(
        [require_tool("python3.11"), "-I", demo.installer, "smoke", "--prefix", demo.prefix, "--json"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["smoke"][0]["ok"]


def test_a_broken_package_has_one_diagnosis(demo: InstalledBundle, tmp_path: Path) -> None:
    """numpy can't be imported, which libraries tell of in many ways; smoke and doctor tell of its file, and mend it."""
    broken = next((demo.current / "venv").glob("lib/*/site-packages/numpy/_core/numeric.py"))
    empty = tmp_path / "empty"
    empty.touch()
    # An empty file takes its place in a mount namespace alone: other tests use the same demo at the same time.
    hide = [
        require_tool("unshare"),
        "-m",
        "sh",
        "-c",
        'mount --bind "$1" "$2" && shift 2 && exec "$@"',
        "sh",
        empty,
        broken,
    ]
    said = {
        verb: subprocess.run(
            [*map(str, hide), require_tool("python3.11"), "-I", demo.installer, verb, "--prefix", demo.prefix],
            check=False, capture_output=True, text=True,
        )
        for verb in ("smoke", "doctor")
    }  # fmt: skip
    assert {verb: done.returncode for verb, done in said.items()} == {"smoke": 11, "doctor": 14}
    assert said["doctor"].stdout.count("critical  ") == 1
    assert "critical  packages: numpy: numeric.py has 0 bytes and must have " in said["doctor"].stdout
    assert "packages: numpy: numeric.py has 0 bytes and must have " in said["smoke"].stderr
    assert all(REINSTALL_HINT in done.stderr for done in said.values())
    assert "build it again" not in said["smoke"].stderr


def test_the_dockerfile_at_the_top_is_the_one_that_install_renders(demo: InstalledBundle) -> None:
    """But for the bundle's digest, which is another with each build."""
    rendered = (demo.current / "Dockerfile.offline").read_text(encoding="utf-8")
    digest = lockfile.read_lock((demo.current / "bundle.json").read_bytes(), "").digest
    assert (ROOT / "Dockerfile.offline").read_text(encoding="utf-8") == rendered.replace(digest, "0" * 64)

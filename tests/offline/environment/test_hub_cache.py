"""The hub view as the real clients read it: with the network cut, from links into the placed models."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bundler.format.lock.lockfile import Lock
from bundler.offline.environment import hub_cache
from bundler.offline.prefix.releases import Release
from tests.support.bundles import make_lock
from tests.support.programs import install_packages, require_tool
from tests.support.shared import Shared

BUILD = "build/torch-cpu"
METADATA = {"id": "flash_1", "name": "flash", "version": 1, "license": "MIT", "python-depends": []}
CONTENTS = {
    "bundle.pyz": b"x",
    f"models/flash/{BUILD}/metadata.json": json.dumps(METADATA | {"backend": {"type": "cpu"}}).encode(),
    f"models/flash/{BUILD}/__init__.py": b"def forward(): return 42\n",
    "models/same/config.json": b"{}",
}
SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("org/flash", repo_type=sys.argv[1], revision=sys.argv[2] or None, local_files_only=True))
"""
KERNEL = "from kernels import get_kernel; print(get_kernel('org/flash', version=1, backend='cpu').forward())"


def make_kernel_lock(same: str) -> Lock:
    """A kernel, and a model that answers to another id."""
    flash, other = make_lock(CONTENTS).models
    flash = dataclasses.replace(flash, source="kernel:org/flash@x", repo_id="org/flash", revisions=("v1",))
    return make_lock(CONTENTS, models=(flash, dataclasses.replace(other, repo_id=same)))


def place_models(folder: Path, locked: Lock) -> Release:
    """The placed models of a lock and the hub view of them."""
    release = Release(prefix=folder, name=locked.release_name)
    for model in locked.models:
        for artifact in locked.list_files(model):
            place = release.shared_models / model.host_folder / artifact.path[len(model.folder) :]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(CONTENTS[artifact.path])
    hub_cache.create_cache(release, locked)
    return release


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return place_models(tmp_path / "opt", make_kernel_lock("org/same"))


@pytest.fixture(scope="module")
def kernels(shared: Shared) -> Path:
    """A folder with the real package ``kernels``; what it needs besides is here already."""
    return shared.get_or_make("kernels", partial(install_packages, "--no-deps", "kernels==0.17.2", "tomlkit==0.15.2"))


def run(release: Release, code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code with this environment's client of the hub, the network cut and the view as its cache."""
    cut = [require_tool("unshare"), "-rn" if os.getuid() else "-n"]
    told = {"PATH": os.environ["PATH"], "HF_HUB_CACHE": str(release.path / "hub"), "HF_HUB_OFFLINE": "1"} | variables
    command = [*cut, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=told)


@pytest.mark.parametrize("revision", ["v1", ""])
@pytest.mark.parametrize("repo_type", ["kernel", "model"])
def test_the_client_finds_a_kernel_as_what_it_takes_it_for(release: Release, repo_type: str, revision: str) -> None:
    done = run(release, SNAPSHOT, repo_type, revision)
    assert done.returncode == 0, done.stderr
    snapshot = Path(done.stdout.strip())
    assert snapshot.is_relative_to(release.path / "hub" / f"{repo_type}s--org--flash")
    assert (snapshot / BUILD / "__init__.py").read_bytes() == CONTENTS[f"models/flash/{BUILD}/__init__.py"]


def test_the_package_kernels_loads_what_was_carried(release: Release, kernels: Path) -> None:
    found = run(release, KERNEL, PYTHONPATH=str(kernels))
    assert found.stdout == "42\n", found.stderr
    as_model = release.path / "hub" / "models--org--flash"
    alone = release.prefix / "alone"
    alone.mkdir()
    (alone / as_model.name).symlink_to(as_model)
    without = run(release, KERNEL, PYTHONPATH=str(kernels), HF_HUB_CACHE=str(alone))
    assert "Cannot find a local snapshot for org/flash" in without.stderr, "which is what kernels-- is for"


def test_a_model_of_the_same_id_keeps_its_folder(tmp_path: Path) -> None:
    locked = make_kernel_lock("org/flash")
    release = place_models(tmp_path / "opt", locked)
    assert [locked.list_hub_folders(model) for model in locked.models] == [
        ("kernels--org--flash",),
        ("models--org--flash",),
    ]
    assert not hub_cache.find_problems(release, locked)
    assert run(release, SNAPSHOT, "model", "").stdout.strip().endswith(locked.models[1].commit)
    assert run(release, SNAPSHOT, "kernel", "v1").stdout.strip().endswith(locked.models[0].commit)

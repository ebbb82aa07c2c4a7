"""A base image made from Debian packages, and bundles that carry it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.programs import require_tool, run_bundle

SUITE = "bookworm"
"""The release of Debian whose Python is that of the demo's target."""

PACKAGES = "python3,python3-venv,ca-certificates"

KEPT = f"test-base-{SUITE}-1.oci.tar"

BASE = "localhost/test-base:1"

MANIFEST = """\
name: small
version: "{version}"
target: {{python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}}
python: {{requirements: [alpha=={alpha}]}}
models:
  - {{path: vendor, alias: m, repo_id: org/m, loader: files}}
  - {{path: vendor/sub, alias: n, loader: files}}
app: {{path: src, entrypoint: [python, -m, myapp]}}
env: {{MODEL_PATH: "{{model:m}}"}}
image: {{base: "{base}", user: 1234}}
sequence: 1
"""


def _storage(driver: str, told: dict[str, str], factory: pytest.TempPathFactory) -> Path | None:
    """A folder with a storage of this driver, or None where the kernel has none."""
    folder = factory.mktemp(f"storage-{driver}")
    conf = folder / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    tried = told | {"CONTAINERS_STORAGE_CONF": str(conf)}
    done = subprocess.run([require_tool("buildah"), "info"], check=False, capture_output=True, env=tried)
    return folder if done.returncode == 0 else None


def _make(kept: Path, work: Path, engine: dict[str, str]) -> None:
    root = work / "root"
    proxy = _said("apt-config", "dump", "--format", "%v", "Acquire::http::Proxy").strip()
    told = os.environ | ({"http_proxy": proxy} if proxy and proxy != "DIRECT" else {})
    command = [require_tool("debootstrap"), "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), _mirror()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=told)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    for litter in ("var/cache/apt/archives", "var/lib/apt/lists"):
        for path in (root / litter).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    container = run_buildah(engine, "from", "scratch").strip()
    run_buildah(engine, "add", "--quiet", container, str(root), "/")
    run_buildah(engine, "commit", "--quiet", "--rm", container, BASE)
    kept.parent.mkdir(parents=True, exist_ok=True)
    run_buildah(engine, "push", "--quiet", BASE, f"oci-archive:{work}/base.tar:{BASE}")
    shutil.rmtree(root)
    shutil.copyfile(work / "base.tar", kept.with_suffix(".partial"))
    kept.with_suffix(".partial").replace(kept)


def _mirror() -> str:
    """Where this machine's apt gets Debian from."""
    listed = _said(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"
    )
    for line in listed.splitlines():
        uri, codename, component = line.split(" ")
        if component == "main" and re.fullmatch(rf"{SUITE}", codename):
            return uri
    pytest.fail(f"apt here knows no mirror of Debian {SUITE}: {listed!r}")


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run_buildah(engine: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [require_tool("buildah"), *arguments], check=False, capture_output=True, text=True, env=engine
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True, slots=True)
class ImageBundles:
    """Builds small bundles whose base comes from a registry on loopback, and bakes them."""

    folder: Path
    base: str
    online: dict[str, str]

    def build(self, version: str, alpha: str) -> Path:
        path = self.folder / f"small-{version}.bundle.tar"
        manifest = self.folder / "small.yaml"
        manifest.write_text(MANIFEST.format(version=version, alpha=alpha, base=self.base))
        done = run_bundle("build", "--no-rehearse", manifest, "-o", path, env=self.online)
        assert done.returncode == 0, done.stderr
        return path

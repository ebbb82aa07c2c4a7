"""A base image made here, a storage for buildah that goes again, and small bundles that carry the base."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.online.transfer.cache import FileCache
from tests.support.images import BASE, KEPT, ImageBundles, _make, _storage, run_buildah
from tests.support.programs import require_tool
from tests.support.servers import registries
from tests.support.wheelmaking import make_wheel


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which buildah keeps its images in a folder of the tests."""
    if os.getuid() != 0:
        pytest.skip("buildah in chroot isolation needs root")
    told = {name: value for name, value in os.environ.items() if name != "STORAGE_DRIVER"}
    # vfs works everywhere, and copies whole layers: minutes for the demo's
    folder = next(folder for driver in ("overlay", "vfs") if (folder := _storage(driver, told, tmp_path_factory)))
    yield told | {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed([one for one in mounted if Path(one).is_relative_to(folder)]):
        subprocess.run([require_tool("umount"), place], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def base(engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian with a Python, in buildah's storage; made once for this machine and kept on the shelf."""
    kept = FileCache.from_environment().root / KEPT
    if not kept.exists():
        _make(kept, tmp_path_factory.mktemp("base"), engine)
    run_buildah(engine, "pull", "--quiet", f"oci-archive:{kept}")
    run_buildah(engine, "inspect", "--type", "image", BASE)
    return BASE


@pytest.fixture(scope="session")
def image_bundles(
    base: str, engine: dict[str, str], tool_wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageBundles]:
    folder = tmp_path_factory.mktemp("bakery")
    files = {"vendor/w.bin": b"w" * 300_000, "vendor/config.json": b"{}", "vendor/sub/w.bin": b"w" * 300_000}
    files |= {
        "src/myapp/__main__.py": b"import alpha, os; print('alpha', alpha.VERSION, os.environ['MODEL_PATH'], os.getcwd())"
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    wheels = folder / "wheels"
    shutil.copytree(tool_wheels, wheels)
    for version in ("1.0", "1.1"):
        make_wheel(wheels, "alpha", version)
    told = {name: value for name, value in engine.items() if not name.startswith(("PIP_", "UV_"))}
    told |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri()}
    told |= {"BUNDLE_CACHE": str(folder / "shelf")}
    with registries.real(folder / "registry") as host:
        run_buildah(engine, "push", "--quiet", "--tls-verify=false", base, f"docker://{host}/team/base:1")
        yield ImageBundles(folder, f"{host}/team/base:1", told)

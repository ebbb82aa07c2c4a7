"""Small bundles by the real route: real uv and pip, wheels made here, models that are a few bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bundler.format.hashing import compute_sha256
from tests.support.programs import run_bundle
from tests.support.shared import Shared
from tests.support.small_bundles import MANIFEST, SmallBundle
from tests.support.wheelmaking import make_wheel


@pytest.fixture(scope="session")
def wheels(tool_wheels: Path, shared: Shared) -> Path:
    """A find-links folder: the real pip and uv, and a small application in two versions with what it needs."""

    def make(folder: Path) -> None:
        shutil.copytree(tool_wheels, folder, dirs_exist_ok=True)
        make_wheel(folder, "alpha", "1.0", requires=["beta", "never; sys_platform == 'win32'"])
        make_wheel(folder, "beta", "2.0")

    return shared.get_or_make("wheels", make)


@pytest.fixture
def builder_env(wheels: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a builder whose pip knows one folder and no index."""
    told = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return told | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": wheels.as_uri(),
        "BUNDLE_CACHE": str(tmp_path / "shelf"),
    }


@pytest.fixture
def build(builder_env: dict[str, str], shared: Shared, tmp_path: Path) -> Callable[..., SmallBundle]:
    """Builds a small bundle of a version whose model holds the given files: once, and then gives copies of it."""

    def built(version: str = "1", files: Mapping[str, bytes] | None = None, text: str = MANIFEST) -> SmallBundle:
        folder = tmp_path / f"online {version}"
        files = files or {"config.json": b"{}", "weights.bin": b"w" * 100_000}
        for name, data in files.items():
            (folder / "vendor" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "vendor" / name).write_bytes(data)
        manifest = folder / "small.yaml"
        manifest.write_text(text.format(version=version, sequence=version.partition(".")[0]))

        def make(place: Path) -> None:
            command = ("build", "--no-rehearse", manifest, "-o", place / "small.tar", "--quiet")
            done = run_bundle(*command, env=builder_env | {"BUNDLE_CACHE": str(place / "shelf")})
            assert done.returncode == 0, done.stderr

        digests = {name: compute_sha256(data) for name, data in files.items()}
        key = compute_sha256(f"{manifest.read_text()} {sorted(digests.items())}".encode())
        place = shared.get_or_make(f"small {key}", make)
        path = tmp_path / f"small-{version}.bundle.tar"
        shutil.copyfile(place / "small.tar", path)
        shutil.copytree(place / "shelf", tmp_path / "shelf", copy_function=_link, dirs_exist_ok=True)
        return SmallBundle(path, manifest, builder_env)

    return built


def _link(source: str, target: str) -> None:
    """What stands on a shelf is never changed, so two may share it."""
    if not Path(target).exists():
        Path(target).hardlink_to(source)

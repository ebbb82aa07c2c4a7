"""Fixtures of all tests: small bundles, the demo, the installer, and the command line in this process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundler import cli
from bundler.format.tar import archive
from bundler.progress import RecordingReporter
from tests.support import forks
from tests.support.bundles import SMALL, InstalledBundle, PackedBundle, make_lock
from tests.support.forks import Program
from tests.support.paths import MODELS, ROOT
from tests.support.programs import (
    INSTALLER,
    Run,
    find_public_python,
    install_packages,
    require_tool,
    run_bundle,
    run_scripts,
)
from tests.support.shared import Shared

pytest_plugins = ["tests.support.signing"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_configure() -> None:
    """What tests start must hear Ctrl-C, also where they run in the background, and keep to one core each."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Read when the client of the hub is imported: no test may meet the token of who runs it.
    os.environ["HF_TOKEN_PATH"] = os.devnull
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def pytest_unconfigure() -> None:
    forks.close()


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., PackedBundle]:
    """Writes a bundle of given files and gives it back."""

    def packed(
        contents: Mapping[str, bytes] | None = None, name: str = "test.bundle.tar", **changes: Any
    ) -> PackedBundle:
        contents = contents or SMALL
        folder = tmp_path / f"contents of {name}"
        for path, data in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        locked = make_lock(contents, **changes)
        archive.write_bundle(tmp_path / name, locked, lambda artifact: folder / artifact.path, RecordingReporter())
        return PackedBundle(tmp_path / name, locked, folder)

    return packed


@pytest.fixture(scope="session")
def installer(shared: Shared) -> Path:
    """The installer, as it is carried apart from any bundle."""

    def make(folder: Path) -> None:
        assert run_bundle("installer", "-o", folder / "bundle-installer.pyz").returncode == 0

    return shared.get_or_make("installer", make) / "bundle-installer.pyz"


@pytest.fixture(scope="session")
def installer_program(installer: Path) -> Program:
    """The installer as an isolated host runs it: a bare Python, no site packages."""
    return Program(python=(require_tool("python3.11"), "-I", "-S"), path=installer, modules=INSTALLER)


@pytest.fixture
def run_installer(installer_program: Program) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the installer as an isolated host does; ``before`` are words that go before the command."""

    def run(
        *arguments: object, before: tuple[object, ...] = (), program: Path = installer_program.path, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        if not before and program == installer_program.path:
            return installer_program.run(*arguments, **options)
        command = [*map(str, before), *installer_program.python, str(program), *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, **({"text": True} | options))

    return run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What all processes of this run have in common."""
    return Shared(tmp_path_factory)


@pytest.fixture(scope="session")
def demo(shared: Shared) -> InstalledBundle:
    """The demo, built and installed with its own installer, umask 077, and a prefix that holds spaces and letters.

    Its Python is one that other users may run too.
    """

    def make(folder: Path) -> None:
        packed = folder / "demo.bundle.tar"
        built = run_bundle("build", ROOT / "manifests" / "demo.yaml", "-o", packed, "--quiet")
        assert built.returncode == 0, built.stderr
        subprocess.run([require_tool("tar"), "xf", packed, "-C", folder, "bundle.pyz"], check=True)
        command = ["-I", "-S", folder / "bundle.pyz", "install", packed, "--prefix", folder / "opt 데모", "--json"]
        done = subprocess.run(
            [find_public_python(), *map(str, command)], check=False, capture_output=True, text=True, umask=0o077
        )
        assert done.returncode == 0, done.stderr
        (folder / "told.json").write_text(done.stdout, encoding="utf-8")

    folder = shared.get_or_make("demo", make)
    told = json.loads((folder / "told.json").read_bytes())
    return InstalledBundle(folder / "demo.bundle.tar", folder / "bundle.pyz", folder / "opt 데모", told)


@pytest.fixture(scope="session")
def payload_python(demo: InstalledBundle) -> str:
    """The interpreter of the environment that the installer made for the demo."""
    return str(demo.python)


@pytest.fixture(scope="session")
def offline() -> dict[str, str]:
    """The environment in which the installer starts a smoke load."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@pytest.fixture(scope="session")
def tiny_models(payload_python: str, offline: dict[str, str], shared: Shared) -> Path:
    """A folder of good tiny models; do not change them, take a copy."""

    def make(out: Path) -> None:
        scripts = [(MODELS / "tiny_models.py", out), (MODELS / "tiny_plain.py", out, out / "raw")]
        run_scripts(payload_python, offline, *scripts)

    return shared.get_or_make("tiny", make)


@pytest.fixture(scope="session")
def tool_wheels(shared: Shared) -> Path:
    """A folder with the wheels of the real pip and uv, which every bundle with packages carries."""

    def make(folder: Path) -> None:
        command = ["pip", "download", "--quiet", "--no-deps", "pip", "uv", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", *command], check=True)

    return shared.get_or_make("tools", make)


@pytest.fixture(scope="session")
def libraries(shared: Shared) -> Path:
    """A folder with the real tiktoken and NLTK and what they need."""
    return shared.get_or_make("libraries", partial(install_packages, "tiktoken==0.14.0", "nltk==3.10.4"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command line, in this process: its exit code and what --json prints."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def ran(*arguments: object, stdin: bytes = b"") -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["bundle", *map(str, arguments), "--json", "--quiet"])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(stdin))))
        code = cli.main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return code, dict(json.loads(said.out))

    yield ran
    for number, handler in kept.items():
        signal.signal(number, handler)

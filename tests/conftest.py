"""What tests of several rooms share: locks and bundles small enough to take apart."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundler import cli
from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import Artifact, Model
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.target import Target
from bundler.format.tar import archive, tar_layout
from bundler.progress import RecordingReporter
from tests.support import forks
from tests.support.forks import Program
from tests.support.shared import Shared

pytest_plugins = ["tests.support.signing"]

ROOT = Path(__file__).parent.parent
TARGET = Target(python="3.11", platform="linux-x86_64", libc="glibc-2.17", accelerator="cpu")
MODELS = ROOT / "tests" / "support" / "models"
"""Where the scripts stand that make tiny models."""
INSTALLER = ("bundler.cli", "bundler.offline.install", "bundler.offline.prefix.removal", "filelock", "jinja2")
"""Modules of ``bundle.pyz`` that its runs import; they are compiled each time that they come from a zip."""
SMALL = {"bundle.pyz": b"#!/usr/bin/env python3\n", "models/m/config.json": b"{}", "models/m/w.bin": b"w" * 5000}


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


def kind_of(path: str) -> entries.ArtifactKind:
    """What an artifact is, from where it stands."""
    return next(kind for kind, home in entries.KIND_FOLDERS.items() if path == home or path.startswith(home))


def lock_of(contents: Mapping[str, bytes], **changes: Any) -> Lock:
    """A lock over these files, with a model for each folder below ``models/``."""
    paths = sorted(contents, key=lambda path: list(entries.KIND_FOLDERS).index(kind_of(path)))
    artifacts = tuple(
        Artifact(
            path=path,
            kind=kind_of(path),
            size=len(contents[path]),
            sha256=compute_sha256(contents[path]),
            origin="a test",
        )
        for path in paths
    )
    aliases = dict.fromkeys(path.split("/")[1] for path in paths if path.startswith("models/"))
    models = []
    for alias in aliases:
        start = f"models/{alias}/"
        digest = lockfile.compute_files_digest(
            (a.sha256, a.path[len(start) :]) for a in artifacts if a.path.startswith(start)
        )
        models.append(Model(alias=alias, source="path:test", commit=digest[:40], loader="files", digest=digest))
    first = Lock(
        name="test",
        version="1",
        sequence=1,
        created_by="a test",
        manifest_sha256=Sha256("0" * 64),
        target=TARGET,
        models=tuple(models),
        image=changes.get("image", entries.Image()),
        head_size=lockfile.HEAD_ALIGNMENT,
        artifacts=artifacts,
    )
    head_size = tar_layout.compute_head_size(
        len(first.canonical_bytes) + 100, len(first.make_sums()), lockfile.HEAD_ALIGNMENT
    )
    return lockfile.replace_fields(first, **({"head_size": head_size} | changes))


def bytes_of(locked: Lock, contents: Mapping[str, bytes], signature: bytes | None = None) -> bytes:
    """The bundle of a lock, in memory, whether or not the contents are what it says."""
    plan = tar_layout.compute_layout(locked, signature)
    data = bytearray(plan.size)
    data[: len(plan.head_bytes)] = plan.head_bytes
    for member in plan.iter_artifacts():
        data[member.header_offset : member.content_offset] = member.make_header()
        if not member.link:
            data[member.content_offset : member.end] = contents[member.name].ljust(member.size, b"\0")[: member.size]
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle that was written, and what it was written from."""

    path: Path
    lock: Lock
    contents: Path


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Packed]:
    """Writes a bundle of given files and gives it back."""

    def packed(contents: Mapping[str, bytes] | None = None, name: str = "test.bundle.tar", **changes: Any) -> Packed:
        contents = contents or SMALL
        folder = tmp_path / f"contents of {name}"
        for path, data in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        locked = lock_of(contents, **changes)
        archive.write_bundle(tmp_path / name, locked, lambda artifact: folder / artifact.path, RecordingReporter())
        return Packed(tmp_path / name, locked, folder)

    return packed


def tool(name: str) -> str:
    """A program that a test needs; fails where it is missing, since CI installs it."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not on this machine; .ci/run installs it (see docs/developing.md)")
    return found


def as_nobody() -> tuple[str, ...]:
    """What goes before a command to run it as a user without rights; nothing where the tests run as one."""
    return (tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups") if os.getuid() == 0 else ()


def python_of_anyone() -> str:
    """A Python 3.11 that every user may run; .ci/run installs the system's."""
    for place in (shutil.which("python3.11"), "/usr/bin/python3.11"):
        # setpriv itself may still start what that user may not: a shell of the user's own asks
        asked = [*as_nobody(), "sh", "-c", '"$0" -c ""', str(place)]
        if place and not subprocess.run(asked, check=False, capture_output=True).returncode:
            return place
    pytest.fail("no Python 3.11 here can be run by other users; .ci/run installs the system's")


def open_to_all(*files: Path) -> None:
    """Let other users reach these files through the folders above them."""
    for path in {parent for file in files for parent in [file, *file.parents]} - {Path("/")}:
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


@dataclass(frozen=True, slots=True)
class Installed:
    """The demo bundle and a prefix that it was installed into, once for the whole run."""

    bundle: Path
    installer: Path
    prefix: Path
    told: dict[str, Any]

    @property
    def current(self) -> Path:
        return self.prefix / "current"

    @property
    def python(self) -> Path:
        return self.current / "venv" / "bin" / "python"


_BUNDLE = Program(
    python=(sys.executable,),
    path=Path(sys.executable).with_name("bundle"),
    modules=("bundler.cli", "bundler.online.build", "bundler.online.rehearsal", "cryptography.fernet"),
)


def bundle(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does."""
    return _BUNDLE.run(*arguments, **options)


@pytest.fixture(scope="session")
def installer(shared: Shared) -> Path:
    """The installer, as it is carried apart from any bundle."""

    def make(folder: Path) -> None:
        assert bundle("installer", "-o", folder / "bundle-installer.pyz").returncode == 0

    return shared.made("installer", make) / "bundle-installer.pyz"


@pytest.fixture(scope="session")
def carried(installer: Path) -> Program:
    """The installer as an isolated host runs it: a bare Python, no site packages."""
    return Program(python=(tool("python3.11"), "-I", "-S"), path=installer, modules=INSTALLER)


@pytest.fixture
def far(carried: Program) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the installer as an isolated host does; ``before`` are words that go before the command."""

    def run(
        *arguments: object, before: tuple[object, ...] = (), program: Path = carried.path, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        if not before and program == carried.path:
            return carried.run(*arguments, **options)
        command = [*map(str, before), *carried.python, str(program), *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, **({"text": True} | options))

    return run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What all processes of this run have in common."""
    return Shared(tmp_path_factory)


@pytest.fixture(scope="session")
def demo(shared: Shared) -> Installed:
    """The demo, built and installed with its own installer, umask 077, and a prefix that holds spaces and letters.

    Its Python is one that other users may run too.
    """

    def make(folder: Path) -> None:
        packed = folder / "demo.bundle.tar"
        built = bundle("build", ROOT / "manifests" / "demo.yaml", "-o", packed, "--quiet")
        assert built.returncode == 0, built.stderr
        subprocess.run([tool("tar"), "xf", packed, "-C", folder, "bundle.pyz"], check=True)
        command = ["-I", "-S", folder / "bundle.pyz", "install", packed, "--prefix", folder / "opt 데모", "--json"]
        done = subprocess.run(
            [python_of_anyone(), *map(str, command)], check=False, capture_output=True, text=True, umask=0o077
        )
        assert done.returncode == 0, done.stderr
        (folder / "told.json").write_text(done.stdout, encoding="utf-8")

    folder = shared.made("demo", make)
    told = json.loads((folder / "told.json").read_bytes())
    return Installed(folder / "demo.bundle.tar", folder / "bundle.pyz", folder / "opt 데모", told)


@pytest.fixture(scope="session")
def payload_python(demo: Installed) -> str:
    """The interpreter of the environment that the installer made for the demo."""
    return str(demo.python)


@pytest.fixture(scope="session")
def offline() -> dict[str, str]:
    """The environment in which the installer starts a smoke load."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@pytest.fixture(scope="session")
def tiny(payload_python: str, offline: dict[str, str], shared: Shared) -> Path:
    """A folder of good tiny models; do not change them, take a copy."""

    def make(out: Path) -> None:
        scripts = [(MODELS / "tiny_models.py", out), (MODELS / "tiny_plain.py", out, out / "raw")]
        run_scripts(payload_python, offline, *scripts)

    return shared.made("tiny", make)


_EACH = """
import json, runpy, sys
for argv in json.loads(sys.argv[1]):
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
"""


def run_scripts(python: str, environment: dict[str, str], *scripts: tuple[Path, ...]) -> None:
    """Run scripts that make models, each with its folders, in one process: they import the same libraries."""
    command = [python, "-I", "-c", _EACH, json.dumps([[str(path) for path in script] for script in scripts])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def tools(shared: Shared) -> Path:
    """A folder with the wheels of the real pip and uv, which every bundle with packages carries."""

    def make(folder: Path) -> None:
        command = ["pip", "download", "--quiet", "--no-deps", "pip", "uv", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", *command], check=True)

    return shared.made("tools", make)


Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="session")
def libraries(shared: Shared) -> Path:
    """A folder with the real tiktoken and NLTK and what they need."""
    return shared.made("libraries", partial(install_packages, "tiktoken==0.14.0", "nltk==3.10.4"))


def install_packages(*arguments: str | Path) -> None:
    """Install packages with pip into the folder that is the last argument."""
    *packages, folder = map(str, arguments)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *packages], check=True)


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

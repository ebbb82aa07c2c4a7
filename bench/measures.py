"""What the benchmark measures, each against its yardstick."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from bench.results import Row
from bundler.format.lock.lockfile import Lock
from bundler.format.tar import archive
from bundler.online.transfer.context import BuildContext
from bundler.progress import RecordingReporter, Stage

BIN = Path(sys.executable).parent
MIB = 1 << 20


class MeasureError(Exception):
    """A program that is measured failed."""


@dataclass(slots=True)
class Timed(RecordingReporter):
    """A report that keeps how long each stage took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, title: str, total: int = 0) -> Stage:
        return _Watch(self.seconds, title)


class _Watch(AbstractContextManager["_Watch"]):
    def __init__(self, kept: dict[str, float], title: str) -> None:
        self._kept, self._title, self._start = kept, title, time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept[self._title] = time.perf_counter() - self._start

    def advance(self, count: int) -> None:
        """Only the time is kept."""

    def set_phase(self, words: str, read: int = 0) -> None:
        """Only the time is kept."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ran: wall seconds, and the memory of its largest process in bytes."""

    seconds: float
    rss: int


def program(*command: str | Path, folder: Path | None = None, environment: dict[str, str] | None = None) -> Ran:
    """Run a program to its end. Raises MeasureError when it fails, OSError when it can't be started."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        child = subprocess.Popen(
            [os.fspath(part) for part in command], stdout=said, stderr=said, stdin=subprocess.DEVNULL,
            env=os.environ | (environment or {}), cwd=folder,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise MeasureError(f"{command[0]} ended with {child.returncode}: {said.read().decode()[-3000:]}")
    return Ran(took, usage.ru_maxrss * 1024)


@contextmanager
def disk_peak(folder: Path) -> Iterator[list[int]]:
    """The most bytes that the disk of ``folder`` held above the start while the block ran, sampled."""
    base, peak, stop = shutil.disk_usage(folder).used, [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], shutil.disk_usage(folder).used - base)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def seconds(act: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def hash_alone(files: Sequence[Path]) -> None:
    """The yardstick: the same bytes once through hashlib, on one core."""
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def median(values: Sequence[float]) -> str:
    """A median in seconds, for the last column."""
    return f"{statistics.median(values):.2f} s"


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def resolving(folder: Path, asked: Path, rounds: int) -> Iterator[Row]:
    """The lock of the demo's packages against pip-compile, both with empty caches and both with full ones."""
    wanted = folder / "requirements.in"
    wanted.write_text("sentence-transformers\ntorch==2.13.0\n")
    alone = folder / "packages.yaml"
    alone.write_text(
        "\n".join(line for line in asked.read_text().splitlines() if not line.startswith("models:")) + "\n"
    )
    for state, repeats in (("empty", 1), ("full", rounds)):
        ours, theirs = [], []
        for _ in range(repeats):
            caches = {
                "UV_CACHE_DIR": str(folder / "uv"),
                "PIP_CACHE_DIR": str(folder / "pip"),
                "BUNDLE_CACHE": str(folder / "shelf"),
            }
            ours.append(program(BIN / "bundle", "lock", alone, "-o", folder / "lock.json", environment=caches).seconds)
            theirs.append(
                program(
                    BIN / "pip-compile", "-q", "--generate-hashes", "--cache-dir", folder / "pip-tools", "-o", folder / "out.txt",
                    wanted, environment=caches,
                ).seconds
            )  # fmt: skip
            (folder / "out.txt").unlink()
        faster = ratio(theirs, ours)
        detail = f"pip-compile {median(theirs)}, bundle lock with every digest and size {median(ours)}"
        yield Row(f"pip-compile / lock, {state} caches", faster, "×", "≥ 20", faster >= 20, detail)


def packing(folder: Path, locked: Lock, shop: BuildContext, rounds: int) -> list[Row]:
    """Pack, and verify on every core, against hashing the same bytes on one."""
    contents = [shop.require_path(artifact) for artifact in locked.artifacts]
    bundle = folder / "again.bundle.tar"
    hashed, packed, synced, whole, verified = [], [], [], [], []
    for _ in range(rounds):
        bundle.unlink(missing_ok=True)
        os.sync()
        hashed.append(seconds(lambda: hash_alone(contents)))
        report = Timed()
        archive.write_bundle(bundle, locked, shop.require_path, report)
        packed.append(report.seconds["pack"])
        synced.append(report.seconds["sync"])
        whole.append(seconds(lambda: hash_alone([bundle])))
        with archive.open_bundle(bundle) as carried:
            verified.append(seconds(lambda carried=carried: archive.require_intact(carried.check_content(Timed()), "")))  # type: ignore[misc]
    bundle.unlink()
    slower, faster = ratio(packed, hashed), ratio(whole, verified)
    return [
        Row("pack / hashing alone", slower, "×", "≤ 1.3", slower <= 1.3, f"{median(packed)} and {median(hashed)}; the final sync {median(synced)} beside it"),
        Row("one core / verify on all", faster, "×", "≥ 1.6", faster >= 1.6, f"{median(whole)} and {median(verified)} on {os.cpu_count()} cores"),
    ]  # fmt: skip


PLACE = """
import json, sys, time
from pathlib import Path
from bundler.format import disk
from bundler.format.tar import archive
from bundler.offline import placement
from bundler.offline.prefix import releases
from bundler.offline.prefix.release import Release
from bundler.offline.trust import verification
from bundler.progress import RecordingReporter
bundle, prefix = Path(sys.argv[1]), Path(sys.argv[2])
reporter = RecordingReporter()
with archive.open_bundle(bundle) as opened, releases.lock_prefix(prefix):
    lock, _ = verification.verify_bundle(opened, [], reporter)
    release = Release(prefix=prefix, name=lock.release_name)
    release.work_folder.mkdir(parents=True)
    start = time.perf_counter()
    placement.place_files(opened, lock, placement.make_plan(lock, release, reporter), release, reporter)
    placed = time.perf_counter()
    disk.sync_file_system(prefix)
    print(json.dumps({"place": placed - start, "sync": time.perf_counter() - placed}))
"""


def place_alone(bundle: Path, prefix: Path) -> dict[str, float]:
    """Place a bundle in a process of its own; seconds of the placing and of the final sync."""
    command: list[str | Path] = [sys.executable, "-c", PLACE, bundle, prefix]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise MeasureError(f"placing ended with {done.returncode}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout))


def placing(folder: Path, bundle: Path, rounds: int) -> list[Row]:
    """Place against hashing the same bytes, with the final sync beside it."""
    hashed, placed, synced, peaks = [], [], [], []
    for _ in range(rounds):
        os.sync()
        hashed.append(seconds(lambda: hash_alone([bundle])))
        with disk_peak(folder) as peak:
            figures = place_alone(bundle, folder / "placed")
        placed.append(figures["place"])
        synced.append(figures["sync"])
        peaks.append(peak[0] / bundle.stat().st_size)
        shutil.rmtree(folder / "placed")
    slower = ratio(placed, hashed)
    return [
        Row("place / hashing alone", slower, "×", "≤ 1.4", slower <= 1.4, f"{median(placed)} and {median(hashed)}; the final sync {median(synced)} beside it"),
        Row("disk while placing / bundle", max(peaks), "×", "≤ 1.05", max(peaks) <= 1.05, "no second copy, nothing extracted besides"),
    ]  # fmt: skip


RECIPE = """
set -e
tar xf "$1"
sha256sum --quiet -c SHA256SUMS
"$2" -m venv venv
venv/bin/pip install -q --no-index --find-links wheels --require-hashes -r requirements.txt
sync
"""
"""What people do by hand: unpack, check, make an environment, install with no index."""


def installing(folder: Path, bundle: Path, rehearsed: float, rounds: int) -> list[Row]:
    """The whole install against the recipe, and what it takes of memory and disk; ``rehearsed`` is the seconds that the
    build's rehearsal took."""
    pyz, prefix, hand = folder / "bundle.pyz", folder / "prefix", folder / "hand"
    program(BIN / "bundle", "installer", "-o", pyz)
    python = shutil.which("python3.11") or sys.executable
    ours, whole, theirs, memory, peaks = [], [], [], [], []
    for _ in range(rounds):
        os.sync()
        with disk_peak(folder) as peak:
            ran = program(python, "-I", pyz, "install", bundle, "--prefix", prefix, "--no-smoke", "--quiet")
        ours.append(ran.seconds)
        memory.append(ran.rss / MIB)
        peaks.append(peak[0] / bundle.stat().st_size)
        shutil.rmtree(prefix)
        os.sync()
        whole.append(program(python, "-I", pyz, "install", bundle, "--prefix", prefix, "--quiet").seconds)
        shutil.rmtree(prefix)
        hand.mkdir()
        os.sync()
        theirs.append(
            program(
                "sh", "-c", RECIPE, "sh", bundle, python, folder=hand, environment={"PIP_CONFIG_FILE": os.devnull}
            ).seconds
        )
        shutil.rmtree(hand)
    faster = ratio(theirs, ours)
    more = rehearsed / statistics.median(whole)
    return [
        Row("rehearsal / install with smoke loads", more, "×", "≤ 1.2", more <= 1.2, f"{rehearsed:.2f} s and {median(whole)}: what it adds to a build"),
        Row("recipe by hand / install", faster, "×", "≥ 6", faster >= 6, f"{median(theirs)} and {median(ours)}; with smoke loads {median(whole)}"),
        Row("memory of the largest process", max(memory), "MiB", "≤ 200", max(memory) <= 200, "installer and uv, at any size of model"),
        Row("disk while installing / bundle", max(peaks), "×", "", True, "models, wheels, and the environment made from them"),
    ]  # fmt: skip


def sharing(folder: Path, bundle: Path) -> list[Row]:
    """Blocks that placing takes on XFS, where extents can be shared; needs root and a loop device."""
    image, mount = folder / "xfs.img", folder / "xfs"
    mount.mkdir()
    needed = int(bundle.stat().st_size * 1.3) + (1 << 30)
    with image.open("wb") as file:
        file.truncate(needed)
    program("mkfs.xfs", "-q", "-m", "reflink=1", image)
    program("mount", "-o", "loop", image, mount)
    try:
        inside = mount / bundle.name
        shutil.copyfile(bundle, inside)
        os.sync()
        before = shutil.disk_usage(mount).used
        place_alone(inside, mount / "prefix")
        os.sync()
        taken = (shutil.disk_usage(mount).used - before) / bundle.stat().st_size
    finally:
        program("umount", mount)
        image.unlink()
    return [
        Row(
            "disk that placing takes on XFS / bundle",
            taken,
            "×",
            "≤ 0.05",
            taken <= 0.05,
            "blocks shared with the bundle's file",
        )
    ]

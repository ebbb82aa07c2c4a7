"""What the benchmark measures, each against a reference."""

from __future__ import annotations

import functools
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
    """A measured program failed."""


@dataclass(slots=True)
class TimedReporter(RecordingReporter):
    """A reporter that records how long each stage took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, title: str, total: int = 0) -> Stage:
        """Return a stage that records its time."""
        return _Watch(self.seconds, title)


class _Watch(AbstractContextManager["_Watch"]):
    def __init__(self, seconds: dict[str, float], title: str) -> None:
        self._seconds, self._title, self._start = seconds, title, time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seconds[self._title] = time.perf_counter() - self._start

    def advance(self, count: int) -> None:
        """Do nothing: only the time is recorded."""

    def set_phase(self, words: str, read: int = 0) -> None:
        """Do nothing: only the time is recorded."""


@dataclass(frozen=True, slots=True)
class ProgramUsage:
    """What a program used: wall time in seconds, and the memory of its largest process in bytes."""

    seconds: float
    rss: int


def run_program(
    *command: str | Path, folder: Path | None = None, environment: dict[str, str] | None = None
) -> ProgramUsage:
    """Run a program to its end.

    Raises:
        MeasureError: the program failed.
        OSError: it can't be started.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        child = subprocess.Popen(
            [os.fspath(part) for part in command], stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            env=os.environ | (environment or {}), cwd=folder,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            raise MeasureError(f"{command[0]} ended with {child.returncode}: {output.read().decode()[-3000:]}")
    return ProgramUsage(seconds, usage.ru_maxrss * 1024)


@contextmanager
def watch_disk_peak(folder: Path) -> Iterator[list[int]]:
    """Sample how many bytes the disk of ``folder`` held at most while the block ran, above the start."""
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


def measure_seconds(function: Callable[[], object]) -> float:
    """Measure the wall time of one call, in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def hash_files(files: Sequence[Path]) -> None:
    """Hash files once with hashlib on one core: the reference."""
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def format_median(values: Sequence[float]) -> str:
    """Format a median in seconds, for the last column."""
    return f"{statistics.median(values):.2f} s"


def compute_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Compute the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def measure_resolving(folder: Path, manifest: Path, rounds: int) -> Iterator[Row]:
    """Measure the lock of the demo's packages against pip-compile, with empty and with full caches."""
    requirements = folder / "requirements.in"
    requirements.write_text("sentence-transformers\ntorch==2.13.0\n")
    packages = folder / "packages.yaml"
    packages.write_text(
        "\n".join(line for line in manifest.read_text().splitlines() if not line.startswith("models:")) + "\n"
    )
    for state, repeats in (("empty", 1), ("full", rounds)):
        ours, theirs = [], []
        for _ in range(repeats):
            caches = {
                "UV_CACHE_DIR": str(folder / "uv"),
                "PIP_CACHE_DIR": str(folder / "pip"),
                "BUNDLE_CACHE": str(folder / "cache"),
            }
            ours.append(
                run_program(BIN / "bundle", "lock", packages, "-o", folder / "lock.json", environment=caches).seconds
            )
            theirs.append(
                run_program(
                    BIN / "pip-compile", "-q", "--generate-hashes", "--cache-dir", folder / "pip-tools", "-o", folder / "out.txt",
                    requirements, environment=caches,
                ).seconds
            )  # fmt: skip
            (folder / "out.txt").unlink()
        faster = compute_ratio(theirs, ours)
        detail = f"pip-compile {format_median(theirs)}, bundle lock with every digest and size {format_median(ours)}"
        yield Row(f"pip-compile / lock, {state} caches", faster, "×", "≥ 20", faster >= 20, detail)


def verify_content(bundle: archive.OpenBundle) -> None:
    """Verify all content of a bundle, on every core."""
    archive.require_intact(bundle.check_content(TimedReporter()), "")


def measure_packing(folder: Path, lock: Lock, context: BuildContext, rounds: int) -> list[Row]:
    """Measure packing, and verifying on every core, against hashing the same bytes on one."""
    contents = [context.require_path(artifact) for artifact in lock.artifacts]
    bundle = folder / "again.bundle.tar"
    hashed, packed, synced, one_core, verified = [], [], [], [], []
    for _ in range(rounds):
        bundle.unlink(missing_ok=True)
        os.sync()
        hashed.append(measure_seconds(lambda: hash_files(contents)))
        reporter = TimedReporter()
        archive.write_bundle(bundle, lock, context.require_path, reporter)
        packed.append(reporter.seconds["pack"])
        synced.append(reporter.seconds["sync"])
        one_core.append(measure_seconds(lambda: hash_files([bundle])))
        with archive.open_bundle(bundle) as opened:
            verified.append(measure_seconds(functools.partial(verify_content, opened)))
    bundle.unlink()
    slower, faster = compute_ratio(packed, hashed), compute_ratio(one_core, verified)
    return [
        Row("pack / hashing alone", slower, "×", "≤ 1.3", slower <= 1.3, f"{format_median(packed)} and {format_median(hashed)}; the final sync takes another {format_median(synced)}"),
        Row("one core / verify on all", faster, "×", "≥ 1.6", faster >= 1.6, f"{format_median(one_core)} and {format_median(verified)} on {os.cpu_count()} cores"),
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


def place_bundle(bundle: Path, prefix: Path) -> dict[str, float]:
    """Place a bundle in a process of its own; return the seconds of the placing and of the final sync."""
    command: list[str | Path] = [sys.executable, "-c", PLACE, bundle, prefix]
    completed = subprocess.run(command, check=False, capture_output=True, text=True)
    if completed.returncode:
        raise MeasureError(f"placing ended with {completed.returncode}: {completed.stderr[-3000:]}")
    return dict(json.loads(completed.stdout))


def measure_placing(folder: Path, bundle: Path, rounds: int) -> list[Row]:
    """Measure placing against hashing the same bytes, and the final sync separately."""
    hashed, placed, synced, peaks = [], [], [], []
    for _ in range(rounds):
        os.sync()
        hashed.append(measure_seconds(lambda: hash_files([bundle])))
        with watch_disk_peak(folder) as peak:
            figures = place_bundle(bundle, folder / "placed")
        placed.append(figures["place"])
        synced.append(figures["sync"])
        peaks.append(peak[0] / bundle.stat().st_size)
        shutil.rmtree(folder / "placed")
    slower = compute_ratio(placed, hashed)
    return [
        Row("place / hashing alone", slower, "×", "≤ 1.4", slower <= 1.4, f"{format_median(placed)} and {format_median(hashed)}; the final sync takes another {format_median(synced)}"),
        Row("disk while placing / bundle", max(peaks), "×", "≤ 1.05", max(peaks) <= 1.05, "no second copy, nothing else extracted"),
    ]  # fmt: skip


RECIPE = """
set -e
tar xf "$1"
sha256sum --quiet -c SHA256SUMS
"$2" -m venv venv
venv/bin/pip install -q --no-index --find-links wheels --require-hashes -r requirements.txt
sync
"""
"""What people do by hand: unpack, check, make an environment, install without an index."""


def measure_installing(folder: Path, bundle: Path, rehearsal_seconds: float, rounds: int) -> list[Row]:
    """Measure the whole install against the recipe by hand, and its memory and disk.

    ``rehearsal_seconds`` is how long the build's rehearsal took.
    """
    pyz, prefix, by_hand = folder / "bundle.pyz", folder / "prefix", folder / "hand"
    run_program(BIN / "bundle", "installer", "-o", pyz)
    python = shutil.which("python3.11") or sys.executable
    ours, with_loads, theirs, memory, peaks = [], [], [], [], []
    for _ in range(rounds):
        os.sync()
        with watch_disk_peak(folder) as peak:
            usage = run_program(python, "-I", pyz, "install", bundle, "--prefix", prefix, "--no-smoke", "--quiet")
        ours.append(usage.seconds)
        memory.append(usage.rss / MIB)
        peaks.append(peak[0] / bundle.stat().st_size)
        shutil.rmtree(prefix)
        os.sync()
        with_loads.append(run_program(python, "-I", pyz, "install", bundle, "--prefix", prefix, "--quiet").seconds)
        shutil.rmtree(prefix)
        by_hand.mkdir()
        os.sync()
        theirs.append(
            run_program(
                "sh", "-c", RECIPE, "sh", bundle, python, folder=by_hand, environment={"PIP_CONFIG_FILE": os.devnull}
            ).seconds
        )
        shutil.rmtree(by_hand)
    faster = compute_ratio(theirs, ours)
    slower = rehearsal_seconds / statistics.median(with_loads)
    return [
        Row("rehearsal / install with smoke loads", slower, "×", "≤ 1.2", slower <= 1.2, f"{rehearsal_seconds:.2f} s and {format_median(with_loads)}: what it adds to a build"),
        Row("recipe by hand / install", faster, "×", "≥ 6", faster >= 6, f"{format_median(theirs)} and {format_median(ours)}; with smoke loads {format_median(with_loads)}"),
        Row("memory of the largest process", max(memory), "MiB", "≤ 200", max(memory) <= 200, "installer and uv, at any size of model"),
        Row("disk while installing / bundle", max(peaks), "×", "", True, "models, wheels, and the environment made from them"),
    ]  # fmt: skip


def measure_sharing(folder: Path, bundle: Path) -> list[Row]:
    """Measure the blocks that placing uses on XFS, which can share extents; needs root and a loop device."""
    image, mount = folder / "xfs.img", folder / "xfs"
    mount.mkdir()
    needed = int(bundle.stat().st_size * 1.3) + (1 << 30)
    with image.open("wb") as file:
        file.truncate(needed)
    run_program("mkfs.xfs", "-q", "-m", "reflink=1", image)
    run_program("mount", "-o", "loop", image, mount)
    try:
        copy = mount / bundle.name
        shutil.copyfile(bundle, copy)
        os.sync()
        before = shutil.disk_usage(mount).used
        place_bundle(copy, mount / "prefix")
        os.sync()
        share = (shutil.disk_usage(mount).used - before) / bundle.stat().st_size
    finally:
        run_program("umount", mount)
        image.unlink()
    return [
        Row(
            "disk that placing takes on XFS / bundle",
            share,
            "×",
            "≤ 0.05",
            share <= 0.05,
            "blocks shared with the bundle's file",
        )
    ]

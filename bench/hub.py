"""A model of the hub: fetched and packed, compared with the recipe by hand, and built again with nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.measures import BIN, TimedReporter, compute_ratio, format_median, measure_seconds, run_program
from bench.results import Row
from bundler.format.lock import lockfile
from bundler.format.tar import archive
from bundler.online.transfer.cache import FileCache

NAME = "bench/large"
RECIPE = """
set -e
"$1" download --quiet bench/large --local-dir model
find model -type f -not -path 'model/.cache/*' -exec sha256sum {} + > SHA256SUMS
tar cf large.tar SHA256SUMS model
sync large.tar
"""
"""What people do by hand: download, record the digests, pack."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub that runs in a process of its own."""

    url: str
    requests: IO[str]
    replies: IO[str]

    def count_requests(self) -> tuple[int, int]:
        """Return the number of requests, and of file requests, since the last call."""
        self.requests.write("\n")
        self.requests.flush()
        request_count, file_count = json.loads(self.replies.readline())
        return int(request_count), int(file_count)


@contextmanager
def run_hub(folder: Path) -> Iterator[Hub]:
    """Run a hub with one repository, the files of a folder."""
    command = [sys.executable, str(Path(__file__).with_name("hubprocess.py")), NAME, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise TypeError("the process has no pipes")
        yield Hub(process.stdout.readline().strip(), process.stdin, process.stdout)
        process.stdin.close()


def measure_hub(folder: Path, model: Path, rounds: int) -> list[Row]:
    """Measure a build from the hub against the recipe by hand, and a rebuild against packing alone.

    ``model`` is the folder that the hub serves. The cache holds everything but the model before: the recipe has no
    installer to fetch.
    """
    work = folder / "hub"
    manifest, empty, cache, by_hand = work / "large.yaml", work / "empty.yaml", work / "cache", work / "hand"
    work.mkdir()
    manifest.write_text(f"name: large\nversion: '1'\nmodels: [{{repo: {NAME}, loader: files}}]\nsequence: 1\n")
    empty.write_text("name: empty\nversion: '1'\nsequence: 1\n")
    seconds: dict[str, list[float]] = {what: [] for what in ("ours", "by hand", "again", "kept", "start", "pack")}
    with run_hub(model) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "hf"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"BUNDLE_CACHE": str(cache)}
        bundle, lock_path = work / "large.bundle.tar", work / "large.lock.json"

        def build(manifest: Path, *more: str | Path) -> float:
            bundle.unlink(missing_ok=True)
            os.sync()
            return run_program(
                BIN / "bundle",
                "build",
                "--no-rehearse",
                manifest,
                "-o",
                bundle,
                "--quiet",
                *more,
                environment=environment,
            ).seconds

        build(empty)
        shutil.copytree(cache, work / "bare")
        for _ in range(rounds):
            shutil.rmtree(cache)
            shutil.copytree(work / "bare", cache)
            seconds["ours"].append(build(manifest))
            hub.count_requests()
            seconds["again"].append(build(manifest))
            _, fetched = hub.count_requests()
            run_program(BIN / "bundle", "lock", manifest, "-o", lock_path, "--quiet", environment=environment)
            hub.count_requests()
            seconds["kept"].append(build(manifest, "--lock", lock_path))
            requests, _ = hub.count_requests()
            seconds["start"].append(build(empty, "--lock", make_lock(empty, work, environment)))
            seconds["pack"].append(pack_files(lock_path, cache, bundle))
            by_hand.mkdir()
            os.sync()
            recipe = run_program("sh", "-c", RECIPE, "sh", BIN / "hf", folder=by_hand, environment=environment)
            seconds["by hand"].append(recipe.seconds)
            shutil.rmtree(by_hand)
    shutil.rmtree(work)
    slower = compute_ratio(seconds["ours"], seconds["by hand"])
    rebuild = compute_ratio(seconds["kept"], [a + b for a, b in zip(seconds["start"], seconds["pack"], strict=True)])
    typical = {what: format_median(values) for what, values in seconds.items()}
    return [
        Row("build from the hub / by hand", slower, "×", "≤ 0.7", slower <= 0.7, f"{typical['ours']} and {typical['by hand']} (hf download, sha256sum, tar)"),
        Row("files fetched by a rebuild", fetched, "", "0", fetched == 0, f"{typical['again']}; only the commit is asked for"),
        Row("requests of a rebuild from its lock", requests, "", "0", requests == 0, f"{typical['kept']}"),
        Row("rebuild / start and packing alone", rebuild, "×", "≤ 1.1", rebuild <= 1.1, f"{typical['kept']}; packing {typical['pack']}, a bundle without a model {typical['start']}"),
    ]  # fmt: skip


def make_lock(manifest: Path, work: Path, environment: dict[str, str]) -> Path:
    """Make the lock of a manifest, once."""
    path = work / f"{manifest.stem}.lock.json"
    if not path.exists():
        run_program(BIN / "bundle", "lock", manifest, "-o", path, "--quiet", environment=environment)
    return path


def pack_files(lock_path: Path, cache_folder: Path, bundle: Path) -> float:
    """Pack what a lock names from the cache; return the seconds, with the final sync."""
    lock, cache = lockfile.read_lock(lock_path.read_bytes(), str(lock_path)), FileCache(cache_folder)
    bundle.unlink(missing_ok=True)
    os.sync()
    return measure_seconds(
        lambda: archive.write_bundle(bundle, lock, lambda artifact: cache.require(artifact.sha256), TimedReporter())
    )

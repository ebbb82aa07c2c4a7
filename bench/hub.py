"""A model of the hub: brought home and packed against the recipe by hand, and built again with nothing changed."""

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

from bench.measures import BIN, Timed, median, program, ratio, seconds
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
"""What people do by hand: download, write down the digests, pack."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub that runs in a process of its own."""

    url: str
    questions: IO[str]
    answers: IO[str]

    def asked(self) -> tuple[int, int]:
        """Requests, and how many of them were for files, since this was called last."""
        self.questions.write("\n")
        self.questions.flush()
        requests, files = json.loads(self.answers.readline())
        return int(requests), int(files)


@contextmanager
def running(folder: Path) -> Iterator[Hub]:
    """A hub with one repository, the files of a folder."""
    command = [sys.executable, str(Path(__file__).with_name("hubprocess.py")), NAME, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise TypeError("pipes were asked for")
        yield Hub(process.stdout.readline().strip(), process.stdin, process.stdout)
        process.stdin.close()


def from_the_hub(folder: Path, model: Path, rounds: int) -> list[Row]:
    """Build from the hub against the recipe by hand, and build again against packing alone.

    ``model`` is the folder that the hub gives. Everything but the model is on the shelf before: the recipe has no
    installer to bring home.
    """
    work = folder / "hub"
    asked, none, shelf, hand = work / "large.yaml", work / "none.yaml", work / "shelf", work / "hand"
    work.mkdir()
    asked.write_text(f"name: large\nversion: '1'\nmodels: [{{repo: {NAME}, loader: files}}]\nsequence: 1\n")
    none.write_text("name: none\nversion: '1'\nsequence: 1\n")
    took: dict[str, list[float]] = {what: [] for what in ("ours", "by hand", "again", "kept", "start", "pack")}
    with running(model) as hub:
        told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "hf"), "HF_HUB_DISABLE_XET": "1"}
        told |= {"BUNDLE_CACHE": str(shelf)}
        bundle, locked = work / "large.bundle.tar", work / "large.lock.json"

        def build(manifest: Path, *more: str | Path) -> float:
            bundle.unlink(missing_ok=True)
            os.sync()
            return program(
                BIN / "bundle", "build", "--no-rehearse", manifest, "-o", bundle, "--quiet", *more, environment=told
            ).seconds

        build(none)
        shutil.copytree(shelf, work / "bare")
        for _ in range(rounds):
            shutil.rmtree(shelf)
            shutil.copytree(work / "bare", shelf)
            took["ours"].append(build(asked))
            hub.asked()
            took["again"].append(build(asked))
            _, fetched = hub.asked()
            program(BIN / "bundle", "lock", asked, "-o", locked, "--quiet", environment=told)
            hub.asked()
            took["kept"].append(build(asked, "--lock", locked))
            requests, _ = hub.asked()
            took["start"].append(build(none, "--lock", locked_of(none, work, told)))
            took["pack"].append(pack_alone(locked, shelf, bundle))
            hand.mkdir()
            os.sync()
            by_hand = program("sh", "-c", RECIPE, "sh", BIN / "hf", folder=hand, environment=told)
            took["by hand"].append(by_hand.seconds)
            shutil.rmtree(hand)
    shutil.rmtree(work)
    slower = ratio(took["ours"], took["by hand"])
    beside = ratio(took["kept"], [a + b for a, b in zip(took["start"], took["pack"], strict=True)])
    typical = {what: median(values) for what, values in took.items()}
    return [
        Row("build from the hub / by hand", slower, "×", "≤ 0.7", slower <= 0.7, f"{typical['ours']} and {typical['by hand']} (hf download, sha256sum, tar)"),
        Row("files fetched by a rebuild", fetched, "", "0", fetched == 0, f"{typical['again']}; the commit alone is asked for"),
        Row("requests of a rebuild from its lock", requests, "", "0", requests == 0, f"{typical['kept']}"),
        Row("rebuild / start and packing alone", beside, "×", "≤ 1.1", beside <= 1.1, f"{typical['kept']}; packing {typical['pack']}, a bundle without a model {typical['start']}"),
    ]  # fmt: skip


def locked_of(manifest: Path, work: Path, told: dict[str, str]) -> Path:
    """A lock of a manifest, made once."""
    path = work / f"{manifest.stem}.lock.json"
    if not path.exists():
        program(BIN / "bundle", "lock", manifest, "-o", path, "--quiet", environment=told)
    return path


def pack_alone(path: Path, shelf: Path, bundle: Path) -> float:
    """Seconds of packing what a lock names out of the shelf, the final sync among them."""
    locked, store = lockfile.read_lock(path.read_bytes(), str(path)), FileCache(shelf)
    bundle.unlink(missing_ok=True)
    os.sync()
    return seconds(lambda: archive.write_bundle(bundle, locked, lambda one: store.require(one.sha256), Timed()))

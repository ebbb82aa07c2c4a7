"""A prefix that is brought back to a known state before each crash."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bundler.offline.doctor import examination
from bundler.offline.prefix import releases
from bundler.progress import RecordingReporter
from tests.support.killing import Killing
from tests.support.programs import require_tool
from tests.support.trees import read_tree

FIRST = {"config.json": b"{}", "weights.bin": b"w" * 100_000, "sub/one.bin": b"1" * 5000}

SECOND = {"config.json": b"{}", "weights.bin": b"v" * 100_000, "sub/two.bin": b"2" * 5000, "sub/one.bin": b"1" * 5000}


@dataclass(frozen=True, slots=True)
class Stage:
    """A prefix in a known state, which is brought back before each kill."""

    prefix: Path
    kept: Path
    killing: Killing

    def keep(self) -> None:
        shutil.copytree(self.prefix, self.kept, symlinks=True)

    def restore(self) -> None:
        shutil.rmtree(self.prefix)
        shutil.copytree(self.kept, self.prefix, symlinks=True)


def check_works(prefix: Path) -> None:
    """The live release is whole, every byte of it, and its Python imports what was installed."""
    found = examination.examine_release(prefix, "deep", RecordingReporter())
    assert not found.list_findings("critical"), found.list_findings("critical")
    python = releases.require_live(prefix).python
    done = subprocess.run([python, "-c", "import alpha, beta"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make_stage(installer: Path, tmp_path: Path, *arguments: object) -> Stage:
    prefix = tmp_path / "opt"
    command = (installer, *arguments, "--prefix", prefix, "--quiet")
    return Stage(prefix, tmp_path / "kept", Killing((require_tool("python3.11"), "-I", "-S"), command))


def damage_prefix(prefix: Path) -> set[str]:
    """Damage a model, a package and the payload of the live release; the names of what is wrong then."""
    sound = read_tree(prefix)
    current = prefix / "current"
    damaged = [next((prefix / "models").iterdir()) / "weights.bin"]
    damaged += [
        next(current.glob("venv/lib/*/site-packages/beta/__init__.py")),
        current / "payload" / "network" / "netcut.py",
    ]
    for path in damaged:
        path.write_bytes(b"rotten")
    return {name for name, content in read_tree(prefix).items() if sound.get(name) != content}

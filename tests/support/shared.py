"""What is costly is made once in a run of the tests, for all of its processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


class Shared:
    """A folder that the processes of one run have in common; it goes with the other folders of that run."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        own = factory.getbasetemp()
        self.root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
        self.root.mkdir(exist_ok=True)

    def get_or_make(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name; whoever asks first makes what is in it, and others wait. Nobody may change it.

        Where making fails, each process that asks tries again: all tests that need it say why.
        """
        folder, done = self.root / name, self.root / f"{name}.done"
        with FileLock(self.root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

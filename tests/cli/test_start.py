"""Start-up: a verb imports what it runs, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Packed, tool

LATE = ("rich", "tqdm", "jinja2", "bundler.offline", "bundler.bundle.archive", "bundler.bundle.lock")
MODULES = """
import sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0])
from bundler import cli
code = cli.main()
sys.stderr.write("\\nmodules: " + " ".join(sys.modules))
sys.exit(code)
"""
OPENS = """
import sys
sys.addaudithook(lambda event, args: event == "open" and args[0] == sys.argv[0] and sys.stderr.write("opened\\n"))
"""


def modules_of(installer: Path, *arguments: object) -> list[str]:
    """The modules that a run of the installer imports."""
    command = [tool("python3.11"), "-I", "-S", "-c", MODULES, installer, *arguments]
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
    return done.stderr.rpartition("modules: ")[2].split()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["install", "--help"]])
def test_the_help_imports_nothing_that_a_verb_runs(installer: Path, arguments: list[str]) -> None:
    modules = modules_of(installer, *arguments)
    assert "bundler.cli" in modules
    assert not [name for name in modules if name.startswith(LATE)]


def test_what_looks_at_a_bundle_does_not_import_the_installer(installer: Path, pack: Callable[..., Packed]) -> None:
    modules = modules_of(installer, "inspect", pack().path)
    assert "bundler.describe" in modules
    found = [name for name in modules if name.startswith(("bundler.offline.", "tqdm", "jinja2"))]
    assert found == ["bundler.offline.findings"]


def test_the_help_opens_the_file_for_its_modules_alone(installer: Path) -> None:
    command = [tool("python3.11"), "-I", "-S", "-c", OPENS + MODULES, installer, "--help"]
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    opened = done.stderr.count("opened")
    ours = [
        name for name in done.stderr.split() if name.startswith(("bundler", "typer", "shellingham", "annotated_doc"))
    ]
    assert len(ours) <= opened <= len(ours) + 5  # and the table of contents

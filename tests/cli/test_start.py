"""Start-up: a verb imports what it runs, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import PackedBundle
from tests.support.programs import require_tool

LATE = ("rich", "tqdm", "jinja2", "bundler.offline", "bundler.format.tar.archive", "bundler.format.lock.lockfile")
SAYING = """
import runpy, sys
program, sys.argv = sys.argv[1], sys.argv[1:]
sys.addaudithook(lambda event, args: event == "open" and args[0] == program and sys.stderr.write("(opened) "))
try:
    runpy.run_path(program, run_name="__main__")
except SystemExit:
    sys.stderr.write("modules: " + " ".join(sys.modules))
sys.path.insert(0, program)
from bundler import template_files
template_files.read("env.offline.j2")
"""
"""Runs the installer, and says how often it opens its own file and what it imports."""


def list_imports(installer: Path, *arguments: object) -> tuple[int, list[str]]:
    """How often a run of the installer opens its file, and the modules that it imports."""
    command = [require_tool("python3.11"), "-I", "-S", "-c", SAYING, installer, *arguments]
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    before, _, modules = done.stderr.rpartition("modules: ")
    return before.count("(opened)"), [name for name in modules.split() if name != "(opened)"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["install", "--help"]])
def test_the_help_imports_nothing_that_a_verb_runs(installer: Path, arguments: list[str]) -> None:
    _, modules = list_imports(installer, *arguments)
    assert "bundler.cli" in modules
    assert not [name for name in modules if name.startswith(LATE)]


def test_what_looks_at_a_bundle_does_not_import_the_installer(
    installer: Path, pack: Callable[..., PackedBundle]
) -> None:
    _, modules = list_imports(installer, "inspect", pack().path)
    assert "bundler.output.lock_text" in modules
    found = [name for name in modules if name.startswith(("bundler.offline.", "tqdm", "jinja2"))]
    assert not found


def test_each_module_is_read_once(installer: Path) -> None:
    opened, modules = list_imports(installer, "--help")
    travelling = ("bundler", "typer", "shellingham", "annotated_doc")
    ours = [name for name in modules if name.partition(".")[0] in travelling]
    assert len(ours) > 40
    assert len(ours) <= opened <= len(ours) + 4  # its start, and the table of contents

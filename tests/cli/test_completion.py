"""Shell completion, as typer makes it, in a real bash on a real terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import RunOnTerminal
from tests.support.programs import require_tool

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """What ``bundle --show-completion`` would have a person source."""
    environment = {**os.environ, "_BUNDLE_COMPLETE": "source_bash"}
    done = subprocess.run([PROGRAMS / "bundle"], check=True, capture_output=True, text=True, env=environment)
    path = tmp_path / "completion.sh"
    path.write_text(f"{done.stdout}\nPS1='$ '\n")
    return path


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("bundle veri", "bundle verify"),
        ("bundle install --no-sm", "bundle install --no-smoke"),
        ("bundle image --engine pod", "bundle image --engine podman"),
        ("bundle verify carr", "bundle verify carried.bundle.tar"),
        ("bundle install carr", "bundle install carried.bundle.tar"),
        ("bundle install --prefix opt carr", "bundle install --prefix opt carried.bundle.tar"),
        ("bundle verify carried.bundle.tar --trust buil", "--trust builder.pub"),
    ],
)
def test_tab_completes(line: str, completed: str, script: Path, terminal: RunOnTerminal, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("carried.bundle.tar", "builder.pub"):
        (folder / name).touch()
    environment = {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    command = [require_tool("bash"), "--noprofile", "--rcfile", script, "-i"]
    shown = terminal(command, typed=f"{line}\t", until=completed, cwd=folder, env=environment)
    assert completed in shown


def test_the_shell_is_asked_and_told(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    for option in ("--show-completion", "--install-completion"):
        command = [require_tool("bash"), "--norc", "-c", f"bundle {option}; exit $?"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "bash completion installed in" in done.stdout
    assert "complete -o default -F _bundle_completion bundle" in (
        tmp_path / ".bash_completions" / "bundle.sh"
    ).read_text(encoding="utf-8")

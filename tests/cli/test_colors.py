"""Colors: on a terminal that has them and where nobody forbids them, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.output import lock_text
from tests.cli.conftest import RunOnTerminal
from tests.support.bundles import PackedBundle

PROGRAM = Path(sys.executable).with_name("bundle")
RED, GREEN, YELLOW = "\033[31m", "\033[32m", "\033[33m"


@pytest.fixture
def packed(pack: Callable[..., PackedBundle]) -> Path:
    return pack().path


def test_a_terminal_has_colors(packed: Path, terminal: RunOnTerminal) -> None:
    shown = terminal([PROGRAM, "verify", packed], env={"NO_COLOR": ""})
    assert f"{YELLOW}warning:\033[0m the bundle is not signed" in shown
    assert f"{GREEN}intact:\033[0m test 1" in shown
    shown = terminal([PROGRAM, "inspect", packed.with_name("missing")], env={"NO_COLOR": ""})
    assert f"{RED}error:\033[0m" in shown


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_none_gets_none(variable: dict[str, str], packed: Path, terminal: RunOnTerminal) -> None:
    shown = terminal([PROGRAM, "verify", packed], env=variable)
    assert "warning: the bundle is not signed" in shown
    assert "\033[3" not in shown


def test_a_pipe_and_json_have_none(packed: Path, terminal: RunOnTerminal) -> None:
    done = subprocess.run([PROGRAM, "verify", packed], check=True, capture_output=True)
    assert b"\033" not in done.stdout + done.stderr
    shown = terminal([PROGRAM, "inspect", packed, "--json"], env={"NO_COLOR": ""})
    assert json.loads(shown)["ok"]


def test_the_table_of_inspect_keeps_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a-package-of-some-name-{n} 1.{n}.0" for n in range(30)]
    for columns, lines in ((40, 30), (80, 15), (300, 15)):
        monkeypatch.setenv("COLUMNS", str(columns))
        table = lock_text._format_columns(names)
        assert max(map(len, table)) <= columns
        assert len(table) == lines

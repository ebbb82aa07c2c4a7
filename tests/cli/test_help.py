"""What the help shows: every verb that this program can run, by side, whole at 80 columns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer.main

from bundler import cli
from bundler.offline.container import engine_registry
from bundler.verbs import install
from bundler.verbs.verb import BUILD, CARRY, INSTALL, OPERATE
from tests.support.programs import require_tool, run_bundle

SIDES = {
    BUILD: ["init", "lock", "build", "keygen", "installer"],
    CARRY: ["sign", "inspect", "verify", "diff"],
    INSTALL: ["install", "image", "trust"],
    OPERATE: ["smoke", "list", "rollback", "remove", "prune", "doctor"],
}
NARROW = {**os.environ, "COLUMNS": "80"}
VERBS = typer.main.get_group(cli.app).commands


def list_sides(text: str) -> dict[str, list[str]]:
    """The verbs that a help text lists below each heading."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            found[line[:-1]] = []
        elif line.startswith("  ") and line[2:3].strip() and found:
            found[list(found)[-1]].append(line.split()[0])
    return {side: verbs for side, verbs in found.items() if side in SIDES}


def test_the_help_lists_every_verb_by_side() -> None:
    done = run_bundle("--help", env=NARROW)
    listed = list_sides(done.stdout.partition("  Shell completion")[0])
    assert list(listed) == list(SIDES)
    assert listed == SIDES
    assert sorted(VERBS) == sorted(name for names in SIDES.values() for name in names)


def test_the_installer_lists_what_it_can_run_and_says_where_the_others_are(installer: Path) -> None:
    command = [require_tool("python3.11"), "-I", "-S", installer, "--help"]
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, env=NARROW)
    listed = list_sides(done.stdout.partition("  This file has no online side")[0])
    assert listed == {side: verbs for side, verbs in SIDES.items() if side != BUILD}
    left_out = " ".join(done.stdout.partition("This file has no online side")[2].split())
    assert all(name in left_out for name in SIDES[BUILD])
    refused = subprocess.run(
        [*map(str, command[:-1]), "keygen", "-o", "k"], check=False, capture_output=True, text=True
    )
    assert (refused.returncode, "this verb needs the online side" in refused.stderr) == (2, True)


@pytest.mark.parametrize("name", ["", *VERBS])
def test_no_line_of_the_help_is_cut_or_wider_than_the_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["bundle", *([name] if name else []), "--help"])
    assert cli.main() == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.partition("\n")[2]
    if name:
        assert f"Example:  bundle {name} " in text


def test_the_engines_to_choose_from_are_those_there_are() -> None:
    assert list(get_args(install.EngineName)) == list(engine_registry.ENGINES)


def test_nothing_to_do_shows_the_help() -> None:
    done = run_bundle()
    assert (done.returncode, "Build, with a network" in done.stdout + done.stderr) == (2, True)

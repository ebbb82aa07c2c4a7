"""The command line stays what scripts were written for: verbs, options, exit codes, and the shape of ``--json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.surface import surface
from tests.support.bundles import PackedBundle
from tests.support.paths import ROOT
from tests.support.programs import Run

KEPT = json.loads((ROOT / "tests" / "cli" / "surface.json").read_text(encoding="utf-8"))
ANSWERS = json.loads((ROOT / "tests" / "cli" / "answers.json").read_text(encoding="utf-8"))


def describe_shape(value: Any) -> Any:
    """A document with the type of each value in its place; a list stands for its first member."""
    if isinstance(value, dict):
        return {name: describe_shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [describe_shape(inner) for inner in value[:1]]
    return type(value).__name__


def test_every_verb_and_option_is_the_kept_one() -> None:
    now = surface()
    assert now["exit codes"] == KEPT["exit codes"]
    assert list(now["verbs"]) == list(KEPT["verbs"])
    for name, lines in KEPT["verbs"].items():
        assert now["verbs"][name] == lines, name


def command_lines(folder: Path, packed: PackedBundle) -> dict[str, list[object]]:
    """Command lines by what they show; the later ones use what the earlier ones made."""
    bundle, missing, prefix = packed.path, folder / "missing.tar", folder / "prefix"
    cut = folder / "cut.bundle.tar"
    cut.write_bytes(bundle.read_bytes()[:-2000])
    passphrase = folder / "passphrase"
    passphrase.write_text("open sesame")
    project = folder / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("numpy\n")
    return {
        "keygen": ["keygen", "-o", folder / "builder", "--passphrase-file", passphrase],
        "sign --export": ["sign", bundle, "--export", folder / "message"],
        "sign": ["sign", bundle, "--key", folder / "builder.key", "--passphrase-file", passphrase],
        "inspect": ["inspect", bundle],
        "verify": ["verify", bundle, "--trust", folder / "builder.pub", "--trust-threshold", 1],
        "diff": ["diff", bundle, bundle],
        "installer": ["installer", "-o", folder / "bundle.pyz"],
        "init": ["init", project],
        "a damaged bundle": ["verify", cut],
        "a missing bundle": ["install", missing, "--prefix", prefix],
        "nothing installed": ["smoke", "--prefix", prefix],
        "no argument": ["install"],
        "no such verb": ["instal"],
        "no such option": ["verify", bundle, "--trsut", "k"],
        "no such choice": ["install", bundle, "--prefix", prefix, "--device", "tpu"],
        "no number": ["prune", "--prefix", prefix, "--keep", "0"],
        "a folder for a file": ["build", folder],
        "a file for a folder": ["list", "--prefix", bundle],
        "options that exclude each other": ["doctor", "--prefix", prefix, "--quick", "--deep"],
    }


def test_what_it_answers_to_a_program_keeps_its_shape(
    run: Run, pack: Callable[..., PackedBundle], tmp_path: Path
) -> None:
    answers = {}
    for name, arguments in command_lines(tmp_path, pack()).items():
        code, document = run(*arguments)
        answers[name] = {"exit code": code, "answer": describe_shape(document)}
    assert list(answers) == list(ANSWERS)
    for name, answer in answers.items():
        assert answer == ANSWERS[name], name

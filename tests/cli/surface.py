"""The command line as a document: every verb with its arguments and options, to be compared with the kept one.

``.venv/bin/python -m tests.cli.surface > tests/cli/surface.json`` writes it again, after a change that is meant.
"""

from __future__ import annotations

import json
import sys
from pathlib import PurePath
from typing import Any

import typer.main

from bundler import cli, errors

_TYPES = {"str": "text", "int": "integer", "int range": "integer range"}
"""Names of types in typer, and in click, which it replaced."""


def parameter_line(parameter: Any) -> str:
    """What a person may type for one argument or option; its help and its name in the code are left out."""
    option = parameter.param_type_name == "option"
    kind = parameter.type
    words = "flag" if option and parameter.is_flag else _TYPES.get(kind.name, kind.name)
    words += "".join(f" {choice}" for choice in getattr(kind, "choices", ()))
    if getattr(kind, "min", None) is not None:
        words += f" from {kind.min}"
    if getattr(kind, "exists", False):
        words += " that exists"
    default = parameter.default
    if not parameter.required and isinstance(default, int | str | PurePath) and default:
        words += f", default {default}"
    if parameter.required:
        words += ", required"
    if option and parameter.multiple:
        words += ", repeatable"
    names = "/".join(sorted([*parameter.opts, *parameter.secondary_opts])) if option else "argument"
    metavar = f" {parameter.metavar.strip('[]')}" if parameter.metavar else ""
    return f"{names}{metavar}: {words}"


def verb_lines(command: Any) -> list[str]:
    """The arguments of a verb in their order, then its options by name."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    return [*map(parameter_line, arguments), *sorted(map(parameter_line, options)), command.epilog]


def exit_codes() -> dict[str, int]:
    """The exit code of each kind of error."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.BundleError)]
    return {kind.__name__: kind.code for kind in kinds} | {"interrupted": errors.INTERRUPTED}


def surface() -> dict[str, Any]:
    """The command line as it is now."""
    commands = typer.main.get_group(cli.app).commands
    verbs = {name: verb_lines(command) for name, command in sorted(commands.items())}
    return {"exit codes": exit_codes(), "verbs": verbs}


if __name__ == "__main__":
    json.dump(surface(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")

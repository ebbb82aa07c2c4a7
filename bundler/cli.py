"""The command line: joins the verbs and returns an exit code."""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import bundler
from bundler.errors import UsageError
from bundler.output.console import Console
from bundler.verbs import build, carry, install, operate
from bundler.verbs.verb import HAS_ONLINE_SIDE, PANELS

_EPILOG = "Shell completion: bundle --install-completion; --show-completion shows what it would write."
_INSTALLER_EPILOG = "This file has no online side: init, lock, build, keygen, installer and sign --key need the tool installed with pip."


class Verbs(TyperGroup):
    """The verbs, which the help lists by group."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a table for each group; long lines are wrapped and not cut."""
        verbs = [self.commands[name] for name in self.list_commands(ctx) if not self.commands[name].hidden]
        width = max(len(verb.name or "") for verb in verbs)
        for panel in PANELS:
            rows = [
                ((verb.name or "").ljust(width), verb.get_short_help_str(limit=sys.maxsize))
                for verb in verbs
                if getattr(verb, "rich_help_panel", None) == panel
            ]
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)


app = typer.Typer(
    name="bundle",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich is slow to start and not in bundle.pyz
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG if HAS_ONLINE_SIDE else _INSTALLER_EPILOG,
)
for group in (build, carry, install, operate):
    app.add_typer(group.app)


def _show_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"bundle, version {bundler.__version__}")
        raise typer.Exit


@app.callback()
def bundle(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Carry Hugging Face models and Python wheels across an air gap."""


def main() -> int:
    """Run the command line and return the exit code."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode must not fail at a name
    wants_json = "--json" in sys.argv[1:]
    try:
        return int(typer.main.get_command(app).main(standalone_mode=not wants_json) or 0)
    except SystemExit as system_exit:
        return int(system_exit.code or 0)
    except typer.TyperException as error:
        Console(as_json=True).show_error(UsageError(error.format_message()))
        return error.exit_code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Clean up after SIGTERM and SIGHUP as after Ctrl-C."""
    raise KeyboardInterrupt

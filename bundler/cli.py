"""The command line: gathers the verbs and ends with an exit code."""

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
from bundler.verbs import build, carry, install
from bundler.verbs.verb import ONLINE_SIDE_IS_HERE, PANELS

_EPILOG = "Shell completion: bundle --install-completion, or --show-completion to see what that would write."
_EPILOG_OF_THE_INSTALLER = "This file has no online side: init, lock, build, keygen, installer and sign --key need the tool as pip installs it."


class Verbs(TyperGroup):
    """The verbs, which the help lists by side."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a table for each side; a line that is too long goes on below, and nothing is cut."""
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
    rich_markup_mode=None,  # rich is slow to start and does not travel
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG if ONLINE_SIDE_IS_HERE else _EPILOG_OF_THE_INSTALLER,
)
for side in (build, carry, install):
    app.add_typer(side.app)


def _show_version(asked: bool) -> None:
    if asked:
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
    """Run the command line; the exit code."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name must not fail for a terminal's want of letters
    wants_json = "--json" in sys.argv[1:]
    try:
        return int(typer.main.get_command(app).main(standalone_mode=not wants_json) or 0)
    except SystemExit as end:
        return int(end.code or 0)
    except typer.TyperException as error:
        Console(as_json=True).show_error(UsageError(error.format_message()))
        return error.exit_code


def _end(_number: int, _frame: FrameType | None) -> None:
    """A polite kill cleans up as Ctrl-C does."""
    raise KeyboardInterrupt

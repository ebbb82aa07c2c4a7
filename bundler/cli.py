"""The command line: gathers the verbs and ends with an exit code."""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType

import click

import bundler
from bundler.console import Console
from bundler.errors import INTERRUPTED, UsageError
from bundler.verbs import either, offline, online


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Shell completion: eval "$(_BUNDLE_COMPLETE=bash_source bundle)" (or zsh_source, fish_source).',
)
@click.version_option(bundler.__version__, prog_name="bundle")
def cli() -> None:
    """Carry Hugging Face models and Python wheels across an air gap.

    \b
    Online:   init, lock, build, installer
    Keys:     keygen, sign (wherever the key is)
    Either:   inspect, verify, diff
    Offline:  install, smoke, list, rollback, remove, prune, doctor, trust, image
    """


for command in (*online.VERBS, *either.VERBS, *offline.VERBS):
    cli.add_command(command)


def main() -> int:
    """Run the command line; the exit code."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name must not fail for a terminal's want of letters
    wants_json = "--json" in sys.argv[1:]
    try:
        return int(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        if wants_json:
            Console(as_json=True).failed(UsageError(error.format_message()))
        else:
            error.show()
        return error.exit_code


def _end(_number: int, _frame: FrameType | None) -> None:
    """A polite kill cleans up as Ctrl-C does."""
    raise KeyboardInterrupt

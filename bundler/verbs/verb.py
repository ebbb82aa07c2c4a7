"""What every verb shares: its options, how it ends, and how its failures are said."""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from bundler.console import Console
from bundler.errors import INTERRUPTED, BundleError, HostError, UsageError

Answer = tuple[dict[str, Any], str]
"""What a verb found out: for a program, and in words."""

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
BUNDLE = click.argument("bundle", metavar="BUNDLE")
MANIFEST = click.argument("manifest", metavar="MANIFEST", type=FILE)
PREFIX = click.option("--prefix", required=True, type=FOLDER, help="Folder of the installation.")
TRUST = click.option(
    "--trust", "trusted", multiple=True, type=click.Path(path_type=Path), metavar="KEY.pub|FOLDER",
    help="Take only what this key signed, or a key in this folder; repeatable. Also: BUNDLE_TRUST.",
)  # fmt: skip
THRESHOLD = click.option(
    "--trust-threshold",
    "threshold",
    type=int,
    metavar="N",
    help="So many of the trusted keys must have signed; default: 1.",
)
KEYS = click.option("--key", "keys", multiple=True, type=FILE, help="Sign with this private key; repeatable.")
PASSPHRASE = click.option(
    "--passphrase-file",
    type=FILE,
    help="Holds the passphrase of the keys; also: BUNDLE_KEY_PASSPHRASE, or the terminal.",
)


def source(bundle: str) -> Path | BinaryIO:
    """What BUNDLE means: a file, or standard input."""
    return sys.stdin.buffer if bundle == "-" else Path(bundle)


def verb(example: str) -> Callable[[Callable[..., Answer]], click.Command]:
    """A command with the options that all share; its function gets a Console as ``report``."""

    def made(function: Callable[..., Answer]) -> click.Command:
        name = function.__name__.rstrip("_")

        @functools.wraps(function)
        def run(*, as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> int:
            console = Console(command=name, as_json=as_json, quiet=quiet)
            return _guarded(console, debug=debug, act=lambda: function(report=console, **arguments))

        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of words."),
            click.option("--quiet", is_flag=True, help="No progress; warnings, errors and the result alone."),
            click.option("--debug", is_flag=True, help="Show where in the program an error arose."),
        ):
            run = option(run)
        return click.command(name=name, epilog=f"Example:  {example}")(run)

    return made


def _guarded(console: Console, *, debug: bool, act: Callable[[], Answer]) -> int:
    """The exit code of a verb; no failure leaves it as a traceback unless asked for."""
    try:
        console.done(*act())
    except KeyboardInterrupt:
        console.interrupted()
        return INTERRUPTED
    except BrokenPipeError:  # who reads has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (the last door: a fault of ours is said in words too)
        failure = _in_words(error)
        if debug:
            console.traced("".join(traceback.format_exception(error)))
        console.failed(failure)
        return failure.code
    return 0


def _in_words(error: Exception) -> BundleError:
    """A failure as a person can act on it."""
    if isinstance(error, BundleError):
        return error
    if isinstance(error, OSError):
        hint = (
            "free some room there"
            if error.errno == errno.ENOSPC
            else "check that it is there and may be read and written"
        )
        return HostError(error.strerror or str(error), where=str(error.filename or ""), hint=hint)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("bundler.online"):
        hint = (
            "on a machine with a network, run 'pip install .' in this tool's source tree; "
            "no package index has it, so never install it by name"
        )
        return UsageError("this verb belongs to the online side", hint=hint)
    hint = "run it again with --debug and report what it prints"
    return BundleError(f"a fault in this program: {type(error).__name__}: {error}", hint=hint)

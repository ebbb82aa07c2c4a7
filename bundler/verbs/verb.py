"""What every verb shares: its options, how it ends, and how its failures are said."""

from __future__ import annotations

import errno
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import typer

from bundler.errors import INTERRUPTED, BundleError, HostError, UsageError
from bundler.output.console import Console

VerbResult = tuple[dict[str, Any], str]
"""What a verb found out: for a program, and in words."""
Verb = TypeVar("Verb", bound=Callable[..., VerbResult])

BUILD = "Build, with a network"
CARRY = "Carry, on either side"
INSTALL = "Install, on the isolated host"
OPERATE = "Operate, on the isolated host"
PANELS = (BUILD, CARRY, INSTALL, OPERATE)
"""The groups of verbs in the help, in the order of a bundle's way."""

ONLINE_SIDE_IS_HERE = importlib.util.find_spec("bundler.online") is not None
"""False in bundle.pyz, which has no online side."""

Bundle = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="The bundle's file, or - for standard input.", show_default=False)
]
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", dir_okay=False, help="The manifest's file.")]
Prefix = Annotated[Path, typer.Option("--prefix", file_okay=False, help="Folder of the installation.")]
Trusted = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="KEY.pub|FOLDER",
        help="Take only what this key signed, or a key in this folder; repeatable. Also: BUNDLE_TRUST.",
    ),
]
Threshold = Annotated[
    int | None,
    typer.Option("--trust-threshold", metavar="N", help="So many of the trusted keys must have signed; default: 1."),
]
Keys = Annotated[
    list[Path] | None, typer.Option("--key", dir_okay=False, help="Sign with this private key; repeatable.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        dir_okay=False,
        help="Holds the passphrase of the keys; also: BUNDLE_KEY_PASSPHRASE, or the terminal.",
    ),
]
NoPickles = Annotated[
    bool, typer.Option("--no-pickles", help="Refuse models that hold pickles, which can run code when loaded.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress; warnings, errors and the result alone.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the program an error arose.")]

_SHARED = {"as_json": AsJson, "quiet": Quiet, "debug": Debug}


def open_bundle_argument(bundle: str) -> Path | BinaryIO:
    """What BUNDLE means: a file, or standard input."""
    return sys.stdin.buffer if bundle == "-" else Path(bundle)


def verb(app: typer.Typer, panel: str, *, example: str, online: bool = False) -> Callable[[Verb], Verb]:
    """Make a function a verb of ``app``, with the options that all share; it gets a Console as ``report``.

    ``online`` is for a verb that bundle.pyz can't run: its help leaves such a verb out.
    """

    def register(function: Verb) -> Verb:
        name = function.__name__.rstrip("_")

        @functools.wraps(function)
        def run(*, as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
            console = Console(command=name, as_json=as_json, quiet=quiet)
            raise typer.Exit(_run_verb(console, debug=debug, action=lambda: function(report=console, **arguments)))

        _set_signature(run, function)
        hidden = online and not ONLINE_SIDE_IS_HERE
        app.command(name, epilog=f"Example:  {example}", rich_help_panel=panel, hidden=hidden)(run)
        return function

    return register


def _set_signature(run: Callable[..., None], function: Callable[..., VerbResult]) -> None:
    """Give ``run`` the parameters of the verb, which typer reads, and the shared ones instead of ``report``."""
    own = inspect.signature(function, eval_str=True).parameters.values()
    shared = (
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _SHARED.items()
    )
    parameters = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name != "report"), *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]


def _run_verb(console: Console, *, debug: bool, action: Callable[[], VerbResult]) -> int:
    """The exit code of a verb; no failure leaves it as a traceback unless asked for."""
    try:
        console.show_result(*action())
    except KeyboardInterrupt:
        console.show_interrupted()
        return INTERRUPTED
    except BrokenPipeError:  # who reads has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (the last door: a fault of ours is said in words too)
        failure = _make_bundle_error(error)
        if debug:
            import traceback

            console.show_traceback("".join(traceback.format_exception(error)))
        console.show_error(failure)
        return failure.code
    return 0


def _make_bundle_error(error: Exception) -> BundleError:
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

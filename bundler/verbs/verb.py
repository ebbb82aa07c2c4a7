"""What all verbs share: options, exit codes, and how failures are shown."""

from __future__ import annotations

import errno
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import typer

from bundler.errors import INTERRUPTED, BundleError, HostError, UsageError
from bundler.output.console import Console, VerbResult

Verb = TypeVar("Verb", bound=Callable[..., VerbResult])

BUILD = "Build, with a network"
CARRY = "Carry, on either side"
INSTALL = "Install, on the isolated host"
OPERATE = "Operate, on the isolated host"
PANELS = (BUILD, CARRY, INSTALL, OPERATE)
"""The groups of verbs in the help, in the order in which a bundle passes through them."""

HAS_ONLINE_SIDE = importlib.util.find_spec("bundler.online") is not None
"""False in bundle.pyz."""

Bundle = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="The bundle's file, or - for standard input.", show_default=False)
]
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", dir_okay=False, help="The manifest's file.")]
Prefix = Annotated[Path, typer.Option("--prefix", file_okay=False, help="The installation's folder.")]
Trusted = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="KEY.pub|FOLDER",
        help="Accept only bundles signed by this key, or by a key in this folder; repeatable. Also: BUNDLE_TRUST.",
    ),
]
Threshold = Annotated[
    int | None,
    typer.Option("--trust-threshold", metavar="N", help="How many of the trusted keys must have signed; default: 1."),
]
Keys = Annotated[
    list[Path] | None, typer.Option("--key", dir_okay=False, help="Sign with this private key; repeatable.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        dir_okay=False,
        help="File with the passphrase of the keys. Also: BUNDLE_KEY_PASSPHRASE, or the terminal.",
    ),
]
NoPickles = Annotated[
    bool, typer.Option("--no-pickles", help="Refuse models that hold pickles, which can run code when loaded.")
]
Device = Annotated[
    Literal["cpu", "cuda", "auto"] | None,
    typer.Option("--device", help="Where smoke loads run; default: the manifest's device."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress, only warnings, errors and the result.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

_SHARED = {"as_json": AsJson, "quiet": Quiet, "debug": Debug}


def open_bundle_argument(bundle: str) -> Path | BinaryIO:
    """Return what the argument BUNDLE names: a file, or standard input for ``-``."""
    return sys.stdin.buffer if bundle == "-" else Path(bundle)


def verb(app: typer.Typer, panel: str, *, example: str, online: bool = False) -> Callable[[Verb], Verb]:
    """Make a function a verb of ``app``, with the options that all verbs share.

    Args:
        app: Gets the verb.
        panel: Its group in the help.
        example: A command line for its help.
        online: Whether it needs the online side, so that the help of bundle.pyz does not list it.

    The function gets a Console as ``reporter``.
    """

    def register(function: Verb) -> Verb:
        name = function.__name__.rstrip("_")

        @functools.wraps(function)
        def run(*, as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
            console = Console(command=name, as_json=as_json, quiet=quiet)
            raise typer.Exit(_run_verb(console, debug=debug, action=lambda: function(reporter=console, **arguments)))

        _set_signature(run, function)
        hidden = online and not HAS_ONLINE_SIDE
        app.command(name, epilog=f"Example:  {example}", rich_help_panel=panel, hidden=hidden)(run)
        return function

    return register


def _set_signature(run: Callable[..., None], function: Callable[..., VerbResult]) -> None:
    """Give ``run`` the parameters of the verb, which typer reads, and the shared options instead of ``reporter``."""
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.name != "reporter"
    ]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _SHARED.items()
    ]
    parameters = [*own, *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]


def _run_verb(console: Console, *, debug: bool, action: Callable[[], VerbResult]) -> int:
    """Run a verb, show its result or failure, and return the exit code; a traceback is shown only with --debug."""
    try:
        console.show_result(*action())
    except KeyboardInterrupt:
        console.show_interrupted()
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (a bug must not end as a traceback either)
        failure = _make_bundle_error(error)
        if debug:
            import traceback

            console.show_traceback("".join(traceback.format_exception(error)))
        console.show_error(failure)
        return failure.code
    return 0


def _make_bundle_error(error: Exception) -> BundleError:
    """Make an error with a message and a hint for a person."""
    if isinstance(error, BundleError):
        return error
    if isinstance(error, OSError):
        is_full = error.errno == errno.ENOSPC
        hint = "free some space on that disk" if is_full else "check that it exists and that you may read and write it"
        return HostError(error.strerror or str(error), where=str(error.filename or ""), hint=hint)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("bundler.online"):
        hint = (
            "on a machine with a network, run 'pip install .' in this tool's source tree; "
            "it is on no package index, so never install it by name"
        )
        return UsageError("this verb needs the online side, which this file does not have", hint=hint)
    hint = "run the same command with --debug and report what it prints"
    return BundleError(f"a bug in this program: {type(error).__name__}: {error}", hint=hint)

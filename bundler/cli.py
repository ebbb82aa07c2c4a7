"""Speaks to a person: arguments in, words, progress and an exit code out."""

from __future__ import annotations

import errno
import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import click

import bundler
from bundler import describe
from bundler.bundle import archive, difference
from bundler.bundle.hashing import digest_of
from bundler.bundle.lock import Lock
from bundler.console import Console
from bundler.errors import INTERRUPTED, BundleError, HostError, UsageError
from bundler.offline import install as installing
from bundler.offline import releases, smoke, verify

Answer = tuple[dict[str, Any], str]
"""What a verb found out: for a program, and in words."""

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Shell completion: eval "$(_BUNDLE_COMPLETE=bash_source bundle)" (or zsh_source, fish_source).',
)
@click.version_option(bundler.__version__, prog_name="bundle")
def cli() -> None:
    """Carry Hugging Face models and Python wheels across an air gap.

    \b
    Online:   lock, build, installer
    Either:   inspect, verify, diff
    Offline:  install, smoke, list, rollback
    """


def _verb(example: str) -> Callable[[Callable[..., Answer]], click.Command]:
    """A command with the options that all share; its function gets a Console as ``report``."""

    def made(function: Callable[..., Answer]) -> click.Command:
        @functools.wraps(function)
        def run(*, as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> int:
            console = Console(command=function.__name__.rstrip("_"), as_json=as_json, quiet=quiet)
            return _guarded(console, debug=debug, act=lambda: function(report=console, **arguments))

        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of words."),
            click.option("--quiet", is_flag=True, help="No progress; warnings, errors and the result alone."),
            click.option("--debug", is_flag=True, help="Show where in the program an error arose."),
        ):
            run = option(run)
        return cli.command(name=function.__name__.rstrip("_"), epilog=f"Example:  {example}")(run)

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
        hint = "pip install airgap-bundler where there is a network"
        return UsageError("this verb belongs to the online side", hint=hint)
    hint = "run it again with --debug and report what it prints"
    return BundleError(f"a fault in this program: {type(error).__name__}: {error}", hint=hint)


_BUNDLE = click.argument("bundle", metavar="BUNDLE")
_MANIFEST = click.argument("manifest", metavar="MANIFEST", type=_FILE)
_PREFIX = click.option("--prefix", required=True, type=_FOLDER, help="Folder of the installation.")


def _source(bundle: str) -> Path | BinaryIO:
    return sys.stdin.buffer if bundle == "-" else Path(bundle)


@_verb("bundle lock manifests/demo.yaml -o demo.lock.json")
@_MANIFEST
@click.option("-o", "--output", type=_FILE, help="The lock's file; default: beside the manifest, .lock.json.")
def lock(*, manifest: Path, output: Path | None, report: Console) -> Answer:
    """Find out what exactly a manifest asks for, and write it down."""
    from bundler.online import build as building  # noqa: PLC0415 (the far side has no online rooms)

    locked = building.make_lock(manifest, building.workshop(report))
    path = output or manifest.with_suffix(".lock.json")
    building.write_lock(path, locked)
    return {"lock": str(path), **describe.summary(locked)}, f"{path}\n{describe.words(locked)}"


@_verb("bundle build manifests/demo.yaml -o /media/usb/")
@_MANIFEST
@click.option("-o", "--output", type=click.Path(), help="The bundle's file, or a folder for it.")
@click.option("--lock", "kept", type=_FILE, help="Build exactly what this lock says.")
def build(*, manifest: Path, output: str | None, kept: Path | None, report: Console) -> Answer:
    """Bring everything home that a manifest asks for and pack it as one file."""
    from bundler.online import build as building  # noqa: PLC0415 (the far side has no online rooms)

    if output and output.endswith("/") and not Path(output).is_dir():  # such as a stick that is not mounted
        raise HostError("there is no such folder", where=output, hint="create or mount it, or give another with -o")
    built = building.build(manifest, Path(output) if output else None, kept, building.workshop(report))
    result = {"bundle": str(built.path), "bytes": built.size, "digest": built.lock.digest}
    return result | describe.summary(built.lock), describe.built(built.path, built.size, built.lock)


@_verb("bundle inspect demo.bundle.tar")
@_BUNDLE
def inspect(*, bundle: str, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Say what a bundle holds; reads its head alone, however large it is."""
    with archive.opened(_source(bundle)) as carried:
        carried.refuse_if_cut()
        return describe.summary(carried.lock), describe.words(carried.lock)


@_verb("bundle verify demo.bundle.tar")
@_BUNDLE
def verify_(*, bundle: str, report: Console) -> Answer:
    """Read every byte of a bundle and name all that is not what its lock says."""
    with archive.opened(_source(bundle)) as carried:
        verify.verify(carried, report)
        archive.refuse(carried.check(report), carried.where)
        size = carried.layout.size
        return {"bytes": size, "digest": carried.lock.digest, **describe.summary(carried.lock)}, describe.whole(
            carried.lock, size
        )


@_verb("bundle diff demo-1.0.bundle.tar demo-1.1.bundle.tar")
@click.argument("old", metavar="OLD", type=click.Path(path_type=Path))
@click.argument("new", metavar="NEW", type=click.Path(path_type=Path))
def diff(*, old: Path, new: Path, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Say what changed between two bundles, and how many bytes that makes to carry.

    OLD and NEW are bundles, or prefixes that a release is live in.
    """
    return describe.changed(difference.between(_lock_at(old), _lock_at(new)))


def _lock_at(place: Path) -> Lock:
    """The lock of a bundle, or of the live release of a prefix."""
    if place.is_dir():
        return releases.required_live(releases.at(place)).lock()
    with archive.opened(place) as carried:
        return carried.lock


@_verb("bundle install demo.bundle.tar --prefix /opt/demo")
@_BUNDLE
@_PREFIX
@click.option(
    "--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Where smoke loads run; default: the manifest's."
)
@click.option("--no-smoke", is_flag=True, help="Leave the smoke loads out: nothing is proven then.")
def install(*, bundle: str, prefix: Path, device: str | None, no_smoke: bool, report: Console) -> Answer:
    """Verify a bundle, install it with no network, prove every model, and make it the live release.

    BUNDLE is a file, or - for standard input.
    """
    receipt = installing.install(_source(bundle), prefix, device=device, prove=not no_smoke, report=report)
    return describe.installed(receipt)


@_verb("bundle smoke --prefix /opt/demo")
@_PREFIX
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Where to load; default: the manifest's.")
def smoke_(*, prefix: Path, device: str | None, report: Console) -> Answer:
    """Load every model of the live release again, with the network cut."""
    release = releases.required_live(releases.at(prefix))
    results = smoke.prove(release, release.lock(), device, report)
    return {"release": release.name, "smoke": results}, describe.proofs(results)


@_verb("bundle list --prefix /opt/demo")
@_PREFIX
def list_(*, prefix: Path, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """List the installed releases; the live one is marked."""
    root = releases.at(prefix)
    return describe.listed(releases.receipts(root), releases.live(root))


@_verb("bundle rollback --prefix /opt/demo")
@_PREFIX
def rollback(*, prefix: Path, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Make the release live that was installed before the live one."""
    root = releases.at(prefix)
    releases.required_live(root)  # before a prefix that is not there would be made
    with releases.held(root):
        now, then = releases.rollback(root)
    return {"from": now.name, "to": then.name}, f"live now: {then.name} (before: {now.name})"


@_verb("bundle installer -o bundle.pyz")
@click.option("-o", "--output", type=_FILE, default=Path("bundle.pyz"), show_default=True, help="Where to write it.")
def installer(*, output: Path, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Write the installer as one file, to be carried and checked apart from any bundle."""
    from bundler.online import installer as making  # noqa: PLC0415 (the far side has no online rooms)

    data = making.build()
    making.write(output, data)
    result = {"installer": str(output), "sha256": digest_of(data), "bytes": len(data)}
    return result, f"{digest_of(data)}  {output}"


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

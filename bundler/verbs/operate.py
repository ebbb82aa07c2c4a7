"""The verbs for installed releases: smoke, list, rollback, remove, prune and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bundler.errors import UnhealthyError, UsageError
from bundler.output.console import Console, VerbResult
from bundler.verbs.verb import OPERATE, Device, Prefix, verb

app = typer.Typer()


@verb(app, OPERATE, example="bundle smoke --prefix /opt/demo")
def smoke_(*, prefix: Prefix, device: Device = None, reporter: Console) -> VerbResult:
    """Load and check every model of the live release again, with the network cut."""
    from bundler.format import documents
    from bundler.offline import smoke
    from bundler.offline.prefix import releases
    from bundler.output import smoke_text

    release = releases.require_live(releases.get_absolute_prefix(prefix))
    results = [load.result for load in smoke.run_smoke_loads(release, release.read_lock(), device, reporter)]
    return {"release": release.name, "smoke": documents.encode(results)}, smoke_text.format_smoke_results(results)


@verb(app, OPERATE, example="bundle list --prefix /opt/demo")
def list_(*, prefix: Prefix, reporter: Console) -> VerbResult:
    """List the installed releases; an asterisk marks the live one."""
    from bundler.offline.prefix import releases
    from bundler.output import host_text

    root = releases.get_absolute_prefix(prefix)
    releases.require_prefix(root)
    for error in releases.find_damaged_releases(root).values():
        reporter.warn(f"{error}: {error.where}")
    return host_text.describe_releases(releases.read_receipts(root), releases.find_live(root))


def complete_release(context: typer.Context, incomplete: str) -> list[str]:
    """List the installed releases of the prefix on the command line, for shell completion."""
    from bundler.offline.prefix import releases
    from bundler.offline.prefix import rollback as rollbacks

    prefix = context.params.get("prefix")
    names = rollbacks.list_installed(releases.get_absolute_prefix(Path(prefix))) if prefix else []
    return [name for name in names if name.startswith(incomplete)]


@verb(app, OPERATE, example="bundle rollback --prefix /opt/demo")
def rollback(
    *,
    prefix: Prefix,
    release: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="RELEASE",
            autocompletion=complete_release,
            help="Switch to this installed release, older or newer: a name from 'bundle list', or its beginning.",
        ),
    ] = None,
    reporter: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Switch back to the release that was live before the present one was installed, or to another with --to."""
    from bundler.offline.prefix import releases
    from bundler.offline.prefix import rollback as rollbacks

    root = releases.get_absolute_prefix(prefix)
    releases.require_prefix(root)  # the lock would create a missing prefix
    with releases.lock_prefix(root):
        old, new = rollbacks.roll_back(root) if release is None else rollbacks.switch_to(root, release)
    text = f"live now: {new} (before: {old or 'none'})" if new != old else f"{new} is already live"
    return {"from": old, "to": new}, text


@verb(app, OPERATE, example="bundle remove 1.0-3f2a91c0 --prefix /opt/demo")
def remove(
    *,
    release: Annotated[str, typer.Argument(metavar="RELEASE", help="A name from 'bundle list'.")],
    prefix: Prefix,
    reporter: Console,
) -> VerbResult:
    """Remove a release that is not live, with the models that no other release uses."""
    from bundler.offline.prefix import releases, removal
    from bundler.output import host_text

    root = releases.get_absolute_prefix(prefix)
    releases.require_live(root)
    with releases.lock_prefix(root):
        return host_text.describe_removal(removal.remove_release(root, release, reporter))


@verb(app, OPERATE, example="bundle prune --prefix /opt/demo")
def prune(
    *,
    prefix: Prefix,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many releases stay, with the live one.")] = 2,
    reporter: Console,
) -> VerbResult:
    """Remove old releases, with the models that no other uses; the one that rollback needs goes last."""
    from bundler.offline.prefix import releases, removal
    from bundler.output import host_text

    root = releases.get_absolute_prefix(prefix)
    releases.require_live(root)
    with releases.lock_prefix(root):
        return host_text.describe_removal(removal.prune_releases(root, keep, reporter))


@verb(app, OPERATE, example="bundle doctor --prefix /opt/demo")
def doctor(
    *,
    prefix: Prefix,
    quick: Annotated[bool, typer.Option("--quick", help="Take only a second, for a container's health check.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every installed byte, and name the damaged files.")
    ] = False,
    reporter: Console,
) -> VerbResult:
    """Check this host and what is installed on it, and say how to fix problems; changes nothing.

    The exit code is 14 if a problem is critical; with only warnings it is 0.
    """
    from bundler.offline.doctor import examination
    from bundler.offline.prefix import releases
    from bundler.output import host_text

    if quick and deep:
        raise UsageError("--quick and --deep exclude each other", hint="give one of them or neither")
    depth: examination.Depth = "quick" if quick else "deep" if deep else "plain"
    examined = examination.examine_release(releases.get_absolute_prefix(prefix), depth, reporter)
    result, text = host_text.describe_examination(examined)
    if critical := examined.list_findings("critical"):
        raise UnhealthyError(
            host_text.format_critical(critical), where=str(prefix), hint=critical[0].hint, text=text, result=result
        )
    return result, text

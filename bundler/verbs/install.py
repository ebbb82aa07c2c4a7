"""The verbs of the side without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bundler.errors import UnhealthyError, UsageError
from bundler.offline.container.engine_registry import ENGINES
from bundler.output.console import Console
from bundler.verbs.verb import (
    INSTALL,
    OPERATE,
    Bundle,
    NoPickles,
    Prefix,
    Threshold,
    Trusted,
    VerbResult,
    open_bundle_argument,
    verb,
)

app = typer.Typer()
Device = Annotated[
    Literal["cpu", "cuda", "auto"] | None,
    typer.Option("--device", help="Where smoke loads run; default: the manifest's."),
]
if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]


@verb(app, INSTALL, example="bundle install demo.bundle.tar --prefix /opt/demo")
def install(
    *,
    bundle: Bundle,
    prefix: Prefix,
    device: Device = None,
    no_smoke: Annotated[
        bool, typer.Option("--no-smoke", help="Leave the smoke loads out: nothing is proven then.")
    ] = False,
    no_pickles: NoPickles = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="PART",
            help="Place model:ALIAS, environment or app ahead of the rest; nothing goes live then.",
        ),
    ] = None,
    trusted: Trusted = None,
    threshold: Threshold = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Take a bundle that is older than the live one.")
    ] = False,
    report: Console,
) -> VerbResult:
    """Verify a bundle, install it with no network, prove every model, and make it the live release.

    A prefix remembers the keys of the first install with --trust, and takes only bundles of theirs from then on.
    """
    from bundler.offline import install as installing
    from bundler.offline import part_install
    from bundler.offline.trust import trusted_keys
    from bundler.output import lock_text

    told = trusted_keys.read_policy(trusted or (), threshold)
    options = installing.InstallOptions(
        device=device, with_smoke=not no_smoke, no_pickles=no_pickles, trust=told, allow_downgrade=allow_downgrade
    )
    if only is not None:
        return lock_text.describe_part(
            only, *part_install.install_part(open_bundle_argument(bundle), prefix, only, options, report)
        )
    receipt = installing.install_bundle(open_bundle_argument(bundle), prefix, options, report)
    return lock_text.describe_install(receipt)


@verb(app, OPERATE, example="bundle smoke --prefix /opt/demo")
def smoke_(*, prefix: Prefix, device: Device = None, report: Console) -> VerbResult:
    """Load every model of the live release again, with the network cut."""
    from bundler.format import documents
    from bundler.offline import smoke
    from bundler.offline.prefix import releases
    from bundler.output import smoke_text

    release = releases.require_live(releases.get_absolute_prefix(prefix))
    results = [one.result for one in smoke.run_smoke_loads(release, release.read_lock(), device, report)]
    return {"release": release.name, "smoke": documents.encode(results)}, smoke_text.format_smoke_results(results)


@verb(app, OPERATE, example="bundle list --prefix /opt/demo")
def list_(*, prefix: Prefix, report: Console) -> VerbResult:
    """List the installed releases; the live one is marked."""
    from bundler.offline.prefix import releases
    from bundler.output import lock_text

    root = releases.get_absolute_prefix(prefix)
    releases.require_prefix(root)
    for fault in releases.find_damaged_releases(root).values():
        report.warn(f"{fault}: {fault.where}")
    return lock_text.describe_releases(releases.read_receipts(root), releases.find_live(root))


def complete_release(context: typer.Context, incomplete: str) -> list[str]:
    """The installed releases of the prefix that was typed before."""
    from bundler.offline.prefix import releases
    from bundler.offline.prefix import rollback as rolling

    prefix = context.params.get("prefix")
    names = rolling.list_installed(releases.get_absolute_prefix(Path(prefix))) if prefix else []
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
            help="Go to this installed release, older or newer: a name that 'bundle list' shows, or its beginning.",
        ),
    ] = None,
    report: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Make the release live that was live before the live one was installed, or any other with --to."""
    from bundler.offline.prefix import releases
    from bundler.offline.prefix import rollback as rolling

    root = releases.get_absolute_prefix(prefix)
    releases.require_prefix(root)  # before a prefix that is not there would be made
    with releases.lock_prefix(root):
        before, then = rolling.roll_back(root) if release is None else rolling.switch_to(root, release)
    words = f"live now: {then} (before: {before or 'none'})" if then != before else f"{then} is live already"
    return {"from": before, "to": then}, words


@verb(app, OPERATE, example="bundle remove 1.0-3f2a91c0 --prefix /opt/demo")
def remove(
    *,
    release: Annotated[str, typer.Argument(metavar="RELEASE", help="A name that 'bundle list' shows.")],
    prefix: Prefix,
    report: Console,
) -> VerbResult:
    """Remove a release that is not live, with the models that no other holds."""
    from bundler.offline.prefix import releases, removal
    from bundler.output import lock_text

    root = releases.get_absolute_prefix(prefix)
    releases.require_live(root)
    with releases.lock_prefix(root):
        return lock_text.describe_removal(removal.remove_release(root, release, report))


@verb(app, OPERATE, example="bundle prune --prefix /opt/demo")
def prune(
    *,
    prefix: Prefix,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Releases that stay, the live one too.")] = 2,
    report: Console,
) -> VerbResult:
    """Remove old releases, with the models that no other holds; what rollback would go to stays longest."""
    from bundler.offline.prefix import releases, removal
    from bundler.output import lock_text

    root = releases.get_absolute_prefix(prefix)
    releases.require_live(root)
    with releases.lock_prefix(root):
        return lock_text.describe_removal(removal.prune_releases(root, keep, report))


@verb(app, OPERATE, example="bundle doctor --prefix /opt/demo")
def doctor(
    *,
    prefix: Prefix,
    quick: Annotated[bool, typer.Option("--quick", help="A second's look, for a container's health check.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte that was placed, and name the damaged files.")
    ] = False,
    report: Console,
) -> VerbResult:
    """Say whether this host, and what is installed on it, is fit to run; changes nothing.

    Ends with 14 when something is critical; warnings alone end with 0.
    """
    from bundler.offline.doctor import examination as examining
    from bundler.offline.prefix import releases
    from bundler.output import lock_text

    if quick and deep:
        raise UsageError("--quick and --deep exclude each other", hint="give one of them, or neither")
    depth: examining.Depth = "quick" if quick else "deep" if deep else "plain"
    found = examining.examine_release(releases.get_absolute_prefix(prefix), depth, report)
    result, words = lock_text.describe_examination(found)
    if critical := found.list_findings("critical"):
        raise UnhealthyError(
            lock_text.format_critical(critical), where=str(prefix), hint=critical[0].hint, text=words, result=result
        )
    return result, words


@verb(app, INSTALL, example="bundle image demo.bundle.tar -t localhost/demo:1.0")
def image_(
    *,
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", dir_okay=False, help="The bundle's file, unless --prefix is given."),
    ] = None,
    prefix: Annotated[
        Path | None,
        typer.Option(
            "--prefix", file_okay=False, help="Bake what is live in this folder, from the bundle that it came from."
        ),
    ] = None,
    tag: Annotated[
        str, typer.Option("-t", "--tag", metavar="NAME", help="The image's name; default: localhost/NAME:VERSION.")
    ] = "",
    engine: Annotated[
        EngineName | None, typer.Option("--engine", help="Bake with this one; default: the first there.")
    ] = None,
    base: Annotated[
        str,
        typer.Option("--base", metavar="NAME", help="The base image, by the name that the engine here has it under."),
    ] = "",
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="oci-archive:FILE", help="Save the image as a file too, to be run elsewhere."),
    ] = None,
    trusted: Trusted = None,
    threshold: Threshold = None,
    report: Console,
) -> VerbResult:
    """Bake a container image with no network, run it once, and say what that proved.

    Give a BUNDLE, or --prefix.
    """
    from bundler.offline.container import image_build
    from bundler.offline.prefix import releases
    from bundler.offline.trust import trusted_keys
    from bundler.output import lock_text

    if (bundle is None) == (prefix is None):
        raise UsageError("give a BUNDLE or --prefix, one of the two", hint="bundle image --help")
    kind, _, file = (output or "").partition(":")
    if output and (kind != "oci-archive" or not file):
        raise UsageError(f"{output!r} is not such as oci-archive:FILE", where="--output")
    told = trusted_keys.read_policy(trusted or (), threshold)
    trusts = (
        trusted_keys.list_required_policies(releases.get_absolute_prefix(prefix), told)
        if prefix
        else (told,)
        if told
        else ()
    )
    saved = Path(file) if file else None
    options = image_build.ImageOptions(engine=engine or "", image=tag, base=base, archive_path=saved, policies=trusts)
    carried = bundle if bundle is not None else image_build.find_bundle(prefix or Path())
    return lock_text.describe_image(image_build.build_image(carried, options, report))


@verb(app, INSTALL, example="bundle trust --prefix /opt/demo --add builder-2027.pub")
def trust_(
    *,
    prefix: Prefix,
    added: Annotated[
        list[Path] | None, typer.Option("--add", metavar="KEY.pub|FOLDER", help="Trust this key as well.")
    ] = None,
    removed: Annotated[
        list[str] | None, typer.Option("--remove", metavar="FINGERPRINT", help="Trust this key no longer.")
    ] = None,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget all keys: any bundle is taken, until one is installed with --trust."),
    ] = False,
    report: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Show whose bundles a prefix takes, or change that."""
    from bundler.offline.prefix import releases
    from bundler.offline.trust import trusted_keys
    from bundler.output import lock_text

    root = releases.get_absolute_prefix(prefix)
    if forget and (added or removed):
        raise UsageError("--forget goes alone", hint="then install with --trust, or use --add")
    if not added:  # keys may be there before the first install
        releases.require_prefix(root)
    if added or removed or forget:
        with releases.lock_prefix(root):
            if forget:
                trusted_keys.forget_keys(root)
            if added:
                trusted_keys.add_keys(root, added)
            if removed:
                trusted_keys.remove_keys(root, removed)
    return lock_text.describe_trust(trusted_keys.read_stored_policy(root), root)

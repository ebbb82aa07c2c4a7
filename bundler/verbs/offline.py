"""The verbs of the side without."""

from __future__ import annotations

from pathlib import Path

import click

from bundler import describe, describe_smoke
from bundler.bundle import fields
from bundler.console import Console
from bundler.errors import UnhealthyError, UsageError
from bundler.offline import doctor as examining
from bundler.offline import image, parts, releases, removal, smoke, trust
from bundler.offline import install as installing
from bundler.offline import rollback as rolling
from bundler.verbs.verb import BUNDLE, FILE, FOLDER, PREFIX, THRESHOLD, TRUST, Answer, source, verb


@verb("bundle install demo.bundle.tar --prefix /opt/demo")
@BUNDLE
@PREFIX
@click.option(
    "--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Where smoke loads run; default: the manifest's."
)
@click.option("--no-smoke", is_flag=True, help="Leave the smoke loads out: nothing is proven then.")
@click.option("--no-pickles", is_flag=True, help="Refuse models that hold pickles, which can run code when loaded.")
@click.option(
    "--only", metavar="PART", help="Place model:ALIAS, environment or app ahead of the rest; nothing goes live then."
)
@TRUST
@THRESHOLD
@click.option("--allow-downgrade", is_flag=True, help="Take a bundle that is older than the live one.")
def install(
    *,
    bundle: str,
    prefix: Path,
    device: str | None,
    no_smoke: bool,
    no_pickles: bool,
    only: str | None,
    trusted: tuple[Path, ...],
    threshold: int | None,
    allow_downgrade: bool,
    report: Console,
) -> Answer:
    """Verify a bundle, install it with no network, prove every model, and make it the live release.

    BUNDLE is a file, or - for standard input. A prefix remembers the keys of the first install with --trust, and
    takes only bundles of theirs from then on.
    """
    told = trust.given(trusted, threshold)
    options = installing.Options(
        device=device, prove=not no_smoke, no_pickles=no_pickles, trust=told, downgrade=allow_downgrade
    )
    if only is not None:
        return describe.placed(only, *parts.install_only(source(bundle), prefix, only, options, report))
    receipt = installing.install(source(bundle), prefix, options, report)
    return describe.installed(receipt)


@verb("bundle smoke --prefix /opt/demo")
@PREFIX
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Where to load; default: the manifest's.")
def smoke_(*, prefix: Path, device: str | None, report: Console) -> Answer:
    """Load every model of the live release again, with the network cut."""
    release = releases.required_live(releases.at(prefix))
    results = [one.result for one in smoke.prove(release, release.lock(), device, report)]
    return {"release": release.name, "smoke": fields.encode(results)}, describe_smoke.proofs(results)


@verb("bundle list --prefix /opt/demo")
@PREFIX
def list_(*, prefix: Path, report: Console) -> Answer:
    """List the installed releases; the live one is marked."""
    root = releases.at(prefix)
    releases.required_prefix(root)
    for fault in releases.unreadable(root).values():
        report.warn(f"{fault}: {fault.where}")
    return describe.listed(releases.receipts(root), releases.live(root))


def complete_release(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The installed releases of the prefix that was typed before."""
    prefix = context.params.get("prefix")
    names = rolling.installed(releases.at(prefix)) if prefix else []
    return [name for name in names if name.startswith(incomplete)]


@verb("bundle rollback --prefix /opt/demo")
@PREFIX
@click.option(
    "--to",
    "release",
    metavar="RELEASE",
    shell_complete=complete_release,
    help="Go to this installed release, older or newer: a name that 'bundle list' shows, or its beginning.",
)
def rollback(*, prefix: Path, release: str | None, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Make the release live that was live before the live one was installed, or any other with --to."""
    root = releases.at(prefix)
    releases.required_prefix(root)  # before a prefix that is not there would be made
    with releases.held(root):
        before, then = rolling.roll_back(root) if release is None else rolling.switch_to(root, release)
    words = f"live now: {then} (before: {before or 'none'})" if then != before else f"{then} is live already"
    return {"from": before, "to": then}, words


@verb("bundle remove 1.0-3f2a91c0 --prefix /opt/demo")
@click.argument("release", metavar="RELEASE")
@PREFIX
def remove(*, release: str, prefix: Path, report: Console) -> Answer:
    """Remove a release that is not live, with the models that no other holds.

    RELEASE is a name that 'bundle list' shows.
    """
    root = releases.at(prefix)
    releases.required_live(root)
    with releases.held(root):
        return describe.removed(removal.remove(root, release, report))


@verb("bundle prune --prefix /opt/demo")
@PREFIX
@click.option(
    "--keep", type=click.IntRange(min=1), default=2, show_default=True, help="Releases that stay, the live one too."
)
def prune(*, prefix: Path, keep: int, report: Console) -> Answer:
    """Remove old releases, with the models that no other holds; what rollback would go to stays longest."""
    root = releases.at(prefix)
    releases.required_live(root)
    with releases.held(root):
        return describe.removed(removal.prune(root, keep, report))


@verb("bundle doctor --prefix /opt/demo")
@PREFIX
@click.option("--quick", is_flag=True, help="A second's look, for a container's health check.")
@click.option("--deep", is_flag=True, help="Read every byte that was placed, and name the damaged files.")
def doctor(*, prefix: Path, quick: bool, deep: bool, report: Console) -> Answer:
    """Say whether this host, and what is installed on it, is fit to run; changes nothing.

    Ends with 14 when something is critical; warnings alone end with 0.
    """
    if quick and deep:
        raise UsageError("--quick and --deep exclude each other", hint="give one of them, or neither")
    depth: examining.Depth = "quick" if quick else "deep" if deep else "plain"
    found = examining.examine(releases.at(prefix), depth, report)
    result, words = describe.examined(found)
    if critical := found.of("critical"):
        raise UnhealthyError(
            describe.critical(critical), where=str(prefix), hint=critical[0].hint, words=words, result=result
        )
    return result, words


@verb("bundle image demo.bundle.tar -t localhost/demo:1.0")
@click.argument("bundle", metavar="[BUNDLE]", required=False, type=FILE)
@click.option("--prefix", type=FOLDER, help="Bake what is live in this folder, from the bundle that it came from.")
@click.option("-t", "--tag", metavar="NAME", default="", help="The image's name; default: localhost/NAME:VERSION.")
@click.option("--engine", type=click.Choice(list(image.ENGINES)), help="Bake with this one; default: the first there.")
@click.option(
    "--base", metavar="NAME", default="", help="The base image, by the name that the engine here has it under."
)
@click.option("--output", metavar="oci-archive:FILE", help="Save the image as a file too, to be run elsewhere.")
@TRUST
@THRESHOLD
def image_(
    *,
    bundle: Path | None,
    prefix: Path | None,
    tag: str,
    engine: str | None,
    base: str,
    output: str | None,
    trusted: tuple[Path, ...],
    threshold: int | None,
    report: Console,
) -> Answer:
    """Bake a container image with no network, run it once, and say what that proved.

    Give a BUNDLE, or --prefix.
    """
    if (bundle is None) == (prefix is None):
        raise UsageError("give a BUNDLE or --prefix, one of the two", hint="bundle image --help")
    kind, _, file = (output or "").partition(":")
    if output and (kind != "oci-archive" or not file):
        raise UsageError(f"{output!r} is not such as oci-archive:FILE", where="--output")
    told = trust.given(trusted, threshold)
    trusts = trust.told(releases.at(prefix), told) if prefix else (told,) if told else ()
    saved = Path(file) if file else None
    options = image.Options(engine=engine or "", image=tag, base=base, archive=saved, trusts=trusts)
    carried = bundle if bundle is not None else image.bundle_of(prefix or Path())
    return describe.baked(image.bake(carried, options, report))


@verb("bundle trust --prefix /opt/demo --add builder-2027.pub")
@PREFIX
@click.option(
    "--add",
    "added",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="KEY.pub|FOLDER",
    help="Trust this key as well.",
)
@click.option("--remove", "removed", multiple=True, metavar="FINGERPRINT", help="Trust this key no longer.")
@click.option(
    "--forget", is_flag=True, help="Forget all keys: any bundle is taken, until one is installed with --trust."
)
def trust_(*, prefix: Path, added: tuple[Path, ...], removed: tuple[str, ...], forget: bool, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Show whose bundles a prefix takes, or change that."""
    root = releases.at(prefix)
    if forget and (added or removed):
        raise UsageError("--forget goes alone", hint="then install with --trust, or use --add")
    if not added:  # keys may be there before the first install
        releases.required_prefix(root)
    if added or removed or forget:
        with releases.held(root):
            if forget:
                trust.forget(root)
            if added:
                trust.add(root, added)
            if removed:
                trust.remove(root, removed)
    return describe.trusting(trust.remembered(root), root)


VERBS = (install, smoke_, list_, rollback, remove, prune, doctor, trust_, image_)

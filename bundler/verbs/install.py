"""The verbs that install on the host: install, image and trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bundler.errors import UsageError
from bundler.output.console import Console, VerbResult
from bundler.verbs.verb import (
    INSTALL,
    Bundle,
    Device,
    NoPickles,
    Prefix,
    Threshold,
    Trusted,
    open_bundle_argument,
    verb,
)

app = typer.Typer()
EngineName = Literal["docker", "podman", "buildah"]


@verb(app, INSTALL, example="bundle install demo.bundle.tar --prefix /opt/demo")
def install(
    *,
    bundle: Bundle,
    prefix: Prefix,
    device: Device = None,
    no_smoke: Annotated[
        bool, typer.Option("--no-smoke", help="Skip the smoke loads: then no model is checked.")
    ] = False,
    no_pickles: NoPickles = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="PART",
            help="Install only this part: model:ALIAS, environment or app. Nothing goes live.",
        ),
    ] = None,
    trusted: Trusted = None,
    threshold: Threshold = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Accept a bundle that is older than the live one.")
    ] = False,
    reporter: Console,
) -> VerbResult:
    """Verify a bundle, install it without a network, load every model, and make it the live release.

    A prefix stores the keys of the first install with --trust, and from then on accepts only bundles signed by them.
    """
    from bundler.offline import install as installing
    from bundler.offline import part_install
    from bundler.offline.trust import trusted_keys
    from bundler.output import host_text

    policy = trusted_keys.read_policy(trusted or (), threshold)
    options = installing.InstallOptions(
        device=device, with_smoke=not no_smoke, no_pickles=no_pickles, trust=policy, allow_downgrade=allow_downgrade
    )
    if only is not None:
        release, path = part_install.install_part(open_bundle_argument(bundle), prefix, only, options, reporter)
        return host_text.describe_part(only, release, path)
    receipt = installing.install_bundle(open_bundle_argument(bundle), prefix, options, reporter)
    return host_text.describe_install(receipt)


@verb(app, INSTALL, example="bundle image demo.bundle.tar -t localhost/demo:1.0")
def image_(
    *,
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", dir_okay=False, help="The bundle's file, unless --prefix is given."),
    ] = None,
    prefix: Annotated[
        Path | None,
        typer.Option("--prefix", file_okay=False, help="Build from the bundle whose release is live in this folder."),
    ] = None,
    tag: Annotated[
        str, typer.Option("-t", "--tag", metavar="NAME", help="The image's name; default: localhost/NAME:VERSION.")
    ] = "",
    engine: Annotated[
        EngineName | None, typer.Option("--engine", help="The engine; default: the first one that is installed.")
    ] = None,
    base: Annotated[
        str,
        typer.Option("--base", metavar="NAME", help="The base image, by its name in the engine on this host."),
    ] = "",
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="oci-archive:FILE", help="Also save the image to a file, for another host."),
    ] = None,
    trusted: Trusted = None,
    threshold: Threshold = None,
    reporter: Console,
) -> VerbResult:
    """Build a container image without a network, run it once, and show what the models measured.

    Give a BUNDLE, or --prefix.
    """
    from bundler.offline.container import image_build
    from bundler.offline.prefix import releases
    from bundler.offline.trust import trusted_keys
    from bundler.output import host_text

    if (bundle is None) == (prefix is None):
        raise UsageError("give either a BUNDLE or --prefix", hint="bundle image --help shows an example")
    kind, _, file = (output or "").partition(":")
    if output and (kind != "oci-archive" or not file):
        raise UsageError(
            f"{output!r} is not oci-archive:FILE", where="--output", hint="give oci-archive: and a file's name"
        )
    policy = trusted_keys.read_policy(trusted or (), threshold)
    if prefix:
        policies = tuple(trusted_keys.list_required_policies(releases.get_absolute_prefix(prefix), policy))
    else:
        policies = (policy,) if policy else ()
    archive_path = Path(file) if file else None
    options = image_build.ImageOptions(
        engine=engine or "", image=tag, base=base, archive_path=archive_path, policies=policies
    )
    bundle_path = bundle if bundle is not None else image_build.find_bundle(prefix or Path())
    return host_text.describe_image(image_build.build_image(bundle_path, options, reporter))


@verb(app, INSTALL, example="bundle trust --prefix /opt/demo --add builder-2027.pub")
def trust_(
    *,
    prefix: Prefix,
    added: Annotated[
        list[Path] | None, typer.Option("--add", metavar="KEY.pub|FOLDER", help="Trust this key too.")
    ] = None,
    removed: Annotated[
        list[str] | None, typer.Option("--remove", metavar="FINGERPRINT", help="Stop trusting this key.")
    ] = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Forget all keys: then the prefix accepts any bundle, until one is installed with --trust."
        ),
    ] = False,
    reporter: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Show whose bundles a prefix accepts, or change that."""
    from bundler.offline.prefix import releases
    from bundler.offline.trust import trusted_keys
    from bundler.output import host_text

    root = releases.get_absolute_prefix(prefix)
    if forget and (added or removed):
        raise UsageError("--forget excludes --add and --remove", hint="use --forget first, then --add")
    if not added:  # --add also works before the first install
        releases.require_prefix(root)
    if added or removed or forget:
        with releases.lock_prefix(root):
            if forget:
                trusted_keys.forget_keys(root)
            if added:
                trusted_keys.add_keys(root, added)
            if removed:
                trusted_keys.remove_keys(root, removed)
    return host_text.describe_trust(trusted_keys.read_stored_policy(root), root)

"""The verbs of the builder: init, lock, build, keygen and installer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bundler.errors import HostError
from bundler.output.console import Console, VerbResult
from bundler.verbs.verb import BUILD, Keys, Manifest, NoPickles, PassphraseFile, verb

app = typer.Typer()


@verb(app, BUILD, example="bundle init . -o ragtrace.yaml", online=True)
def init(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", file_okay=False, help="The project; default: the current folder.")
    ] = Path(),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", dir_okay=False, help="The manifest's file; default: bundle.yaml in FOLDER."),
    ] = None,
    reporter: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Write a manifest to start from: a project's packages, and the models that its code and settings name.

    It runs no code of the project and sends no network request.
    """
    from bundler.online.scaffold import manifest_writer

    written = manifest_writer.write_manifest(folder, output)
    return written.document, written.text


@verb(app, BUILD, example="bundle lock manifests/demo.yaml -o demo.lock.json", online=True)
def lock(
    *,
    manifest: Manifest,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", dir_okay=False, help="The lock's file; default: the manifest's name with .lock.json."
        ),
    ] = None,
    reporter: Console,
) -> VerbResult:
    """Resolve the manifest to exact versions and checksums; write a lock.

    Files that it need not read for that, such as safetensors of the hub, are fetched by `bundle build`.
    """
    from bundler.online import build as building
    from bundler.online.transfer.context import BuildContext
    from bundler.output import build_text

    context = BuildContext.from_environment(reporter)
    new_lock = building.make_lock(manifest, context)
    path = output or manifest.with_suffix(".lock.json")
    building.write_lock(path, new_lock)
    return build_text.describe_lock(path, new_lock, building.list_missing(new_lock, context))


@verb(app, BUILD, example="bundle build manifests/demo.yaml -o /media/usb/", online=True)
def build(
    *,
    manifest: Manifest,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="The bundle's file, or a folder for it."),
    ] = None,
    kept: Annotated[
        Path | None, typer.Option("--lock", dir_okay=False, help="Build exactly what this lock lists.")
    ] = None,
    no_pickles: NoPickles = False,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse/--no-rehearse",
            help="Install the new bundle and load its models, with the network cut, before the bundle gets its final name.",
        ),
    ] = True,
    reporter: Console,
) -> VerbResult:
    """Fetch everything that a manifest lists, pack it into one file, and rehearse the install.

    With --key, the bundle is signed too.
    """
    from bundler.online import build as building
    from bundler.online.transfer.context import BuildContext
    from bundler.output import build_text, lock_text
    from bundler.verbs import passphrases

    if output and output.endswith("/") and not Path(output).is_dir():  # such as a stick that is not mounted
        hint = "create or mount it, or give another with -o"
        raise HostError("there is no such folder", where=output, hint=hint)
    signers = passphrases.load_signers(keys, passphrase_file, reporter)
    options = building.BuildOptions(
        output=Path(output) if output else None,
        lock_path=kept,
        no_pickles=no_pickles,
        signers=signers,
        with_rehearsal=rehearse,
    )
    built = building.build_bundle(manifest, options, BuildContext.from_environment(reporter))
    signed_by = sorted(signer.public.fingerprint for signer in signers)
    file = {"bundle": str(built.path), "bytes": built.size, "sha256": built.sha256}
    result = {**file, **lock_text.summarize_lock(built.lock, signed_by)}
    return result, build_text.format_build(built.path, built.size, built.sha256, built.lock, signed_by)


@verb(app, BUILD, example="bundle keygen -o release", online=True)
def keygen(
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", dir_okay=False, metavar="NAME", help="Write NAME.key and NAME.pub.")
    ],
    passphrase_file: PassphraseFile = None,
    reporter: Console,
) -> VerbResult:
    """Make a key pair: NAME.key signs and stays on this machine, NAME.pub is for the hosts."""
    from bundler.online import private_keys
    from bundler.verbs import passphrases

    passphrase = passphrases.read_new_passphrase(passphrase_file)
    private_path, public_path, key = private_keys.generate_pair(output, passphrase)
    if passphrase is None:
        reporter.warn(f"{private_path} is not encrypted: anyone who can read it can sign")
    result = {
        "key": str(private_path),
        "public": str(public_path),
        "fingerprint": key.fingerprint,
        "encrypted": passphrase is not None,
    }
    lines = [
        f"{private_path}  signs; keep it on this machine",
        f"{public_path}  for the hosts that trust it",
        f"  fingerprint  {key.fingerprint}",
    ]
    return result, "\n".join(lines)


@verb(app, BUILD, example="bundle installer -o trusted/bundle-installer.pyz", online=True)
def installer(
    *,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", dir_okay=False, help="Where to write it; an existing file is never replaced."),
    ] = Path("bundle-installer.pyz"),
    reporter: Console,
) -> VerbResult:
    """Write the installer as one file. Carry it to the host once, separately from the bundles.

    Every bundle has an installer too, bundle.pyz, which you can trust only as far as the bundle. Keep this one under
    another name, in a folder where you never unpack a bundle.
    """
    from bundler.format.hashing import compute_sha256
    from bundler.format.lock import entries
    from bundler.online import installer as installers

    content = installers.build_installer()
    if output.name == entries.INSTALLER:
        reporter.warn(
            f"every bundle has a file named {entries.INSTALLER}: if you unpack one here, it replaces this installer; "
            f"give -o {output.with_name(entries.TRUSTED_INSTALLER)} instead"
        )
    is_new = installers.write_installer(output, content)
    sha256 = compute_sha256(content)
    result = {"installer": str(output), "sha256": sha256, "bytes": len(content), "written": is_new}
    return result, f"{sha256}  {output}" + ("" if is_new else "\n  already existed with the same content")

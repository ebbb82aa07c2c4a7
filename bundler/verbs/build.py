"""The verbs of the side with a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundler.errors import HostError, UsageError
from bundler.output.console import Console
from bundler.verbs.verb import BUILD, CARRY, Keys, Manifest, NoPickles, PassphraseFile, VerbResult, verb

if TYPE_CHECKING:
    from bundler.format.signing.signature_envelope import Signer

app = typer.Typer()


@verb(app, BUILD, example="bundle init . -o ragtrace.yaml", online=True)
def init(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", file_okay=False, help="The project; default: the working folder.")
    ] = Path(),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", dir_okay=False, help="The manifest's file; default: bundle.yaml in FOLDER."),
    ] = None,
    report: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Write a manifest to start from: the packages of a project, and the models that its code and settings name.

    Nothing of the project is run, and no network is asked.
    """
    from bundler.online.scaffold import manifest_writer

    made = manifest_writer.write_manifest(folder, output)
    return made.document, made.text


@verb(app, BUILD, example="bundle lock manifests/demo.yaml -o demo.lock.json", online=True)
def lock(
    *,
    manifest: Manifest,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", dir_okay=False, help="The lock's file; default: beside the manifest, .lock.json."
        ),
    ] = None,
    report: Console,
) -> VerbResult:
    """Find out what exactly a manifest asks for, and write it down.

    What need not be looked into for that, such as safetensors of the hub, is fetched when the bundle is built.
    """
    from bundler.online import build as building
    from bundler.online.transfer.context import BuildContext
    from bundler.output import lock_text

    shop = BuildContext.from_environment(report)
    locked = building.make_lock(manifest, shop)
    path = output or manifest.with_suffix(".lock.json")
    building.write_lock(path, locked)
    return lock_text.describe_lock(path, locked, building.list_missing(locked, shop))


@verb(app, BUILD, example="bundle build manifests/demo.yaml -o /media/usb/", online=True)
def build(
    *,
    manifest: Manifest,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="The bundle's file, or a folder for it."),
    ] = None,
    kept: Annotated[
        Path | None, typer.Option("--lock", dir_okay=False, help="Build exactly what this lock says.")
    ] = None,
    no_pickles: NoPickles = False,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse/--no-rehearse",
            help="Install the bundle and load its models, with the network cut, before it gets its name.",
        ),
    ] = True,
    report: Console,
) -> VerbResult:
    """Bring everything home that a manifest asks for, pack it as one file, and rehearse what the far side will do."""
    from bundler.online import build as building
    from bundler.online.transfer.context import BuildContext
    from bundler.output import lock_text

    if output and output.endswith("/") and not Path(output).is_dir():  # such as a stick that is not mounted
        raise HostError("there is no such folder", where=output, hint="create or mount it, or give another with -o")
    signers = _load_signers(keys, passphrase_file, report)
    options = building.BuildOptions(
        output=Path(output) if output else None,
        lock_path=kept,
        no_pickles=no_pickles,
        signers=signers,
        with_rehearsal=rehearse,
    )
    built = building.build_bundle(manifest, options, BuildContext.from_environment(report))
    signed_by = sorted(signer.public.fingerprint for signer in signers)
    file = {"bundle": str(built.path), "bytes": built.size, "sha256": built.sha256}
    result = {**file, **lock_text.summarize_lock(built.lock, signed_by)}
    return result, lock_text.format_build(built.path, built.size, built.sha256, built.lock, signed_by)


@verb(app, BUILD, example="bundle keygen -o release", online=True)
def keygen(
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", dir_okay=False, metavar="NAME", help="Writes NAME.key and NAME.pub.")
    ],
    passphrase_file: PassphraseFile = None,
    report: Console,
) -> VerbResult:
    """Make a key pair: NAME.key signs and stays here, NAME.pub is for who trusts it."""
    from bundler.online import private_keys as making
    from bundler.verbs import passphrases

    passphrase = passphrases.read_new_passphrase(passphrase_file)
    private, public, key = making.generate_pair(output, passphrase)
    if passphrase is None:
        report.warn(f"{private} is not encrypted: whoever can read it can sign")
    result = {
        "key": str(private),
        "public": str(public),
        "fingerprint": key.fingerprint,
        "encrypted": passphrase is not None,
    }
    return result, f"{private}  signs; keep it here\n{public}  for who trusts it\n  fingerprint  {key.fingerprint}"


@verb(app, CARRY, example="bundle sign demo.bundle.tar --key release.key")
def sign(
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", dir_okay=False, help="The bundle's file.")],
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    exported: Annotated[
        Path | None,
        typer.Option("--export", dir_okay=False, help="Write the bytes to be signed elsewhere, and sign nothing."),
    ] = None,
    imported: Annotated[
        Path | None,
        typer.Option(
            "--import", dir_okay=False, help="Bring a signature of those bytes back: 64 bytes, or their base64."
        ),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option("--public", dir_okay=False, help="The public key of the signature that is brought back."),
    ] = None,
    report: Console,
) -> VerbResult:
    """Add signatures to a bundle, in place; those that it has stay.

    With a key here (--key), or one that signs elsewhere, such as in an HSM: --export, then --import and --public.
    """
    from bundler.format import disk
    from bundler.format.hashing import compute_sha256
    from bundler.format.signing import public_key, sign_in_place, signature_envelope
    from bundler.output import digest_text

    if sum(map(bool, (keys, exported, imported))) != 1 or bool(imported) != bool(public):
        raise UsageError("give --key, or --export, or --import with --public", where=str(bundle))
    if exported:
        lock, message = sign_in_place.read_message(bundle)
        disk.write_atomically(exported, message)
        told = {"message": str(exported), "sha256": compute_sha256(message), **digest_text.document(lock)}
        return told, digest_text.format_export(exported, message, lock)
    if imported and public:
        change = sign_in_place.attach_signature(
            public_key.read_key(public), signature_envelope.read_signature(imported)
        )
    else:
        change = sign_in_place.sign_with(_load_signers(keys, passphrase_file, report))
    lock, envelope = sign_in_place.sign_bundle(bundle, change)
    result = {"bundle": str(bundle), **digest_text.document(lock), "signed_by": list(envelope.signed_by)}
    return result, digest_text.format_signed(bundle, lock, envelope.signed_by)


def _load_signers(keys: list[Path] | None, passphrase_file: Path | None, reporter: Console) -> list[Signer]:
    """The private keys of these files; a passphrase is asked for only where one is needed."""
    from bundler.verbs import passphrases

    ask = passphrases.make_passphrase_reader(passphrase_file)
    if not keys:
        return []
    from bundler.online import private_keys as reading

    return [reading.load_key(path, ask, reporter) for path in keys]


@verb(app, BUILD, example="bundle installer -o trusted/bundle-installer.pyz", online=True)
def installer(
    *,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", dir_okay=False, help="Where to write it; a file that is there is never overwritten."
        ),
    ] = Path("bundle-installer.pyz"),
    report: Console,
) -> VerbResult:
    """Write the installer as one file. Carry it to the host once, by another way than the bundles.

    Every bundle holds an installer of its own, bundle.pyz, which is only as good as the bundle. Keep this one under
    another name, in a folder that no bundle is unpacked into.
    """
    from bundler.format.hashing import compute_sha256
    from bundler.format.lock import entries
    from bundler.online import installer as making

    data = making.build_installer()
    if output.name == entries.INSTALLER:
        report.warn(
            f"every bundle holds a file named {entries.INSTALLER}: unpacking one here overwrites this installer; "
            f"-o {output.with_name(entries.TRUSTED_INSTALLER)} keeps the two apart"
        )
    written = making.write_installer(output, data)
    result = {"installer": str(output), "sha256": compute_sha256(data), "bytes": len(data), "written": written}
    return result, f"{compute_sha256(data)}  {output}" + ("" if written else "\n  was already there with these bytes")

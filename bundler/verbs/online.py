"""The verbs of the side with a network."""

from __future__ import annotations

from pathlib import Path

import click

from bundler import describe, digests
from bundler.bundle import disk, entries, publickey, sealing, signing
from bundler.bundle.hashing import digest_of
from bundler.bundle.signing import Signer
from bundler.console import Console
from bundler.errors import HostError, UsageError
from bundler.verbs import secrets
from bundler.verbs.verb import FILE, FOLDER, KEYS, MANIFEST, PASSPHRASE, Answer, verb


@verb("bundle init . -o ragtrace.yaml")
@click.argument("folder", metavar="[FOLDER]", type=FOLDER, default=Path())
@click.option("-o", "--output", type=FILE, help="The manifest's file; default: bundle.yaml in FOLDER.")
def init(*, folder: Path, output: Path | None, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Write a manifest to start from: the packages of a project, and the models that its code and settings name.

    FOLDER is the project; default: the working folder. Nothing of it is run, and no network is asked.
    """
    from bundler.online import scaffold  # noqa: PLC0415 (the far side has no online rooms)

    made = scaffold.write(folder, output)
    return made.document, made.words


@verb("bundle lock manifests/demo.yaml -o demo.lock.json")
@MANIFEST
@click.option("-o", "--output", type=FILE, help="The lock's file; default: beside the manifest, .lock.json.")
def lock(*, manifest: Path, output: Path | None, report: Console) -> Answer:
    """Find out what exactly a manifest asks for, and write it down.

    What need not be looked into for that, such as safetensors of the hub, is fetched when the bundle is built.
    """
    from bundler.online import build as building  # noqa: PLC0415 (the far side has no online rooms)

    shop = building.workshop(report)
    locked = building.make_lock(manifest, shop)
    path = output or manifest.with_suffix(".lock.json")
    building.write_lock(path, locked)
    return describe.locked(path, locked, building.to_fetch(locked, shop))


@verb("bundle build manifests/demo.yaml -o /media/usb/")
@MANIFEST
@click.option("-o", "--output", type=click.Path(), help="The bundle's file, or a folder for it.")
@click.option("--lock", "kept", type=FILE, help="Build exactly what this lock says.")
@click.option("--no-pickles", is_flag=True, help="Refuse models that hold pickles, which can run code when loaded.")
@KEYS
@PASSPHRASE
@click.option(
    "--rehearse/--no-rehearse",
    default=True,
    show_default=True,
    help="Install the bundle and load its models, with the network cut, before it gets its name.",
)
def build(
    *,
    manifest: Path,
    output: str | None,
    kept: Path | None,
    no_pickles: bool,
    rehearse: bool,
    keys: tuple[Path, ...],
    passphrase_file: Path | None,
    report: Console,
) -> Answer:
    """Bring everything home that a manifest asks for, pack it as one file, and rehearse what the far side will do."""
    from bundler.online import build as building  # noqa: PLC0415 (the far side has no online rooms)

    if output and output.endswith("/") and not Path(output).is_dir():  # such as a stick that is not mounted
        raise HostError("there is no such folder", where=output, hint="create or mount it, or give another with -o")
    signers = _signers(keys, passphrase_file, report)
    shop = building.workshop(report)
    out = Path(output) if output else None
    built = building.build(manifest, out, kept, shop, no_pickles=no_pickles, signers=signers, rehearsing=rehearse)
    signed_by = sorted(signer.public.fingerprint for signer in signers)
    file = {"bundle": str(built.path), "bytes": built.size, "sha256": built.sha256}
    result = {**file, **describe.summary(built.lock, signed_by)}
    return result, describe.built(built.path, built.size, built.sha256, built.lock, signed_by)


@verb("bundle keygen -o release")
@click.option("-o", "--output", type=FILE, required=True, metavar="NAME", help="Writes NAME.key and NAME.pub.")
@PASSPHRASE
def keygen(*, output: Path, passphrase_file: Path | None, report: Console) -> Answer:
    """Make a key pair: NAME.key signs and stays here, NAME.pub is for who trusts it."""
    from bundler.online import keys as making  # noqa: PLC0415 (the far side has no online rooms)

    passphrase = secrets.new(passphrase_file)
    private, public, key = making.generate(output, passphrase)
    if passphrase is None:
        report.warn(f"{private} is not encrypted: whoever can read it can sign")
    result = {
        "key": str(private),
        "public": str(public),
        "fingerprint": key.fingerprint,
        "encrypted": passphrase is not None,
    }
    return result, f"{private}  signs; keep it here\n{public}  for who trusts it\n  fingerprint  {key.fingerprint}"


@verb("bundle sign demo.bundle.tar --key release.key")
@click.argument("bundle", metavar="BUNDLE", type=FILE)
@KEYS
@PASSPHRASE
@click.option("--export", "exported", type=FILE, help="Write the bytes to be signed elsewhere, and sign nothing.")
@click.option(
    "--import", "imported", type=FILE, help="Bring a signature of those bytes back: 64 bytes, or their base64."
)
@click.option("--public", type=FILE, help="The public key of the signature that is brought back.")
def sign(
    *,
    bundle: Path,
    keys: tuple[Path, ...],
    passphrase_file: Path | None,
    exported: Path | None,
    imported: Path | None,
    public: Path | None,
    report: Console,
) -> Answer:
    """Add signatures to a bundle, in place; those that it has stay.

    With a key here (--key), or one that signs elsewhere, such as in an HSM: --export, then --import and --public.
    """
    if sum(map(bool, (keys, exported, imported))) != 1 or bool(imported) != bool(public):
        raise UsageError("give --key, or --export, or --import with --public", where=str(bundle))
    if exported:
        lock, message = sealing.message(bundle)
        disk.write_whole(exported, message)
        told = {"message": str(exported), "sha256": digest_of(message), **digests.document(lock)}
        return told, digests.exported(exported, message, lock)
    if imported and public:
        change = sealing.brought(publickey.of_file(public), signing.value_in(imported))
    else:
        change = sealing.by(_signers(keys, passphrase_file, report))
    lock, envelope = sealing.add(bundle, change)
    result = {"bundle": str(bundle), **digests.document(lock), "signed_by": list(envelope.signed_by)}
    return result, digests.signed(bundle, lock, envelope.signed_by)


def _signers(keys: tuple[Path, ...], passphrase_file: Path | None, report: Console) -> list[Signer]:
    """The private keys of these files; a passphrase is asked for only where one is needed."""
    ask = secrets.asker(passphrase_file)
    if not keys:
        return []
    from bundler.online import keys as reading  # noqa: PLC0415 (the far side has no online rooms)

    return [reading.load(path, ask, report) for path in keys]


@verb("bundle installer -o trusted/bundle-installer.pyz")
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=Path(entries.TRUSTED_INSTALLER),
    show_default=True,
    help="Where to write it; a file that is there is never overwritten.",
)
def installer(*, output: Path, report: Console) -> Answer:
    """Write the installer as one file. Carry it to the host once, by another way than the bundles.

    Every bundle holds an installer of its own, bundle.pyz, which is only as good as the bundle. Keep this one under
    another name, in a folder that no bundle is unpacked into.
    """
    from bundler.online import installer as making  # noqa: PLC0415 (the far side has no online rooms)

    data = making.build()
    if output.name == entries.INSTALLER:
        report.warn(
            f"every bundle holds a file named {entries.INSTALLER}: unpacking one here overwrites this installer; "
            f"-o {output.with_name(entries.TRUSTED_INSTALLER)} keeps the two apart"
        )
    written = making.write(output, data)
    result = {"installer": str(output), "sha256": digest_of(data), "bytes": len(data), "written": written}
    return result, f"{digest_of(data)}  {output}" + ("" if written else "\n  was already there with these bytes")


VERBS = (init, lock, build, keygen, sign, installer)

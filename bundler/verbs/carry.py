"""The verbs of the builder and the host: sign, inspect, verify and diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundler.errors import TrustError, UsageError
from bundler.output.console import Console, VerbResult
from bundler.verbs.verb import (
    CARRY,
    Bundle,
    Keys,
    PassphraseFile,
    Threshold,
    Trusted,
    open_bundle_argument,
    verb,
)

if TYPE_CHECKING:
    from bundler.format.lock.lockfile import Lock
    from bundler.format.tar.archive import OpenBundle

app = typer.Typer()


@verb(app, CARRY, example="bundle sign demo.bundle.tar --key release.key")
def sign(
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", dir_okay=False, help="The bundle's file.")],
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    exported: Annotated[
        Path | None,
        typer.Option("--export", dir_okay=False, help="Only write the bytes to sign, for another machine."),
    ] = None,
    imported: Annotated[
        Path | None,
        typer.Option("--import", dir_okay=False, help="Add a signature of those bytes: 64 bytes, or their base64."),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option("--public", dir_okay=False, help="The public key of the imported signature."),
    ] = None,
    reporter: Console,
) -> VerbResult:
    """Add signatures to a bundle, in place; existing ones stay.

    With a key on this machine (--key), or with one elsewhere, such as in an HSM: --export, then --import and
    --public.
    """
    from bundler.format import disk
    from bundler.format.hashing import compute_sha256
    from bundler.format.signing import public_key, sign_in_place, signature_envelope
    from bundler.output import build_text, digest_text
    from bundler.verbs import passphrases

    if sum(map(bool, (keys, exported, imported))) != 1 or bool(imported) != bool(public):
        hint = "bundle sign --help shows an example"
        raise UsageError("give --key, or --export, or --import with --public", where=str(bundle), hint=hint)
    if exported:
        lock, message = sign_in_place.read_message(bundle)
        disk.write_atomically(exported, message)
        file = {"message": str(exported), "sha256": compute_sha256(message)}
        return {**file, **digest_text.summarize_digests(lock)}, build_text.format_message(exported, message, lock)
    if imported and public:
        signature = signature_envelope.read_signature(imported)
        change = sign_in_place.attach_signature(public_key.read_key(public), signature)
    else:
        change = sign_in_place.sign_with(passphrases.load_signers(keys, passphrase_file, reporter))
    lock, envelope = sign_in_place.sign_bundle(bundle, change)
    result = {"bundle": str(bundle), **digest_text.summarize_digests(lock), "signed_by": list(envelope.signed_by)}
    return result, build_text.format_signed(bundle, lock, envelope.signed_by)


@verb(app, CARRY, example="bundle inspect demo.bundle.tar")
def inspect(*, bundle: Bundle, reporter: Console) -> VerbResult:
    """Show what a bundle holds; reads only its head, so a large bundle takes no longer."""
    from bundler.format.tar import archive
    from bundler.output import lock_text

    with archive.open_bundle(open_bundle_argument(bundle)) as opened:
        opened.require_full_length()
        signed_by = _read_claimed_signers(opened, reporter)
        return lock_text.summarize_lock(opened.lock, signed_by), lock_text.format_lock(opened.lock, signed_by)


def _read_claimed_signers(bundle: OpenBundle, reporter: Console) -> tuple[str, ...]:
    """Read who signed a bundle, unchecked; a malformed signature is a warning, so that the content is still shown."""
    from bundler.format.signing import sign_in_place

    try:
        envelope = sign_in_place.read_envelope(bundle)
    except TrustError as error:
        reporter.warn(f"{error}: no signature is valid, and every other verb refuses this bundle")
        return ()
    return envelope.signed_by if envelope else ()


@verb(app, CARRY, example="bundle verify demo.bundle.tar --trust builder.pub")
def verify_(*, bundle: Bundle, trusted: Trusted = None, threshold: Threshold = None, reporter: Console) -> VerbResult:
    """Check who signed a bundle, read every byte of it, and list everything that does not match its lock."""
    from bundler.format.tar import archive
    from bundler.offline.trust import trusted_keys, verification
    from bundler.output import host_text, lock_text

    policy = trusted_keys.read_policy(trusted or (), threshold)
    with archive.open_bundle(open_bundle_argument(bundle), allow_damage=True) as opened:
        lock, signatures = verification.verify_bundle(opened, [policy] if policy else [], reporter)
        archive.require_intact(opened.check_content(reporter), opened.where)
        size = opened.layout.size
        summary = lock_text.summarize_lock(lock, signatures.signed_by)
        result = {"bytes": size, **summary, "trusted": list(signatures.trusted)}
        return result, host_text.format_verification(lock, size, signatures)


@verb(app, CARRY, example="bundle diff demo-1.0.bundle.tar demo-1.1.bundle.tar")
def diff(
    *,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A bundle, or a prefix with a live release.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another one, to compare with.")],
    reporter: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Show what changed between two bundles, and how many bytes of the new one a host lacks."""
    from bundler.format.lock import difference
    from bundler.output import lock_text

    return lock_text.describe_difference(difference.compare_locks(_read_lock(old), _read_lock(new)))


def _read_lock(path: Path) -> Lock:
    """Read the lock of a bundle, or of the live release of a prefix."""
    if path.is_dir():
        from bundler.offline.prefix import releases

        return releases.require_live(releases.get_absolute_prefix(path)).read_lock()
    from bundler.format.tar import archive

    with archive.open_bundle(path) as bundle:
        return bundle.lock

"""The verbs of either side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundler.errors import TrustError
from bundler.output.console import Console
from bundler.verbs.verb import CARRY, Bundle, Threshold, Trusted, VerbResult, open_bundle_argument, verb

if TYPE_CHECKING:
    from bundler.format.lock.lockfile import Lock
    from bundler.format.tar.archive import OpenBundle

app = typer.Typer()


@verb(app, CARRY, example="bundle inspect demo.bundle.tar")
def inspect(*, bundle: Bundle, report: Console) -> VerbResult:
    """Say what a bundle holds; reads its head alone, however large it is."""
    from bundler.format.tar import archive
    from bundler.output import lock_text

    with archive.open_bundle(open_bundle_argument(bundle)) as carried:
        carried.require_full_length()
        signed_by = _read_claimed_signers(carried, report)
        return lock_text.summarize_lock(carried.lock, signed_by), lock_text.format_lock(carried.lock, signed_by)


def _read_claimed_signers(bundle: OpenBundle, reporter: Console) -> tuple[str, ...]:
    """Who signed a bundle, as it says; what it says strangely is no reason not to show what it holds."""
    from bundler.format.signing import sign_in_place

    try:
        envelope = sign_in_place.read_envelope(bundle)
    except TrustError as error:
        reporter.warn(f"{error}: no signature counts, and no verb but this one takes such a bundle")
        return ()
    return envelope.signed_by if envelope else ()


@verb(app, CARRY, example="bundle verify demo.bundle.tar --trust builder.pub")
def verify_(*, bundle: Bundle, trusted: Trusted = None, threshold: Threshold = None, report: Console) -> VerbResult:
    """Say who vouches for a bundle, read every byte of it, and name all that is not what its lock says."""
    from bundler.format.tar import archive
    from bundler.offline.trust import trusted_keys, verification
    from bundler.output import lock_text

    told = trusted_keys.read_policy(trusted or (), threshold)
    with archive.open_bundle(open_bundle_argument(bundle), allow_damage=True) as carried:
        lock, vouched = verification.verify_bundle(carried, [told] if told else [], report)
        archive.require_intact(carried.check_content(report), carried.where)
        size = carried.layout.size
        result = {"bytes": size, **lock_text.summarize_lock(lock, vouched.signed_by), "trusted": list(vouched.trusted)}
        return result, lock_text.format_verification(lock, size, vouched)


@verb(app, CARRY, example="bundle diff demo-1.0.bundle.tar demo-1.1.bundle.tar")
def diff(
    *,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A bundle, or a prefix that a release is live in.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same, to compare with.")],
    report: Console,  # noqa: ARG001 (every verb gets one)
) -> VerbResult:
    """Say what changed between two bundles, and how many bytes that makes to carry."""
    from bundler.format.lock import difference
    from bundler.output import lock_text

    return lock_text.describe_difference(difference.compare_locks(_read_lock(old), _read_lock(new)))


def _read_lock(path: Path) -> Lock:
    """The lock of a bundle, or of the live release of a prefix."""
    if path.is_dir():
        from bundler.offline.prefix import releases

        return releases.require_live(releases.get_absolute_prefix(path)).read_lock()
    from bundler.format.tar import archive

    with archive.open_bundle(path) as carried:
        return carried.lock

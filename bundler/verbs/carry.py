"""The verbs of either side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundler.errors import TrustError
from bundler.output.console import Console
from bundler.verbs.verb import CARRY, Answer, Bundle, Threshold, Trusted, source, verb

if TYPE_CHECKING:
    from bundler.format.lock.lockfile import Lock
    from bundler.format.tar.archive import OpenBundle

app = typer.Typer()


@verb(app, CARRY, example="bundle inspect demo.bundle.tar")
def inspect(*, bundle: Bundle, report: Console) -> Answer:
    """Say what a bundle holds; reads its head alone, however large it is."""
    from bundler.format.tar import archive
    from bundler.output import lock_text

    with archive.opened(source(bundle)) as carried:
        carried.refuse_if_cut()
        signed_by = _claimed(carried, report)
        return lock_text.summary(carried.lock, signed_by), lock_text.words(carried.lock, signed_by)


def _claimed(carried: OpenBundle, report: Console) -> tuple[str, ...]:
    """Who signed a bundle, as it says; what it says strangely is no reason not to show what it holds."""
    from bundler.format.signing import sign_in_place

    try:
        envelope = sign_in_place.envelope_of(carried)
    except TrustError as error:
        report.warn(f"{error}: no signature counts, and no verb but this one takes such a bundle")
        return ()
    return envelope.signed_by if envelope else ()


@verb(app, CARRY, example="bundle verify demo.bundle.tar --trust builder.pub")
def verify_(*, bundle: Bundle, trusted: Trusted = None, threshold: Threshold = None, report: Console) -> Answer:
    """Say who vouches for a bundle, read every byte of it, and name all that is not what its lock says."""
    from bundler.format.tar import archive
    from bundler.offline.trust import trusted_keys, verification
    from bundler.output import lock_text

    told = trusted_keys.given(trusted or (), threshold)
    with archive.opened(source(bundle), damaged=True) as carried:
        lock, vouched = verification.verify(carried, [told] if told else [], report)
        archive.refuse(carried.check(report), carried.where)
        size = carried.layout.size
        result = {"bytes": size, **lock_text.summary(lock, vouched.signed_by), "trusted": list(vouched.trusted)}
        return result, lock_text.whole(lock, size, vouched)


@verb(app, CARRY, example="bundle diff demo-1.0.bundle.tar demo-1.1.bundle.tar")
def diff(
    *,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A bundle, or a prefix that a release is live in.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same, to compare with.")],
    report: Console,  # noqa: ARG001 (every verb gets one)
) -> Answer:
    """Say what changed between two bundles, and how many bytes that makes to carry."""
    from bundler.format.lock import difference
    from bundler.output import lock_text

    return lock_text.changed(difference.between(_lock_at(old), _lock_at(new)))


def _lock_at(place: Path) -> Lock:
    """The lock of a bundle, or of the live release of a prefix."""
    if place.is_dir():
        from bundler.offline.prefix import releases

        return releases.required_live(releases.at(place)).lock()
    from bundler.format.tar import archive

    with archive.opened(place) as carried:
        return carried.lock

"""The verbs of either side."""

from __future__ import annotations

from pathlib import Path

import click

from bundler import describe
from bundler.bundle import archive, difference, sealing
from bundler.bundle.lock import Lock
from bundler.console import Console
from bundler.errors import TrustError
from bundler.offline import releases, trust, verify
from bundler.verbs.verb import BUNDLE, THRESHOLD, TRUST, Answer, source, verb


@verb("bundle inspect demo.bundle.tar")
@BUNDLE
def inspect(*, bundle: str, report: Console) -> Answer:
    """Say what a bundle holds; reads its head alone, however large it is."""
    with archive.opened(source(bundle)) as carried:
        carried.refuse_if_cut()
        signed_by = _claimed(carried, report)
        return describe.summary(carried.lock, signed_by), describe.words(carried.lock, signed_by)


def _claimed(carried: archive.OpenBundle, report: Console) -> tuple[str, ...]:
    """Who signed a bundle, as it says; what it says strangely is no reason not to show what it holds."""
    try:
        envelope = sealing.envelope_of(carried)
    except TrustError as error:
        report.warn(f"{error}: no signature counts, and no verb but this one takes such a bundle")
        return ()
    return envelope.signed_by if envelope else ()


@verb("bundle verify demo.bundle.tar --trust builder.pub")
@BUNDLE
@TRUST
@THRESHOLD
def verify_(*, bundle: str, trusted: tuple[Path, ...], threshold: int | None, report: Console) -> Answer:
    """Say who vouches for a bundle, read every byte of it, and name all that is not what its lock says."""
    told = trust.given(trusted, threshold)
    with archive.opened(source(bundle), damaged=True) as carried:
        lock, vouched = verify.verify(carried, [told] if told else [], report)
        archive.refuse(carried.check(report), carried.where)
        size = carried.layout.size
        result = {"bytes": size, **describe.summary(lock, vouched.signed_by), "trusted": list(vouched.trusted)}
        return result, describe.whole(lock, size, vouched)


@verb("bundle diff demo-1.0.bundle.tar demo-1.1.bundle.tar")
@click.argument("old", metavar="OLD", type=click.Path(path_type=Path))
@click.argument("new", metavar="NEW", type=click.Path(path_type=Path))
def diff(*, old: Path, new: Path, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Say what changed between two bundles, and how many bytes that makes to carry.

    OLD and NEW are bundles, or prefixes that a release is live in.
    """
    return describe.changed(difference.between(_lock_at(old), _lock_at(new)))


def _lock_at(place: Path) -> Lock:
    """The lock of a bundle, or of the live release of a prefix."""
    if place.is_dir():
        return releases.required_live(releases.at(place)).lock()
    with archive.opened(place) as carried:
        return carried.lock


VERBS = (inspect, verify_, diff)

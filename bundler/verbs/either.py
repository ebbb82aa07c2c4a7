"""The verbs of either side."""

from __future__ import annotations

from pathlib import Path

import click

from bundler import describe
from bundler.bundle import archive, difference
from bundler.bundle.lock import Lock
from bundler.console import Console
from bundler.offline import releases, verify
from bundler.verbs.verb import BUNDLE, Answer, source, verb


@verb("bundle inspect demo.bundle.tar")
@BUNDLE
def inspect(*, bundle: str, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Say what a bundle holds; reads its head alone, however large it is."""
    with archive.opened(source(bundle)) as carried:
        carried.refuse_if_cut()
        return describe.summary(carried.lock), describe.words(carried.lock)


@verb("bundle verify demo.bundle.tar")
@BUNDLE
def verify_(*, bundle: str, report: Console) -> Answer:
    """Read every byte of a bundle and name all that is not what its lock says."""
    with archive.opened(source(bundle), damaged=True) as carried:
        verify.verify(carried, report)
        archive.refuse(carried.check(report), carried.where)
        size = carried.layout.size
        return {"bytes": size, "digest": carried.lock.digest, **describe.summary(carried.lock)}, describe.whole(
            carried.lock, size
        )


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

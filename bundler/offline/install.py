"""The route: open → verify → place → environment → smoke → emit → switch."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import bundler
from bundler.bundle import archive, disk, entries, fields, lock
from bundler.errors import HostError, ProgramError, SmokeError
from bundler.offline import (
    emit,
    environment,
    ground,
    guard,
    hubcache,
    pickles,
    place,
    preflight,
    recipe,
    releases,
    sequence,
    smoke,
    trust,
    verify,
)
from bundler.offline.trust import Trust
from bundler.offline.verify import Vouched
from bundler.progress import Collected, Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What was installed, where, and what the smoke loads measured.

    ``follows`` is the release that was live before, "" for none; ``homes`` names the shared model folders
    and the digests of what is in them; ``bundle`` is the file that it came from, "" for a pipe; ``signed_by`` and
    ``trusted`` are what verify.Vouched says.
    """

    release: str
    name: str
    version: str
    sequence: int
    digest: str
    reviewed_digest: str
    target: str
    prefix: str
    bundle: str
    ordinal: int
    follows: str
    rehearsed: bool
    signed_by: tuple[str, ...]
    trusted: tuple[str, ...]
    installed_by: str
    models: tuple[str, ...]
    homes: Mapping[str, str]
    smoke: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to install: ``device`` overrides the manifest's; ``prove`` off leaves the smoke loads out; ``no_pickles``
    refuses models that hold any.

    ``trust`` says whose bundles to take, besides what the prefix remembers; ``downgrade`` lets an older one pass.
    """

    device: str | None = None
    prove: bool = True
    no_pickles: bool = False
    trust: Trust | None = None
    downgrade: bool = False


def install(bundle: Path | BinaryIO, prefix: Path, options: Options, report: Report) -> Receipt:
    """Install a bundle below ``prefix`` and make it the live release.

    Installing what is installed mends what differs, file by file, and proves it again. Raises BundleError; the live
    release is then as it was.
    """
    prefix = releases.at(prefix)
    with opened(bundle, prefix, options, report) as (carried, locked):
        base = preflight.find_python(locked.target)
        with (
            held(carried, prefix, options) as vouched,
            releases.begin(prefix, locked.release, locked.digest) as release,
            _told_of_a_full_disk(prefix),
        ):
            planned = place.plan(locked, release, report)
            preflight.check_room(carried, planned, release)
            place.place(carried, locked, planned, release, report, no_pickles=options.no_pickles)
            if release.finished:
                environment.mend(release, locked, base, planned.broken, report)
            elif entries.ENVIRONMENT not in release.ahead(locked.digest):
                environment.create(release, locked, base, report)
            hubcache.create(release, locked)
            smoke.lay_out(release)
            guard.lay_out(release, locked)
            results = _proofs(release, locked, options, report)
            trust.remember(prefix, options.trust, report)
            return _finish(release, locked, carried, vouched, results, report, downgrade=options.downgrade)


@contextmanager
def opened(
    bundle: Path | BinaryIO, prefix: Path, options: Options, report: Report
) -> Iterator[tuple[archive.OpenBundle, verify.VerifiedLock]]:
    """A bundle that is vouched for and fits this host and prefix; whoever writes inside the block, others can read it."""
    with _readable_by_others(), archive.opened(bundle) as carried:
        ground.refuse_shared(prefix)  # before it is asked what it remembers
        locked, _ = verify.verify(carried, trust.told(prefix, options.trust), report)
        sequence.refuse_older(prefix, locked, report, allowed=options.downgrade)
        if not locked.rehearsed:
            report.warn(f"this bundle was not rehearsed: {locked.why_unrehearsed}")
        if options.no_pickles:
            pickles.refuse_named(locked)
        preflight.check_platform(locked)
        preflight.check_prefix(prefix)
        carried.refuse_if_cut()
        yield carried, locked


@contextmanager
def held(carried: archive.OpenBundle, prefix: Path, options: Options) -> Iterator[Vouched]:
    """Keep other runs away from the prefix, and look again at what one may have changed before: whom the prefix trusts,
    and which bundle is the newest that it took. Raises BusyError, HostError, UnsafeError or TrustError."""
    with releases.held(prefix):
        said = Collected()  # what there is to say was said when the bundle was opened
        locked, vouched = verify.verify(carried, trust.told(prefix, options.trust), said)
        sequence.refuse_older(prefix, locked, said, allowed=options.downgrade)
        yield vouched


def _proofs(release: releases.Release, locked: lock.Lock, options: Options, report: Report) -> list[dict[str, Any]]:
    """What the smoke loads measure now; where they are left out, what they measured when this was installed."""
    if options.prove:
        proofs = smoke.prove(release, locked, options.device, report)
        smoke.write_goldens(release, proofs)
        return [one.result for one in proofs]
    results = smoke.kept(release)
    if not results:
        report.warn("the smoke loads were left out: nothing has shown that these models load")
    return results


def _finish(
    release: releases.Release,
    locked: lock.Lock,
    carried: archive.OpenBundle,
    vouched: Vouched,
    results: list[dict[str, Any]],
    report: Report,
    *,
    downgrade: bool,
) -> Receipt:
    """Write down what stands there, and see it safely on the disk."""
    emit.write(release, locked, report)
    recipe.write(release, locked, results)
    smoke.write(release, results)
    release.writable.mkdir(exist_ok=True)
    disk.write_whole(release.path / lock.LOCK, locked.canonical)
    if carried.signature is not None:
        disk.write_whole(release.path / lock.SIGNATURE, carried.signature)
    receipt = _receipt(release, locked, carried, vouched, results)
    releases.clear_work(release)
    release.parts.unlink(missing_ok=True)
    with report.stage("sync"):
        disk.sync_file_system(release.prefix)
        sequence.remember(release.prefix, locked, allowed=downgrade)
        # last, and only once all that it speaks of is on the disk
        text = json.dumps(fields.encode(receipt), ensure_ascii=False, indent=2) + "\n"
        disk.write_whole(release.receipt, text.encode())
    return receipt


def _receipt(
    release: releases.Release,
    locked: lock.Lock,
    carried: archive.OpenBundle,
    vouched: Vouched,
    results: list[dict[str, Any]],
) -> Receipt:
    known = {receipt["release"]: receipt for receipt in releases.receipts(release.prefix)}
    before = releases.live(release.prefix)
    follows = "" if before is None else before.name
    if follows == release.name:  # proven again where it stands
        follows = known[follows]["follows"] if follows in known else ""
    return Receipt(
        release=release.name,
        name=locked.name,
        version=locked.version,
        sequence=locked.sequence,
        digest=locked.digest,
        reviewed_digest=locked.reviewed_digest,
        target=str(locked.target),
        prefix=str(release.prefix),
        bundle=str(Path(carried.where).absolute()) if carried.carrier.seekable else "",
        ordinal=1 + max((receipt["ordinal"] for receipt in known.values()), default=0),
        follows=follows,
        rehearsed=locked.rehearsed,
        signed_by=vouched.signed_by,
        trusted=vouched.trusted,
        installed_by=f"airgap-bundler {bundler.__version__}",
        models=tuple(model.alias for model in locked.models),
        homes={model.home: model.digest for model in locked.models},
        smoke=tuple(results),
    )


@contextmanager
def _told_of_a_full_disk(prefix: Path) -> Iterator[None]:
    """A program that fails for want of room says so in words of its own, or in none. Raises HostError for it."""
    try:
        yield
    except (OSError, ProgramError, SmokeError) as error:
        # a program may have cleared away by now what it could not write
        if not disk.full(prefix) and os.strerror(errno.ENOSPC) not in str(error):
            raise
        hint = "free some room there and run the same command again; the live release is as it was"
        raise HostError(f"the disk is full: {error}", where=str(prefix), hint=hint) from error


@contextmanager
def _readable_by_others() -> Iterator[None]:
    """A service runs as another user than the installer, whatever the installer's umask is."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)

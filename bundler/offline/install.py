"""The route: open → verify → place → environment → smoke → emit → switch."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import bundler
from bundler.errors import HostError, IntegrityError, ProgramError, SmokeError
from bundler.format import disk, json_files
from bundler.format.lock import entries, lockfile
from bundler.format.lock.smoke_result import SmokeResult
from bundler.format.tar import archive
from bundler.offline import placement, preflight, smoke
from bundler.offline.environment import guard, hub_cache, installed_files, venv
from bundler.offline.prefix import permissions, receipts, releases
from bundler.offline.prefix.receipts import Proof, Receipt
from bundler.offline.rendering import dockerfile, env_file
from bundler.offline.trust import pickle_policy, rollback_protection, trusted_keys, verification
from bundler.offline.trust.trusted_keys import Trust
from bundler.offline.trust.verification import Vouched
from bundler.progress import Collected, Report


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
            _discard_altered_environment(release, locked, report)
            planned = placement.plan(locked, release, report)
            preflight.check_room(carried, planned, release)
            _note_changes(release, locked, planned, report)
            old = () if options.prove else _old_results(release, locked, report)
            placement.place(carried, locked, planned, release, report, no_pickles=options.no_pickles)
            if release.finished:
                venv.mend(release, locked, base, planned.broken, report)
            elif entries.ENVIRONMENT not in release.ahead(locked.digest):
                venv.create(release, locked, base, report)
                parts = release.ahead(locked.digest) | {entries.ENVIRONMENT}
                releases.list_parts(release, locked.digest, parts)  # a run after this one need not make it again
            hub_cache.create(release, locked)
            smoke.lay_out(release)
            guard.lay_out(release, locked)
            results = _prove(release, locked, options, report) if options.prove else old
            proof: Proof = "none" if not results else "new" if options.prove else "old"
            trusted_keys.remember(prefix, options.trust, report)
            receipt = _receipt(release, locked, carried, vouched, results, proof)
            return _finish(release, locked, carried, receipt, report, downgrade=options.downgrade)


@contextmanager
def opened(
    bundle: Path | BinaryIO, prefix: Path, options: Options, report: Report
) -> Iterator[tuple[archive.OpenBundle, verification.VerifiedLock]]:
    """A bundle that is vouched for and fits this host and prefix; whoever writes inside the block, others can read it."""
    with _readable_by_others(), archive.opened(bundle) as carried:
        permissions.refuse_shared(prefix)  # before it is asked what it remembers
        locked, _ = verification.verify(carried, trusted_keys.told(prefix, options.trust), report)
        rollback_protection.refuse_older(prefix, locked, report, allowed=options.downgrade)
        if not locked.rehearsed:
            report.warn(f"this bundle was not rehearsed: {locked.why_unrehearsed}")
        if options.no_pickles:
            pickle_policy.refuse_named(locked)
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
        locked, vouched = verification.verify(carried, trusted_keys.told(prefix, options.trust), said)
        rollback_protection.refuse_older(prefix, locked, said, allowed=options.downgrade)
        yield vouched


def _discard_altered_environment(release: releases.Release, locked: lockfile.Lock, report: Report) -> None:
    """Look at every byte of an environment that an earlier run made for this release; one that differs is made anew."""
    parts = release.ahead(locked.digest)
    if release.finished or entries.ENVIRONMENT not in parts:
        return
    for compiled in [*release.venv.rglob("__pycache__")]:  # nothing vouches for what Python compiled
        shutil.rmtree(compiled)
    files, faults = installed_files.recorded(release, locked)
    faults += installed_files.altered(files, report)
    wrong = [fault.path for fault in faults] + installed_files.strangers(release, locked, files)
    if wrong or venv.fault_of(release, locked):
        releases.list_parts(release, locked.digest, parts - {entries.ENVIRONMENT})
        shutil.rmtree(release.venv)


def _prove(
    release: releases.Release, locked: lockfile.Lock, options: Options, report: Report
) -> tuple[SmokeResult, ...]:
    proofs = smoke.prove(release, locked, options.device, report)
    smoke.write_goldens(release, proofs)
    return tuple(one.result for one in proofs)


def _note_changes(
    release: releases.Release, locked: verification.VerifiedLock, planned: placement.Plan, report: Report
) -> None:
    """Say in the stored proof what this install is about to change, so that no cut leaves a proof that claims too much."""
    if not release.finished or not (changes := _changes(release, locked, planned)):
        return
    results = tuple(
        dataclasses.replace(one, changed_since=tuple(dict.fromkeys([*one.changed_since, *changes])))
        for one in _kept(release, report)
    )
    smoke.write(release, results)
    with suppress(IntegrityError):  # it is written anew at the end
        receipt = receipts.read(release.receipt)
        proof: Proof = "old" if results else "none"
        json_files.write(release.receipt, dataclasses.replace(receipt, smoke=results, proof=proof))


def _kept(release: releases.Release, report: Report) -> tuple[SmokeResult, ...]:
    """What an earlier install measured; nothing, and a warning, where it can't be read."""
    try:
        return smoke.read_kept(release)
    except IntegrityError as error:
        report.warn(f"{error.where}: {error}: it is dropped")
        return ()


def _old_results(release: releases.Release, locked: lockfile.Lock, report: Report) -> tuple[SmokeResult, ...]:
    """What an earlier install measured; nothing where none did, and for other models than these."""
    results = _kept(release, report) if release.finished else ()
    if not results or {one.alias for one in results} != {model.alias for model in locked.models}:
        report.warn("the smoke loads were left out: nothing has shown that these models load")
        return ()
    changed = any(one.changed_since for one in results)
    report.warn(
        "the smoke loads were left out: what is shown was measured by an earlier install"
        + (", and what it was measured on was changed since" if changed else "")
    )
    return results


def _changes(release: releases.Release, locked: verification.VerifiedLock, planned: placement.Plan) -> list[str]:
    """What an install changes in a release that stands there: paths in the prefix, and packages."""
    paths = [*(final for _, final in planned.moves), *planned.extra]
    paths += [Path(altered.path) for altered in hub_cache.faults(release, locked)]
    paths += guard.differing(release, locked)
    paths += [release.python] if venv.fault_of(release, locked) else []
    inside = [path.relative_to(release.prefix).as_posix() for path in paths]
    return [*inside, *(f"package {name}" for name in planned.broken)]


def _finish(
    release: releases.Release,
    locked: lockfile.Lock,
    carried: archive.OpenBundle,
    receipt: Receipt,
    report: Report,
    *,
    downgrade: bool,
) -> Receipt:
    """Write down what stands there, and see it safely on the disk."""
    env_file.write(release, locked, report)
    dockerfile.write(release, locked, receipt.smoke)
    smoke.write(release, receipt.smoke)
    release.writable.mkdir(exist_ok=True)
    disk.write_whole(release.path / lockfile.LOCK, locked.canonical)
    if carried.signature is not None:
        disk.write_whole(release.path / lockfile.SIGNATURE, carried.signature)
    releases.clear_work(release)
    release.parts.unlink(missing_ok=True)
    with report.stage("sync"):
        disk.sync_file_system(release.prefix)
        rollback_protection.remember(release.prefix, locked, allowed=downgrade)
        # last, and only once all that it speaks of is on the disk
        json_files.write(release.receipt, receipt)
    return receipt


def _receipt(
    release: releases.Release,
    locked: lockfile.Lock,
    carried: archive.OpenBundle,
    vouched: Vouched,
    results: Sequence[SmokeResult],
    proof: Proof,
) -> Receipt:
    known = {receipt.release: receipt for receipt in releases.receipts(release.prefix)}
    before = releases.live(release.prefix)
    follows = "" if before is None else before.name
    if follows == release.name:  # proven again where it stands
        follows = known[follows].follows if follows in known else ""
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
        ordinal=1 + max((receipt.ordinal for receipt in known.values()), default=0),
        follows=follows,
        rehearsed=locked.rehearsed,
        signed_by=vouched.signed_by,
        trusted=vouched.trusted,
        installed_by=f"airgap-bundler {bundler.__version__}",
        models=tuple(model.alias for model in locked.models),
        homes={model.home: model.digest for model in locked.models},
        proof=proof,
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

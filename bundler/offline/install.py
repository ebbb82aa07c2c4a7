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
from bundler.offline.trust.trusted_keys import TrustPolicy
from bundler.offline.trust.verification import SignatureCheck
from bundler.progress import RecordingReporter, Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallOptions:
    """How to install: ``device`` overrides the manifest's; ``prove`` off leaves the smoke loads out; ``no_pickles``
    refuses models that hold any.

    ``trust`` says whose bundles to take, besides what the prefix remembers; ``downgrade`` lets an older one pass.
    """

    device: str | None = None
    with_smoke: bool = True
    no_pickles: bool = False
    trust: TrustPolicy | None = None
    allow_downgrade: bool = False


def install_bundle(source: Path | BinaryIO, prefix: Path, options: InstallOptions, reporter: Reporter) -> Receipt:
    """Install a bundle below ``prefix`` and make it the live release.

    Installing what is installed mends what differs, file by file, and proves it again. Raises BundleError; the live
    release is then as it was.
    """
    prefix = releases.get_absolute_prefix(prefix)
    with open_verified(source, prefix, options, reporter) as (bundle, lock):
        base = preflight.find_python(lock.target)
        with (
            lock_and_recheck(bundle, prefix, options) as signatures,
            releases.begin_release(prefix, lock.release_name, lock.digest) as release,
            _explain_full_disk(prefix),
        ):
            _discard_altered_environment(release, lock, reporter)
            plan = placement.make_plan(lock, release, reporter)
            preflight.check_disk(bundle, plan, release)
            _note_changes(release, lock, plan, reporter)
            old = () if options.with_smoke else _old_results(release, lock, reporter)
            placement.place_files(bundle, lock, plan, release, reporter, no_pickles=options.no_pickles)
            if release.is_finished:
                venv.repair_venv(release, lock, base, plan.broken_packages, reporter)
            elif entries.ENVIRONMENT_PART not in release.find_preinstalled_parts(lock.digest):
                venv.create_venv(release, lock, base, reporter)
                parts = release.find_preinstalled_parts(lock.digest) | {entries.ENVIRONMENT_PART}
                releases.list_parts(release, lock.digest, parts)  # a run after this one need not make it again
            hub_cache.create_cache(release, lock)
            smoke.write_payload(release)
            guard.write_files(release, lock)
            results = _prove(release, lock, options, reporter) if options.with_smoke else old
            proof: Proof = "none" if not results else "new" if options.with_smoke else "old"
            trusted_keys.store_policy(prefix, options.trust, reporter)
            receipt = _make_receipt(release, lock, bundle, signatures, results, proof)
            return _finish_release(release, lock, bundle, receipt, reporter, allow_downgrade=options.allow_downgrade)


@contextmanager
def open_verified(
    source: Path | BinaryIO, prefix: Path, options: InstallOptions, reporter: Reporter
) -> Iterator[tuple[archive.OpenBundle, verification.VerifiedLock]]:
    """A bundle that is vouched for and fits this host and prefix; whoever writes inside the block, others can read it."""
    with _set_umask(), archive.open_bundle(source) as bundle:
        permissions.require_exclusive_access(prefix)  # before it is asked what it remembers
        lock, _ = verification.verify_bundle(
            bundle, trusted_keys.list_required_policies(prefix, options.trust), reporter
        )
        rollback_protection.check_sequence(prefix, lock, reporter, allow_downgrade=options.allow_downgrade)
        if not lock.rehearsed:
            reporter.warn(f"this bundle was not rehearsed: {lock.unrehearsed_reason}")
        if options.no_pickles:
            pickle_policy.refuse_listed_pickles(lock)
        preflight.check_platform(lock)
        preflight.check_prefix(prefix)
        bundle.require_full_length()
        yield bundle, lock


@contextmanager
def lock_and_recheck(bundle: archive.OpenBundle, prefix: Path, options: InstallOptions) -> Iterator[SignatureCheck]:
    """Keep other runs away from the prefix, and look again at what one may have changed before: whom the prefix trusts,
    and which bundle is the newest that it took. Raises BusyError, HostError, UnsafeError or TrustError."""
    with releases.lock_prefix(prefix):
        said = RecordingReporter()  # what there is to say was said when the bundle was opened
        lock, signatures = verification.verify_bundle(
            bundle, trusted_keys.list_required_policies(prefix, options.trust), said
        )
        rollback_protection.check_sequence(prefix, lock, said, allow_downgrade=options.allow_downgrade)
        yield signatures


def _discard_altered_environment(release: releases.Release, lock: lockfile.Lock, reporter: Reporter) -> None:
    """Look at every byte of an environment that an earlier run made for this release; one that differs is made anew."""
    parts = release.find_preinstalled_parts(lock.digest)
    if release.is_finished or entries.ENVIRONMENT_PART not in parts:
        return
    for compiled in [*release.venv.rglob("__pycache__")]:  # nothing vouches for what Python compiled
        shutil.rmtree(compiled)
    files, faults = installed_files.read_installed_files(release, lock)
    faults += installed_files.find_altered(files, reporter)
    wrong = [fault.path for fault in faults] + installed_files.find_unknown_files(release, lock, files)
    if wrong or venv.find_interpreter_problem(release, lock):
        releases.list_parts(release, lock.digest, parts - {entries.ENVIRONMENT_PART})
        shutil.rmtree(release.venv)


def _prove(
    release: releases.Release, lock: lockfile.Lock, options: InstallOptions, reporter: Reporter
) -> tuple[SmokeResult, ...]:
    proofs = smoke.run_smoke_loads(release, lock, options.device, reporter)
    smoke.write_goldens(release, proofs)
    return tuple(one.result for one in proofs)


def _note_changes(
    release: releases.Release, lock: verification.VerifiedLock, plan: placement.PlacementPlan, reporter: Reporter
) -> None:
    """Say in the stored proof what this install is about to change, so that no cut leaves a proof that claims too much."""
    if not release.is_finished or not (changes := _changes(release, lock, plan)):
        return
    results = tuple(
        dataclasses.replace(one, changed_since=tuple(dict.fromkeys([*one.changed_since, *changes])))
        for one in _kept(release, reporter)
    )
    smoke.write_results(release, results)
    with suppress(IntegrityError):  # it is written anew at the end
        receipt = receipts.read(release.receipt_path)
        proof: Proof = "old" if results else "none"
        json_files.write(release.receipt_path, dataclasses.replace(receipt, smoke=results, proof=proof))


def _kept(release: releases.Release, reporter: Reporter) -> tuple[SmokeResult, ...]:
    """What an earlier install measured; nothing, and a warning, where it can't be read."""
    try:
        return smoke.read_kept(release)
    except IntegrityError as error:
        reporter.warn(f"{error.where}: {error}: it is dropped")
        return ()


def _old_results(release: releases.Release, lock: lockfile.Lock, reporter: Reporter) -> tuple[SmokeResult, ...]:
    """What an earlier install measured; nothing where none did, and for other models than these."""
    results = _kept(release, reporter) if release.is_finished else ()
    if not results or {one.alias for one in results} != {model.alias for model in lock.models}:
        reporter.warn("the smoke loads were left out: nothing has shown that these models load")
        return ()
    changed = any(one.changed_since for one in results)
    reporter.warn(
        "the smoke loads were left out: what is shown was measured by an earlier install"
        + (", and what it was measured on was changed since" if changed else "")
    )
    return results


def _changes(release: releases.Release, lock: verification.VerifiedLock, plan: placement.PlacementPlan) -> list[str]:
    """What an install changes in a release that stands there: paths in the prefix, and packages."""
    paths = [*(final for _, final in plan.moves), *plan.unknown_files]
    paths += [Path(altered.path) for altered in hub_cache.find_problems(release, lock)]
    paths += guard.differing(release, lock)
    paths += [release.python] if venv.find_interpreter_problem(release, lock) else []
    inside = [path.relative_to(release.prefix).as_posix() for path in paths]
    return [*inside, *(f"package {name}" for name in plan.broken_packages)]


def _finish_release(
    release: releases.Release,
    lock: lockfile.Lock,
    bundle: archive.OpenBundle,
    receipt: Receipt,
    reporter: Reporter,
    *,
    allow_downgrade: bool,
) -> Receipt:
    """Write down what stands there, and see it safely on the disk."""
    env_file.write_env_file(release, lock, reporter)
    dockerfile.write_files(release, lock, receipt.smoke)
    smoke.write_results(release, receipt.smoke)
    release.writable_folder.mkdir(exist_ok=True)
    disk.write_atomically(release.path / lockfile.LOCK_FILE, lock.canonical_bytes)
    if bundle.signature is not None:
        disk.write_atomically(release.path / lockfile.SIGNATURE_FILE, bundle.signature)
    releases.clear_work(release)
    release.parts_path.unlink(missing_ok=True)
    with reporter.stage("sync"):
        disk.sync_file_system(release.prefix)
        rollback_protection.store_sequence(release.prefix, lock, allow_downgrade=allow_downgrade)
        # last, and only once all that it speaks of is on the disk
        json_files.write(release.receipt_path, receipt)
    return receipt


def _make_receipt(
    release: releases.Release,
    lock: lockfile.Lock,
    bundle: archive.OpenBundle,
    signatures: SignatureCheck,
    results: Sequence[SmokeResult],
    proof: Proof,
) -> Receipt:
    known = {receipt.release: receipt for receipt in releases.read_receipts(release.prefix)}
    before = releases.find_live(release.prefix)
    follows = "" if before is None else before.name
    if follows == release.name:  # proven again where it stands
        follows = known[follows].follows if follows in known else ""
    return Receipt(
        release=release.name,
        name=lock.name,
        version=lock.version,
        sequence=lock.sequence,
        digest=lock.digest,
        reviewed_digest=lock.reviewed_digest,
        target=str(lock.target),
        prefix=str(release.prefix),
        bundle=str(Path(bundle.where).absolute()) if bundle.reader.is_seekable else "",
        ordinal=1 + max((receipt.ordinal for receipt in known.values()), default=0),
        follows=follows,
        rehearsed=lock.rehearsed,
        signed_by=signatures.signed_by,
        trusted=signatures.trusted,
        installed_by=f"airgap-bundler {bundler.__version__}",
        models=tuple(model.alias for model in lock.models),
        homes={model.host_folder: model.digest for model in lock.models},
        proof=proof,
        smoke=tuple(results),
    )


@contextmanager
def _explain_full_disk(prefix: Path) -> Iterator[None]:
    """A program that fails for want of room says so in words of its own, or in none. Raises HostError for it."""
    try:
        yield
    except (OSError, ProgramError, SmokeError) as error:
        # a program may have cleared away by now what it could not write
        if not disk.is_full(prefix) and os.strerror(errno.ENOSPC) not in str(error):
            raise
        hint = "free some room there and run the same command again; the live release is as it was"
        raise HostError(f"the disk is full: {error}", where=str(prefix), hint=hint) from error


@contextmanager
def _set_umask() -> Iterator[None]:
    """A service runs as another user than the installer, whatever the installer's umask is."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)

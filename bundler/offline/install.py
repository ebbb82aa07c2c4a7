"""Installs a bundle: verify, place files, create the environment, run smoke loads, write files, switch to the release."""

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
    """How to install.

    ``device`` overrides the manifest's. ``with_smoke`` runs the smoke loads. ``no_pickles`` refuses models that hold
    pickles. ``trust`` says whose bundles to accept, besides the policy that the prefix stores. ``allow_downgrade``
    accepts an older bundle.
    """

    device: str | None = None
    with_smoke: bool = True
    no_pickles: bool = False
    trust: TrustPolicy | None = None
    allow_downgrade: bool = False


def install_bundle(source: Path | BinaryIO, prefix: Path, options: InstallOptions, reporter: Reporter) -> Receipt:
    """Install a bundle below ``prefix`` and make it the live release.

    Installing the same bundle again replaces each file that differs and runs the smoke loads again.

    Raises:
        BundleError: The install failed; the live release is unchanged.
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
            reused = () if options.with_smoke else _reuse_results(release, lock, reporter)
            placement.place_files(bundle, lock, plan, release, reporter, no_pickles=options.no_pickles)
            if release.is_finished:
                venv.repair_venv(release, lock, base, plan.broken_packages, reporter)
            elif entries.ENVIRONMENT_PART not in release.find_preinstalled_parts(lock.digest):
                venv.create_venv(release, lock, base, reporter)
                parts = release.find_preinstalled_parts(lock.digest) | {entries.ENVIRONMENT_PART}
                releases.list_parts(release, lock.digest, parts)  # a later run reuses it
            hub_cache.create_cache(release, lock)
            smoke.write_payload(release)
            guard.write_files(release, lock)
            smoke.remove_stale_payload(release)
            results = _run_smoke_loads(release, lock, options, reporter) if options.with_smoke else reused
            proof: Proof = "none" if not results else "new" if options.with_smoke else "old"
            trusted_keys.store_policy(prefix, options.trust, reporter)
            receipt = _make_receipt(release, lock, bundle, signatures, results, proof)
            return _finish_release(release, lock, bundle, receipt, reporter, allow_downgrade=options.allow_downgrade)


@contextmanager
def open_verified(
    source: Path | BinaryIO, prefix: Path, options: InstallOptions, reporter: Reporter
) -> Iterator[tuple[archive.OpenBundle, verification.VerifiedLock]]:
    """Open a bundle that the policies accept and that fits this host and prefix.

    Files that the caller writes inside the block are readable for all users.
    """
    with _set_umask(), archive.open_bundle(source) as bundle:
        permissions.require_exclusive_access(prefix)  # before its stored keys are read
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
    """Lock the prefix, and check signatures and sequence again: another run may have changed what the prefix stores.

    Raises:
        BusyError: Another run holds the lock.
        HostError: The prefix can't be written.
        UnsafeError: Other users could write to the prefix.
        TrustError: The policies don't accept the bundle, or it is older than one installed before.
    """
    with releases.lock_prefix(prefix):
        quiet = RecordingReporter()  # opening the bundle already gave these warnings
        lock, signatures = verification.verify_bundle(
            bundle, trusted_keys.list_required_policies(prefix, options.trust), quiet
        )
        rollback_protection.check_sequence(prefix, lock, quiet, allow_downgrade=options.allow_downgrade)
        yield signatures


def _discard_altered_environment(release: releases.Release, lock: lockfile.Lock, reporter: Reporter) -> None:
    """Check every byte of an environment that an earlier run made for this release; remove it if anything differs."""
    parts = release.find_preinstalled_parts(lock.digest)
    if release.is_finished or entries.ENVIRONMENT_PART not in parts:
        return
    for bytecode_folder in [*release.venv.rglob("__pycache__")]:  # no RECORD has the digests of bytecode
        shutil.rmtree(bytecode_folder)
    files, problems = installed_files.read_installed_files(release, lock)
    problems += installed_files.find_altered(files, reporter)
    unknown = installed_files.find_unknown_files(release, lock, files)
    if problems or unknown or venv.find_interpreter_problem(release, lock):
        releases.list_parts(release, lock.digest, parts - {entries.ENVIRONMENT_PART})
        shutil.rmtree(release.venv)


def _run_smoke_loads(
    release: releases.Release, lock: lockfile.Lock, options: InstallOptions, reporter: Reporter
) -> tuple[SmokeResult, ...]:
    outcomes = smoke.run_smoke_loads(release, lock, options.device, reporter)
    smoke.write_goldens(release, outcomes)
    return tuple(outcome.result for outcome in outcomes)


def _note_changes(
    release: releases.Release, lock: verification.VerifiedLock, plan: placement.PlacementPlan, reporter: Reporter
) -> None:
    """Note in the stored results what this install will change: after a power cut they must not claim too much."""
    if not release.is_finished or not (changes := _list_changes(release, lock, plan)):
        return
    results = tuple(
        dataclasses.replace(result, changed_since=tuple(dict.fromkeys([*result.changed_since, *changes])))
        for result in _read_results(release, reporter)
    )
    smoke.write_results(release, results)
    with suppress(IntegrityError):  # a damaged receipt is replaced at the end
        receipt = receipts.read(release.receipt_path)
        proof: Proof = "old" if results else "none"
        json_files.write(release.receipt_path, dataclasses.replace(receipt, smoke=results, proof=proof))


def _read_results(release: releases.Release, reporter: Reporter) -> tuple[SmokeResult, ...]:
    """Read the results of an earlier install; warn, and return none, if they can't be read."""
    try:
        return smoke.read_results(release)
    except IntegrityError as error:
        reporter.warn(f"{error.where}: {error}; the file is ignored")
        return ()


def _reuse_results(release: releases.Release, lock: lockfile.Lock, reporter: Reporter) -> tuple[SmokeResult, ...]:
    """Return the results of an earlier install of these models; empty if there are none."""
    results = _read_results(release, reporter) if release.is_finished else ()
    if not results or {result.alias for result in results} != {model.alias for model in lock.models}:
        reporter.warn("smoke loads skipped: nothing has shown that these models load")
        return ()
    changed = any(result.changed_since for result in results)
    reporter.warn(
        "smoke loads skipped: the results shown are from an earlier install"
        + (", and files have changed since" if changed else "")
    )
    return results


def _list_changes(
    release: releases.Release, lock: verification.VerifiedLock, plan: placement.PlacementPlan
) -> list[str]:
    """List what an install will change in a finished release: paths relative to the prefix, and packages."""
    paths = [*(final for _, final in plan.moves), *plan.unknown_files]
    paths += [Path(altered.path) for altered in hub_cache.find_problems(release, lock)]
    paths += guard.find_differing_files(release, lock)
    paths += [release.python] if venv.find_interpreter_problem(release, lock) else []
    relative_paths = [path.relative_to(release.prefix).as_posix() for path in paths]
    return [*relative_paths, *(f"package {name}" for name in plan.broken_packages)]


def _finish_release(
    release: releases.Release,
    lock: lockfile.Lock,
    bundle: archive.OpenBundle,
    receipt: Receipt,
    reporter: Reporter,
    *,
    allow_downgrade: bool,
) -> Receipt:
    """Write the release's files, sync the disk, and write the receipt last."""
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
        # Last: everything that the receipt describes must be on the disk before it.
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
    existing = {receipt.release: receipt for receipt in releases.read_receipts(release.prefix)}
    live = releases.find_live(release.prefix)
    follows = "" if live is None else live.name
    if follows == release.name:  # the same bundle was installed again
        follows = existing[follows].follows if follows in existing else ""
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
        ordinal=1 + max((receipt.ordinal for receipt in existing.values()), default=0),
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
    """Turn the failure of a program on a full disk, whatever it printed, into HostError."""
    try:
        yield
    except (OSError, ProgramError, SmokeError) as error:
        # The program may have removed its incomplete files, so the disk need not be full any more.
        if not disk.is_full(prefix) and os.strerror(errno.ENOSPC) not in str(error):
            raise
        hint = "free some space there and run the same command again; the live release is unchanged"
        raise HostError(f"the disk is full: {error}", where=str(prefix), hint=hint) from error


@contextmanager
def _set_umask() -> Iterator[None]:
    """Make new files readable for all, whatever the umask is: a service runs as another user than the installer."""
    previous = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(previous)

"""The route of a build: manifest → lock → fetch → pack → rehearse → sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import HostError, IntegrityError
from bundler.format import disk, hashing
from bundler.format.disk import DraftFile
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import wheel_check
from bundler.format.signing import signature_envelope
from bundler.format.signing.signature_envelope import Signer
from bundler.format.tar import archive
from bundler.online import locked_build, locked_wheels, rehearsal, resolve
from bundler.online.inspection import pickle_scan
from bundler.online.manifest import loading
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.transfer import download, remote_sizes
from bundler.online.transfer.context import BuildContext


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """What a person chooses for one build.

    ``output`` is the bundle's file, or an existing folder for it; default: the working folder. ``lock_path`` is a kept
    lock to build from. ``no_pickles`` refuses models that hold pickles. ``with_rehearsal`` installs the bundle and
    loads its models before the bundle gets its name.
    """

    output: Path | None = None
    lock_path: Path | None = None
    no_pickles: bool = False
    signers: Sequence[Signer] = ()
    with_rehearsal: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltBundle:
    """A bundle that was written: its path, its size in bytes, the SHA-256 of its file, and its lock."""

    path: Path
    size: int
    sha256: str
    lock: Lock


def build_bundle(manifest_path: Path, options: BuildOptions, context: BuildContext) -> BuiltBundle:
    """Build the bundle of a manifest, and sign it with each of the signers.

    Golden outputs of the rehearsal are added to a kept lock as well.

    Raises:
        BundleError: the build failed. Then there is no file of the bundle's name, or the one that was there before.
    """
    loaded = loading.load_manifest(manifest_path)
    _require_output_folder(options)
    lock = _load_lock(loaded, options, context)
    obstacle = _find_rehearsal_obstacle(lock, options)
    lock = rehearsal.mark_unrehearsed(lock, obstacle) if obstacle else lock
    path = _get_bundle_path(lock, options)
    _fetch_content(lock, path, loaded, context, with_rehearsal=not obstacle)
    _check_content(lock, context)
    if obstacle and options.with_rehearsal:
        context.reporter.warn(f"this bundle is not rehearsed: {obstacle}")
    with disk.draft_file(path) as draft:
        _pack(draft, lock, context)
        final_lock = lock if obstacle else _rehearse(draft, lock, context)
        _finish_head(draft, lock, final_lock, options)
    if options.lock_path is not None and final_lock != lock:
        _update_kept_lock(options.lock_path, final_lock, context)
    return _describe_bundle(path, final_lock, context)


def make_lock(path: Path, context: BuildContext) -> Lock:
    """Resolve a manifest."""
    return resolve.resolve_manifest(loading.load_manifest(path), context)


def list_missing(lock: Lock, context: BuildContext) -> tuple[Artifact, ...]:
    """List what a lock names and this machine does not have yet, each content once."""
    by_sha256 = {artifact.sha256: artifact for artifact in lock.artifacts}
    return tuple(artifact for artifact in by_sha256.values() if context.find_path(artifact) is None)


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock to a file, in full or not at all."""
    disk.write_atomically(path, lock.canonical_bytes)


def _require_output_folder(options: BuildOptions) -> None:
    output = Path.cwd() if options.output is None else options.output
    folder = output if output.is_dir() else output.parent
    if not folder.is_dir():
        raise HostError("there is no such folder", where=str(folder), hint="create it, or give another with -o")


def _load_lock(loaded: LoadedManifest, options: BuildOptions, context: BuildContext) -> Lock:
    """Resolve the manifest, or read the kept lock and check that its sources still have the same files."""
    if options.lock_path is None:
        lock = resolve.resolve_manifest(loaded, context)
    else:
        lock = locked_build.load_kept_lock(options.lock_path, loaded)
    if options.no_pickles:
        pickle_scan.refuse_pickles(lock)
    if options.lock_path is not None:
        locked_build.check_sources(lock, loaded, context)
    return lock


def _find_rehearsal_obstacle(lock: Lock, options: BuildOptions) -> str:
    """Return why the bundle is not rehearsed; "" where it will be."""
    return rehearsal.find_obstacle(lock) if options.with_rehearsal else "the builder left it out (--no-rehearse)"


def _get_bundle_path(lock: Lock, options: BuildOptions) -> Path:
    if options.output is None:
        return Path.cwd() / lock.file_name
    return options.output / lock.file_name if options.output.is_dir() else options.output


def _fetch_content(
    lock: Lock, bundle_path: Path, loaded: LoadedManifest, context: BuildContext, *, with_rehearsal: bool
) -> None:
    """Fetch what the lock names and this machine lacks, if the disks have space for it and for all that follows."""
    wheels = locked_wheels.list_missing_wheels(lock, context)
    deferred = [
        context.deferred[file.sha256] for file in list_missing(lock, context) if file.sha256 in context.deferred
    ]
    missing_bytes = sum(wheel.size for wheel in wheels) + remote_sizes.count_missing_bytes(
        ((request, request.size) for request in deferred), context.cache
    )
    _require_free_space(bundle_path, lock, missing_bytes, context, with_rehearsal=with_rehearsal)
    locked_wheels.fetch_wheels(wheels, lock, loaded, context)
    if deferred:
        download.fetch(deferred, context.cache, context.config, context.reporter, title="fetch models")
    _require_complete(lock, context)


def _require_free_space(
    bundle_path: Path, lock: Lock, missing_bytes: int, context: BuildContext, *, with_rehearsal: bool
) -> None:
    """Raise HostError where a disk has no space for what will be fetched, packed and rehearsed."""
    local_paths = {artifact.sha256: context.find_path(artifact) for artifact in lock.artifacts}
    # Missing content will come into the cache: any file of the cache shows whether a copy from there shares blocks.
    cached_path = next(filter(None, (context.cache.find(sha256) for sha256 in local_paths)), None)
    content_paths: dict[str, Path] = {
        sha256: path for sha256, local_path in local_paths.items() if (path := local_path or cached_path)
    }
    disk.require_free_space(
        [
            (bundle_path.parent, archive.estimate_space(bundle_path, lock, content_paths), "the bundle"),
            (context.cache.root, missing_bytes, "fetching packages and models"),
            (context.cache.root, rehearsal.estimate_space(lock) if with_rehearsal else 0, "the rehearsal"),
        ]
    )


def _require_complete(lock: Lock, context: BuildContext) -> None:
    missing_paths = [
        artifact.path
        for artifact in lock.artifacts
        if artifact.sha256 not in context.external_paths and not context.cache.find(artifact.sha256)
    ]
    if missing_paths:
        hint = "run 'bundle lock' again: this version of the program, or the source, gives other files"
        raise IntegrityError(
            f"the lock names files that no source gives any more: {', '.join(missing_paths[:5])}", hint=hint
        )


def _check_content(lock: Lock, context: BuildContext) -> None:
    """Scan the model files that were just fetched, and check every wheel."""
    locked_build.scan_pickles(lock, context, only_deferred=True)
    wheels = wheel_check.list_wheels(lock, context.require_path)
    wheel_check.check_wheels(wheels, context.reporter, compare_contents=True)


def _pack(draft: DraftFile, lock: Lock, context: BuildContext) -> None:
    try:
        archive.pack_bundle(draft.fd, lock, context.require_path, context.reporter)
    except archive.ContentChangedError as error:
        for artifact in error.artifacts:
            context.cache.remove(artifact.sha256)  # the next build fetches it again
        raise


def _rehearse(draft: DraftFile, lock: Lock, context: BuildContext) -> Lock:
    installer_path = context.require_path(lock.artifacts[0])
    return rehearsal.run_rehearsal(draft.path, lock, installer_path, context.cache.root, context.reporter)


def _finish_head(draft: DraftFile, packed_lock: Lock, final_lock: Lock, options: BuildOptions) -> None:
    """Sign the final lock, and write both into the head where it differs from what was packed."""
    signature = signature_envelope.sign_lock(final_lock, options.signers)
    if final_lock != packed_lock or signature is not None:
        archive.rewrite_head(draft.path, final_lock, signature)


def _update_kept_lock(path: Path, lock: Lock, context: BuildContext) -> None:
    write_lock(path, lock)
    context.reporter.note(
        f"{path} now holds the results of the rehearsal: the next build from it gives the same bundle"
    )


def _describe_bundle(path: Path, lock: Lock, context: BuildContext) -> BuiltBundle:
    # The head was written last and the digest of the file begins with it, so it can't be computed while packing.
    with context.reporter.stage("hash the file", path.stat().st_size) as stage:
        size, sha256 = hashing.compute_file_sha256(path, stage.advance)
    return BuiltBundle(path=path, size=size, sha256=sha256, lock=lock)

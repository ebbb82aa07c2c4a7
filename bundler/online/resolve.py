"""Resolves a manifest to exact versions and checksums: a lock."""

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
"""Bytes of the head reserved for each model and text: a vector of 2,048 float32 in base64, and its token ids."""


def resolve_manifest(loaded: LoadedManifest, context: BuildContext) -> Lock:
    """Resolve a manifest to a lock; fetches only what must be read for that.

    Raises ManifestError, ResolveError, FetchError, IntegrityError or UnsafeError.
    """
    manifest = loaded.manifest
    target = manifest.target.resolve()
    _report_target_defaults(manifest.target, target, context.reporter)
    with context.reporter.stage("resolve packages"):
        wheels = _resolve_packages(loaded, target, context)
        tools = resolution.resolve_without_dependencies(
            ["pip", "uv"], target, context.config, context.cache, context.reporter
        )
    packages = PythonEnvironment(
        requirements=_list_requirements(loaded),
        packages=tuple(
            Package(name=wheel.name, version=wheel.version, wheel=f"wheels/{wheel.filename}") for wheel in wheels
        ),
        resolver=manifest.python.resolver,
    )
    wheel_artifacts = [_make_wheel_artifact(wheel, "wheel", context) for wheel in wheels]
    requirements = lockfile.format_requirements(packages, wheel_artifacts)
    artifacts = [
        _make_artifact(entries.INSTALLER, "installer", installer.build_installer(), context),
        _make_artifact(entries.REQUIREMENTS, "requirements", requirements, context),
        *(_make_wheel_artifact(tool, "tool", context) for tool in tools),
        *wheel_artifacts,
    ]
    conversion = ConversionContext(target=target, packages=wheels, context=context)
    models = closure.find_closure(
        manifest.models,
        manifest.closure,
        bound(_resolve_model, loaded, context, conversion),
        BundledPackages(wheels, context),
        context.reporter,
    )
    for model in models.models:
        artifacts += model.make_artifacts()
    artifacts += collect.collect_assets(manifest.assets, [wheel.name for wheel in wheels], context)
    base = pull_base_image(loaded, target, context)
    artifacts += [*base.artifacts, *list_app_files(loaded, context)]
    lock = _make_lock(loaded, target, packages, models, base.image, artifacts)
    rules = lint.load_rules(loaded.folder / name for name in manifest.lint)
    lint.check_lock(lock, rules, manifest.target.pip, context.reporter)
    return _reserve_head(lock)


def _report_target_defaults(spec: TargetSpec, target: Target, reporter: Reporter) -> None:
    """Report what the manifest leaves out of the target: hosts that differ will refuse the bundle."""
    defaults = [f"{name} {getattr(target, name)}" for name in spec.omitted_fields if name != "libc"]
    if defaults:
        reporter.note(f"the manifest leaves these fields of its target to this machine: {', '.join(defaults)}")
    if "libc" not in spec.omitted_fields or not target.libc:
        return
    if target.libc == detect_target().libc:
        reporter.warn(
            f"target.libc is left out, so hosts need this machine's C library or a newer one: {target.libc}; older hosts "
            "can't install the bundle (RHEL 8 has glibc-2.28, RHEL 9 glibc-2.34). For them write: target: {libc: glibc-2.28}"
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
    models: ModelClosure,
    base: Image,
    artifacts: list[Artifact],
) -> Lock:
    """Make the lock; raises UnsafeError where its own rules forbid something to travel."""
    try:
        return _assemble_lock(loaded, target, packages, models, base, artifacts)
    except InvalidValueError as error:
        raise UnsafeError(f"this may not travel: {error}", hint="rename it, or leave it out") from error


def _assemble_lock(
    loaded: LoadedManifest,
    target: Target,
    packages: PythonEnvironment,
    models: ModelClosure,
    base: Image,
    artifacts: list[Artifact],
) -> Lock:
    manifest = loaded.manifest
    return Lock(
        name=manifest.name,
        version=manifest.version,
        sequence=manifest.sequence if manifest.sequence is not None else _get_build_time(),
        created_by=f"airgap-bundler {bundler.__version__}",
        source_date_epoch=lockfile.ZIP_EPOCH,
        manifest_sha256=loaded.sha256,
        target=target,
        models=tuple(resolved.model for resolved in models.models),
        closure=models.edges,
        pickles=tuple(pickle for resolved in models.models for pickle in resolved.pickles),
        conversions=tuple(conversion for resolved in models.models for conversion in resolved.conversions),
        python=packages,
        smoke=manifest.smoke.to_lock(),
        env=schema.make_env_variables(manifest),
        image=base,
        app=manifest.app.to_lock() if manifest.app else App(),
        head_size=lockfile.HEAD_ALIGNMENT,
        artifacts=tuple(artifacts),
    )


def _resolve_packages(loaded: LoadedManifest, target: Target, context: BuildContext) -> tuple[ResolvedWheel, ...]:
    python = loaded.manifest.python
    if not python.requirements and not python.requirements_files:
        return ()
    request = PackageRequest(
        requirements=python.requirements,
        requirements_files=tuple(loaded.folder / name for name in python.requirements_files),
        constraints=tuple(loaded.folder / name for name in python.constraints),
        index_assignments=python.index_assignments,
        resolver=python.resolver,
        build_from_source=python.build_from_source,
    )
    return resolution.resolve_packages(request, target, context.config, context.cache, context.reporter)


def _list_requirements(loaded: LoadedManifest) -> tuple[str, ...]:
    """List the requirements as they were written, with the lines of requirements files, for a reader of the lock."""
    lines = list(loaded.manifest.python.requirements)
    for name in loaded.manifest.python.requirements_files:
        text = (loaded.folder / name).read_text(encoding="utf-8")
        lines += [
            line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", "-"))
        ]
    return tuple(process.redact(line) for line in lines)


def _make_wheel_artifact(wheel: ResolvedWheel, kind: entries.ArtifactKind, context: BuildContext) -> Artifact:
    is_local = wheel.origin.startswith("file:")
    if wheel.sdist_sha256:
        local_origin = f"{wheel.publisher}:{simple_index.get_filename(wheel.origin)}" if is_local else ""
        return _make_built_artifact(wheel, kind, local_origin)
    upstream = Upstream(algorithm="sha256", digest=wheel.sha256, publisher=wheel.publisher)
    if is_local:
        context.local_wheel_urls[wheel.sha256] = wheel.origin
    return Artifact(
        path=f"{entries.KIND_FOLDERS[kind]}{wheel.filename}",
        kind=kind,
        size=wheel.size,
        sha256=wheel.sha256,
        origin=f"{wheel.publisher}:{wheel.filename}" if is_local else wheel.origin,
        upstream=(upstream,) if wheel.is_digest_published else (),
    )


def _make_built_artifact(wheel: ResolvedWheel, kind: entries.ArtifactKind, local_origin: str) -> Artifact:
    """Make the entry of a wheel that was built here: only the digest of its source code was published."""
    upstream = Upstream(algorithm=entries.SOURCE_DIGEST_ALGORITHM, digest=wheel.sdist_sha256, publisher=wheel.publisher)
    return Artifact(
        path=f"{entries.KIND_FOLDERS[kind]}{wheel.filename}",
        kind=kind,
        size=wheel.size,
        sha256=wheel.sha256,
        origin=f"{entries.BUILT_ORIGIN_PREFIX}{local_origin or wheel.origin}#sha256={wheel.sdist_sha256}",
        upstream=(upstream,) if wheel.is_digest_published else (),
    )


def _make_artifact(path: str, kind: entries.ArtifactKind, content: bytes, context: BuildContext) -> Artifact:
    origin = f"airgap-bundler {bundler.__version__}"
    return Artifact(path=path, kind=kind, size=len(content), sha256=context.cache.put_bytes(content), origin=origin)


def pull_base_image(loaded: LoadedManifest, target: Target, context: BuildContext, digest: str = "") -> BaseImage:
    """Pin the base image, and fetch it where it travels in the bundle."""
    return base_image.pull(
        loaded.manifest.image, target, context.cache, context.config, context.reporter, digest=digest
    )


def list_app_files(loaded: LoadedManifest, context: BuildContext) -> list[Artifact]:
    """List the application's files, as they are on this machine now."""
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
    """Return the time of the build in seconds: SOURCE_DATE_EPOCH where it is set (reproducible-builds.org)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(epoch) if epoch.isdigit() else int(time.time())


def _reserve_head(lock: Lock) -> Lock:
    """Return the lock with a head in which golden outputs and signatures have space."""
    texts = max(3, len(lock.smoke.texts))
    reserve = _HEAD_RESERVE + len(lock.models) * texts * _GOLDEN_RESERVE
    size = len(lock.canonical_bytes) + len(str(lockfile.MAX_HEAD_BYTES))
    return lockfile.replace_fields(lock, head_size=tar_layout.compute_head_size(size, len(lock.make_sums()), reserve))

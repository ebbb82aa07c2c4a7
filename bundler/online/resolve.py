"""What was asked for becomes what exactly that is."""

from __future__ import annotations

import os
import time
from functools import partial as bound

import bundler
from bundler import process
from bundler.errors import UnsafeError
from bundler.format.documents import Invalid
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import App, Artifact, Image, Package, Python, Upstream
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.target import Target, this_machine
from bundler.format.tar import tar_layout
from bundler.online import installer
from bundler.online.assets import collect
from bundler.online.containers import base_image
from bundler.online.containers.base_image import Pulled
from bundler.online.manifest import lint, schema
from bundler.online.manifest.schema import Asked, WantedModel, WantedTarget
from bundler.online.models import closure, local_sources, model_resolution
from bundler.online.models.closure import Closed
from bundler.online.models.model_resolution import Carried
from bundler.online.models.safetensors_conversion import Bench
from bundler.online.packages import resolution, simple_index
from bundler.online.packages.bundled_packages import Provided
from bundler.online.packages.resolution import ResolvedWheel, Wanted
from bundler.online.transfer.context import Workshop
from bundler.progress import Report

_ROOM = 64 << 10
_ROOM_FOR_A_GOLDEN = 16 << 10
"""Bytes of the head kept free for each model and text: a vector of 2,048 float32 in base64, and its token ids."""


def resolve(asked: Asked, shop: Workshop) -> Lock:
    """The lock of a manifest: asks the network what exactly, and brings home only what must be read for that.

    Raises ManifestError, ResolveError, FetchError, IntegrityError or UnsafeError.
    """
    wanted = asked.manifest
    target = wanted.target.resolved()
    _say_what_was_taken(wanted.target, target, shop.report)
    with shop.report.stage("resolve packages"):
        found = _wheels(asked, target, shop)
        tools = resolution.alone(["pip", "uv"], target, shop.config, shop.store, shop.report)
    packages = Python(
        requirements=_requirements(asked),
        packages=tuple(Package(name=one.name, version=one.version, wheel=f"wheels/{one.filename}") for one in found),
        resolver=wanted.python.resolver,
    )
    carried = [_artifact_of_wheel(one, "wheel", shop) for one in found]
    artifacts = [
        _made(entries.INSTALLER, "installer", installer.build(), shop),
        _made(entries.REQUIREMENTS, "requirements", lockfile.requirements_text(packages, carried), shop),
        *(_artifact_of_wheel(one, "tool", shop) for one in tools),
        *carried,
    ]
    provided = Provided(found, shop)
    whole = closure.closed(
        wanted.models,
        wanted.closure,
        bound(_carried, asked, shop, Bench(target=target, packages=found, shop=shop)),
        provided,
        shop.report,
    )
    for one in whole.carried:
        artifacts += one.artifacts()
    artifacts += collect.gathered(wanted.assets, [one.name for one in found], shop)
    base = pull(asked, target, shop)
    artifacts += [*base.artifacts, *app_files(asked, shop)]
    locked = _locked(asked, target, packages, whole, base.image, artifacts)
    lint.check(locked, lint.rules(asked.folder / name for name in wanted.lint), wanted.target.pip, shop.report)
    return _with_head(locked)


def _say_what_was_taken(wanted: WantedTarget, target: Target, report: Report) -> None:
    """What the manifest leaves out of the target is said: hosts that differ are refused, and only on the other side."""
    taken = [f"{name} {getattr(target, name)}" for name in wanted.left_out if name != "libc"]
    if taken:
        report.note(f"the manifest's target leaves out what is taken from this machine: {', '.join(taken)}")
    if "libc" not in wanted.left_out or not target.libc:
        return
    if target.libc == this_machine().libc:
        report.warn(
            f"target.libc is left out, so hosts need this machine's C library or a newer one: {target.libc}; older hosts "
            "are refused (RHEL 8 has glibc-2.28, RHEL 9 glibc-2.34). For them write: target: {libc: glibc-2.28}"
        )
    else:
        report.note(f"target.libc is left out, so hosts need at least {target.libc}")


def _carried(asked: Asked, shop: Workshop, bench: Bench, model: WantedModel) -> Carried:
    with shop.report.stage(f"resolve {model.name}"):
        return model_resolution.carried(model, asked, shop, bench)


def _locked(
    asked: Asked, target: Target, packages: Python, whole: Closed, base: Image, artifacts: list[Artifact]
) -> Lock:
    """The lock, whose own rules are the last word on what may travel; raises UnsafeError where they are broken."""
    try:
        return _lock_of(asked, target, packages, whole, base, artifacts)
    except Invalid as error:
        raise UnsafeError(f"this may not travel: {error}", hint="rename or leave out what the message names") from error


def _lock_of(
    asked: Asked, target: Target, packages: Python, whole: Closed, base: Image, artifacts: list[Artifact]
) -> Lock:
    wanted = asked.manifest
    return Lock(
        name=wanted.name,
        version=wanted.version,
        sequence=wanted.sequence if wanted.sequence is not None else _now(),
        created_by=f"airgap-bundler {bundler.__version__}",
        source_date_epoch=lockfile.EPOCH,
        manifest_sha256=asked.sha256,
        target=target,
        models=tuple(one.model for one in whole.carried),
        closure=whole.edges,
        pickles=tuple(pickle for one in whole.carried for pickle in one.pickles),
        conversions=tuple(made for one in whole.carried for made in one.conversions),
        python=packages,
        smoke=wanted.smoke.locked(),
        env=schema.variables(wanted),
        image=base,
        app=wanted.app.locked() if wanted.app else App(),
        head_size=lockfile.HEAD_UNIT,
        artifacts=tuple(artifacts),
    )


def _wheels(asked: Asked, target: Target, shop: Workshop) -> tuple[ResolvedWheel, ...]:
    python = asked.manifest.python
    if not python.requirements and not python.requirements_files:
        return ()
    wanted = Wanted(
        requirements=python.requirements,
        requirements_files=tuple(asked.folder / name for name in python.requirements_files),
        constraints=tuple(asked.folder / name for name in python.constraints),
        indexes=python.tied,
        resolver=python.resolver,
        build_from_source=python.build_from_source,
    )
    return resolution.resolve(wanted, target, shop.config, shop.store, shop.report)


def _requirements(asked: Asked) -> tuple[str, ...]:
    """What was asked for, with the lines of the files, for a reader of the lock."""
    lines = list(asked.manifest.python.requirements)
    for name in asked.manifest.python.requirements_files:
        text = (asked.folder / name).read_text(encoding="utf-8")
        lines += [
            line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", "-"))
        ]
    return tuple(process.without_secrets(line) for line in lines)


def _artifact_of_wheel(wheel: ResolvedWheel, kind: entries.Kind, shop: Workshop) -> Artifact:
    local = wheel.origin.startswith("file:")
    if wheel.built_from:
        return _artifact_of_build(
            wheel, kind, f"{wheel.publisher}:{simple_index.filename_of(wheel.origin)}" if local else ""
        )
    published = (Upstream(algorithm="sha256", digest=wheel.sha256, publisher=wheel.publisher),)
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


def _artifact_of_build(wheel: ResolvedWheel, kind: entries.Kind, local: str) -> Artifact:
    """A wheel that was built here: its digest is ours, and what was published is that of the source code."""
    published = Upstream(algorithm=entries.OF_SOURCE, digest=wheel.built_from, publisher=wheel.publisher)
    return Artifact(
        path=f"{entries.FOLDERS[kind]}{wheel.filename}",
        kind=kind,
        size=wheel.size,
        sha256=wheel.sha256,
        origin=f"{entries.BUILT}{local or wheel.origin}#sha256={wheel.built_from}",
        upstream=(published,) if wheel.published else (),
    )


def _made(path: str, kind: entries.Kind, content: bytes, shop: Workshop) -> Artifact:
    origin = f"airgap-bundler {bundler.__version__}"
    return Artifact(path=path, kind=kind, size=len(content), sha256=shop.store.put_bytes(content), origin=origin)


def pull(asked: Asked, target: Target, shop: Workshop, pinned: str = "") -> Pulled:
    """The base image, pinned and where it is carried brought home."""
    return base_image.pull(asked.manifest.image, target, shop.store, shop.config, shop.report, pinned=pinned)


def app_files(asked: Asked, shop: Workshop) -> list[Artifact]:
    """The application's files, as they are on this machine now."""
    app = asked.manifest.app
    if app is None:
        return []
    files = local_sources.of_app(app, asked.folder / app.path)
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
    size = len(locked.canonical) + len(str(lockfile.LARGEST_HEAD))
    return lockfile.with_changes(locked, head_size=tar_layout.head_size_for(size, len(locked.sums()), room))

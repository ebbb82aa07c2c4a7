"""The wheels that a lock names, fetched again or built again from the same source code."""

from __future__ import annotations

from packaging.utils import parse_wheel_filename

from bundler.errors import FetchError, IntegrityError
from bundler.format.lock import entries
from bundler.format.lock.entries import Artifact, ArtifactKind
from bundler.format.lock.lockfile import Lock
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.packages import resolution
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer.context import BuildContext

_WHEEL_KINDS: tuple[ArtifactKind, ...] = ("tool", "wheel")


def list_packages(lock: Lock, context: BuildContext) -> list[ResolvedWheel]:
    """List the packages of the bundle's environment."""
    return [_make_resolved_wheel(wheel, _find_wheel_url(wheel, context)) for wheel in lock.list_artifacts("wheel")]


def list_missing_wheels(lock: Lock, context: BuildContext) -> list[Artifact]:
    """List the wheels that are not in the cache."""
    return [
        wheel
        for kind in _WHEEL_KINDS
        for wheel in lock.list_artifacts(kind)
        if context.cache.find(wheel.sha256, wheel.size) is None
    ]


def fetch_wheels(missing_wheels: list[Artifact], lock: Lock, loaded: LoadedManifest, context: BuildContext) -> None:
    """Fetch wheels into the cache, from the URL in the lock or from where pip finds the same version on this machine.

    Raises:
        FetchError: pip finds other files than the lock names.
        IntegrityError: a wheel built again from source code differs from the lock.
    """
    with_url = [wheel for wheel in missing_wheels if _find_wheel_url(wheel, context)]
    without_url = [wheel for wheel in missing_wheels if wheel not in with_url]
    resolved = {wheel.sha256: wheel for wheel in _resolve_again(without_url, lock, loaded, context)}
    different = [wheel for wheel in without_url if wheel.sha256 not in resolved]
    if rebuilt := [wheel.path for wheel in different if wheel.origin.startswith(entries.BUILT_ORIGIN_PREFIX)]:
        hint = "the compiler or the build requirements changed: use the cache that has these wheels, or run 'bundle lock' again"
        raise IntegrityError(
            f"wheels built again from source code differ from the lock: {', '.join(rebuilt)}", hint=hint
        )
    if different:
        hint = "give pip the folder or index that had these wheels when the lock was made, or run 'bundle lock' again"
        names = ", ".join(wheel.path for wheel in different)
        raise FetchError(f"pip finds other files than the lock names: {names}", hint=hint)
    located = [_make_resolved_wheel(wheel, _find_wheel_url(wheel, context)) for wheel in with_url]
    index_urls = [index.url for index in loaded.manifest.python.indexes]  # an index's credentials serve its files too
    resolution.fetch_wheels(
        [*located, *resolved.values()], context.cache, context.config, context.reporter, credential_urls=index_urls
    )


def _find_wheel_url(wheel: Artifact, context: BuildContext) -> str:
    """Return where a wheel can be fetched; "" where the lock names a folder of the machine that made it."""
    url = context.local_wheel_urls.get(wheel.sha256) or wheel.origin
    return url if url.startswith(("http:", "https:", "file:")) else ""


def _resolve_again(
    wheels: list[Artifact], lock: Lock, loaded: LoadedManifest, context: BuildContext
) -> list[ResolvedWheel]:
    """Let pip find wheels by their versions, and build again those that were built from source code."""
    built_paths = {wheel.path for wheel in wheels if wheel.origin.startswith(entries.BUILT_ORIGIN_PREFIX)}
    built_wheels = [wheel for wheel in wheels if wheel.path in built_paths]
    resolved = [*_resolve_pinned(built_wheels, lock, loaded, context, from_source=True)]
    for kind in _WHEEL_KINDS:  # one by one: the environment may hold another version of a tool
        published = [wheel for wheel in wheels if wheel.kind == kind and wheel.path not in built_paths]
        resolved += _resolve_pinned(published, lock, loaded, context, from_source=False)
    return resolved


def _resolve_pinned(
    wheels: list[Artifact], lock: Lock, loaded: LoadedManifest, context: BuildContext, *, from_source: bool
) -> tuple[ResolvedWheel, ...]:
    versions = [parse_wheel_filename(wheel.path.partition("/")[2])[:2] for wheel in wheels]
    pins = [f"{name}=={version}" for name, version in versions]
    if from_source:  # only the source code that the lock was made with may run
        digests = [wheel.origin.rpartition("#sha256=")[2] for wheel in wheels]
        pins = [f"{pin} --hash=sha256:{digest}" for pin, digest in zip(pins, digests, strict=True)]
    return resolution.resolve_without_dependencies(
        pins,
        lock.target,
        context.config,
        context.cache,
        context.reporter,
        index_assignments=loaded.manifest.python.index_assignments if from_source else (),
        source_packages=[name for name, _ in versions] if from_source else [],
    )


def _make_resolved_wheel(wheel: Artifact, url: str) -> ResolvedWheel:
    filename = wheel.path.partition("/")[2]
    name, version, *_ = parse_wheel_filename(filename)
    return ResolvedWheel(
        name=name,
        version=str(version),
        filename=filename,
        origin=url,
        size=wheel.size,
        sha256=wheel.sha256,
        publisher="lock",
        is_digest_published=bool(wheel.upstream),
    )

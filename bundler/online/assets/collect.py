"""Fetches the assets of a manifest and describes them for the lock."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path

import requests
from packaging.utils import canonicalize_name

from bundler.errors import FetchError, IntegrityError, ManifestError, ResolveError
from bundler.format import paths
from bundler.format.hashing import Sha256
from bundler.format.lock.entries import Artifact, Upstream
from bundler.format.lock.lockfile import Lock
from bundler.online.assets.asset_spec import PROVIDERS, AssetSpec
from bundler.online.assets.provider import AssetFile, AssetProvider
from bundler.online.transfer import download, http, remote_sizes
from bundler.online.transfer.context import BuildContext
from bundler.online.transfer.download import DownloadRequest

_MAX_INDEX_BYTES = 16 << 20
"""Largest index that is read; NLTK's has 64 KiB."""


def collect_assets(specs: Sequence[AssetSpec], packages: Collection[str], context: BuildContext) -> list[Artifact]:
    """Fetch all assets and return an artifact for each file; warn of data for a library that is not in ``packages``.

    Raises:
        ResolveError: An index is malformed or lacks a name.
        ManifestError: Two assets have the same path.
        FetchError: A file could not be downloaded.
        IntegrityError: A file does not have its published digest.
    """
    _warn_if_unused(specs, packages, context)
    fetch_assets(specs, context)
    artifacts = [_make_artifact(file, file.sha256, context) for file in _list_pinned_files(specs)]
    for n, spec in enumerate(specs):
        if spec.index_url:
            artifacts += _require_distinct(_fetch_indexed_files(spec, context), artifacts, f"assets[{n}].{spec.key}")
    return artifacts


def fetch_assets(specs: Sequence[AssetSpec], context: BuildContext) -> None:
    """Fetch the files whose SHA-256 is known beforehand, unless they are in the cache."""
    downloads = [DownloadRequest(url=file.url, sha256=file.sha256) for file in _list_pinned_files(specs)]
    context.fetch_missing(downloads, title="fetch assets")


def fetch_locked_assets(specs: Sequence[AssetSpec], lock: Lock, context: BuildContext) -> None:
    """Fetch the assets of an existing lock. No index is read: the lock has the digest of each file."""
    fetch_assets(specs, context)
    for key, provider in PROVIDERS.items():
        downloads = [
            DownloadRequest(url=url, sha256=artifact.sha256, size=artifact.size)
            for artifact in lock.list_artifacts("asset")
            for spec in specs
            if spec.key == key
            if (url := provider.find_locked_url(spec, artifact.path.removeprefix("assets/")))
        ]
        context.fetch_missing(downloads, title=f"fetch {provider.title}'s data")


def _list_pinned_files(specs: Iterable[AssetSpec]) -> list[AssetFile]:
    """Return the files whose SHA-256 is known, each path once: two encodings may share a file."""
    files: dict[str, AssetFile] = {}
    for spec in specs:
        for file in spec.pinned_files:
            files.setdefault(file.path, file)
    return list(files.values())


def _fetch_indexed_files(spec: AssetSpec, context: BuildContext) -> list[Artifact]:
    """Fetch the files that an index lists, and compare each with the digest that the index publishes."""
    provider = PROVIDERS[spec.key]
    where = http.redact_url(spec.index_url)
    files = provider.list_indexed_files(spec, _fetch_index(spec, provider, context), where)
    downloads = [DownloadRequest(url=file.url, sha256=file.sha256, size=file.size) for file in files]
    if missing := [request for request in downloads if not (request.sha256 and context.cache.find(request.sha256))]:
        remote_sizes.require_free_space(missing, context.cache, context.config)
    title = f"fetch {provider.title}'s data"
    fetched = download.fetch(downloads, context.cache, context.config, context.reporter, title=title)
    return [_make_artifact(file, sha256, context) for file, (_, sha256) in zip(files, fetched, strict=True)]


def _fetch_index(spec: AssetSpec, provider: AssetProvider, context: BuildContext) -> bytes:
    request = DownloadRequest(url=spec.index_url, make_error=partial(_make_index_error, provider))
    title = f"fetch {provider.title}'s index"
    ((size, sha256),) = download.fetch([request], context.cache, context.config, context.reporter, title=title)
    if size > _MAX_INDEX_BYTES:
        message = f"{provider.title}'s index has {size} bytes; the limit is {_MAX_INDEX_BYTES}"
        raise ResolveError(message, where=http.redact_url(spec.index_url), hint=provider.index_hint)
    return context.cache.require(sha256).read_bytes()


def _make_index_error(provider: AssetProvider, response: requests.Response, url: str) -> Exception:
    if response.status_code != HTTPStatus.NOT_FOUND:
        return http.make_response_error(response, url)
    where = http.redact_url(url)
    return FetchError(f"the server has no index of {provider.title} there", where=where, hint=provider.index_hint)


def _make_artifact(file: AssetFile, sha256: str, context: BuildContext) -> Artifact:
    """Return the artifact of a file in the cache; raise IntegrityError if only its MD5 is published and differs."""
    path, origin = context.cache.require(sha256), http.redact_url(file.url)
    if not file.sha256 and (md5 := _compute_md5(path)) != file.md5:
        context.cache.remove(sha256)
        hint = "index and file may be of different versions: try again later. If it stays, ask who runs the server"
        raise IntegrityError(f"md5 is {md5}, {file.publisher} says {file.md5}", where=origin, hint=hint)
    algorithm, digest = ("sha256", file.sha256) if file.sha256 else ("md5", file.md5)
    return Artifact(
        path=f"assets/{file.path}",
        kind="asset",
        size=path.stat().st_size,
        sha256=Sha256(sha256),
        origin=origin,
        upstream=(Upstream(algorithm=algorithm, digest=digest, publisher=file.publisher),),
    )


def _require_distinct(added: list[Artifact], existing: list[Artifact], field: str) -> list[Artifact]:
    """Return the added artifacts; raise ManifestError if another asset has the path of one."""
    taken_paths = {paths.fold_name(artifact.path) for artifact in existing}
    for artifact in added:
        if paths.fold_name(artifact.path) in taken_paths:
            raise ManifestError(f"{field}: {artifact.path!r} is taken by another asset", hint="remove one of the two")
    return added


def _warn_if_unused(specs: Sequence[AssetSpec], packages: Collection[str], context: BuildContext) -> None:
    package_names = {canonicalize_name(name) for name in packages}
    for key in PROVIDERS:
        names = [name for spec in specs if spec.key == key for name in spec.names]
        if names and key not in package_names:
            context.reporter.warn(
                f"the manifest has assets for {key} ({', '.join(names)}), but {key} is not among the packages"
            )


def _compute_md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

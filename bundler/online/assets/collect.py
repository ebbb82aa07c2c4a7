"""The assets of a manifest, brought home: files by their addresses, and what tiktoken and NLTK fetch by themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from packaging.utils import canonicalize_name

from bundler.errors import ManifestError
from bundler.format import paths
from bundler.format.hashing import Sha256
from bundler.format.lock.entries import Artifact, Upstream
from bundler.format.lock.lockfile import Lock
from bundler.online.assets import nltk_index
from bundler.online.manifest.asset_spec import AssetFile, AssetSpec
from bundler.online.transfer import download, http
from bundler.online.transfer.context import BuildContext

_NLTK_FOLDER = "assets/nltk_data/"


def collect_assets(specs: Sequence[AssetSpec], packages: Collection[str], context: BuildContext) -> list[Artifact]:
    """Every file of the assets, on the shelf. ``packages`` are the names of the environment's.

    Raises ResolveError, ManifestError, FetchError and IntegrityError.
    """
    _warn_if_unused(specs, packages, context)
    fetch_assets(specs, context)
    found = [_make_artifact(file, context) for file in _list_known_files(specs)]
    for n, asset in enumerate(specs):
        if asset.nltk:
            found += _require_distinct(nltk_index.fetch_packages(asset.nltk, asset.mirror, context), found, n)
    return found


def fetch_assets(specs: Sequence[AssetSpec], context: BuildContext) -> None:
    """Bring home what is not on the shelf of the files whose digest is known; each must be what it is said to be."""
    wanted = [download.DownloadRequest(url=file.url, sha256=file.sha256) for file in _list_known_files(specs)]
    context.fetch_missing(wanted, title="fetch assets")


def fetch_locked_assets(specs: Sequence[AssetSpec], lock: Lock, context: BuildContext) -> None:
    """Bring home what a kept lock names, with no look into NLTK's index: the lock says what each archive is."""
    fetch_assets(specs, context)
    mirrors = {f"{name}.zip": asset.mirror for asset in specs for name in asset.nltk}
    wanted = []
    for one in lock.list_artifacts("asset"):
        path = one.path.removeprefix(_NLTK_FOLDER)
        name = path.rpartition("/")[2]
        if path != one.path and name in mirrors:
            url = nltk_index.get_package_url(path, mirrors[name])
            wanted.append(download.DownloadRequest(url=url, sha256=one.sha256, size=one.size))
    context.fetch_missing(wanted, title="fetch NLTK's data")


def _list_known_files(specs: Iterable[AssetSpec]) -> list[AssetFile]:
    """The files whose digest is known, each place once: encodings of two entries may share a file."""
    found: dict[str, AssetFile] = {}
    for asset in specs:
        for file in asset.known_files:
            found.setdefault(file.path, file)
    return list(found.values())


def _make_artifact(file: AssetFile, context: BuildContext) -> Artifact:
    return Artifact(
        path=f"assets/{file.path}",
        kind="asset",
        size=context.cache.require(file.sha256).stat().st_size,
        sha256=Sha256(file.sha256),
        origin=http.redact_url(file.url),
        upstream=(Upstream(algorithm="sha256", digest=file.sha256, publisher=file.publisher),),
    )


def _require_distinct(added: list[Artifact], existing: list[Artifact], n: int) -> list[Artifact]:
    """The archives of NLTK, if no other asset stands where they do."""
    taken = {paths.fold_name(one.path) for one in existing}
    if clash := [one.path for one in added if paths.fold_name(one.path) in taken]:
        hint = "leave one of the two out"
        raise ManifestError(f"assets[{n}].nltk: {clash[0]!r} is taken by another asset", hint=hint)
    return added


def _warn_if_unused(specs: Sequence[AssetSpec], packages: Collection[str], context: BuildContext) -> None:
    known = {canonicalize_name(name) for name in packages}
    for library in ("tiktoken", "nltk"):
        named = [name for asset in specs for name in getattr(asset, library)]
        if named and library not in known:
            context.reporter.warn(
                f"assets for {library} are carried ({', '.join(named)}), and {library} is not among the packages"
            )

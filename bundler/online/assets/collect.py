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
from bundler.online.manifest.asset_spec import Pinned, WantedAsset
from bundler.online.transfer import download, http
from bundler.online.transfer.context import Workshop

_NLTK = "assets/nltk_data/"


def gathered(assets: Sequence[WantedAsset], packages: Collection[str], shop: Workshop) -> list[Artifact]:
    """Every file of the assets, on the shelf. ``packages`` are the names of the environment's.

    Raises ResolveError, ManifestError, FetchError and IntegrityError.
    """
    _warn_of_readers(assets, packages, shop)
    bring(assets, shop)
    found = [_artifact(file, shop) for file in _pinned(assets)]
    for n, asset in enumerate(assets):
        if asset.nltk:
            found += _apart(nltk_index.fetched(asset.nltk, asset.mirror, shop), found, n)
    return found


def bring(assets: Sequence[WantedAsset], shop: Workshop) -> None:
    """Bring home what is not on the shelf of the files whose digest is known; each must be what it is said to be."""
    wanted = [download.Wanted(url=file.url, sha256=file.sha256) for file in _pinned(assets)]
    shop.bring(wanted, title="fetch assets")


def bring_again(assets: Sequence[WantedAsset], locked: Lock, shop: Workshop) -> None:
    """Bring home what a kept lock names, with no look into NLTK's index: the lock says what each archive is."""
    bring(assets, shop)
    mirrors = {f"{name}.zip": asset.mirror for asset in assets for name in asset.nltk}
    wanted = []
    for one in locked.of_kind("asset"):
        path = one.path.removeprefix(_NLTK)
        name = path.rpartition("/")[2]
        if path != one.path and name in mirrors:
            url = nltk_index.address_of(path, mirrors[name])
            wanted.append(download.Wanted(url=url, sha256=one.sha256, size=one.size))
    shop.bring(wanted, title="fetch NLTK's data")


def _pinned(assets: Iterable[WantedAsset]) -> list[Pinned]:
    """The files whose digest is known, each place once: encodings of two entries may share a file."""
    found: dict[str, Pinned] = {}
    for asset in assets:
        for file in asset.pinned:
            found.setdefault(file.path, file)
    return list(found.values())


def _artifact(file: Pinned, shop: Workshop) -> Artifact:
    return Artifact(
        path=f"assets/{file.path}",
        kind="asset",
        size=shop.store.required(file.sha256).stat().st_size,
        sha256=Sha256(file.sha256),
        origin=http.address(file.url),
        upstream=(Upstream(algorithm="sha256", digest=file.sha256, publisher=file.publisher),),
    )


def _apart(more: list[Artifact], found: list[Artifact], n: int) -> list[Artifact]:
    """The archives of NLTK, if no other asset stands where they do."""
    taken = {paths.folded(one.path) for one in found}
    if clash := [one.path for one in more if paths.folded(one.path) in taken]:
        hint = "leave one of the two out"
        raise ManifestError(f"assets[{n}].nltk: {clash[0]!r} is taken by another asset", hint=hint)
    return more


def _warn_of_readers(assets: Sequence[WantedAsset], packages: Collection[str], shop: Workshop) -> None:
    known = {canonicalize_name(name) for name in packages}
    for library in ("tiktoken", "nltk"):
        named = [name for asset in assets for name in getattr(asset, library)]
        if named and library not in known:
            shop.report.warn(
                f"assets for {library} are carried ({', '.join(named)}), and {library} is not among the packages"
            )

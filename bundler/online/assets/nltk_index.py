"""NLTK's index: which archive a package's name stands for, what it must be, and where NLTK looks for it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from xml.parsers import expat

import requests

from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.format.hashing import Sha256
from bundler.format.lock.entries import Artifact, Upstream
from bundler.online.manifest.asset_spec import below, nearest
from bundler.online.transfer import download, http, remote_sizes
from bundler.online.transfer.context import Workshop

OWN = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/"
"""Where NLTK's own downloader looks: ``index.xml`` and the archives at ``packages/SUBDIR/ID.zip``."""
_LARGEST = 16 << 20
"""Bytes of an index that are read; NLTK's has 64 thousand."""
_HINT = (
    "a mirror is the address of a folder with index.xml and packages/; or something in between answers instead of it"
)
_SUBDIR = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """What an index says of a package: the digests are those of its archive, "" where none is given."""

    name: str
    subdir: str
    size: int | None
    sha256: str
    md5: str

    @property
    def path(self) -> str:
        """Where its archive stands below a server's folder, behind ``packages/``, and below ``nltk_data/``."""
        return f"{self.subdir}/{self.name}.zip"


def fetched(names: Sequence[str], mirror: str | None, shop: Workshop) -> list[Artifact]:
    """The archives of these packages, brought home and held against the digest that the index publishes.

    Raises ResolveError for names that the index does not have, FetchError and IntegrityError.
    """
    base = mirror or OWN
    packages = _chosen(names, base, shop)
    wanted = [download.Wanted(url=address_of(one.path, mirror), sha256=one.sha256, size=one.size) for one in packages]
    away = [one for one in wanted if not (one.sha256 and shop.store.path_of(one.sha256))]
    if away:
        remote_sizes.require(away, shop.store, shop.config)
    came = download.fetch(wanted, shop.store, shop.config, shop.report, title="fetch NLTK's data")
    return [
        _artifact(package, one.url, size, sha256, shop)
        for package, one, (size, sha256) in zip(packages, wanted, came, strict=True)
    ]


def address_of(path: str, mirror: str | None) -> str:
    """Where the archive of a package is fetched, ``path`` being its subdir and file name."""
    return below(mirror or OWN, f"packages/{path}")


def _artifact(package: Package, url: str, size: int, sha256: Sha256, shop: Workshop) -> Artifact:
    algorithm, published = ("sha256", package.sha256) if package.sha256 else ("md5", package.md5)
    if not package.sha256 and (md5 := _md5(shop.store.required(sha256))) != package.md5:
        shop.store.drop(sha256)
        hint = "index and archive are not of one time, or the archive was altered: try again later, or ask who runs it"
        raise IntegrityError(f"md5 is {md5}, NLTK's index says {package.md5}", where=http.address(url), hint=hint)
    return Artifact(
        path=f"assets/nltk_data/{package.path}",
        kind="asset",
        size=size,
        sha256=sha256,
        origin=http.address(url),
        upstream=(Upstream(algorithm=algorithm, digest=published, publisher="NLTK's index"),),
    )


def _chosen(names: Sequence[str], base: str, shop: Workshop) -> list[Package]:
    """What the index says of these names; raises ResolveError that says of each unknown one what is nearest."""
    url = below(base, "index.xml")
    ((size, sha256),) = download.fetch(
        [download.Wanted(url=url, refusal=_refused)], shop.store, shop.config, shop.report, title="fetch NLTK's index"
    )
    if size > _LARGEST:
        raise ResolveError(f"NLTK's index has {size} bytes, which is too many", where=http.address(url))
    packages, collections = _read(shop.store.required(sha256).read_bytes(), http.address(url))
    unknown = []
    for name in names:
        if name in collections:
            unknown.append(f"  {name!r} is a collection: name the packages of it that are needed")
        elif name not in packages:
            unknown.append(f"  {name!r} is no package of it; {nearest(name, packages)}")
    if unknown:
        hint = "the names are the ids of the packages in that index"
        listed = "\n".join(unknown)
        where = http.address(url)
        raise ResolveError(f"NLTK's index does not have what is asked for:\n{listed}", where=where, hint=hint)
    return [_sound(packages[name], http.address(url)) for name in names]


def _refused(response: requests.Response, url: str) -> Exception:
    """What an answer other than an index means."""
    if response.status_code != HTTPStatus.NOT_FOUND:
        return http.refused(response, url)
    return FetchError("the server has no index of NLTK there", where=http.address(url), hint=_HINT)


def _sound(package: Package, where: str) -> Package:
    """The same package, if its archive can be placed and checked."""
    if not _SUBDIR.fullmatch(package.subdir):
        raise ResolveError(
            f"NLTK's index puts {package.name!r} into {package.subdir!r}, which is no folder of NLTK's", where=where
        )
    if not (package.sha256 or package.md5):
        hint = "give the archive by url and sha256 instead"
        raise ResolveError(f"NLTK's index has no digest of {package.name!r}", where=where, hint=hint)
    return package


def _read(text: bytes, where: str) -> tuple[dict[str, Package], set[str]]:
    """The packages of an index by their names, and the names of its collections; raises ResolveError."""
    packages: dict[str, Package] = {}
    collections: set[str] = set()

    def start(tag: str, given: dict[str, str]) -> None:
        if tag == "package":
            size = given.get("size", "")
            packages[given.get("id", "")] = Package(
                name=given.get("id", ""),
                subdir=given.get("subdir", ""),
                size=int(size) if re.fullmatch(r"[0-9]{1,15}", size) else None,
                sha256=_digest(given.get("sha256_checksum", ""), 64),
                md5=_digest(given.get("checksum", ""), 32),
            )
        elif tag == "collection":
            collections.add(given.get("id", ""))

    def entity(*_: object) -> None:
        raise _unreadable("it declares entities", where)

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = entity  # which could grow without end
    try:
        parser.ParseFile(io.BytesIO(text))
    except expat.ExpatError as error:
        raise _unreadable(str(error), where) from error
    if not packages:
        raise _unreadable("it names no package", where)
    return packages, collections


def _digest(text: str, length: int) -> str:
    """A digest of that many hexadecimal digits, or "" where it is none."""
    return text.lower() if re.fullmatch(rf"[0-9A-Fa-f]{{{length}}}", text) else ""


def _unreadable(why: str, where: str) -> ResolveError:
    return ResolveError(f"this is not NLTK's index: {why}", where=where, hint=_HINT)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

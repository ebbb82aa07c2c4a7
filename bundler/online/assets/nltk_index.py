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
from bundler.online.manifest.asset_spec import join_url, suggest_name
from bundler.online.transfer import download, http, remote_sizes
from bundler.online.transfer.context import BuildContext

NLTK_URL = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/"
"""Where NLTK's own downloader looks: ``index.xml`` and the archives at ``packages/SUBDIR/ID.zip``."""
_MAX_INDEX_BYTES = 16 << 20
"""Bytes of an index that are read; NLTK's has 64 thousand."""
_INDEX_HINT = (
    "a mirror is the address of a folder with index.xml and packages/; or something in between answers instead of it"
)
_SUBDIR = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NltkPackage:
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


def fetch_packages(names: Sequence[str], mirror: str | None, context: BuildContext) -> list[Artifact]:
    """The archives of these packages, brought home and held against the digest that the index publishes.

    Raises ResolveError for names that the index does not have, FetchError and IntegrityError.
    """
    base = mirror or NLTK_URL
    packages = _find_packages(names, base, context)
    wanted = [
        download.DownloadRequest(url=get_package_url(one.path, mirror), sha256=one.sha256, size=one.size)
        for one in packages
    ]
    away = [one for one in wanted if not (one.sha256 and context.cache.find(one.sha256))]
    if away:
        remote_sizes.require_free_space(away, context.cache, context.config)
    came = download.fetch(wanted, context.cache, context.config, context.reporter, title="fetch NLTK's data")
    return [
        _make_artifact(package, one.url, size, sha256, context)
        for package, one, (size, sha256) in zip(packages, wanted, came, strict=True)
    ]


def get_package_url(path: str, mirror: str | None) -> str:
    """Where the archive of a package is fetched, ``path`` being its subdir and file name."""
    return join_url(mirror or NLTK_URL, f"packages/{path}")


def _make_artifact(package: NltkPackage, url: str, size: int, sha256: Sha256, context: BuildContext) -> Artifact:
    algorithm, published = ("sha256", package.sha256) if package.sha256 else ("md5", package.md5)
    if not package.sha256 and (md5 := _compute_md5(context.cache.require(sha256))) != package.md5:
        context.cache.remove(sha256)
        hint = "index and archive are not of one time, or the archive was altered: try again later, or ask who runs it"
        raise IntegrityError(f"md5 is {md5}, NLTK's index says {package.md5}", where=http.redact_url(url), hint=hint)
    return Artifact(
        path=f"assets/nltk_data/{package.path}",
        kind="asset",
        size=size,
        sha256=sha256,
        origin=http.redact_url(url),
        upstream=(Upstream(algorithm=algorithm, digest=published, publisher="NLTK's index"),),
    )


def _find_packages(names: Sequence[str], base: str, context: BuildContext) -> list[NltkPackage]:
    """What the index says of these names; raises ResolveError that says of each unknown one what is nearest."""
    url = join_url(base, "index.xml")
    ((size, sha256),) = download.fetch(
        [download.DownloadRequest(url=url, make_error=_make_error)],
        context.cache,
        context.config,
        context.reporter,
        title="fetch NLTK's index",
    )
    if size > _MAX_INDEX_BYTES:
        raise ResolveError(f"NLTK's index has {size} bytes, which is too many", where=http.redact_url(url))
    packages, collections = _parse_index(context.cache.require(sha256).read_bytes(), http.redact_url(url))
    unknown = []
    for name in names:
        if name in collections:
            unknown.append(f"  {name!r} is a collection: name the packages of it that are needed")
        elif name not in packages:
            unknown.append(f"  {name!r} is no package of it; {suggest_name(name, packages)}")
    if unknown:
        hint = "the names are the ids of the packages in that index"
        listed = "\n".join(unknown)
        where = http.redact_url(url)
        raise ResolveError(f"NLTK's index does not have what is asked for:\n{listed}", where=where, hint=hint)
    return [_check_package(packages[name], http.redact_url(url)) for name in names]


def _make_error(response: requests.Response, url: str) -> Exception:
    """What an answer other than an index means."""
    if response.status_code != HTTPStatus.NOT_FOUND:
        return http.make_response_error(response, url)
    return FetchError("the server has no index of NLTK there", where=http.redact_url(url), hint=_INDEX_HINT)


def _check_package(package: NltkPackage, where: str) -> NltkPackage:
    """The same package, if its archive can be placed and checked."""
    if not _SUBDIR.fullmatch(package.subdir):
        raise ResolveError(
            f"NLTK's index puts {package.name!r} into {package.subdir!r}, which is no folder of NLTK's", where=where
        )
    if not (package.sha256 or package.md5):
        hint = "give the archive by url and sha256 instead"
        raise ResolveError(f"NLTK's index has no digest of {package.name!r}", where=where, hint=hint)
    return package


def _parse_index(text: bytes, where: str) -> tuple[dict[str, NltkPackage], set[str]]:
    """The packages of an index by their names, and the names of its collections; raises ResolveError."""
    packages: dict[str, NltkPackage] = {}
    collections: set[str] = set()

    def start(tag: str, given: dict[str, str]) -> None:
        if tag == "package":
            size = given.get("size", "")
            packages[given.get("id", "")] = NltkPackage(
                name=given.get("id", ""),
                subdir=given.get("subdir", ""),
                size=int(size) if re.fullmatch(r"[0-9]{1,15}", size) else None,
                sha256=_parse_digest(given.get("sha256_checksum", ""), 64),
                md5=_parse_digest(given.get("checksum", ""), 32),
            )
        elif tag == "collection":
            collections.add(given.get("id", ""))

    def entity(*_: object) -> None:
        raise _make_index_error("it declares entities", where)

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = entity  # which could grow without end
    try:
        parser.ParseFile(io.BytesIO(text))
    except expat.ExpatError as error:
        raise _make_index_error(str(error), where) from error
    if not packages:
        raise _make_index_error("it names no package", where)
    return packages, collections


def _parse_digest(text: str, length: int) -> str:
    """A digest of that many hexadecimal digits, or "" where it is none."""
    return text.lower() if re.fullmatch(rf"[0-9A-Fa-f]{{{length}}}", text) else ""


def _make_index_error(reason: str, where: str) -> ResolveError:
    return ResolveError(f"this is not NLTK's index: {reason}", where=where, hint=_INDEX_HINT)


def _compute_md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

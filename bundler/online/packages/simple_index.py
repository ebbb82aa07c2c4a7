"""Reads what package indexes and find-links offer."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version
from pypi_simple import DistributionPackage, ProjectPage, UnsupportedContentTypeError, UnsupportedRepoVersionError

from bundler.errors import FetchError, ResolveError
from bundler.format import hashing
from bundler.online.transfer import http, pip_config, threads
from bundler.online.transfer.http import Patience
from bundler.online.transfer.pip_config import PipConfig

PYPI = "pypi.org"
FIND_LINKS = "find-links"
LOCAL_INDEX = "local index"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1, */*;q=0.01"
_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A wheel, or an archive of source code, that stands somewhere: its address without credentials, what is said of it, and who says so."""

    filename: str
    url: str
    publisher: str
    sha256: str = ""
    size: int | None = None
    requires_python: str = ""
    has_metadata: bool = False
    yanked: bool = False

    @property
    def name(self) -> str:
        """The normalised name of its package."""
        return _parsed(self.filename)[0]

    @property
    def version(self) -> Version:
        """The version of its package."""
        return _parsed(self.filename)[1]

    @property
    def local_version(self) -> str:
        """The part of its version after the plus sign, which names a build."""
        return self.version.local or ""

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel, else source code."""
        return self.filename.endswith(".whl")


@dataclass(slots=True)
class Pages:
    """The pages of the indexes and find-links that pip's configuration names; each is read once."""

    config: PipConfig
    session: requests.Session
    patience: Patience
    denied: dict[str, int] = field(default_factory=dict)
    """Pages that were refused for want of a right password, and the status of the refusal."""
    _read: dict[tuple[str, str], tuple[Offer, ...]] = field(default_factory=dict)

    def offers(self, package: str, *, besides: str = "", also: Iterable[str] = ()) -> tuple[Offer, ...]:
        """Every wheel of a package, from find-links first, then from each index but the one on host ``besides``.

        ``also`` are further indexes. Raises ResolveError for a page that can't be had or understood.
        """
        return tuple(offer for offer in self._all(package, besides, also) if offer.is_wheel)

    def sources(self, package: str, *, besides: str = "", also: Iterable[str] = ()) -> tuple[Offer, ...]:
        """Every archive of a package's source code, from the same places; raises as ``offers`` does."""
        return tuple(offer for offer in self._all(package, besides, also) if not offer.is_wheel)

    def on(self, index: str, package: str) -> tuple[Offer, ...]:
        """Wheels and source code of a package on one index; raises as ``offers`` does."""
        return self._project(index, package)

    def _all(self, package: str, besides: str, also: Iterable[str]) -> tuple[Offer, ...]:
        indexes = [*(url for url in self.config.indexes if urlsplit(url).hostname != besides), *also]
        found = [offer for url in self.config.find_links for offer in self._links(url) if offer.name == package]
        for offers in threads.each(lambda url: self._project(url, package), indexes, _AT_ONCE):
            found += offers
        return tuple(found)

    def _links(self, url: str) -> tuple[Offer, ...]:
        if (url, "") not in self._read:
            path = pip_config.local_path(url)
            self._read[url, ""] = (
                _folder(path) if path is not None and path.is_dir() else self._page(url, "", FIND_LINKS)
            )
        return self._read[url, ""]

    def _project(self, index: str, package: str) -> tuple[Offer, ...]:
        if (index, package) not in self._read:
            page = f"{index.rstrip('/')}/{package}/"
            offers = self._page(page, package, LOCAL_INDEX)
            self._read[index, package] = tuple(offer for offer in offers if offer.name == package)
        return self._read[index, package]

    def _page(self, url: str, package: str, local: str) -> tuple[Offer, ...]:
        path = pip_config.local_path(url)
        if path is not None:
            file = path / "index.html" if path.is_dir() else path
            if not file.is_file():
                return ()
            page = ProjectPage.from_html(package, file.read_bytes(), base_url=url)
            return _offers(page.packages, local)
        try:
            found = http.patiently(lambda: self._asked(url, package), url, self.patience)
        except FetchError as error:
            raise ResolveError(f"an index can't be read: {error}", where=error.where, hint=error.hint) from error
        return _offers(found, urlsplit(url).netloc.rpartition("@")[2])

    def _asked(self, url: str, package: str) -> list[DistributionPackage]:
        with http.ask(self.session, "GET", url, {"Accept": _ACCEPT}) as response:
            if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                self.denied[http.address(url)] = response.status_code
            if HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return []  # as pip does: an index that does not have it, or does not show it, does not offer it
            if not response.ok:
                raise http.refused(response, url)
            http.content(response)
            try:
                return ProjectPage.from_response(response, package).packages
            except (UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError) as error:
                hint = "see in a browser what stands there: it should be a page of links to wheels"
                raise ResolveError("is no page of a package index", where=http.address(url), hint=hint) from error


def as_index(folder: Path, package: str, offers: Iterable[Offer]) -> str:
    """Write an index of one package that offers these wheels and nothing else; its address."""
    page = folder / package / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<!DOCTYPE html>\n" + "".join(map(_anchor, offers)), encoding="utf-8")
    return folder.as_uri()


def with_login(url: str, index: str) -> str:
    """An address with the user and password of an index on the same host, where that has one."""
    one, other = urlsplit(url), urlsplit(index)
    if "@" not in other.netloc or (one.scheme, one.hostname, one.port) != (other.scheme, other.hostname, other.port):
        return url
    return urlunsplit(one._replace(netloc=other.netloc))


def digest_of(offer: Offer) -> str:
    """The SHA-256 that is published, or that a file of this machine has; "" where neither is."""
    path = pip_config.local_path(offer.url)
    return offer.sha256 or (hashing.digest_of_file(path)[1] if path else "")


def _anchor(offer: Offer) -> str:
    sha256 = digest_of(offer)  # uv would unpack a wheel without one into its cache to compute it
    address = offer.url + (f"#sha256={sha256}" if sha256 else "")
    attributes = {"href": address}
    if offer.requires_python:
        attributes["data-requires-python"] = offer.requires_python
    if offer.has_metadata:
        attributes["data-core-metadata"] = "true"
    if offer.yanked:
        attributes["data-yanked"] = ""
    written = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<a {written}>{html.escape(offer.filename)}</a>\n"


def _folder(folder: Path) -> tuple[Offer, ...]:
    return tuple(
        Offer(filename=path.name, url=path.as_uri(), publisher=FIND_LINKS, size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if _is_known(path.name)
    )


def _offers(packages: Iterable[DistributionPackage], publisher: str) -> tuple[Offer, ...]:
    return tuple(
        Offer(
            filename=filename_of(package.url),
            url=pip_config.bare(package.url),
            publisher=publisher,
            sha256=package.digests.get("sha256", ""),
            size=package.size,
            requires_python=package.requires_python or "",
            has_metadata=bool(package.has_metadata),
            yanked=package.is_yanked,
        )
        for package in packages
        if _is_known(filename_of(package.url))
    )


def filename_of(url: str) -> str:
    """The name of the file at an address; what a page calls it does not count (PEP 503)."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _parsed(filename: str) -> tuple[str, Version]:
    """Name and version; raises InvalidWheelFilename or InvalidSdistFilename."""
    return (parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename)(filename)[:2]


def _is_known(name: str) -> bool:
    try:
        _parsed(name)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return False
    return True

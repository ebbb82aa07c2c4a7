"""Reader and writer of package indexes (PEP 503, PEP 691) and find-links."""

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
from bundler.online.transfer.download import MAX_WORKERS
from bundler.online.transfer.http import RetryPolicy
from bundler.online.transfer.pip_config import PipConfig

PYPI_HOST = "pypi.org"
FIND_LINKS = "find-links"
LOCAL_INDEX = "local index"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1, */*;q=0.01"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """A wheel or sdist on an index or in find-links, with what the index states of it.

    Attributes:
        filename: The file's name.
        url: The URL without credentials.
        publisher: The host of the index, ``LOCAL_INDEX`` or ``FIND_LINKS``.
        sha256: The published SHA-256, or "".
        size: The published size in bytes.
        requires_python: The published range of Python versions, or "".
        has_metadata: Whether the index has the metadata as a separate file (PEP 658).
        is_yanked: Whether the file is yanked (PEP 592).
    """

    filename: str
    url: str
    publisher: str
    sha256: str = ""
    size: int | None = None
    requires_python: str = ""
    has_metadata: bool = False
    is_yanked: bool = False

    @property
    def name(self) -> str:
        """The normalized name of its package."""
        return _parse_filename(self.filename)[0]

    @property
    def version(self) -> Version:
        """The version of its package."""
        return _parse_filename(self.filename)[1]

    @property
    def local_version(self) -> str:
        """The local version, after the plus sign, which names a build."""
        return self.version.local or ""

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel, else an sdist."""
        return self.filename.endswith(".whl")


@dataclass(slots=True)
class IndexClient:
    """A client for the indexes and find-links of pip's configuration, which reads each page once."""

    config: PipConfig
    session: requests.Session
    retry_policy: RetryPolicy
    denied_pages: dict[str, int] = field(default_factory=dict)
    """URLs of pages that require a login, and the status of each response."""
    _files_by_page: dict[tuple[str, str], tuple[IndexFile, ...]] = field(default_factory=dict)

    def find_wheels(
        self, package: str, *, skip_host: str = "", extra_indexes: Iterable[str] = ()
    ) -> tuple[IndexFile, ...]:
        """Find all wheels of a package, first in find-links, then on the indexes.

        Args:
            package: The normalized name.
            skip_host: Indexes on this host are left out.
            extra_indexes: The URLs of further indexes.

        Raises:
            ResolveError: A page can't be fetched, or is not a page of an index.
        """
        return tuple(file for file in self._find_files(package, skip_host, extra_indexes) if file.is_wheel)

    def find_sdists(
        self, package: str, *, skip_host: str = "", extra_indexes: Iterable[str] = ()
    ) -> tuple[IndexFile, ...]:
        """Find all sdists of a package, like ``find_wheels``."""
        return tuple(file for file in self._find_files(package, skip_host, extra_indexes) if not file.is_wheel)

    def list_files(self, index_url: str, package: str) -> tuple[IndexFile, ...]:
        """List the wheels and sdists of a package on one index; raise like ``find_wheels``."""
        return self._read_project(index_url, package)

    def _find_files(self, package: str, skip_host: str, extra_indexes: Iterable[str]) -> tuple[IndexFile, ...]:
        indexes = [*(url for url in self.config.indexes if urlsplit(url).hostname != skip_host), *extra_indexes]
        files = [file for url in self.config.find_links for file in self._read_find_links(url) if file.name == package]
        for index_files in threads.run_parallel(lambda url: self._read_project(url, package), indexes, MAX_WORKERS):
            files += index_files
        return tuple(files)

    def _read_find_links(self, url: str) -> tuple[IndexFile, ...]:
        if (url, "") not in self._files_by_page:
            path = pip_config.get_local_path(url)
            self._files_by_page[url, ""] = (
                _list_folder(path) if path is not None and path.is_dir() else self._read_page(url, "", FIND_LINKS)
            )
        return self._files_by_page[url, ""]

    def _read_project(self, index_url: str, package: str) -> tuple[IndexFile, ...]:
        if (index_url, package) not in self._files_by_page:
            page = f"{index_url.rstrip('/')}/{package}/"
            files = self._read_page(page, package, LOCAL_INDEX)
            self._files_by_page[index_url, package] = tuple(file for file in files if file.name == package)
        return self._files_by_page[index_url, package]

    def _read_page(self, url: str, package: str, local_publisher: str) -> tuple[IndexFile, ...]:
        path = pip_config.get_local_path(url)
        if path is not None:
            file = path / "index.html" if path.is_dir() else path
            if not file.is_file():
                return ()
            page = ProjectPage.from_html(package, file.read_bytes(), base_url=url)
            return _make_index_files(page.packages, local_publisher)
        try:
            packages = http.retry(lambda: self._fetch_page(url, package), url, self.retry_policy)
        except FetchError as error:
            raise ResolveError(f"an index can't be read: {error}", where=error.where, hint=error.hint) from error
        return _make_index_files(packages, urlsplit(url).netloc.rpartition("@")[2])

    def _fetch_page(self, url: str, package: str) -> list[DistributionPackage]:
        with http.send_request(self.session, "GET", url, {"Accept": _ACCEPT}) as response:
            if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                self.denied_pages[http.redact_url(url)] = response.status_code
            if HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return []  # like pip: the index does not have the package, or does not show it
            if not response.ok:
                raise http.make_response_error(response, url)
            http.read_body(response)
            try:
                return ProjectPage.from_response(response, package).packages
            except (UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError) as error:
                hint = "open it in a browser: it should be a page of links to wheels"
                raise ResolveError("is not a page of a package index", where=http.redact_url(url), hint=hint) from error


def write_index(folder: Path, package: str, files: Iterable[IndexFile]) -> str:
    """Write an index of one package with only these files; return its URL."""
    page = folder / package / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<!DOCTYPE html>\n" + "".join(map(_format_anchor, files)), encoding="utf-8")
    return folder.as_uri()


def add_login(url: str, index_url: str) -> str:
    """Add the user and password of an index on the same host to a URL; without them, return the URL as it is."""
    file_parts, index_parts = urlsplit(url), urlsplit(index_url)
    if "@" not in index_parts.netloc or not pip_config.have_same_origin(file_parts, index_parts):
        return url
    return urlunsplit(file_parts._replace(netloc=index_parts.netloc))


def get_sha256(file: IndexFile) -> str:
    """Return the published SHA-256, else that of a local file; "" for a remote file without one."""
    path = pip_config.get_local_path(file.url)
    return file.sha256 or (hashing.compute_file_sha256(path)[1] if path else "")


def _format_anchor(file: IndexFile) -> str:
    sha256 = get_sha256(file)  # without one, uv would unpack the wheel into its cache to compute it
    attributes = {"href": file.url + (f"#sha256={sha256}" if sha256 else "")}
    if file.requires_python:
        attributes["data-requires-python"] = file.requires_python
    if file.has_metadata:
        attributes["data-core-metadata"] = "true"
    if file.is_yanked:
        attributes["data-yanked"] = ""
    pairs = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<a {pairs}>{html.escape(file.filename)}</a>\n"


def _list_folder(folder: Path) -> tuple[IndexFile, ...]:
    return tuple(
        IndexFile(filename=path.name, url=path.as_uri(), publisher=FIND_LINKS, size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if _is_distribution(path.name)
    )


def _make_index_files(packages: Iterable[DistributionPackage], publisher: str) -> tuple[IndexFile, ...]:
    return tuple(
        IndexFile(
            filename=get_filename(package.url),
            url=pip_config.strip_credentials(package.url),
            publisher=publisher,
            sha256=package.digests.get("sha256", ""),
            size=package.size,
            requires_python=package.requires_python or "",
            has_metadata=bool(package.has_metadata),
            is_yanked=package.is_yanked,
        )
        for package in packages
        if _is_distribution(get_filename(package.url))
    )


def get_filename(url: str) -> str:
    """Return the name of the file at a URL; the text of a page's link does not count (PEP 503)."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _parse_filename(filename: str) -> tuple[str, Version]:
    """Return name and version; raise InvalidWheelFilename or InvalidSdistFilename."""
    return (parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename)(filename)[:2]


def _is_distribution(name: str) -> bool:
    try:
        _parse_filename(name)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return False
    return True

"""The only room that knows Python package indexes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from packaging.utils import canonicalize_name, parse_wheel_filename

from bundler.errors import ResolveError
from bundler.format.hashing import Sha256
from bundler.format.lock.entries import Resolver
from bundler.format.lock.target import Target, rank_wheel_tags
from bundler.online.packages import pip_compile, requirements_txt, resolver_errors, simple_index, source_build
from bundler.online.packages.index_routing import PYTORCH_INDEX, IndexRouter
from bundler.online.packages.pip_compile import PipCompile
from bundler.online.packages.requirements_txt import RequirementsSpec
from bundler.online.packages.resolution_loop import ResolutionLoop
from bundler.online.packages.simple_index import IndexClient, IndexFile
from bundler.online.packages.source_build import Sdist
from bundler.online.packages.uv_compile import PackageFile, PinnedPackage
from bundler.online.transfer import download, http_session, remote_sizes, threads
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.http import RetryPolicy
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter, pluralize

IndexAssignments = tuple[tuple[str, tuple[str, ...]], ...]
"""Pairs of an index's address and the packages that come from there alone."""
_PYPI_FILE_HOST = "files.pythonhosted.org"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageRequest:
    """What a person asks for. ``indexes`` are pairs of an address and the packages that come from there alone.

    ``build_from_source`` are packages whose source code may be run here to make a wheel of it.
    """

    requirements: tuple[str, ...] = ()
    requirements_files: tuple[Path, ...] = ()
    constraints: tuple[Path, ...] = ()
    index_assignments: IndexAssignments = ()
    resolver: Resolver = "uv"
    build_from_source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedWheel:
    """The one file of a package that the target gets.

    ``size`` is in bytes. ``origin`` is its address without credentials. ``publisher`` is the host of the index it
    is on, "local index", "find-links", or "manifest" when it was asked for by its address; ``published``: whether
    its SHA-256 was stated there, or was computed here.

    A wheel that was built here has the address of its source code as ``origin`` and its SHA-256 in ``built_from``;
    ``publisher`` and ``published`` then speak of that.
    """

    name: str
    version: str
    filename: str
    origin: str
    size: int
    sha256: Sha256
    publisher: str
    is_digest_published: bool
    sdist_sha256: str = ""


def resolve_packages(
    request: PackageRequest,
    target: Target,
    config: PipConfig,
    cache: FileCache,
    reporter: Reporter,
    *,
    pytorch_index: str = PYTORCH_INDEX,
) -> tuple[ResolvedWheel, ...]:
    """The wheels of everything that is asked for and of all that needs, sorted by name.

    ``pytorch`` is where PyTorch's indexes stand. Raises ResolveError, ProgramError where a program that is needed is
    missing or a build fails, and FetchError where a size or digest can't be had.
    """
    by_pip = request.resolver == "pip-tools"
    resolver = pip_compile.require_pip_tools(target) if by_pip else f"uv {metadata.version('uv')}"
    asked = requirements_txt.read_requirements(
        request.requirements, request.requirements_files, request.constraints, config, reporter
    )
    buildable = frozenset(canonicalize_name(name) for name in request.build_from_source)
    with _open_resolution_session(asked, request.index_assignments, target, cache, reporter, pytorch_index) as desk:
        found = desk.resolve(desk.make_loop(buildable, use_pip=by_pip)) if asked.requirements else ()
    reporter.note(f"resolved by {resolver}: {pluralize(len(found), 'package')}")
    return found


def resolve_without_dependencies(
    requirements: Sequence[str],
    target: Target,
    config: PipConfig,
    cache: FileCache,
    reporter: Reporter,
    *,
    index_assignments: IndexAssignments = (),
    source_packages: Iterable[str] = (),
) -> tuple[ResolvedWheel, ...]:
    """The wheels of these requirements without what they need, sorted by name; raises as ``resolve`` does.

    For what lies in a wheel, for tools that must constrain nothing else, and for what a lock has pinned. ``sources``
    are packages that are built from source code even if there is a wheel of them by now.
    """
    asked = requirements_txt.read_requirements(requirements, (), (), config, reporter)
    with _open_resolution_session(asked, index_assignments, target, cache, reporter, PYTORCH_INDEX) as desk:
        found = (
            desk.resolve(desk.make_loop(None), no_deps=True, source_packages=source_packages) if requirements else ()
        )
    if len(found) != len(requirements):
        raise ResolveError(f"{', '.join(requirements)} asks for less on {target} than it names", where=str(target))
    return found


def fetch_wheels(
    wheels: Sequence[ResolvedWheel],
    cache: FileCache,
    config: PipConfig,
    reporter: Reporter,
    *,
    credential_urls: Iterable[str] = (),
) -> None:
    """Bring home what is not on the shelf; ``also`` are addresses whose credentials are to be used besides.

    Raises FetchError and IntegrityError.
    """
    away = [
        download.DownloadRequest(url=wheel.origin, sha256=wheel.sha256, size=wheel.size)
        for wheel in wheels
        if not cache.find(wheel.sha256, wheel.size)
    ]
    if away:
        download.fetch(away, cache, config, reporter, title="fetch packages", credential_urls=credential_urls)


@dataclass(frozen=True, slots=True)
class _ResolutionSession:
    """Everything at hand for one resolution."""

    spec: RequirementsSpec
    index_assignments: IndexAssignments
    target: Target
    cache: FileCache
    reporter: Reporter
    session: requests.Session
    index: IndexClient
    router: IndexRouter
    folder: Path

    def make_loop(self, buildable: frozenset[str] | None, *, use_pip: bool = False) -> ResolutionLoop:
        """How packages are looked for, as this request wants it."""
        return ResolutionLoop(
            spec=self.spec,
            target=self.target,
            index=self.index,
            router=self.router,
            reporter=self.reporter,
            pip_compile=PipCompile(self.spec, self.target, self.index, self.folder) if use_pip else None,
            buildable_packages=buildable,
        )

    def resolve(
        self, loop: ResolutionLoop, *, no_deps: bool = False, source_packages: Iterable[str] = ()
    ) -> tuple[ResolvedWheel, ...]:
        routes, found = loop.run(no_deps=no_deps, source_packages=source_packages)
        built = [self._build_wheel(pin, pin.sdist, routes.get(pin.name)) for pin in found if pin.sdist]
        pinned = [pin for pin in found if not pin.sdist]
        files = [self._choose_wheel(pin) for pin in pinned]
        pairs = zip(pinned, files, strict=True)
        offers = threads.run_parallel(
            lambda pair: self._find_index_file(*pair, routes.get(pair[0].name)), pairs, download.MAX_WORKERS
        )
        digests = self._collect_digests(files)
        sizes = self._collect_sizes(offers, digests)
        published = [
            ResolvedWheel(
                name=pin.name,
                version=pin.version,
                filename=offer.filename,
                origin=offer.url,
                size=size,
                sha256=sha256,
                publisher=offer.publisher,
                is_digest_published=offer.sha256 == sha256,
            )
            for pin, offer, sha256, size in zip(pinned, offers, digests, sizes, strict=True)
        ]
        return tuple(sorted([*published, *built], key=lambda wheel: wheel.name))

    def _build_wheel(self, package: PinnedPackage, file: PackageFile, index_url: str | None) -> ResolvedWheel:
        """The wheel of a package that has source code alone."""
        offer = self._find_index_file(package, file, index_url)
        away = download.DownloadRequest(url=file.url, sha256=file.sha256)
        ((_, sha256),) = self._fetch_files([away])
        source = Sdist(name=package.name, version=package.version, filename=file.filename, sha256=sha256)
        wheel = source_build.build_wheel(source, self.target, self.spec.config, self.cache, self.reporter)
        return ResolvedWheel(
            name=package.name,
            version=package.version,
            filename=wheel.filename,
            origin=offer.url,
            size=wheel.size,
            sha256=wheel.sha256,
            publisher=offer.publisher,
            is_digest_published=offer.sha256 == sha256,
            sdist_sha256=sha256,
        )

    def _choose_wheel(self, package: PinnedPackage) -> PackageFile:
        """The wheel whose tags rank first on the target, as pip would choose (the later build of equal ones)."""
        ranks = rank_wheel_tags(self.target)
        fitting = [file for file in package.files if self.target.is_compatible(file.filename)]
        if not fitting:
            raise resolver_errors.make_no_wheel_error(f"{package.name} {package.version}", self.target)
        allowed = self.spec.get_allowed_sha256(package.name)
        if allowed and not (fitting := [file for file in fitting if file.sha256 in allowed]):
            raise resolver_errors.make_digest_error("wheel", f"{package.name} {package.version}")

        def rank(file: PackageFile) -> tuple[int, tuple[()] | tuple[int, str]]:
            _, _, build, tags = parse_wheel_filename(file.filename)
            return -min(ranks[tag] for tag in tags if tag in ranks), build

        return max(fitting, key=rank)

    def _find_index_file(self, package: PinnedPackage, file: PackageFile, index_url: str | None) -> IndexFile:
        """Where a wheel stands and what is published of it there."""
        if package.is_direct_url:
            return IndexFile(
                filename=file.filename, url=file.url, publisher="manifest", sha256=self._find_stated_digest(package)
            )
        indexes = [urlsplit(url).hostname for url in self.spec.config.indexes]
        if urlsplit(file.url).hostname == _PYPI_FILE_HOST and simple_index.PYPI_HOST in indexes:
            return IndexFile(filename=file.filename, url=file.url, publisher=simple_index.PYPI_HOST, sha256=file.sha256)
        listed = self.index.find_sdists if package.sdist else self.index.find_wheels
        for offer in listed(
            package.name, skip_host=simple_index.PYPI_HOST, extra_indexes=[index_url] if index_url else []
        ):
            # Programs differ in which characters of an address they escape.
            if unquote(offer.url) == unquote(file.url):
                return offer
        return IndexFile(
            filename=file.filename, url=file.url, publisher=urlsplit(file.url).hostname or simple_index.FIND_LINKS
        )

    def _find_stated_digest(self, package: PinnedPackage) -> str:
        urls = [line.requirement.url or "" for line in self.spec.requirements if line.name == package.name]
        stated = [urlsplit(url).fragment.partition("sha256=")[2] for url in urls]
        return next(filter(None, [*stated, *self.spec.get_allowed_sha256(package.name)]), "")

    def _collect_digests(self, files: Sequence[PackageFile]) -> list[Sha256]:
        """The SHA-256 of each; what is published with another digest alone is brought home to be hashed."""
        away = [download.DownloadRequest(url=file.url) for file in files if not file.sha256]
        computed = iter(self._fetch_files(away) if away else ())
        return [Sha256(file.sha256) if file.sha256 else next(computed)[1] for file in files]

    def _fetch_files(self, downloads: Sequence[download.DownloadRequest]) -> tuple[tuple[int, Sha256], ...]:
        known_to = [url for url, _ in self.index_assignments]
        config = self.spec.config
        return download.fetch(
            downloads, self.cache, config, self.reporter, title="fetch packages", credential_urls=known_to
        )

    def _collect_sizes(self, index_files: Sequence[IndexFile], digests: Sequence[str]) -> list[int]:
        shelved = [self.cache.find(sha256) for sha256 in digests]
        known = [path.stat().st_size if path else offer.size for path, offer in zip(shelved, index_files, strict=True)]
        away = [offer.url for offer, size in zip(index_files, known, strict=True) if size is None]
        asked = remote_sizes.fetch_sizes(away, self.session, self.index.retry_policy)
        return [asked[offer.url] if size is None else size for offer, size in zip(index_files, known, strict=True)]


@contextmanager
def _open_resolution_session(
    spec: RequirementsSpec,
    index_assignments: IndexAssignments,
    target: Target,
    cache: FileCache,
    reporter: Reporter,
    pytorch_index: str,
) -> Iterator[_ResolutionSession]:
    urls = [url for url, _ in index_assignments] + [line.requirement.url or "" for line in spec.requirements]
    with (
        tempfile.TemporaryDirectory(prefix="airgap-bundler-") as scratch,
        http_session.open_session(spec.config, urls) as session,
    ):
        folder = Path(scratch).resolve()
        patience = RetryPolicy(max_tries=spec.config.retries + 1)
        shelf = IndexClient(spec.config, session, patience)
        router = IndexRouter(index_assignments, target, shelf, folder, pytorch_index)
        yield _ResolutionSession(spec, index_assignments, target, cache, reporter, session, shelf, router, folder)

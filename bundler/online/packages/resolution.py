"""Resolution of a request to the exact wheels of a target, with their sizes, digests and publishers."""

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
"""Pairs of an index's URL and the packages that come only from there."""
_PYPI_FILE_HOST = "files.pythonhosted.org"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageRequest:
    """The packages that a manifest asks for.

    ``build_from_source`` are packages whose source code may run on this machine to build a wheel.
    """

    requirements: tuple[str, ...] = ()
    requirements_files: tuple[Path, ...] = ()
    constraints: tuple[Path, ...] = ()
    index_assignments: IndexAssignments = ()
    resolver: Resolver = "uv"
    build_from_source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedWheel:
    """The wheel of a package for the target.

    Attributes:
        name: The normalized name of the package.
        version: Its version.
        filename: The name of the wheel.
        origin: The URL without credentials; of a wheel that was built here, that of its sdist.
        size: The wheel's size in bytes.
        sha256: The wheel's SHA-256.
        publisher: The host of the index with the wheel or sdist, "local index", "find-links", or "manifest" where the
            manifest gives the URL.
        is_digest_published: Whether the publisher states the SHA-256 of the wheel or sdist; else it was computed here.
        sdist_sha256: The SHA-256 of the sdist that the wheel was built from, or "".
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
    """Return the wheels of a request and of all its dependencies, sorted by name.

    ``pytorch_index`` is the URL below which PyTorch's indexes are.

    Raises:
        ResolveError: The packages do not exist, or do not fit together or the target.
        ProgramError: A program is missing, or a build fails.
        FetchError: A size or digest can't be fetched.
    """
    use_pip = request.resolver == "pip-tools"
    resolver = pip_compile.require_pip_tools(target) if use_pip else f"uv {metadata.version('uv')}"
    spec = requirements_txt.read_requirements(
        request.requirements, request.requirements_files, request.constraints, config, reporter
    )
    buildable = frozenset(canonicalize_name(name) for name in request.build_from_source)
    with _open_resolution_session(spec, request.index_assignments, target, cache, reporter, pytorch_index) as session:
        wheels = session.resolve(session.make_loop(buildable, use_pip=use_pip)) if spec.requirements else ()
    reporter.note(f"resolved by {resolver}: {pluralize(len(wheels), 'package')}")
    return wheels


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
    """Return the wheels of requirements without their dependencies, sorted by name; raise like ``resolve_packages``.

    For wheels that hold data, for tools that must constrain no other package, and for what a lock has pinned.
    ``source_packages`` are built from source code even where they have a wheel by now.
    """
    spec = requirements_txt.read_requirements(requirements, (), (), config, reporter)
    with _open_resolution_session(spec, index_assignments, target, cache, reporter, PYTORCH_INDEX) as session:
        loop = session.make_loop(None)
        wheels = session.resolve(loop, no_deps=True, source_packages=source_packages) if requirements else ()
    if len(wheels) != len(requirements):
        raise ResolveError(
            f"not every requirement applies to {target}: {', '.join(requirements)}",
            where=str(target),
            hint="remove environment markers and duplicates from them",
        )
    return wheels


def fetch_wheels(
    wheels: Sequence[ResolvedWheel],
    cache: FileCache,
    config: PipConfig,
    reporter: Reporter,
    *,
    credential_urls: Iterable[str] = (),
) -> None:
    """Fetch the wheels that the cache does not have; raise FetchError or IntegrityError.

    ``credential_urls`` are URLs whose credentials are used besides those of pip's configuration.
    """
    missing = [
        download.DownloadRequest(url=wheel.origin, sha256=wheel.sha256, size=wheel.size)
        for wheel in wheels
        if not cache.find(wheel.sha256, wheel.size)
    ]
    if missing:
        download.fetch(missing, cache, config, reporter, title="fetch packages", credential_urls=credential_urls)


@dataclass(frozen=True, slots=True)
class _ResolutionSession:
    """One resolution: its requirements, the HTTP session, the index client, and a private temporary folder."""

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
        """Return the loop for this resolution; ``buildable`` None: the request can't allow builds."""
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
        package_indexes, packages = loop.run(no_deps=no_deps, source_packages=source_packages)
        built_wheels = [
            self._build_wheel(package, package.sdist, package_indexes.get(package.name))
            for package in packages
            if package.sdist
        ]
        packages = tuple(package for package in packages if not package.sdist)
        files = [self._choose_wheel(package) for package in packages]
        index_files = threads.run_parallel(
            lambda pair: self._find_index_file(*pair, package_indexes.get(pair[0].name)),
            zip(packages, files, strict=True),
            download.MAX_WORKERS,
        )
        digests = self._collect_digests(files)
        sizes = self._collect_sizes(index_files, digests)
        published_wheels = [
            ResolvedWheel(
                name=package.name,
                version=package.version,
                filename=index_file.filename,
                origin=index_file.url,
                size=size,
                sha256=sha256,
                publisher=index_file.publisher,
                is_digest_published=index_file.sha256 == sha256,
            )
            for package, index_file, sha256, size in zip(packages, index_files, digests, sizes, strict=True)
        ]
        return tuple(sorted([*published_wheels, *built_wheels], key=lambda wheel: wheel.name))

    def _build_wheel(self, package: PinnedPackage, file: PackageFile, index_url: str | None) -> ResolvedWheel:
        """Build the wheel of a package that has only an sdist."""
        index_file = self._find_index_file(package, file, index_url)
        ((_, sha256),) = self._fetch_files([download.DownloadRequest(url=file.url, sha256=file.sha256)])
        sdist = Sdist(name=package.name, version=package.version, filename=file.filename, sha256=sha256)
        wheel = source_build.build_wheel(sdist, self.target, self.spec.config, self.cache, self.reporter)
        return ResolvedWheel(
            name=package.name,
            version=package.version,
            filename=wheel.filename,
            origin=index_file.url,
            size=wheel.size,
            sha256=wheel.sha256,
            publisher=index_file.publisher,
            is_digest_published=index_file.sha256 == sha256,
            sdist_sha256=sha256,
        )

    def _choose_wheel(self, package: PinnedPackage) -> PackageFile:
        """Choose the wheel whose tags rank first on the target, as pip does; of equal ones, the latest build."""
        ranks = rank_wheel_tags(self.target)
        candidates = [file for file in package.files if self.target.is_compatible(file.filename)]
        if not candidates:
            raise resolver_errors.make_no_wheel_error(f"{package.name} {package.version}", self.target)
        allowed = self.spec.get_allowed_sha256(package.name)
        if allowed and not (candidates := [file for file in candidates if file.sha256 in allowed]):
            raise resolver_errors.make_digest_error("wheel", f"{package.name} {package.version}")

        def rank(file: PackageFile) -> tuple[int, tuple[()] | tuple[int, str]]:
            _, _, build, tags = parse_wheel_filename(file.filename)
            return -min(ranks[tag] for tag in tags if tag in ranks), build

        return max(candidates, key=rank)

    def _find_index_file(self, package: PinnedPackage, file: PackageFile, index_url: str | None) -> IndexFile:
        """Find the entry of a file on its index, with the digest and size that are published there."""
        if package.is_direct_url:
            return IndexFile(
                filename=file.filename, url=file.url, publisher="manifest", sha256=self._find_stated_digest(package)
            )
        index_hosts = [urlsplit(url).hostname for url in self.spec.config.indexes]
        if urlsplit(file.url).hostname == _PYPI_FILE_HOST and simple_index.PYPI_HOST in index_hosts:
            return IndexFile(filename=file.filename, url=file.url, publisher=simple_index.PYPI_HOST, sha256=file.sha256)
        find_files = self.index.find_sdists if package.sdist else self.index.find_wheels
        for index_file in find_files(
            package.name, skip_host=simple_index.PYPI_HOST, extra_indexes=[index_url] if index_url else []
        ):
            # Programs escape different characters of a URL.
            if unquote(index_file.url) == unquote(file.url):
                return index_file
        return IndexFile(
            filename=file.filename, url=file.url, publisher=urlsplit(file.url).hostname or simple_index.FIND_LINKS
        )

    def _find_stated_digest(self, package: PinnedPackage) -> str:
        urls = [line.requirement.url or "" for line in self.spec.requirements if line.name == package.name]
        digests = [urlsplit(url).fragment.partition("sha256=")[2] for url in urls]
        return next(filter(None, [*digests, *self.spec.get_allowed_sha256(package.name)]), "")

    def _collect_digests(self, files: Sequence[PackageFile]) -> list[Sha256]:
        """Return the SHA-256 of each file; one that is published only with another digest is fetched and hashed."""
        downloads = [download.DownloadRequest(url=file.url) for file in files if not file.sha256]
        computed = iter(self._fetch_files(downloads) if downloads else ())
        return [Sha256(file.sha256) if file.sha256 else next(computed)[1] for file in files]

    def _fetch_files(self, downloads: Sequence[download.DownloadRequest]) -> tuple[tuple[int, Sha256], ...]:
        credential_urls = [url for url, _ in self.index_assignments]
        config = self.spec.config
        return download.fetch(
            downloads, self.cache, config, self.reporter, title="fetch packages", credential_urls=credential_urls
        )

    def _collect_sizes(self, index_files: Sequence[IndexFile], digests: Sequence[str]) -> list[int]:
        paths = [self.cache.find(sha256) for sha256 in digests]
        sizes = [path.stat().st_size if path else file.size for path, file in zip(paths, index_files, strict=True)]
        unknown_urls = [file.url for file, size in zip(index_files, sizes, strict=True) if size is None]
        fetched = remote_sizes.fetch_sizes(unknown_urls, self.session, self.index.retry_policy)
        return [fetched[file.url] if size is None else size for file, size in zip(index_files, sizes, strict=True)]


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
        index = IndexClient(spec.config, session, RetryPolicy(max_tries=spec.config.retries + 1))
        router = IndexRouter(index_assignments, target, index, folder, pytorch_index)
        yield _ResolutionSession(spec, index_assignments, target, cache, reporter, session, index, router, folder)

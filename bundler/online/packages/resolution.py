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
from bundler.format.lock.target import Target, wheel_tags_of
from bundler.online.packages import pip_compile, requirements_txt, resolver_errors, simple_index, source_build
from bundler.online.packages.index_routing import PYTORCH, Router
from bundler.online.packages.pip_compile import PipCompile
from bundler.online.packages.requirements_txt import Read
from bundler.online.packages.resolution_loop import Rounds
from bundler.online.packages.simple_index import Offer, Pages
from bundler.online.packages.source_build import Source
from bundler.online.packages.uv_compile import File, Pinned
from bundler.online.transfer import download, pip_config, remote_sizes, threads
from bundler.online.transfer.cache import Store
from bundler.online.transfer.http import Patience
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Report, counted

Indexes = tuple[tuple[str, tuple[str, ...]], ...]
"""Pairs of an index's address and the packages that come from there alone."""
_PYPI_FILES = "files.pythonhosted.org"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a person asks for. ``indexes`` are pairs of an address and the packages that come from there alone.

    ``build_from_source`` are packages whose source code may be run here to make a wheel of it.
    """

    requirements: tuple[str, ...] = ()
    requirements_files: tuple[Path, ...] = ()
    constraints: tuple[Path, ...] = ()
    indexes: Indexes = ()
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
    published: bool
    built_from: str = ""


def resolve(
    wanted: Wanted, target: Target, config: PipConfig, store: Store, report: Report, *, pytorch: str = PYTORCH
) -> tuple[ResolvedWheel, ...]:
    """The wheels of everything that is asked for and of all that needs, sorted by name.

    ``pytorch`` is where PyTorch's indexes stand. Raises ResolveError, ProgramError where a program that is needed is
    missing or a build fails, and FetchError where a size or digest can't be had.
    """
    by_pip = wanted.resolver == "pip-tools"
    resolver = pip_compile.require(target) if by_pip else f"uv {metadata.version('uv')}"
    asked = requirements_txt.read(wanted.requirements, wanted.requirements_files, wanted.constraints, config, report)
    buildable = frozenset(canonicalize_name(name) for name in wanted.build_from_source)
    with _desk(asked, wanted.indexes, target, store, report, pytorch) as desk:
        found = desk.resolved(desk.rounds(buildable, by_pip=by_pip)) if asked.requirements else ()
    report.note(f"resolved by {resolver}: {counted(len(found), 'package')}")
    return found


def alone(
    wanted: Sequence[str],
    target: Target,
    config: PipConfig,
    store: Store,
    report: Report,
    *,
    indexes: Indexes = (),
    sources: Iterable[str] = (),
) -> tuple[ResolvedWheel, ...]:
    """The wheels of these requirements without what they need, sorted by name; raises as ``resolve`` does.

    For what lies in a wheel, for tools that must constrain nothing else, and for what a lock has pinned. ``sources``
    are packages that are built from source code even if there is a wheel of them by now.
    """
    asked = requirements_txt.read(wanted, (), (), config, report)
    with _desk(asked, indexes, target, store, report, PYTORCH) as desk:
        found = desk.resolved(desk.rounds(None), alone=True, sources=sources) if wanted else ()
    if len(found) != len(wanted):
        raise ResolveError(f"{', '.join(wanted)} asks for less on {target} than it names", where=str(target))
    return found


def fetch(
    wheels: Sequence[ResolvedWheel], store: Store, config: PipConfig, report: Report, *, also: Iterable[str] = ()
) -> None:
    """Bring home what is not on the shelf; ``also`` are addresses whose credentials are to be used besides.

    Raises FetchError and IntegrityError.
    """
    away = [
        download.Wanted(url=wheel.origin, sha256=wheel.sha256, size=wheel.size)
        for wheel in wheels
        if not store.path_of(wheel.sha256, wheel.size)
    ]
    if away:
        download.fetch(away, store, config, report, title="fetch packages", also=also)


@dataclass(frozen=True, slots=True)
class _Desk:
    """Everything at hand for one resolution."""

    asked: Read
    indexes: Indexes
    target: Target
    store: Store
    report: Report
    session: requests.Session
    pages: Pages
    router: Router
    folder: Path

    def rounds(self, buildable: frozenset[str] | None, *, by_pip: bool = False) -> Rounds:
        """How packages are looked for, as this request wants it."""
        return Rounds(
            asked=self.asked,
            target=self.target,
            pages=self.pages,
            router=self.router,
            report=self.report,
            pip=PipCompile(self.asked, self.target, self.pages, self.folder) if by_pip else None,
            buildable=buildable,
        )

    def resolved(
        self, rounds: Rounds, *, alone: bool = False, sources: Iterable[str] = ()
    ) -> tuple[ResolvedWheel, ...]:
        routes, found = rounds.run(alone=alone, sources=sources)
        built = [self._built(pin, pin.source, routes.get(pin.name)) for pin in found if pin.source]
        pinned = [pin for pin in found if not pin.source]
        files = [self._best(pin) for pin in pinned]
        pairs = zip(pinned, files, strict=True)
        offers = threads.each(lambda pair: self._offer(*pair, routes.get(pair[0].name)), pairs, download.AT_ONCE)
        digests = self._digests(files)
        sizes = self._sizes(offers, digests)
        published = [
            ResolvedWheel(
                name=pin.name,
                version=pin.version,
                filename=offer.filename,
                origin=offer.url,
                size=size,
                sha256=sha256,
                publisher=offer.publisher,
                published=offer.sha256 == sha256,
            )
            for pin, offer, sha256, size in zip(pinned, offers, digests, sizes, strict=True)
        ]
        return tuple(sorted([*published, *built], key=lambda wheel: wheel.name))

    def _built(self, pin: Pinned, file: File, route: str | None) -> ResolvedWheel:
        """The wheel of a package that has source code alone."""
        offer = self._offer(pin, file, route)
        away = download.Wanted(url=file.url, sha256=file.sha256)
        ((_, sha256),) = self._fetched([away])
        source = Source(name=pin.name, version=pin.version, filename=file.filename, sha256=sha256)
        wheel = source_build.built(source, self.target, self.asked.config, self.store, self.report)
        return ResolvedWheel(
            name=pin.name,
            version=pin.version,
            filename=wheel.filename,
            origin=offer.url,
            size=wheel.size,
            sha256=wheel.sha256,
            publisher=offer.publisher,
            published=offer.sha256 == sha256,
            built_from=sha256,
        )

    def _best(self, pin: Pinned) -> File:
        """The wheel whose tags rank first on the target, as pip would choose (the later build of equal ones)."""
        ranks = wheel_tags_of(self.target)
        fitting = [file for file in pin.files if self.target.fits(file.filename)]
        if not fitting:
            raise resolver_errors.no_wheel(f"{pin.name} {pin.version}", self.target)
        allowed = self.asked.sha256_of(pin.name)
        if allowed and not (fitting := [file for file in fitting if file.sha256 in allowed]):
            raise resolver_errors.not_allowed("wheel", f"{pin.name} {pin.version}")

        def rank(file: File) -> tuple[int, tuple[()] | tuple[int, str]]:
            _, _, build, tags = parse_wheel_filename(file.filename)
            return -min(ranks[tag] for tag in tags if tag in ranks), build

        return max(fitting, key=rank)

    def _offer(self, pin: Pinned, file: File, route: str | None) -> Offer:
        """Where a wheel stands and what is published of it there."""
        if pin.by_address:
            return Offer(filename=file.filename, url=file.url, publisher="manifest", sha256=self._stated(pin))
        indexes = [urlsplit(url).hostname for url in self.asked.config.indexes]
        if urlsplit(file.url).hostname == _PYPI_FILES and simple_index.PYPI in indexes:
            return Offer(filename=file.filename, url=file.url, publisher=simple_index.PYPI, sha256=file.sha256)
        listed = self.pages.sources if pin.source else self.pages.offers
        for offer in listed(pin.name, besides=simple_index.PYPI, also=[route] if route else []):
            # Programs differ in which characters of an address they escape.
            if unquote(offer.url) == unquote(file.url):
                return offer
        return Offer(
            filename=file.filename, url=file.url, publisher=urlsplit(file.url).hostname or simple_index.FIND_LINKS
        )

    def _stated(self, pin: Pinned) -> str:
        urls = [line.requirement.url or "" for line in self.asked.requirements if line.name == pin.name]
        stated = [urlsplit(url).fragment.partition("sha256=")[2] for url in urls]
        return next(filter(None, [*stated, *self.asked.sha256_of(pin.name)]), "")

    def _digests(self, files: Sequence[File]) -> list[Sha256]:
        """The SHA-256 of each; what is published with another digest alone is brought home to be hashed."""
        away = [download.Wanted(url=file.url) for file in files if not file.sha256]
        computed = iter(self._fetched(away) if away else ())
        return [Sha256(file.sha256) if file.sha256 else next(computed)[1] for file in files]

    def _fetched(self, away: Sequence[download.Wanted]) -> tuple[tuple[int, Sha256], ...]:
        known_to = [url for url, _ in self.indexes]
        config = self.asked.config
        return download.fetch(away, self.store, config, self.report, title="fetch packages", also=known_to)

    def _sizes(self, offers: Sequence[Offer], digests: Sequence[str]) -> list[int]:
        shelved = [self.store.path_of(sha256) for sha256 in digests]
        known = [path.stat().st_size if path else offer.size for path, offer in zip(shelved, offers, strict=True)]
        away = [offer.url for offer, size in zip(offers, known, strict=True) if size is None]
        asked = remote_sizes.sizes(away, self.session, self.pages.patience)
        return [asked[offer.url] if size is None else size for offer, size in zip(offers, known, strict=True)]


@contextmanager
def _desk(
    asked: Read,
    indexes: Indexes,
    target: Target,
    store: Store,
    report: Report,
    pytorch: str,
) -> Iterator[_Desk]:
    urls = [url for url, _ in indexes] + [line.requirement.url or "" for line in asked.requirements]
    with (
        tempfile.TemporaryDirectory(prefix="airgap-bundler-") as scratch,
        pip_config.session(asked.config, urls) as session,
    ):
        folder = Path(scratch).resolve()
        patience = Patience(tries=asked.config.retries + 1)
        shelf = Pages(asked.config, session, patience)
        router = Router(indexes, target, shelf, folder, pytorch)
        yield _Desk(asked, indexes, target, store, report, session, shelf, router, folder)

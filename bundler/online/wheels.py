"""The only room that knows Python package indexes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from packaging.utils import parse_wheel_filename

from bundler.bundle.target import Target, wheel_tags_of
from bundler.errors import ResolveError
from bundler.online import download, pages, pipconfig, refusals, requirements, uvlock
from bundler.online.answers import Patience
from bundler.online.pages import Offer, Pages
from bundler.online.pipconfig import PipConfig
from bundler.online.requirements import Read
from bundler.online.routes import PYTORCH, Router
from bundler.online.store import Store
from bundler.online.uvlock import File, Pinned, RefusalError
from bundler.progress import Report

_PYPI_FILES = "files.pythonhosted.org"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a person asks for. ``indexes`` are pairs of an address and the packages that come from there alone."""

    requirements: tuple[str, ...] = ()
    requirements_files: tuple[Path, ...] = ()
    constraints: tuple[Path, ...] = ()
    indexes: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedWheel:
    """The one file of a package that the target gets.

    ``size`` is in bytes. ``origin`` is its address without credentials. ``publisher`` is the host of the index it
    is on, "local index", "find-links", or "manifest" when it was asked for by its address; ``published``: whether
    its SHA-256 was stated there, or was computed here.
    """

    name: str
    version: str
    filename: str
    origin: str
    size: int
    sha256: str
    publisher: str
    published: bool


def resolve(
    wanted: Wanted, target: Target, config: PipConfig, store: Store, report: Report, *, pytorch: str = PYTORCH
) -> tuple[ResolvedWheel, ...]:
    """The wheels of everything that is asked for and of all that needs, sorted by name.

    ``pytorch`` is where PyTorch's indexes stand. Raises ResolveError, and FetchError where a size or digest can't
    be had.
    """
    asked = requirements.read(wanted.requirements, wanted.requirements_files, wanted.constraints, config, report)
    with _desk(asked, wanted.indexes, target, store, report, pytorch) as desk:
        return desk.resolved() if asked.requirements else ()


def alone(
    wanted: Sequence[str], target: Target, config: PipConfig, store: Store, report: Report
) -> tuple[ResolvedWheel, ...]:
    """The wheels of these requirements without what they need, sorted by name; raises as ``resolve`` does.

    For what lies in a wheel, for tools that must constrain nothing else, and for what a lock has pinned.
    """
    asked = requirements.read(wanted, (), (), config, report)
    with _desk(asked, (), target, store, report, PYTORCH) as desk:
        found = desk.resolved(alone=True) if wanted else ()
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
    target: Target
    store: Store
    report: Report
    session: requests.Session
    pages: Pages
    router: Router
    folder: Path

    def resolved(self, *, alone: bool = False) -> tuple[ResolvedWheel, ...]:
        routes, pinned = self._rounds(alone=alone)
        files = [self._best(pin) for pin in pinned]
        with ThreadPoolExecutor(download.AT_ONCE, thread_name_prefix="origins") as pool:
            offers = list(pool.map(lambda pin, file: self._offer(pin, file, routes.get(pin.name)), pinned, files))
        digests = self._digests(files)
        sizes = self._sizes(offers, digests)
        return tuple(
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
        )

    def _rounds(self, *, alone: bool) -> tuple[dict[str, str], tuple[Pinned, ...]]:
        """Resolve until every package that is to come from an index of its own does.

        Which those are shows only in what is found, or in why nothing was found.
        """
        named = {
            line.name for line in self.asked.requirements if line.applies(self.target) and not line.requirement.url
        }
        routes = self._routes(named & self.router.concerned)
        before_merging: RefusalError | None = None
        while True:
            try:
                pinned, warnings = uvlock.compile_lock(self.asked, self.target, routes, self.folder, alone=alone)
            except RefusalError as refusal:
                words = str(refusal)
                more = self._routes(uvlock.packages_named(words, self.router.concerned) - routes.keys())
                if not more and (more := self._routes(refusals.without_wheel(words) - routes.keys())):
                    before_merging = before_merging or refusal
                if not more:
                    raise self._explained(before_merging or refusal, routes) from None
            else:
                found = {pin.name for pin in pinned if not pin.by_address}
                if not (more := self._routes(found & self.router.concerned - routes.keys())):
                    self._tell(routes, warnings)
                    return routes, pinned
            routes |= more

    def _routes(self, names: Iterable[str]) -> dict[str, str]:
        return {name: url for name in sorted(names) if (url := self.router.route(name))}

    def _explained(self, refusal: RefusalError, routes: Iterable[str]) -> ResolveError:
        error = refusals.explained(refusal, self.target, self.pages)
        said = [f"{name} {self.router.why[name]}" for name in routes if name in self.router.concerned]
        error.hint = "; ".join([error.hint, *said])
        return error

    def _tell(self, routes: Iterable[str], warnings: Iterable[str]) -> None:
        for name in routes:
            self.report.note(f"{name} {self.router.why[name]}")
        for text in warnings:
            self.report.warn(text)

    def _best(self, pin: Pinned) -> File:
        """The wheel whose tags rank first on the target, as pip would choose (the later build of equal ones)."""
        ranks = wheel_tags_of(self.target)
        allowed = self.asked.sha256_of(pin.name)
        fitting = [file for file in pin.files if self.target.fits(file.filename)]
        if not fitting:
            raise refusals.no_wheel(f"{pin.name} {pin.version}", self.target)
        if allowed and not (fitting := [file for file in fitting if file.sha256 in allowed]):
            hint = "correct the --hash in the requirements, or find out why the index has another file"
            raise ResolveError(
                f"no wheel of {pin.name} {pin.version} has a digest that is allowed", where=pin.name, hint=hint
            )

        def rank(file: File) -> tuple[int, tuple[()] | tuple[int, str]]:
            _, _, build, tags = parse_wheel_filename(file.filename)
            return -min(ranks[tag] for tag in tags if tag in ranks), build

        return max(fitting, key=rank)

    def _offer(self, pin: Pinned, file: File, route: str | None) -> Offer:
        """Where a wheel stands and what is published of it there."""
        if pin.by_address:
            return Offer(filename=file.filename, url=file.url, publisher="manifest", sha256=self._stated(pin))
        indexes = [urlsplit(url).hostname for url in self.asked.config.indexes]
        if urlsplit(file.url).hostname == _PYPI_FILES and pages.PYPI in indexes:
            return Offer(filename=file.filename, url=file.url, publisher=pages.PYPI, sha256=file.sha256)
        for offer in self.pages.offers(pin.name, besides=pages.PYPI, also=[route] if route else []):
            # Programs differ in which characters of an address they escape.
            if unquote(offer.url) == unquote(file.url):
                return offer
        return Offer(filename=file.filename, url=file.url, publisher=urlsplit(file.url).hostname or pages.FIND_LINKS)

    def _stated(self, pin: Pinned) -> str:
        urls = [line.requirement.url or "" for line in self.asked.requirements if line.name == pin.name]
        stated = [urlsplit(url).fragment.partition("sha256=")[2] for url in urls]
        return next(filter(None, [*stated, *self.asked.sha256_of(pin.name)]), "")

    def _digests(self, files: Sequence[File]) -> list[str]:
        """The SHA-256 of each; what is published with another digest alone is brought home to be hashed."""
        away = [download.Wanted(url=file.url) for file in files if not file.sha256]
        fetched = (
            download.fetch(away, self.store, self.asked.config, self.report, title="fetch packages") if away else ()
        )
        computed = iter(fetched)
        return [file.sha256 or next(computed)[1] for file in files]

    def _sizes(self, offers: Sequence[Offer], digests: Sequence[str]) -> list[int]:
        shelved = [self.store.path_of(sha256) for sha256 in digests]
        known = [path.stat().st_size if path else offer.size for path, offer in zip(shelved, offers, strict=True)]
        away = [offer.url for offer, size in zip(offers, known, strict=True) if size is None]
        asked = download.sizes(away, self.session, self.pages.patience)
        return [asked[offer.url] if size is None else size for offer, size in zip(offers, known, strict=True)]


@contextmanager
def _desk(
    asked: Read,
    indexes: tuple[tuple[str, tuple[str, ...]], ...],
    target: Target,
    store: Store,
    report: Report,
    pytorch: str,
) -> Iterator[_Desk]:
    urls = [url for url, _ in indexes] + [line.requirement.url or "" for line in asked.requirements]
    with (
        tempfile.TemporaryDirectory(prefix="airgap-bundler-") as scratch,
        pipconfig.session(asked.config, urls) as session,
    ):
        folder = Path(scratch).resolve()
        patience = Patience(tries=asked.config.retries + 1)
        shelf = Pages(asked.config, session, patience)
        router = Router(indexes, target, shelf, folder, pytorch)
        yield _Desk(asked, target, store, report, session, shelf, router, folder)

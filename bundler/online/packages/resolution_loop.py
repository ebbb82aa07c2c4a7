"""Resolves again and again until every package comes from where it must, as what it may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from packaging.version import Version

from bundler.errors import BundleError, ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages import resolver_errors, uv_compile
from bundler.online.packages.index_routing import Router
from bundler.online.packages.pip_compile import PipCompile
from bundler.online.packages.requirements_txt import Read
from bundler.online.packages.simple_index import Pages
from bundler.online.packages.uv_compile import File, Pinned, RefusalError
from bundler.progress import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """One request. ``pip`` chooses the versions where it is given, else uv does.

    ``buildable`` are the packages that may be built from source code where no wheel will do; None: nobody was asked.
    """

    asked: Read
    target: Target
    pages: Pages
    router: Router
    report: Report
    pip: PipCompile | None = None
    buildable: frozenset[str] | None = frozenset()

    def run(self, *, alone: bool = False, sources: Iterable[str] = ()) -> tuple[dict[str, str], tuple[Pinned, ...]]:
        """The routes that were taken, and every package. ``sources`` are taken as source code from the start.

        Which packages come from an index of their own, or must be built, shows only in what is found, or in why
        nothing was found. Raises ResolveError, and ProgramError where a build fails.
        """
        named = {
            line.name for line in self.asked.requirements if line.applies(self.target) and not line.requirement.url
        }
        built = set(sources)
        routes = self._routes(named & self.router.concerned) | self._allowed(built)
        merged: dict[str, str] = {}
        before_merging: RefusalError | None = None
        while True:
            try:
                pinned, warnings = self._compiled(routes | merged, built, alone=alone)
            except RefusalError as refusal:
                words = str(refusal)
                known = routes.keys() | merged.keys() | built
                if more := self._routes(uv_compile.packages_named(words, self.router.concerned) - known):
                    routes |= more
                elif more := self._routes(resolver_errors.without_wheel(words) - known):
                    merged |= more
                    before_merging = before_merging or refusal
                elif newly := self._to_build(words, built):
                    built |= newly
                    merged = {name: url for name, url in merged.items() if name not in newly}
                    routes |= self._allowed(newly)
                    before_merging = None
                else:
                    raise self._explained(before_merging or refusal, routes | merged) from None
            else:
                found = {pin.name for pin in pinned if not pin.by_address}
                if not (more := self._routes(found & self.router.concerned - routes.keys())):
                    pinned = tuple(map(self._preferring_wheels, pinned))
                    self._tell(routes | merged, warnings, pinned)
                    return routes | merged, pinned
                routes |= more

    def _compiled(
        self, routes: dict[str, str], sources: set[str], *, alone: bool
    ) -> tuple[tuple[Pinned, ...], list[str]]:
        if self.pip is None:
            return uv_compile.compile_lock(
                self.asked, self.target, routes, self.router.folder, alone=alone, sources=sources
            )
        tied = self.router.concerned | {name for name in sources if self.asked.sha256_of(name)}
        own = {name: url for name, url in routes.items() if name in tied}
        self._require_known_to_pip(own)
        try:
            pins = self.pip.pins(own, sources)
        except RefusalError as refusal:
            uv_compile.compile_lock(self.asked, self.target, routes, self.router.folder, sources=sources)
            hint = "uv finds one: leave python.resolver out, or see what pip says"
            raise ResolveError(
                f"pip-tools finds no set of packages that fits together\n{refusal}", where="python", hint=hint
            ) from None
        return uv_compile.compile_lock(self.asked, self.target, routes, self.router.folder, sources=sources, pins=pins)

    def _require_known_to_pip(self, routes: dict[str, str]) -> None:
        accelerator = self.target.accelerator
        foreign = sorted(name for name, url in routes.items() if url == f"{self.router.pytorch}/{accelerator}")
        if foreign and accelerator != "cpu":
            hint = f"name an index with builds for {accelerator} in pip's configuration, or leave python.resolver out"
            raise ResolveError(
                f"the target's accelerator is {accelerator}, the builder's is cpu, and pip's configuration here names no "
                f"index that has {', '.join(foreign)} for {accelerator}: pip-tools goes by that alone",
                where="python.resolver",
                hint=hint,
            )

    def _routes(self, names: Iterable[str]) -> dict[str, str]:
        return {name: url for name in sorted(names) if (url := self.router.route(name))}

    def _to_build(self, words: str, built: set[str]) -> set[str]:
        """Packages that may be built and that a refusal speaks of, first those that it says have no wheel."""
        may = (self.buildable or frozenset()) - built
        return (resolver_errors.without_wheel(words) & may) or uv_compile.packages_named(words, may)

    def _allowed(self, names: Iterable[str]) -> dict[str, str]:
        """Where the source code comes from of which the requirements demand digests; its code runs before all else."""
        found: dict[str, str] = {}
        for name in sorted(names):
            if digests := self.asked.sha256_of(name):
                url = self.router.allowed_source(name, digests)
                if url is None:
                    raise resolver_errors.not_allowed("source code", name)
                found[name] = url
        return found

    def _preferring_wheels(self, pin: Pinned) -> Pinned:
        """What was looked at as source code and has a wheel in the version that was chosen is taken as that."""
        if not pin.source or self.buildable is None:
            return pin
        offers = [one for one in self.pages.offers(pin.name) if one.version == Version(pin.version)]
        files = tuple(File(url=one.url, sha256=one.sha256) for one in offers if self.target.fits(one.filename))
        return replace(pin, files=files, source=None) if files else pin

    def _explained(self, refusal: RefusalError, routes: Iterable[str]) -> BundleError:
        error = resolver_errors.explained(refusal, self.target, self.pages, buildable=self.buildable is not None)
        said = [f"{name} {self.router.why[name]}" for name in routes if name in self.router.concerned]
        error.hint = "; ".join([error.hint, *said])
        return error

    def _tell(self, routes: Iterable[str], warnings: Iterable[str], pinned: Iterable[Pinned]) -> None:
        for name in routes:
            self.report.note(f"{name} {self.router.why[name]}")
        for text in warnings:
            self.report.warn(text)
        found = {pin.name: pin for pin in pinned}
        for name in sorted(self.buildable or ()):
            if name not in found:
                self.report.warn(f"python.build_from_source names {name}, which is not among the packages")
            elif not found[name].source:
                self.report.warn(f"python.build_from_source names {name}, which has a wheel: that is taken")

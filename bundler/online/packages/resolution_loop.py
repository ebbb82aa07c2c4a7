"""Resolves again and again until every package comes from where it must, as what it may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from packaging.version import Version

from bundler.errors import BundleError, ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages import resolver_errors, uv_compile
from bundler.online.packages.index_routing import IndexRouter
from bundler.online.packages.pip_compile import PipCompile
from bundler.online.packages.requirements_txt import RequirementsSpec
from bundler.online.packages.simple_index import IndexClient
from bundler.online.packages.uv_compile import PackageFile, PinnedPackage, ResolverFailureError
from bundler.progress import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolutionLoop:
    """One request. ``pip`` chooses the versions where it is given, else uv does.

    ``buildable`` are the packages that may be built from source code where no wheel will do; None: nobody was asked.
    """

    spec: RequirementsSpec
    target: Target
    index: IndexClient
    router: IndexRouter
    reporter: Reporter
    pip_compile: PipCompile | None = None
    buildable_packages: frozenset[str] | None = frozenset()

    def run(
        self, *, no_deps: bool = False, source_packages: Iterable[str] = ()
    ) -> tuple[dict[str, str], tuple[PinnedPackage, ...]]:
        """The routes that were taken, and every package. ``sources`` are taken as source code from the start.

        Which packages come from an index of their own, or must be built, shows only in what is found, or in why
        nothing was found. Raises ResolveError, and ProgramError where a build fails.
        """
        named = {
            line.name for line in self.spec.requirements if line.is_applicable(self.target) and not line.requirement.url
        }
        built = set(source_packages)
        routes = self._find_indexes(named & self.router.routed_packages) | self._write_sdist_indexes(built)
        merged: dict[str, str] = {}
        before_merging: ResolverFailureError | None = None
        while True:
            try:
                pinned, warnings = self._compile(routes | merged, built, no_deps=no_deps)
            except ResolverFailureError as refusal:
                words = str(refusal)
                known = routes.keys() | merged.keys() | built
                if more := self._find_indexes(
                    uv_compile.find_named_packages(words, self.router.routed_packages) - known
                ):
                    routes |= more
                elif more := self._find_indexes(resolver_errors.find_packages_without_wheel(words) - known):
                    merged |= more
                    before_merging = before_merging or refusal
                elif newly := self._select_buildable(words, built):
                    built |= newly
                    merged = {name: url for name, url in merged.items() if name not in newly}
                    routes |= self._write_sdist_indexes(newly)
                    before_merging = None
                else:
                    raise self._explain(before_merging or refusal, routes | merged) from None
            else:
                found = {pin.name for pin in pinned if not pin.is_direct_url}
                if not (more := self._find_indexes(found & self.router.routed_packages - routes.keys())):
                    pinned = tuple(map(self._prefer_wheels, pinned))
                    self._report_result(routes | merged, warnings, pinned)
                    return routes | merged, pinned
                routes |= more

    def _compile(
        self, package_indexes: dict[str, str], source_packages: set[str], *, no_deps: bool
    ) -> tuple[tuple[PinnedPackage, ...], list[str]]:
        if self.pip_compile is None:
            return uv_compile.compile_requirements(
                self.spec,
                self.target,
                package_indexes,
                self.router.folder,
                no_deps=no_deps,
                source_packages=source_packages,
            )
        tied = self.router.routed_packages | {name for name in source_packages if self.spec.get_allowed_sha256(name)}
        own = {name: url for name, url in package_indexes.items() if name in tied}
        self._require_pip_indexes(own)
        try:
            pins = self.pip_compile.choose_versions(own, source_packages)
        except ResolverFailureError as refusal:
            uv_compile.compile_requirements(
                self.spec, self.target, package_indexes, self.router.folder, source_packages=source_packages
            )
            hint = "uv finds one: leave python.resolver out, or see what pip says"
            raise ResolveError(
                f"pip-tools finds no set of packages that fits together\n{refusal}", where="python", hint=hint
            ) from None
        return uv_compile.compile_requirements(
            self.spec, self.target, package_indexes, self.router.folder, source_packages=source_packages, pins=pins
        )

    def _require_pip_indexes(self, package_indexes: dict[str, str]) -> None:
        accelerator = self.target.accelerator
        foreign = sorted(
            name for name, url in package_indexes.items() if url == f"{self.router.pytorch_index}/{accelerator}"
        )
        if foreign and accelerator != "cpu":
            hint = f"name an index with builds for {accelerator} in pip's configuration, or leave python.resolver out"
            raise ResolveError(
                f"the target's accelerator is {accelerator}, the builder's is cpu, and pip's configuration here names no "
                f"index that has {', '.join(foreign)} for {accelerator}: pip-tools goes by that alone",
                where="python.resolver",
                hint=hint,
            )

    def _find_indexes(self, names: Iterable[str]) -> dict[str, str]:
        return {name: url for name in sorted(names) if (url := self.router.find_index(name))}

    def _select_buildable(self, output: str, source_packages: set[str]) -> set[str]:
        """Packages that may be built and that a refusal speaks of, first those that it says have no wheel."""
        may = (self.buildable_packages or frozenset()) - source_packages
        return (resolver_errors.find_packages_without_wheel(output) & may) or uv_compile.find_named_packages(
            output, may
        )

    def _write_sdist_indexes(self, names: Iterable[str]) -> dict[str, str]:
        """Where the source code comes from of which the requirements demand digests; its code runs before all else."""
        found: dict[str, str] = {}
        for name in sorted(names):
            if digests := self.spec.get_allowed_sha256(name):
                url = self.router.write_sdist_index(name, digests)
                if url is None:
                    raise resolver_errors.make_digest_error("source code", name)
                found[name] = url
        return found

    def _prefer_wheels(self, package: PinnedPackage) -> PinnedPackage:
        """What was looked at as source code and has a wheel in the version that was chosen is taken as that."""
        if not package.sdist or self.buildable_packages is None:
            return package
        offers = [one for one in self.index.find_wheels(package.name) if one.version == Version(package.version)]
        files = tuple(
            PackageFile(url=one.url, sha256=one.sha256) for one in offers if self.target.is_compatible(one.filename)
        )
        return replace(package, files=files, sdist=None) if files else package

    def _explain(self, failure: ResolverFailureError, package_indexes: Iterable[str]) -> BundleError:
        error = resolver_errors.explain_failure(
            failure, self.target, self.index, can_build=self.buildable_packages is not None
        )
        said = [
            f"{name} {self.router.reasons[name]}" for name in package_indexes if name in self.router.routed_packages
        ]
        error.hint = "; ".join([error.hint, *said])
        return error

    def _report_result(
        self, package_indexes: Iterable[str], warnings: Iterable[str], packages: Iterable[PinnedPackage]
    ) -> None:
        for name in package_indexes:
            self.reporter.note(f"{name} {self.router.reasons[name]}")
        for text in warnings:
            self.reporter.warn(text)
        found = {pin.name: pin for pin in packages}
        for name in sorted(self.buildable_packages or ()):
            if name not in found:
                self.reporter.warn(f"python.build_from_source names {name}, which is not among the packages")
            elif not found[name].sdist:
                self.reporter.warn(f"python.build_from_source names {name}, which has a wheel: that is taken")

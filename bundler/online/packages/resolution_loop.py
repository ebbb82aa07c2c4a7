"""The loop that resolves until each package comes from its own index, as a wheel or as a permitted build."""

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
    """The resolution of one request.

    ``pip_compile`` chooses the versions where it is given, else uv does. ``buildable_packages`` may be built from
    source code where they have no compatible wheel; None: the request can't name any.
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
        """Resolve the request.

        Only a solution, or the reason why there is none, shows which further packages come from an index of their own
        or must be built. Then the resolver runs again.

        Args:
            no_deps: Leave dependencies out.
            source_packages: Packages to build from source code in any case.

        Returns:
            The URL of the index of each package that has one of its own, and every package.

        Raises:
            ResolveError: No packages fit together.
            ProgramError: A build fails.
        """
        required = {
            line.name for line in self.spec.requirements if line.is_applicable(self.target) and not line.requirement.url
        }
        to_build = set(source_packages)
        routed = self._find_indexes(required & self.router.routed_packages) | self._write_sdist_indexes(to_build)
        merged: dict[str, str] = {}
        first_failure: ResolverFailureError | None = None  # the one before indexes were merged explains most
        while True:
            try:
                packages, warnings = self._compile(routed | merged, to_build, no_deps=no_deps)
            except ResolverFailureError as failure:
                output = str(failure)
                handled = routed.keys() | merged.keys() | to_build
                if indexes := self._find_indexes(
                    uv_compile.find_named_packages(output, self.router.routed_packages) - handled
                ):
                    routed |= indexes
                elif indexes := self._find_indexes(resolver_errors.find_packages_without_wheel(output) - handled):
                    merged |= indexes
                    first_failure = first_failure or failure
                elif buildable := self._select_buildable(output, to_build):
                    to_build |= buildable
                    merged = {name: url for name, url in merged.items() if name not in buildable}
                    routed |= self._write_sdist_indexes(buildable)
                    first_failure = None
                else:
                    raise self._explain(first_failure or failure, routed | merged) from None
            else:
                names = {package.name for package in packages if not package.is_direct_url}
                if not (indexes := self._find_indexes(names & self.router.routed_packages - routed.keys())):
                    packages = tuple(map(self._prefer_wheels, packages))
                    self._report_result(routed | merged, warnings, packages)
                    return routed | merged, packages
                routed |= indexes

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
        sdists = {name for name in source_packages if self.spec.get_allowed_sha256(name)}
        names = self.router.routed_packages | sdists
        pip_indexes = {name: url for name, url in package_indexes.items() if name in names}
        self._require_pip_indexes(pip_indexes)
        try:
            pins = self.pip_compile.choose_versions(pip_indexes, source_packages)
        except ResolverFailureError as failure:
            # Where uv fails as well, its failure is explained instead.
            uv_compile.compile_requirements(
                self.spec, self.target, package_indexes, self.router.folder, source_packages=source_packages
            )
            hint = "uv finds a solution: remove python.resolver, or read what pip prints"
            raise ResolveError(
                f"pip-tools finds no versions that fit together\n{failure}", where="python", hint=hint
            ) from None
        return uv_compile.compile_requirements(
            self.spec, self.target, package_indexes, self.router.folder, source_packages=source_packages, pins=pins
        )

    def _require_pip_indexes(self, package_indexes: dict[str, str]) -> None:
        accelerator = self.target.accelerator
        names = sorted(
            name for name, url in package_indexes.items() if url == f"{self.router.pytorch_index}/{accelerator}"
        )
        if names and accelerator != "cpu":
            hint = f"add an index with builds for {accelerator} to pip's configuration, or remove python.resolver"
            raise ResolveError(
                f"the target's accelerator is {accelerator}, the builder's is cpu, and pip's configuration names no "
                f"index that has {', '.join(names)} for {accelerator}: pip-tools uses no other",
                where="python.resolver",
                hint=hint,
            )

    def _find_indexes(self, names: Iterable[str]) -> dict[str, str]:
        return {name: url for name in sorted(names) if (url := self.router.find_index(name))}

    def _select_buildable(self, output: str, source_packages: set[str]) -> set[str]:
        """Return buildable packages that the output says have no wheel, or else all that it names."""
        buildable = (self.buildable_packages or frozenset()) - source_packages
        without_wheel = resolver_errors.find_packages_without_wheel(output) & buildable
        return without_wheel or uv_compile.find_named_packages(output, buildable)

    def _write_sdist_indexes(self, names: Iterable[str]) -> dict[str, str]:
        """Write an index for each package whose requirements restrict digests: uv runs an sdist's code to resolve."""
        urls: dict[str, str] = {}
        for name in sorted(names):
            if digests := self.spec.get_allowed_sha256(name):
                url = self.router.write_sdist_index(name, digests)
                if url is None:
                    raise resolver_errors.make_digest_error("source code", name)
                urls[name] = url
        return urls

    def _prefer_wheels(self, package: PinnedPackage) -> PinnedPackage:
        """Replace the sdist of a package by the compatible wheels of its version, where there are any."""
        if not package.sdist or self.buildable_packages is None:
            return package
        wheels = [wheel for wheel in self.index.find_wheels(package.name) if wheel.version == Version(package.version)]
        files = tuple(
            PackageFile(url=wheel.url, sha256=wheel.sha256)
            for wheel in wheels
            if self.target.is_compatible(wheel.filename)
        )
        return replace(package, files=files, sdist=None) if files else package

    def _explain(self, failure: ResolverFailureError, package_indexes: Iterable[str]) -> BundleError:
        error = resolver_errors.explain_failure(
            failure, self.target, self.index, can_build=self.buildable_packages is not None
        )
        reasons = [
            f"{name} {self.router.reasons[name]}" for name in package_indexes if name in self.router.routed_packages
        ]
        error.hint = "; ".join([error.hint, *reasons])
        return error

    def _report_result(
        self, package_indexes: Iterable[str], warnings: Iterable[str], packages: Iterable[PinnedPackage]
    ) -> None:
        for name in package_indexes:
            self.reporter.note(f"{name} {self.router.reasons[name]}")
        for warning in warnings:
            self.reporter.warn(warning)
        packages_by_name = {package.name: package for package in packages}
        for name in sorted(self.buildable_packages or ()):
            if name not in packages_by_name:
                self.reporter.warn(f"python.build_from_source names {name}, which is not among the packages")
            elif not packages_by_name[name].sdist:
                self.reporter.warn(f"python.build_from_source names {name}, which has a wheel: the wheel is used")

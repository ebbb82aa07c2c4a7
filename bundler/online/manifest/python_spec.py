"""What a manifest asks of Python packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packaging.utils import InvalidName, canonicalize_name

from bundler.format import documents
from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.lock.entries import Resolver
from bundler.online.manifest.asset_spec import fault_of_address
from bundler.online.packages import requirements_txt


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSpec:
    """A package index for some packages alone."""

    url: str = describe_field("address of the index")
    packages: tuple[str, ...] = describe_field("packages that come from there and nowhere else")

    def __post_init__(self) -> None:
        documents.raise_together(self._faults())

    def _faults(self) -> Iterator[InvalidValueError]:
        if why := fault_of_address(self.url):
            yield InvalidValueError(why, "url")
        for name in self.packages:
            if not _is_package(name):
                yield InvalidValueError(f"{name!r} is not the name of a package alone", "packages")


def _is_package(name: str) -> bool:
    try:
        canonicalize_name(name, validate=True)
    except InvalidName:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonSpec:
    """The Python packages of the host."""

    requirements: tuple[str, ...] = describe_field("as pip takes them: 'torch==2.13.0'", default=())
    requirements_files: tuple[str, ...] = describe_field("requirements.txt files beside the manifest", default=())
    constraints: tuple[str, ...] = describe_field("constraints files beside the manifest", default=())
    indexes: tuple[IndexSpec, ...] = describe_field(
        "indexes for some packages; pip's own configuration counts besides", default=()
    )
    resolver: Resolver = describe_field("uv, or pip-tools: for a target like the machine that builds", default="uv")
    build_from_source: tuple[str, ...] = describe_field(
        "packages without a wheel whose source code may be run here to build one", default=()
    )

    @property
    def index_assignments(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Pairs of an index's address and the packages that come from there alone."""
        return tuple((index.url, index.packages) for index in self.indexes)

    def __post_init__(self) -> None:
        documents.raise_together(self._faults())

    def _faults(self) -> Iterator[InvalidValueError]:
        for line in self.requirements:
            if why := requirements_txt.find_requirement_problem(line):
                yield InvalidValueError(why, "requirements")
        for name in self.build_from_source:
            if not _is_package(name):
                yield InvalidValueError(f"{name!r} is not the name of a package alone", "build_from_source")

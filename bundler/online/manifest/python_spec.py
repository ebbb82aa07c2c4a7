"""The fields of a manifest for Python packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packaging.utils import InvalidName, canonicalize_name

from bundler.format import documents
from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.lock.entries import Resolver
from bundler.online.packages import requirements_txt
from bundler.online.transfer import urls


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSpec:
    """A package index that is used only for some packages."""

    url: str = describe_field("URL of the index")
    packages: tuple[str, ...] = describe_field("packages that come only from this index")

    def __post_init__(self) -> None:
        documents.raise_together(self._list_problems())

    def _list_problems(self) -> Iterator[InvalidValueError]:
        if problem := urls.find_url_problem(self.url):
            yield InvalidValueError(problem, "url")
        for name in self.packages:
            if not _is_package_name(name):
                yield InvalidValueError(f"{name!r} is not a package's name, without a version", "packages")


def _is_package_name(name: str) -> bool:
    try:
        canonicalize_name(name, validate=True)
    except InvalidName:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonSpec:
    """The Python packages of the environment on the host."""

    requirements: tuple[str, ...] = describe_field("requirements as pip reads them: 'torch==2.13.0'", default=())
    requirements_files: tuple[str, ...] = describe_field("requirements.txt files beside the manifest", default=())
    constraints: tuple[str, ...] = describe_field("constraints files beside the manifest", default=())
    indexes: tuple[IndexSpec, ...] = describe_field(
        "indexes for some packages; the indexes of pip's configuration are used too", default=()
    )
    resolver: Resolver = describe_field("uv; or pip-tools, if the target is like the builder", default="uv")
    build_from_source: tuple[str, ...] = describe_field(
        "packages without a wheel; building one runs their source code on the builder", default=()
    )

    @property
    def index_assignments(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Pairs of an index's URL and the packages that come only from it."""
        return tuple((index.url, index.packages) for index in self.indexes)

    def __post_init__(self) -> None:
        documents.raise_together(self._list_problems())

    def _list_problems(self) -> Iterator[InvalidValueError]:
        for line in self.requirements:
            if problem := requirements_txt.find_requirement_problem(line):
                yield InvalidValueError(problem, "requirements")
        for name in self.build_from_source:
            if not _is_package_name(name):
                yield InvalidValueError(f"{name!r} is not a package's name, without a version", "build_from_source")

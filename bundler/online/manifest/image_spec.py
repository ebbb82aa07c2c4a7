"""The fields of a manifest for the container image and the application."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundler.format import documents
from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.lock.entries import App, Image
from bundler.online.manifest import image_reference


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """The container image that a host can build from the bundle."""

    base: str = describe_field(
        "base image, as an engine would pull it; default: an image named python that the host has", default=""
    )
    carry: bool = describe_field(
        "whether the bundle has the base image in it; false: a registry on the host's side has it", default=True
    )
    plain_http: bool = describe_field(
        "whether to use http for its registry; on loopback http is always allowed", default=False
    )
    user: int = describe_field("numeric user id of the service", default=1000)

    def __post_init__(self) -> None:
        documents.raise_together(self._list_problems())

    def _list_problems(self) -> Iterator[InvalidValueError]:
        if self.base:
            yield from documents.collect_errors(lambda: image_reference.parse_reference(self.base))
        problems = documents.collect_errors(lambda: self.to_lock(""))
        yield from (problem for problem in problems if problem.field != "base")

    def to_lock(self, digest: str) -> Image:
        """Return its entry in a lock, with the base image pinned to a digest; raise InvalidValueError."""
        return Image(base=self.base, digest=digest, user=self.user)


@dataclass(frozen=True, kw_only=True, slots=True)
class AppSpec:
    """The application that uses the environment and the models."""

    path: str = describe_field("the application's folder, relative to the manifest")
    entrypoint: tuple[str, ...] = describe_field(
        "the command that starts it: [python, -m, myapp]; default: Python", default=()
    )
    exclude: tuple[str, ...] = describe_field("no files that match, such as 'tests/*'", default=())

    def __post_init__(self) -> None:
        self.to_lock()

    def to_lock(self) -> App:
        """Return its entry in a lock; raise InvalidValueError."""
        return App(entrypoint=self.entrypoint)

    @property
    def source(self) -> str:
        """Its source for the lock; folders of the builder are left out."""
        return f"app:{Path(self.path).name}"

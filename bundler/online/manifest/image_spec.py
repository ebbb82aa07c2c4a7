"""What a manifest asks for besides packages and models: the container image, and the application."""

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
    """The container image that the release can be baked into."""

    base: str = describe_field(
        "base image, as an engine would pull it; default: one named python, which must be there", default=""
    )
    carry: bool = describe_field("whether the base travels; false: the far side has a registry with it", default=True)
    plain_http: bool = describe_field("whether its registry speaks http; loopback always may", default=False)
    user: int = describe_field("numeric user of the service", default=1000)

    def __post_init__(self) -> None:
        documents.raise_together(self._faults())

    def _faults(self) -> Iterator[InvalidValueError]:
        if self.base:
            yield from documents.collect_errors(lambda: image_reference.parse_reference(self.base))
        yield from (one for one in documents.collect_errors(lambda: self.to_lock("")) if one.field != "base")

    def to_lock(self, digest: str) -> Image:
        """As the lock has it, its base pinned to ``digest``; raises Invalid."""
        return Image(base=self.base, digest=digest, user=self.user)


@dataclass(frozen=True, kw_only=True, slots=True)
class AppSpec:
    """The application that the environment and the models are for."""

    path: str = describe_field("its folder, relative to the manifest")
    entrypoint: tuple[str, ...] = describe_field("what starts it: [python, -m, myapp]; default: Python", default=())
    exclude: tuple[str, ...] = describe_field("no files that match, such as 'tests/*'", default=())

    def __post_init__(self) -> None:
        self.to_lock()

    def to_lock(self) -> App:
        """As the lock has it; raises Invalid."""
        return App(entrypoint=self.entrypoint)

    @property
    def source(self) -> str:
        """Where its files come from, without the folders of this machine."""
        return f"app:{Path(self.path).name}"

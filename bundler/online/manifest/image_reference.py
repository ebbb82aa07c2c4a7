"""Parses the names of container images."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bundler.format.documents import InvalidValueError

_IMAGE_REFERENCE = re.compile(
    r"(?:(?P<host>localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+(?=:\d))(?P<port>:\d+)?/)?"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReference:
    """The parts of an image's name: ``registry`` as people write it, ``api_host`` as the server that answers."""

    registry: str
    api_host: str
    repository: str
    tag_or_digest: str
    text: str

    @property
    def digest(self) -> str:
        """The digest in the name; "" if there is none."""
        return self.tag_or_digest if self.tag_or_digest.startswith("sha256:") else ""

    @property
    def is_loopback(self) -> bool:
        """Whether its registry is on this machine, where http is safe."""
        return bool(re.fullmatch(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?", self.api_host))

    def with_digest(self, digest: str) -> str:
        """Return the name with a digest instead of its tag."""
        return f"{self.registry}/{self.repository}@{digest}"


def parse_reference(text: str) -> ImageReference:
    """Parse a name as docker does; raise InvalidValueError if it is not the name of an image."""
    match = _IMAGE_REFERENCE.fullmatch(text)
    if match is None:
        message = f"{text!r} is not an image's name, such as docker.io/library/python:3.11-slim or NAME@sha256:…"
        raise InvalidValueError(message, "base")
    registry = (match["host"] or "docker.io") + (match["port"] or "")
    repository = match["repository"]
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return ImageReference(
        registry=registry,
        api_host="registry-1.docker.io" if registry == "docker.io" else registry,
        repository=repository,
        tag_or_digest=match["digest"] or match["tag"] or "latest",
        text=text,
    )

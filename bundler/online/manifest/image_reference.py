"""The name of a container image, taken apart."""

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
    """The name of an image, taken apart: ``named_host`` as people write it, ``host`` where it is served."""

    registry: str
    api_host: str
    repository: str
    tag_or_digest: str
    text: str

    @property
    def digest(self) -> str:
        """The digest that the name itself gives, or ""."""
        return self.tag_or_digest if self.tag_or_digest.startswith("sha256:") else ""

    @property
    def is_loopback(self) -> bool:
        """Whether its registry is on this very machine, where http harms nobody."""
        return bool(re.fullmatch(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?", self.api_host))

    def with_digest(self, digest: str) -> str:
        """The name with a digest instead of its tag."""
        return f"{self.registry}/{self.repository}@{digest}"


def parse_reference(text: str) -> ImageReference:
    """``base`` taken apart as docker does; raises Invalid for what names no image."""
    found = _IMAGE_REFERENCE.fullmatch(text)
    if found is None:
        raise InvalidValueError(f"{text!r} is not such as docker.io/library/python:3.11-slim, or NAME@sha256:…", "base")
    host = (found["host"] or "docker.io") + (found["port"] or "")
    repository = found["repository"]
    if host == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    served = "registry-1.docker.io" if host == "docker.io" else host
    reference = found["digest"] or found["tag"] or "latest"
    return ImageReference(registry=host, api_host=served, repository=repository, tag_or_digest=reference, text=text)

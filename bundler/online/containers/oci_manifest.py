"""What registries and images are spoken of with: names, blobs, manifests and what they may say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bundler.errors import IntegrityError, ResolveError
from bundler.format.documents import Invalid
from bundler.format.hashing import Sha256, digest_of
from bundler.format.lock.target import Target

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPTED = (*INDEXES, *MANIFESTS)
LARGEST_MANIFEST = 4 << 20
"""Bytes; registries take no more (OCI distribution specification)."""

_NAME = re.compile(
    r"(?:(?P<host>localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+(?=:\d))(?P<port>:\d+)?/)?"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """The name of an image, taken apart: ``named_host`` as people write it, ``host`` where it is served."""

    named_host: str
    host: str
    repository: str
    reference: str
    shown: str

    @property
    def digest(self) -> str:
        """The digest that the name itself gives, or ""."""
        return self.reference if self.reference.startswith("sha256:") else ""

    @property
    def on_loopback(self) -> bool:
        """Whether its registry is on this very machine, where http harms nobody."""
        return bool(re.fullmatch(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?", self.host))

    def at(self, reference: str) -> str:
        """The name with a digest instead of its tag."""
        return f"{self.named_host}/{self.repository}@{reference}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A blob that a manifest names, and its size in bytes."""

    sha256: Sha256
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The manifest of one platform's image; ``raw`` are the bytes that its digest is of."""

    raw: bytes
    media_type: str
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def sha256(self) -> Sha256:
        """Names it."""
        return digest_of(self.raw)


class Way(Protocol):
    """A way to a registry."""

    def manifest(self, reference: str) -> bytes:
        """The bytes that a tag or a digest names there."""

    def bring(self, manifest: Manifest) -> None:
        """The blobs of an image onto the shelf, each checked."""


def parsed(base: str) -> Name:
    """``base`` taken apart as docker does; raises Invalid for what names no image."""
    found = _NAME.fullmatch(base)
    if found is None:
        raise Invalid(f"{base!r} is not such as docker.io/library/python:3.11-slim, or NAME@sha256:…", "base")
    host = (found["host"] or "docker.io") + (found["port"] or "")
    repository = found["repository"]
    if host == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    served = "registry-1.docker.io" if host == "docker.io" else host
    reference = found["digest"] or found["tag"] or "latest"
    return Name(named_host=host, host=served, repository=repository, reference=reference, shown=base)


def document(raw: bytes, where: str) -> dict[str, Any]:
    """A manifest or index as JSON; raises IntegrityError for anything else."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("what stands there is no manifest", where=where) from error
    if not isinstance(said, dict):
        raise IntegrityError("what stands there is no manifest", where=where)
    return said


def media_type(said: Mapping[str, Any]) -> str:
    """What a manifest or index is; OCI's may leave it to be seen from its fields."""
    stated = said.get("mediaType")
    return str(stated) if stated else INDEXES[0] if "manifests" in said else MANIFESTS[0]


def chosen(index: Mapping[str, Any], target: Target, where: str) -> str:
    """The digest of the manifest for a target's platform in an index; raises ResolveError when there is none."""
    architecture = _ARCHITECTURES.get(target.machine, target.machine)
    offered: list[str] = []
    for one, platform in _listed(index, where):
        stated = (platform.get("os"), platform.get("architecture"))
        if stated == ("linux", architecture) and platform.get("variant", "v8") in ("", "v1", "v8"):
            return f"sha256:{_sha256(one.get('digest'), where)}"
        offered.append("/".join(str(part) for part in (*stated, platform.get("variant")) if part))
    there = ", ".join(dict.fromkeys(one for one in offered if "unknown" not in one)) or "none"
    hint = f"it is offered for: {there}; name another image.base, or another target.platform"
    raise ResolveError(f"the image is not offered for linux/{architecture}", where=where, hint=hint)


def _listed(index: Mapping[str, Any], where: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What an index lists, each with its platform; raises IntegrityError where it is no list of manifests."""
    try:
        return [(dict(one), dict(one.get("platform") or {})) for one in index.get("manifests", [])]
    except (AttributeError, TypeError, ValueError) as error:
        raise IntegrityError("the index does not say what it lists", where=where) from error


def manifest_of(raw: bytes, where: str) -> Manifest:
    """A platform's manifest out of its bytes; raises IntegrityError or ResolveError for what is none."""
    said = document(raw, where)
    kind = media_type(said)
    if kind not in MANIFESTS or said.get("schemaVersion") != 2:
        hint = "push it anew with a program of this decade"
        raise ResolveError(f"this is no container image that can be carried ({kind})", where=where, hint=hint)
    try:
        config, *layers = [
            Blob(sha256=_sha256(one["digest"], where), size=int(one["size"]))
            for one in (said["config"], *said["layers"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the manifest does not say what the image is made of", where=where) from error
    return Manifest(raw=raw, media_type=kind, config=config, layers=tuple(layers))


def require_platform(config: bytes, target: Target, where: str) -> None:
    """Raises ResolveError when an image's own configuration says that it is for another platform."""
    said = document(config, where)
    architecture = _ARCHITECTURES.get(target.machine, target.machine)
    found = f"{said.get('os')}/{said.get('architecture')}"
    if found != f"linux/{architecture}":
        hint = "name another image.base, or another target.platform"
        raise ResolveError(f"the image is for {found}, the target is linux/{architecture}", where=where, hint=hint)


def _sha256(digest: object, where: str) -> Sha256:
    found = _DIGEST.fullmatch(str(digest))
    if found is None:
        raise IntegrityError(f"{str(digest)[:80]!r} is not a digest that is known here (sha256)", where=where)
    return Sha256(found[1])

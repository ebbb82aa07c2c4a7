"""What registries and images are spoken of with: names, blobs, manifests and what they may say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bundler.errors import IntegrityError, ResolveError
from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock.target import Target

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPTED_TYPES = (*INDEX_TYPES, *MANIFEST_TYPES)
MAX_MANIFEST_BYTES = 4 << 20
"""Bytes; registries take no more (OCI distribution specification)."""

_OCI_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A blob that a manifest names, and its size in bytes."""

    sha256: Sha256
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageManifest:
    """The manifest of one platform's image; ``raw`` are the bytes that its digest is of."""

    raw: bytes
    media_type: str
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def sha256(self) -> Sha256:
        """Names it."""
        return compute_sha256(self.raw)


class RegistryClient(Protocol):
    """A way to a registry."""

    def fetch_manifest(self, tag_or_digest: str) -> bytes:
        """The bytes that a tag or a digest names there."""

    def fetch_blobs(self, manifest: ImageManifest) -> None:
        """The blobs of an image onto the shelf, each checked."""


def parse_document(raw: bytes, where: str) -> dict[str, Any]:
    """A manifest or index as JSON; raises IntegrityError for anything else."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("what stands there is no manifest", where=where) from error
    if not isinstance(said, dict):
        raise IntegrityError("what stands there is no manifest", where=where)
    return said


def get_media_type(document: Mapping[str, Any]) -> str:
    """What a manifest or index is; OCI's may leave it to be seen from its fields."""
    stated = document.get("mediaType")
    return str(stated) if stated else INDEX_TYPES[0] if "manifests" in document else MANIFEST_TYPES[0]


def select_manifest(index: Mapping[str, Any], target: Target, where: str) -> str:
    """The digest of the manifest for a target's platform in an index; raises ResolveError when there is none."""
    architecture = target.platform_info.oci_architecture
    offered: list[str] = []
    for one, platform in _list_manifests(index, where):
        stated = (platform.get("os"), platform.get("architecture"))
        if stated == ("linux", architecture) and platform.get("variant", "v8") in ("", "v1", "v8"):
            return f"sha256:{_parse_digest(one.get('digest'), where)}"
        offered.append("/".join(str(part) for part in (*stated, platform.get("variant")) if part))
    there = ", ".join(dict.fromkeys(one for one in offered if "unknown" not in one)) or "none"
    hint = f"it is offered for: {there}; name another image.base, or another target.platform"
    raise ResolveError(f"the image is not offered for linux/{architecture}", where=where, hint=hint)


def _list_manifests(index: Mapping[str, Any], where: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What an index lists, each with its platform; raises IntegrityError where it is no list of manifests."""
    try:
        return [(dict(one), dict(one.get("platform") or {})) for one in index.get("manifests", [])]
    except (AttributeError, TypeError, ValueError) as error:
        raise IntegrityError("the index does not say what it lists", where=where) from error


def parse_manifest(raw: bytes, where: str) -> ImageManifest:
    """A platform's manifest out of its bytes; raises IntegrityError or ResolveError for what is none."""
    said = parse_document(raw, where)
    kind = get_media_type(said)
    if kind not in MANIFEST_TYPES or said.get("schemaVersion") != 2:
        hint = "push it anew with a program of this decade"
        raise ResolveError(f"this is no container image that can be carried ({kind})", where=where, hint=hint)
    try:
        config, *layers = [
            Blob(sha256=_parse_digest(one["digest"], where), size=int(one["size"]))
            for one in (said["config"], *said["layers"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the manifest does not say what the image is made of", where=where) from error
    return ImageManifest(raw=raw, media_type=kind, config=config, layers=tuple(layers))


def require_platform(config: bytes, target: Target, where: str) -> None:
    """Raises ResolveError when an image's own configuration says that it is for another platform."""
    said = parse_document(config, where)
    architecture = target.platform_info.oci_architecture
    found = f"{said.get('os')}/{said.get('architecture')}"
    if found != f"linux/{architecture}":
        hint = "name another image.base, or another target.platform"
        raise ResolveError(f"the image is for {found}, the target is linux/{architecture}", where=where, hint=hint)


def _parse_digest(digest: object, where: str) -> Sha256:
    found = _OCI_DIGEST.fullmatch(str(digest))
    if found is None:
        raise IntegrityError(f"{str(digest)[:80]!r} is not a digest that is known here (sha256)", where=where)
    return Sha256(found[1])

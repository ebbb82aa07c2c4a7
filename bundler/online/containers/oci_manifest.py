"""OCI and docker manifests, indexes and blobs, and what the two clients of registries have in common."""

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
"""The largest manifest that registries must accept (OCI distribution specification)."""

NOT_FOUND_MESSAGE = "the registry has no such image"
NOT_FOUND_HINT = "check its name and tag; a registry hides private images from users who are not logged in"
DENIED_MESSAGE = "the registry denies access"
LOGIN_HINT = "log in on this machine: docker login, podman login or skopeo login; their auth files are read"
ALTERED_HINT = "the registry or a proxy altered or damaged the image: ask who runs them"
_IMAGE_HINT = "check that image.base names a container image, and that no proxy answers instead of the registry"
_PLATFORM_HINT = "name another image.base, or another target.platform"
_OCI_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A blob that a manifest names, and its size in bytes."""

    sha256: Sha256
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageManifest:
    """The manifest of one platform's image; ``raw`` are the bytes that its digest covers."""

    raw: bytes
    media_type: str
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def sha256(self) -> Sha256:
        """The digest of the manifest, which names the image."""
        return compute_sha256(self.raw)


class RegistryClient(Protocol):
    """A client for one image of a registry."""

    def fetch_manifest(self, tag_or_digest: str) -> bytes:
        """Fetch the manifest or index of a tag or digest."""

    def fetch_blobs(self, manifest: ImageManifest) -> None:
        """Fetch and verify the blobs of an image into the cache."""


def require_manifest_size(size: int, where: str) -> None:
    """Raise IntegrityError for a manifest of more bytes than any registry accepts."""
    if size > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"{size:,} bytes are too many for a manifest", where=where, hint=_IMAGE_HINT)


def parse_document(raw: bytes, where: str) -> dict[str, Any]:
    """Parse a manifest, index or image configuration from JSON; raise IntegrityError for anything else."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("this is not a manifest", where=where, hint=_IMAGE_HINT) from error
    if not isinstance(document, dict):
        raise IntegrityError("this is not a manifest", where=where, hint=_IMAGE_HINT)
    return document


def get_media_type(document: Mapping[str, Any]) -> str:
    """Return the media type of a manifest or index; OCI documents may omit it, then the fields show it."""
    media_type = document.get("mediaType")
    return str(media_type) if media_type else INDEX_TYPES[0] if "manifests" in document else MANIFEST_TYPES[0]


def select_manifest(index: Mapping[str, Any], target: Target, where: str) -> str:
    """Return the digest of the manifest for a target's platform; raise ResolveError where the index has none."""
    architecture = target.platform_info.oci_architecture
    platforms: list[str] = []
    for entry, platform in _list_manifests(index, where):
        os_and_architecture = (platform.get("os"), platform.get("architecture"))
        if os_and_architecture == ("linux", architecture) and platform.get("variant", "v8") in ("", "v1", "v8"):
            return f"sha256:{_parse_digest(entry.get('digest'), where)}"
        platforms.append("/".join(str(part) for part in (*os_and_architecture, platform.get("variant")) if part))
    available = ", ".join(dict.fromkeys(name for name in platforms if "unknown" not in name)) or "none"
    hint = f"it exists for: {available}; {_PLATFORM_HINT}"
    raise ResolveError(f"the image does not exist for linux/{architecture}", where=where, hint=hint)


def _list_manifests(index: Mapping[str, Any], where: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the entries of an index, each with its platform; raise IntegrityError for an invalid index."""
    try:
        return [(dict(entry), dict(entry.get("platform") or {})) for entry in index.get("manifests", [])]
    except (AttributeError, TypeError, ValueError) as error:
        raise IntegrityError("the index of the image is invalid", where=where, hint=ALTERED_HINT) from error


def parse_manifest(raw: bytes, where: str) -> ImageManifest:
    """Parse a platform's manifest; raise IntegrityError for an invalid one, ResolveError for an unsupported type."""
    document = parse_document(raw, where)
    media_type = get_media_type(document)
    if media_type not in MANIFEST_TYPES or document.get("schemaVersion") != 2:
        hint = "push it again with a current docker, podman or skopeo"
        raise ResolveError(f"the image has an unsupported manifest ({media_type})", where=where, hint=hint)
    try:
        config, *layers = [
            Blob(sha256=_parse_digest(entry["digest"], where), size=int(entry["size"]))
            for entry in (document["config"], *document["layers"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the manifest of the image is invalid", where=where, hint=ALTERED_HINT) from error
    return ImageManifest(raw=raw, media_type=media_type, config=config, layers=tuple(layers))


def require_platform(config: bytes, target: Target, where: str) -> None:
    """Raise ResolveError where an image's own configuration names another platform."""
    document = parse_document(config, where)
    architecture = target.platform_info.oci_architecture
    platform = f"{document.get('os')}/{document.get('architecture')}"
    if platform != f"linux/{architecture}":
        raise ResolveError(
            f"the image is for {platform}, the target is linux/{architecture}", where=where, hint=_PLATFORM_HINT
        )


def _parse_digest(digest: object, where: str) -> Sha256:
    match = _OCI_DIGEST.fullmatch(str(digest))
    if match is None:
        raise IntegrityError(
            f"{str(digest)[:80]!r} is not a supported digest (sha256)",
            where=where,
            hint="push the image again with a program that uses sha256",
        )
    return Sha256(match[1])

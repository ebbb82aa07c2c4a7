"""Base images: pinned by digest, and pulled as an OCI image layout where the bundle carries them.

An image comes from its registry, not from the local storage of podman or docker. That storage keeps layers unpacked
and packs them differently, so the published digests could not be checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from bundler.errors import IntegrityError
from bundler.format.hashing import compute_sha256
from bundler.format.lock import lockfile
from bundler.format.lock.entries import BLOBS_FOLDER, Artifact, Image, Upstream
from bundler.format.lock.target import Target
from bundler.online.containers import oci_manifest, skopeo
from bundler.online.containers.oci_manifest import Blob, ImageManifest, RegistryClient
from bundler.online.containers.registry import HttpRegistryClient
from bundler.online.manifest import image_reference
from bundler.online.manifest.image_reference import ImageReference
from bundler.online.manifest.image_spec import ImageSpec
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter

_OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """A pinned base image; ``artifacts`` are its OCI image layout where the bundle carries it."""

    image: Image
    artifacts: tuple[Artifact, ...] = ()


def pull(
    spec: ImageSpec, target: Target, cache: FileCache, config: PipConfig, reporter: Reporter, *, digest: str = ""
) -> BaseImage:
    """Pin the base image of a manifest for a target's platform, and fetch it into the cache where it is carried.

    ``digest`` is the one in a lock, to get the same image again. Raises ResolveError, FetchError or IntegrityError.
    """
    if not spec.base:
        return BaseImage(image=spec.to_lock(""))
    reference = image_reference.parse_reference(spec.base)
    client = _make_client(reference, spec, cache, config, reporter)
    manifest = _fetch_manifest(client, reference, target, digest)
    image = spec.to_lock(f"sha256:{manifest.sha256}")
    if not spec.carry:
        return BaseImage(image=image)
    blobs = dict.fromkeys([manifest.config, *manifest.layers])
    if not all(cache.find(blob.sha256, blob.size) for blob in blobs):
        client.fetch_blobs(manifest)
    config_bytes = cache.require(manifest.config.sha256).read_bytes()
    oci_manifest.require_platform(config_bytes, target, reference.text)
    return BaseImage(image=image, artifacts=_make_oci_layout(image, manifest, reference, cache))


def _make_client(
    reference: ImageReference, spec: ImageSpec, cache: FileCache, config: PipConfig, reporter: Reporter
) -> RegistryClient:
    if skopeo_path := skopeo.find_skopeo():
        return skopeo.SkopeoClient(
            program=skopeo_path, reference=reference, plain_http=spec.plain_http, cache=cache, reporter=reporter
        )
    return HttpRegistryClient(
        reference=reference, plain_http=spec.plain_http, config=config, cache=cache, reporter=reporter
    )


def _fetch_manifest(client: RegistryClient, reference: ImageReference, target: Target, digest: str) -> ImageManifest:
    """Fetch the manifest for the platform, through an index where there is one; verify each against its digest."""
    raw = _fetch_verified(client, reference, digest or reference.tag_or_digest)
    document = oci_manifest.parse_document(raw, reference.text)
    if oci_manifest.get_media_type(document) in oci_manifest.INDEX_TYPES:
        raw = _fetch_verified(client, reference, oci_manifest.select_manifest(document, target, reference.text))
    return oci_manifest.parse_manifest(raw, reference.text)


def _fetch_verified(client: RegistryClient, reference: ImageReference, tag_or_digest: str) -> bytes:
    raw = client.fetch_manifest(tag_or_digest)
    if tag_or_digest.startswith("sha256:") and tag_or_digest != (actual := f"sha256:{compute_sha256(raw)}"):
        raise IntegrityError(
            f"the registry sends {actual} for {tag_or_digest}",
            where=reference.text,
            hint=oci_manifest.ALTERED_HINT,
        )
    return raw


def _make_oci_layout(
    image: Image, manifest: ImageManifest, reference: ImageReference, cache: FileCache
) -> tuple[Artifact, ...]:
    """Make an OCI image layout (image specification 1.1, "Image Layout") with docker's own index beside it."""
    index = {
        "schemaVersion": 2,
        "mediaType": oci_manifest.INDEX_TYPES[0],
        "manifests": [
            {
                "mediaType": manifest.media_type,
                "digest": image.digest,
                "size": len(manifest.raw),
                "annotations": {
                    "io.containerd.image.name": image.loaded_name,
                    "org.opencontainers.image.ref.name": image.loaded_name,
                },
            }
        ],
    }
    # `docker load` reads this where the engine does not store its images in containerd.
    docker_index = [
        {
            "Config": _get_blob_path(manifest.config),
            "RepoTags": [image.loaded_name],
            "Layers": [_get_blob_path(layer) for layer in manifest.layers],
        }
    ]
    origin = reference.with_digest(image.digest)

    def make_file(path: str, data: bytes) -> Artifact:
        return Artifact(path=path, kind="image", size=len(data), sha256=cache.put_bytes(data), origin=origin)

    def make_blob(blob: Blob) -> Artifact:
        upstream = Upstream(algorithm="sha256", digest=blob.sha256, publisher=reference.registry)
        return Artifact(
            path=f"{BLOBS_FOLDER}{blob.sha256}", kind="image", size=blob.size, sha256=blob.sha256, origin=origin,
            upstream=(upstream,),
        )  # fmt: skip

    cache.put_bytes(manifest.raw)
    blobs = dict.fromkeys([Blob(sha256=manifest.sha256, size=len(manifest.raw)), manifest.config, *manifest.layers])
    return (
        *sorted(map(make_blob, blobs), key=lambda artifact: artifact.path),
        make_file("images/index.json", lockfile.encode_canonical_json(index)),
        make_file("images/manifest.json", lockfile.encode_canonical_json(docker_index)),
        make_file("images/oci-layout", _OCI_LAYOUT),
    )


def _get_blob_path(blob: Blob) -> str:
    return f"{BLOBS_FOLDER.partition('/')[2]}{blob.sha256}"

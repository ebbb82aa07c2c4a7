"""The only room that knows container registries; skopeo.py, registry.py, registryauth.py and ocinames.py are its drawers.

An image comes from its registry and not from the store of podman or docker: those keep layers unpacked and save
others than the registry has, so nothing published could be checked.
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
    """A base image, pinned; ``artifacts`` are its OCI image layout where it is carried."""

    image: Image
    artifacts: tuple[Artifact, ...] = ()


def pull(
    spec: ImageSpec, target: Target, cache: FileCache, config: PipConfig, reporter: Reporter, *, digest: str = ""
) -> BaseImage:
    """The base image of a manifest for a target's platform, its content on the shelf where it is carried.

    ``pinned`` is the digest that a lock names, to get the same again. Raises ResolveError, FetchError or
    IntegrityError.
    """
    if not spec.base:
        return BaseImage(image=spec.to_lock(""))
    name = image_reference.parse_reference(spec.base)
    way = _make_client(name, spec, cache, config, reporter)
    manifest = _fetch_manifest(way, name, target, digest)
    image = spec.to_lock(f"sha256:{manifest.sha256}")
    if not spec.carry:
        return BaseImage(image=image)
    blobs = dict.fromkeys([manifest.config, *manifest.layers])
    if not all(cache.find(blob.sha256, blob.size) for blob in blobs):
        way.fetch_blobs(manifest)
    config_bytes = cache.require(manifest.config.sha256).read_bytes()
    oci_manifest.require_platform(config_bytes, target, name.text)
    return BaseImage(image=image, artifacts=_make_oci_layout(image, manifest, name, cache))


def _make_client(
    reference: ImageReference, spec: ImageSpec, cache: FileCache, config: PipConfig, reporter: Reporter
) -> RegistryClient:
    if program := skopeo.find_skopeo():
        return skopeo.SkopeoClient(
            program=program, reference=reference, plain_http=spec.plain_http, cache=cache, reporter=reporter
        )
    return HttpRegistryClient(
        reference=reference, plain_http=spec.plain_http, config=config, cache=cache, reporter=reporter
    )


def _fetch_manifest(client: RegistryClient, reference: ImageReference, target: Target, digest: str) -> ImageManifest:
    """The manifest for the platform, by way of an index where there is one; each is what its digest says."""
    raw = _fetch_verified(client, reference, digest or reference.tag_or_digest)
    said = oci_manifest.parse_document(raw, reference.text)
    if oci_manifest.get_media_type(said) in oci_manifest.INDEX_TYPES:
        raw = _fetch_verified(client, reference, oci_manifest.select_manifest(said, target, reference.text))
    return oci_manifest.parse_manifest(raw, reference.text)


def _fetch_verified(client: RegistryClient, reference: ImageReference, tag_or_digest: str) -> bytes:
    raw = client.fetch_manifest(tag_or_digest)
    if tag_or_digest.startswith("sha256:") and tag_or_digest != (found := f"sha256:{compute_sha256(raw)}"):
        hint = "something altered it on the way, or there: ask who runs the registry"
        raise IntegrityError(f"the registry gives {found} for {tag_or_digest}", where=reference.text, hint=hint)
    return raw


def _make_oci_layout(
    image: Image, manifest: ImageManifest, reference: ImageReference, cache: FileCache
) -> tuple[Artifact, ...]:
    """An OCI image layout (image specification 1.1, "Image Layout"), and docker's index of it beside."""
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
    # What `docker load` reads where the engine's own store is not containerd's.
    legacy = [
        {
            "Config": _get_blob_path(manifest.config),
            "RepoTags": [image.loaded_name],
            "Layers": [_get_blob_path(layer) for layer in manifest.layers],
        }
    ]
    origin = reference.with_digest(image.digest)

    def made(path: str, data: bytes) -> Artifact:
        return Artifact(path=path, kind="image", size=len(data), sha256=cache.put_bytes(data), origin=origin)

    def blob(one: Blob) -> Artifact:
        published = Upstream(algorithm="sha256", digest=one.sha256, publisher=reference.registry)
        return Artifact(
            path=f"{BLOBS_FOLDER}{one.sha256}", kind="image", size=one.size, sha256=one.sha256, origin=origin,
            upstream=(published,),
        )  # fmt: skip

    cache.put_bytes(manifest.raw)
    listed = dict.fromkeys([Blob(sha256=manifest.sha256, size=len(manifest.raw)), manifest.config, *manifest.layers])
    return (
        *sorted((blob(one) for one in listed), key=lambda artifact: artifact.path),
        made("images/index.json", lockfile.encode_canonical_json(index)),
        made("images/manifest.json", lockfile.encode_canonical_json(legacy)),
        made("images/oci-layout", _OCI_LAYOUT),
    )


def _get_blob_path(blob: Blob) -> str:
    return f"{BLOBS_FOLDER.partition('/')[2]}{blob.sha256}"

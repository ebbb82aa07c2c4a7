"""The only room that knows container registries; skopeo.py, registry.py, registryauth.py and ocinames.py are its drawers.

An image comes from its registry and not from the store of podman or docker: those keep layers unpacked and save
others than the registry has, so nothing published could be checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from bundler.errors import IntegrityError
from bundler.format.hashing import digest_of
from bundler.format.lock import lockfile
from bundler.format.lock.entries import BLOBS, Artifact, Image, Upstream
from bundler.format.lock.target import Target
from bundler.online.containers import oci_manifest, skopeo
from bundler.online.containers.oci_manifest import Blob, Manifest, Name, Way
from bundler.online.containers.registry import Registry
from bundler.online.manifest.image_spec import WantedImage
from bundler.online.transfer.cache import Store
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Report

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """A base image, pinned; ``artifacts`` are its OCI image layout where it is carried."""

    image: Image
    artifacts: tuple[Artifact, ...] = ()


def pull(
    wanted: WantedImage, target: Target, store: Store, config: PipConfig, report: Report, *, pinned: str = ""
) -> Pulled:
    """The base image of a manifest for a target's platform, its content on the shelf where it is carried.

    ``pinned`` is the digest that a lock names, to get the same again. Raises ResolveError, FetchError or
    IntegrityError.
    """
    if not wanted.base:
        return Pulled(image=wanted.locked(""))
    name = oci_manifest.parsed(wanted.base)
    way = _way(name, wanted, store, config, report)
    manifest = _manifest(way, name, target, pinned)
    image = wanted.locked(f"sha256:{manifest.sha256}")
    if not wanted.carry:
        return Pulled(image=image)
    blobs = dict.fromkeys([manifest.config, *manifest.layers])
    if not all(store.path_of(blob.sha256, blob.size) for blob in blobs):
        way.bring(manifest)
    config_bytes = store.required(manifest.config.sha256).read_bytes()
    oci_manifest.require_platform(config_bytes, target, name.shown)
    return Pulled(image=image, artifacts=_layout(image, manifest, name, store))


def _way(name: Name, wanted: WantedImage, store: Store, config: PipConfig, report: Report) -> Way:
    if program := skopeo.installed():
        return skopeo.Skopeo(program=program, name=name, plain_http=wanted.plain_http, store=store, report=report)
    return Registry(name=name, plain_http=wanted.plain_http, config=config, store=store, report=report)


def _manifest(way: Way, name: Name, target: Target, pinned: str) -> Manifest:
    """The manifest for the platform, by way of an index where there is one; each is what its digest says."""
    raw = _checked(way, name, pinned or name.reference)
    said = oci_manifest.document(raw, name.shown)
    if oci_manifest.media_type(said) in oci_manifest.INDEXES:
        raw = _checked(way, name, oci_manifest.chosen(said, target, name.shown))
    return oci_manifest.manifest_of(raw, name.shown)


def _checked(way: Way, name: Name, reference: str) -> bytes:
    raw = way.manifest(reference)
    if reference.startswith("sha256:") and reference != (found := f"sha256:{digest_of(raw)}"):
        hint = "something altered it on the way, or there: ask who runs the registry"
        raise IntegrityError(f"the registry gives {found} for {reference}", where=name.shown, hint=hint)
    return raw


def _layout(image: Image, manifest: Manifest, name: Name, store: Store) -> tuple[Artifact, ...]:
    """An OCI image layout (image specification 1.1, "Image Layout"), and docker's index of it beside."""
    index = {
        "schemaVersion": 2,
        "mediaType": oci_manifest.INDEXES[0],
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
            "Config": _inside(manifest.config),
            "RepoTags": [image.loaded_name],
            "Layers": [_inside(layer) for layer in manifest.layers],
        }
    ]
    origin = name.at(image.digest)

    def made(path: str, data: bytes) -> Artifact:
        return Artifact(path=path, kind="image", size=len(data), sha256=store.put_bytes(data), origin=origin)

    def blob(one: Blob) -> Artifact:
        published = Upstream(algorithm="sha256", digest=one.sha256, publisher=name.named_host)
        return Artifact(
            path=f"{BLOBS}{one.sha256}", kind="image", size=one.size, sha256=one.sha256, origin=origin,
            upstream=(published,),
        )  # fmt: skip

    store.put_bytes(manifest.raw)
    listed = dict.fromkeys([Blob(sha256=manifest.sha256, size=len(manifest.raw)), manifest.config, *manifest.layers])
    return (
        *sorted((blob(one) for one in listed), key=lambda artifact: artifact.path),
        made("images/index.json", lockfile.canonical_json(index)),
        made("images/manifest.json", lockfile.canonical_json(legacy)),
        made("images/oci-layout", _LAYOUT),
    )


def _inside(blob: Blob) -> str:
    return f"{BLOBS.partition('/')[2]}{blob.sha256}"

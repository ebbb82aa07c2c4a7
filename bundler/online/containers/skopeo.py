"""A container registry by way of skopeo, where that is installed: it knows mirrors, credential helpers and proxies."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bundler import process
from bundler.errors import BundleError, FetchError, IntegrityError, ProgramError, ResolveError
from bundler.format import hashing
from bundler.online.containers.oci_manifest import MAX_MANIFEST_BYTES, ImageManifest
from bundler.online.manifest.image_reference import ImageReference
from bundler.online.transfer.cache import FileCache
from bundler.progress import Reporter

_ERROR_PATTERNS = (
    (r"manifest unknown|name unknown|not found|repository name not known", "there is no such image", ResolveError,
     "look at its spelling and tag; private images are hidden from who is not logged in"),
    (r"unauthorized|authentication required|denied|\b40[13]\b", "the registry does not let you have it", FetchError,
     "log in on this machine: skopeo login, podman login or docker login; their auth files are read"),
    (r"server gave HTTP response to HTTPS client", "the registry speaks plain http", FetchError,
     "say image: {plain_http: true} if you mean that"),
    (r"digest|does not match|mismatch", "the registry sends other bytes than it promises", IntegrityError,
     "something altered or damaged them on the way, or there: ask who runs it"),
)  # fmt: skip
"""What skopeo's words mean; whatever else it says is a registry that can't be had now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkopeoClient:
    """One image of a registry, fetched by skopeo."""

    program: str
    reference: ImageReference
    plain_http: bool
    cache: FileCache
    reporter: Reporter

    def fetch_manifest(self, tag_or_digest: str) -> bytes:
        """The bytes that a tag or digest names; raises ResolveError, FetchError or IntegrityError."""
        separator = "@" if tag_or_digest.startswith("sha256:") else ":"
        address = f"docker://{self.reference.registry}/{self.reference.repository}{separator}{tag_or_digest}"
        raw = self._run_skopeo("inspect", "--raw", *self._get_tls_options("--tls-verify=false"), address).encode()
        if len(raw) > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"a manifest of {len(raw):,} bytes is none", where=self.reference.text)
        return raw

    def fetch_blobs(self, manifest: ImageManifest) -> None:
        """The blobs of an image onto the shelf, each hashed where it arrived."""
        address = f"docker://{self.reference.with_digest(f'sha256:{manifest.sha256}')}"
        size = sum(blob.size for blob in (manifest.config, *manifest.layers))
        room = self.cache.root
        room.mkdir(parents=True, exist_ok=True)
        with (
            self.reporter.stage(f"fetch {self.reference.text} by skopeo", size) as stage,
            tempfile.TemporaryDirectory(prefix="image-", dir=room) as folder,
        ):
            self._run_skopeo(
                "copy", "--preserve-digests", *self._get_tls_options("--src-tls-verify=false"), address, f"dir:{folder}"
            )
            for blob in (manifest.config, *manifest.layers):
                path = Path(folder, blob.sha256)
                if self.cache.find(blob.sha256, blob.size):
                    continue
                if not path.is_file() or hashing.compute_file_sha256(path) != (blob.size, blob.sha256):
                    raise IntegrityError(f"sha256:{blob.sha256} did not arrive whole", where=self.reference.text)
                self.cache.move_in(path, blob.sha256)
                stage.advance(blob.size)

    def _get_tls_options(self, option: str) -> tuple[str, ...]:
        return (option,) if self.plain_http or self.reference.is_loopback else ()

    def _run_skopeo(self, *arguments: str) -> str:
        try:
            return process.run([self.program, *arguments]).stdout
        except ProgramError as error:
            raise self._translate_error(str(error)) from error

    def _translate_error(self, output: str) -> BundleError:
        for pattern, message, kind, hint in _ERROR_PATTERNS:
            if re.search(pattern, output, re.IGNORECASE):
                return kind(message, where=self.reference.text, hint=hint)
        last = re.sub(r'.*(?:msg="|pinging container registry )', "", output.splitlines()[-1])
        last = last.replace('\\"', "'").rstrip('"')[-300:]
        hint = "see whether its host can be reached from here; a proxy is taken from HTTPS_PROXY"
        return FetchError(f"the registry can't be asked: {last}", where=self.reference.text, hint=hint)


def find_skopeo() -> str:
    """skopeo's program, or ""."""
    return shutil.which("skopeo") or ""

"""The client for registries that runs skopeo, where it is installed: skopeo supports mirrors and credential helpers."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bundler import process
from bundler.errors import BundleError, FetchError, IntegrityError, ProgramError, ResolveError
from bundler.format import hashing
from bundler.online.containers import oci_manifest
from bundler.online.containers.oci_manifest import ImageManifest
from bundler.online.manifest.image_reference import ImageReference
from bundler.online.transfer.cache import FileCache
from bundler.progress import Reporter

_ERROR_PATTERNS = (
    (r"manifest unknown|name unknown|not found|repository name not known",
     oci_manifest.NOT_FOUND_MESSAGE, ResolveError, oci_manifest.NOT_FOUND_HINT),
    (r"unauthorized|authentication required|denied|\b40[13]\b",
     oci_manifest.DENIED_MESSAGE, FetchError, oci_manifest.LOGIN_HINT),
    (r"server gave HTTP response to HTTPS client",
     "the registry uses plain http", FetchError, "to allow that, write image: {plain_http: true} into the manifest"),
    (r"digest|does not match|mismatch",
     "the registry sends content with another digest", IntegrityError, oci_manifest.ALTERED_HINT),
)  # fmt: skip
"""Patterns in skopeo's output and the errors that they mean; any other output means an unreachable registry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkopeoClient:
    """A client for one image, which runs skopeo."""

    program: str
    reference: ImageReference
    plain_http: bool
    cache: FileCache
    reporter: Reporter

    def fetch_manifest(self, tag_or_digest: str) -> bytes:
        """Fetch the manifest or index of a tag or digest; raise ResolveError, FetchError or IntegrityError."""
        separator = "@" if tag_or_digest.startswith("sha256:") else ":"
        url = f"docker://{self.reference.registry}/{self.reference.repository}{separator}{tag_or_digest}"
        raw = self._run_skopeo("inspect", "--raw", *self._get_tls_options("--tls-verify=false"), url).encode()
        oci_manifest.require_manifest_size(len(raw), self.reference.text)
        return raw

    def fetch_blobs(self, manifest: ImageManifest) -> None:
        """Fetch the blobs of an image into the cache, each hashed after it arrived."""
        url = f"docker://{self.reference.with_digest(f'sha256:{manifest.sha256}')}"
        size = sum(blob.size for blob in (manifest.config, *manifest.layers))
        self.cache.root.mkdir(parents=True, exist_ok=True)
        with (
            self.reporter.stage(f"fetch {self.reference.text} by skopeo", size) as stage,
            tempfile.TemporaryDirectory(prefix="image-", dir=self.cache.root) as folder,
        ):
            self._run_skopeo(
                "copy", "--preserve-digests", *self._get_tls_options("--src-tls-verify=false"), url, f"dir:{folder}"
            )
            for blob in (manifest.config, *manifest.layers):
                path = Path(folder, blob.sha256)
                if self.cache.find(blob.sha256, blob.size):
                    continue
                if not path.is_file() or hashing.compute_file_sha256(path) != (blob.size, blob.sha256):
                    raise IntegrityError(
                        f"sha256:{blob.sha256} is missing or damaged after the download",
                        where=self.reference.text,
                        hint=oci_manifest.ALTERED_HINT,
                    )
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
        for pattern, message, error_class, hint in _ERROR_PATTERNS:
            if re.search(pattern, output, re.IGNORECASE):
                return error_class(message, where=self.reference.text, hint=hint)
        read_last_line = re.sub(r'.*(?:msg="|pinging container registry )', "", output.splitlines()[-1])
        read_last_line = read_last_line.replace('\\"', "'").rstrip('"')[-300:]
        hint = "check that this machine can reach the registry; skopeo takes a proxy from HTTPS_PROXY"
        return FetchError(f"the registry can't be reached: {read_last_line}", where=self.reference.text, hint=hint)


def find_skopeo() -> str:
    """Return the path of skopeo's program, or "" where it is not installed."""
    return shutil.which("skopeo") or ""

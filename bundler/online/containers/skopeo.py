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
from bundler.online.containers.oci_manifest import LARGEST_MANIFEST, Manifest, Name
from bundler.online.transfer.cache import Store
from bundler.progress import Report

_MEANINGS = (
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
class Skopeo:
    """One image of a registry, fetched by skopeo."""

    program: str
    name: Name
    plain_http: bool
    store: Store
    report: Report

    def manifest(self, reference: str) -> bytes:
        """The bytes that a tag or digest names; raises ResolveError, FetchError or IntegrityError."""
        separator = "@" if reference.startswith("sha256:") else ":"
        address = f"docker://{self.name.named_host}/{self.name.repository}{separator}{reference}"
        raw = self._run("inspect", "--raw", *self._lax("--tls-verify=false"), address).encode()
        if len(raw) > LARGEST_MANIFEST:
            raise IntegrityError(f"a manifest of {len(raw):,} bytes is none", where=self.name.shown)
        return raw

    def bring(self, manifest: Manifest) -> None:
        """The blobs of an image onto the shelf, each hashed where it arrived."""
        address = f"docker://{self.name.at(f'sha256:{manifest.sha256}')}"
        size = sum(blob.size for blob in (manifest.config, *manifest.layers))
        room = self.store.root
        room.mkdir(parents=True, exist_ok=True)
        with (
            self.report.stage(f"fetch {self.name.shown} by skopeo", size) as stage,
            tempfile.TemporaryDirectory(prefix="image-", dir=room) as folder,
        ):
            self._run("copy", "--preserve-digests", *self._lax("--src-tls-verify=false"), address, f"dir:{folder}")
            for blob in (manifest.config, *manifest.layers):
                path = Path(folder, blob.sha256)
                if self.store.path_of(blob.sha256, blob.size):
                    continue
                if not path.is_file() or hashing.digest_of_file(path) != (blob.size, blob.sha256):
                    raise IntegrityError(f"sha256:{blob.sha256} did not arrive whole", where=self.name.shown)
                self.store.adopt(path, blob.sha256)
                stage.advance(blob.size)

    def _lax(self, option: str) -> tuple[str, ...]:
        return (option,) if self.plain_http or self.name.on_loopback else ()

    def _run(self, *arguments: str) -> str:
        try:
            return process.run([self.program, *arguments]).stdout
        except ProgramError as error:
            raise self._in_words(str(error)) from error

    def _in_words(self, said: str) -> BundleError:
        for pattern, message, kind, hint in _MEANINGS:
            if re.search(pattern, said, re.IGNORECASE):
                return kind(message, where=self.name.shown, hint=hint)
        last = re.sub(r'.*(?:msg="|pinging container registry )', "", said.splitlines()[-1])
        last = last.replace('\\"', "'").rstrip('"')[-300:]
        hint = "see whether its host can be reached from here; a proxy is taken from HTTPS_PROXY"
        return FetchError(f"the registry can't be asked: {last}", where=self.name.shown, hint=hint)


def installed() -> str:
    """skopeo's program, or ""."""
    return shutil.which("skopeo") or ""

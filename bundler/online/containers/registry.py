"""The client for registries over HTTP (OCI distribution specification 1.1), used where skopeo is not installed.

``download`` fetches the blobs, resumed and verified like every other file. No library does all of this: selects the
manifest of a platform, resumes, and leaves it to its caller to end the process.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote

import requests

from bundler.errors import FetchError, ResolveError
from bundler.online.containers import oci_manifest, registry_auth
from bundler.online.containers.oci_manifest import ACCEPTED_TYPES, LOGIN_HINT, Blob, ImageManifest
from bundler.online.manifest.image_reference import ImageReference
from bundler.online.transfer import download, http, http_session
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.http import DEFAULT_RETRY_POLICY, RetryableError
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter

_CHALLENGE = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)


@dataclass(slots=True)
class HttpRegistryClient:
    """A client for one image, with the user's login; it requests a token when the registry demands one."""

    reference: ImageReference
    plain_http: bool
    config: PipConfig
    cache: FileCache
    reporter: Reporter
    _headers: dict[str, str] = field(default_factory=dict, repr=False)
    _token_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fetch_manifest(self, tag_or_digest: str) -> bytes:
        """Fetch the manifest or index of a tag or digest.

        Raises:
            ResolveError: The registry has no such image.
            FetchError: The registry can't be reached or denies access.
            IntegrityError: The response is too large for a manifest.
        """
        url = f"{self._base_url}/manifests/{tag_or_digest}"
        accept = {"Accept": ", ".join(ACCEPTED_TYPES)}
        with http_session.open_session(self.config) as session:
            for is_last in (False, True):
                response = http.retry(
                    lambda: self._get(session, url, accept | self._headers),
                    url,
                    DEFAULT_RETRY_POLICY,
                    note=self.reporter.note,
                )
                if response.status_code == HTTPStatus.UNAUTHORIZED and not is_last:
                    self._headers.update(self._authorize(session, response))
                    continue
                return self._check_manifest(response)
        raise AssertionError  # the second response was returned or raised

    def fetch_blobs(self, manifest: ImageManifest) -> None:
        """Fetch and verify the blobs of an image into the cache; raise FetchError or IntegrityError."""
        downloads = [self._make_download(blob) for blob in dict.fromkeys([manifest.config, *manifest.layers])]
        download.fetch(downloads, self.cache, self.config, self.reporter, title=f"fetch {self.reference.text}")

    @property
    def _base_url(self) -> str:
        scheme = "http" if self.plain_http or self.reference.is_loopback else "https"
        return f"{scheme}://{self.reference.api_host}/v2/{quote(self.reference.repository)}"

    def _make_download(self, blob: Blob) -> download.DownloadRequest:
        return download.DownloadRequest(
            url=f"{self._base_url}/blobs/sha256:{blob.sha256}",
            sha256=blob.sha256,
            size=blob.size,
            headers=self._headers,
            make_error=self._renew_token_or_make_error,
        )

    def _get(self, session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
        with http.send_request(session, "GET", url, headers) as response:
            oci_manifest.require_manifest_size(http.parse_content_length(response) or 0, http.redact_url(url))
            http.read_body(response)
            return response

    def _check_manifest(self, response: requests.Response) -> bytes:
        if response.status_code != HTTPStatus.OK:
            raise self._make_error(response, response.url)
        oci_manifest.require_manifest_size(len(response.content), self.reference.text)
        return response.content

    def _make_error(self, response: requests.Response, url: str) -> FetchError | ResolveError:
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return FetchError(oci_manifest.DENIED_MESSAGE, where=self.reference.text, hint=LOGIN_HINT)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return ResolveError(
                oci_manifest.NOT_FOUND_MESSAGE, where=self.reference.text, hint=oci_manifest.NOT_FOUND_HINT
            )
        return http.make_response_error(response, url)

    def _renew_token_or_make_error(self, response: requests.Response, url: str) -> Exception:
        """Return the error for a response without a blob; renew a token that has expired.

        A token lasts minutes, less than the download of a large image. The downloads that follow use the new one.
        """
        if response.status_code != HTTPStatus.UNAUTHORIZED or not response.url.startswith(self._base_url):
            return self._make_error(response, url)
        with self._token_lock, http_session.open_session(self.config) as session:
            if response.request.headers.get("Authorization") == self._headers.get("Authorization"):
                self._headers.update(self._authorize(session, response))
        return RetryableError(f"the token of {self.reference.api_host} has expired")

    def _authorize(self, session: requests.Session, response: requests.Response) -> dict[str, str]:
        """Return the header that the registry demands (distribution specification, "Token Authentication")."""
        challenge = response.headers.get("WWW-Authenticate", "")
        login = registry_auth.find_login(self.reference)
        if challenge.lower().startswith("basic"):
            if login is None:
                raise self._make_error(response, response.url)
            return {"Authorization": login.header}
        parameters = {key.lower(): value for key, value in _CHALLENGE.findall(challenge)}
        realm = parameters.get("realm", "")
        if not realm.startswith(("https://", f"{self._base_url.partition(':')[0]}://")):
            # Credentials never go to a less secure URL than the registry's.
            raise self._make_error(response, response.url)
        scope = parameters.get("scope") or f"repository:{self.reference.repository}:pull"
        query = {"service": parameters.get("service", ""), "scope": scope}
        url = requests.Request("GET", realm, params=query).prepare().url
        headers = {"Authorization": login.header} if login else {}
        token_response = http.retry(lambda: self._get(session, str(url), headers), realm, DEFAULT_RETRY_POLICY)
        token = _parse_token(token_response)
        if token_response.status_code != HTTPStatus.OK or not token:
            raise FetchError(
                f"{http.redact_url(realm)} sends no token ({token_response.status_code})",
                where=self.reference.text,
                hint=LOGIN_HINT,
            )
        return {"Authorization": f"Bearer {token}"}


def _parse_token(response: requests.Response) -> str:
    try:
        document = json.loads(response.content)
        return str(document.get("token") or document.get("access_token") or "")
    except (ValueError, AttributeError):
        return ""

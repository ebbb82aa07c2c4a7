"""A container registry over HTTP: manifests and blobs (OCI distribution specification 1.1), where no skopeo is here.

Bytes come home by ``download``, resumed and checked as every other file is. Libraries for this were looked at:
none picks the manifest of a platform, resumes, and leaves ending the process to its caller.
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

from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.online.containers import registry_auth
from bundler.online.containers.oci_manifest import (
    ACCEPTED_TYPES,
    MAX_MANIFEST_BYTES,
    Blob,
    ImageManifest,
)
from bundler.online.manifest.image_reference import ImageReference
from bundler.online.transfer import download, http, http_session
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.http import DEFAULT_RETRY_POLICY, RetryableError
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter

_CHALLENGE = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)
_LOGIN_HINT = "log in on this machine: docker login, podman login or skopeo login; their auth files are read"
_NAME_HINT = "look at its spelling and tag; private images are hidden from who is not logged in"


@dataclass(slots=True)
class HttpRegistryClient:
    """One registry, as the person who runs this may use it. A token is asked for when the registry wants one."""

    reference: ImageReference
    plain_http: bool
    config: PipConfig
    cache: FileCache
    reporter: Reporter
    _headers: dict[str, str] = field(default_factory=dict, repr=False)
    _token_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fetch_manifest(self, tag_or_digest: str) -> bytes:
        """The bytes of the manifest or index that a tag or digest names.

        Raises ResolveError when there is none, FetchError when the registry can't be asked or refuses.
        """
        url = f"{self._base_url}/manifests/{tag_or_digest}"
        accept = {"Accept": ", ".join(ACCEPTED_TYPES)}
        with http_session.open_session(self.config) as session:
            for final in (False, True):
                answer = http.retry(
                    lambda: self._get(session, url, accept | self._headers),
                    url,
                    DEFAULT_RETRY_POLICY,
                    note=self.reporter.note,
                )
                if answer.status_code == HTTPStatus.UNAUTHORIZED and not final:
                    self._headers.update(self._authorize(session, answer))
                    continue
                return self._check_manifest(answer)
        raise AssertionError  # the second answer was returned or raised

    def fetch_blobs(self, manifest: ImageManifest) -> None:
        """The blobs of an image onto the shelf, each checked; raises FetchError or IntegrityError."""
        wanted = [self._make_download(blob) for blob in dict.fromkeys([manifest.config, *manifest.layers])]
        download.fetch(wanted, self.cache, self.config, self.reporter, title=f"fetch {self.reference.text}")

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
            stated = http.parse_content_length(response)
            if stated is not None and stated > MAX_MANIFEST_BYTES:
                raise IntegrityError(f"a manifest of {stated:,} bytes is none", where=http.redact_url(url))
            http.read_body(response)
            return response

    def _check_manifest(self, response: requests.Response) -> bytes:
        if response.status_code != HTTPStatus.OK:
            raise self._make_error(response, response.url)
        if len(response.content) > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"a manifest of {len(response.content):,} bytes is none", where=self.reference.text)
        return response.content

    def _make_error(self, response: requests.Response, url: str) -> FetchError | ResolveError:
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return FetchError(
                f"{self.reference.api_host} does not let you have it", where=self.reference.text, hint=_LOGIN_HINT
            )
        if response.status_code == HTTPStatus.NOT_FOUND:
            return ResolveError("there is no such image", where=self.reference.text, hint=_NAME_HINT)
        return http.make_response_error(response, url)

    def _renew_token_or_make_error(self, response: requests.Response, url: str) -> Exception:
        """What an answer other than a blob means. A token ends after minutes, which is less than a large image takes:
        then there is a new one for all that are still to come."""
        if response.status_code != HTTPStatus.UNAUTHORIZED or not response.url.startswith(self._base_url):
            return self._make_error(response, url)
        with self._token_lock, http_session.open_session(self.config) as session:
            if response.request.headers.get("Authorization") == self._headers.get("Authorization"):
                self._headers.update(self._authorize(session, response))
        return RetryableError(f"the token of {self.reference.api_host} ended")

    def _authorize(self, session: requests.Session, response: requests.Response) -> dict[str, str]:
        """The header that the registry asks for (distribution specification, "Token Authentication")."""
        challenge = response.headers.get("WWW-Authenticate", "")
        known = registry_auth.find_login(self.reference)
        if challenge.lower().startswith("basic"):
            if known is None:
                raise self._make_error(response, response.url)
            return {"Authorization": known.header}
        asked = {key.lower(): value for key, value in _CHALLENGE.findall(challenge)}
        realm = asked.get("realm", "")
        if not realm.startswith(("https://", f"{self._base_url.partition(':')[0]}://")):
            raise self._make_error(
                response, response.url
            )  # credentials never go to a place less safe than the registry
        scope = asked.get("scope") or f"repository:{self.reference.repository}:pull"
        url = requests.Request("GET", realm, params={"service": asked.get("service", ""), "scope": scope}).prepare().url
        headers = {"Authorization": known.header} if known else {}
        answer = http.retry(lambda: self._get(session, str(url), headers), realm, DEFAULT_RETRY_POLICY)
        token = _parse_token(answer)
        if answer.status_code != HTTPStatus.OK or not token:
            raise FetchError(
                f"{http.redact_url(realm)} gives no token for it ({answer.status_code})",
                where=self.reference.text,
                hint=_LOGIN_HINT,
            )
        return {"Authorization": f"Bearer {token}"}


def _parse_token(response: requests.Response) -> str:
    try:
        said = json.loads(response.content)
        return str(said.get("token") or said.get("access_token") or "")
    except (ValueError, AttributeError):
        return ""

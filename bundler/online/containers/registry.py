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
from bundler.online.containers.oci_manifest import ACCEPTED, LARGEST_MANIFEST, Blob, Manifest, Name
from bundler.online.transfer import download, http, pip_config
from bundler.online.transfer.cache import Store
from bundler.online.transfer.http import PATIENCE, AgainError
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Report

_CHALLENGE = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)
_LOG_IN = "log in on this machine: docker login, podman login or skopeo login; their auth files are read"
_SPELLING = "look at its spelling and tag; private images are hidden from who is not logged in"


@dataclass(slots=True)
class Registry:
    """One registry, as the person who runs this may use it. A token is asked for when the registry wants one."""

    name: Name
    plain_http: bool
    config: PipConfig
    store: Store
    report: Report
    _headers: dict[str, str] = field(default_factory=dict, repr=False)
    _renewing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def manifest(self, reference: str) -> bytes:
        """The bytes of the manifest or index that a tag or digest names.

        Raises ResolveError when there is none, FetchError when the registry can't be asked or refuses.
        """
        url = f"{self._root}/manifests/{reference}"
        accept = {"Accept": ", ".join(ACCEPTED)}
        with pip_config.session(self.config) as session:
            for final in (False, True):
                answer = http.patiently(
                    lambda: self._get(session, url, accept | self._headers), url, PATIENCE, note=self.report.note
                )
                if answer.status_code == HTTPStatus.UNAUTHORIZED and not final:
                    self._headers.update(self._authorised(session, answer))
                    continue
                return self._content(answer)
        raise AssertionError  # the second answer was returned or raised

    def bring(self, manifest: Manifest) -> None:
        """The blobs of an image onto the shelf, each checked; raises FetchError or IntegrityError."""
        wanted = [self._wanted(blob) for blob in dict.fromkeys([manifest.config, *manifest.layers])]
        download.fetch(wanted, self.store, self.config, self.report, title=f"fetch {self.name.shown}")

    @property
    def _root(self) -> str:
        scheme = "http" if self.plain_http or self.name.on_loopback else "https"
        return f"{scheme}://{self.name.host}/v2/{quote(self.name.repository)}"

    def _wanted(self, blob: Blob) -> download.Wanted:
        return download.Wanted(
            url=f"{self._root}/blobs/sha256:{blob.sha256}",
            sha256=blob.sha256,
            size=blob.size,
            headers=self._headers,
            refusal=self._refused,
        )

    def _get(self, session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
        with http.ask(session, "GET", url, headers) as response:
            stated = http.content_length(response)
            if stated is not None and stated > LARGEST_MANIFEST:
                raise IntegrityError(f"a manifest of {stated:,} bytes is none", where=http.address(url))
            http.content(response)
            return response

    def _content(self, answer: requests.Response) -> bytes:
        if answer.status_code != HTTPStatus.OK:
            raise self._refusal(answer, answer.url)
        if len(answer.content) > LARGEST_MANIFEST:
            raise IntegrityError(f"a manifest of {len(answer.content):,} bytes is none", where=self.name.shown)
        return answer.content

    def _refusal(self, answer: requests.Response, url: str) -> FetchError | ResolveError:
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return FetchError(f"{self.name.host} does not let you have it", where=self.name.shown, hint=_LOG_IN)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return ResolveError("there is no such image", where=self.name.shown, hint=_SPELLING)
        return http.refused(answer, url)

    def _refused(self, answer: requests.Response, url: str) -> Exception:
        """What an answer other than a blob means. A token ends after minutes, which is less than a large image takes:
        then there is a new one for all that are still to come."""
        if answer.status_code != HTTPStatus.UNAUTHORIZED or not answer.url.startswith(self._root):
            return self._refusal(answer, url)
        with self._renewing, pip_config.session(self.config) as session:
            if answer.request.headers.get("Authorization") == self._headers.get("Authorization"):
                self._headers.update(self._authorised(session, answer))
        return AgainError(f"the token of {self.name.host} ended")

    def _authorised(self, session: requests.Session, refused: requests.Response) -> dict[str, str]:
        """The header that the registry asks for (distribution specification, "Token Authentication")."""
        challenge = refused.headers.get("WWW-Authenticate", "")
        known = registry_auth.credentials(self.name)
        if challenge.lower().startswith("basic"):
            if known is None:
                raise self._refusal(refused, refused.url)
            return {"Authorization": known.header}
        asked = {key.lower(): value for key, value in _CHALLENGE.findall(challenge)}
        realm = asked.get("realm", "")
        if not realm.startswith(("https://", f"{self._root.partition(':')[0]}://")):
            raise self._refusal(refused, refused.url)  # credentials never go to a place less safe than the registry
        scope = asked.get("scope") or f"repository:{self.name.repository}:pull"
        url = requests.Request("GET", realm, params={"service": asked.get("service", ""), "scope": scope}).prepare().url
        headers = {"Authorization": known.header} if known else {}
        answer = http.patiently(lambda: self._get(session, str(url), headers), realm, PATIENCE)
        token = _token(answer)
        if answer.status_code != HTTPStatus.OK or not token:
            raise FetchError(
                f"{http.address(realm)} gives no token for it ({answer.status_code})",
                where=self.name.shown,
                hint=_LOG_IN,
            )
        return {"Authorization": f"Bearer {token}"}


def _token(answer: requests.Response) -> str:
    try:
        said = json.loads(answer.content)
        return str(said.get("token") or said.get("access_token") or "")
    except (ValueError, AttributeError):
        return ""

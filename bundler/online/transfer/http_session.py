"""HTTP sessions with the certificates, proxy, trusted hosts and credentials of pip's configuration."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_netrc_auth

import bundler
from bundler.online.transfer.pip_config import PipConfig

_POOL_SIZE = 16
_DEFAULT_TIMEOUT = 30.0
"""Seconds."""


def open_session(config: PipConfig, credential_urls: Iterable[str] = ()) -> requests.Session:
    """A session that speaks as pip would: certificates, proxy, trusted hosts, and credentials.

    ``also`` are further addresses whose credentials it should know. It may be used by several threads.
    """
    made = requests.Session()
    made.headers["User-Agent"] = f"airgap-bundler/{bundler.__version__}"
    made.auth = _IndexAuth([*config.indexes, *config.find_links, *credential_urls])
    if config.proxy:
        made.proxies = {"http": config.proxy, "https": config.proxy}
        made.trust_env = False  # as pip does: a proxy that was given is not overridden by the environment
    # The system's certificates; requests adds those of certifi.
    tls = None if config.cert else ssl.create_default_context()
    made.mount("https://", _PipAdapter(config, config.cert or True, tls))
    made.mount("http://", _PipAdapter(config, config.cert or True))
    if config.trusted_hosts:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the person has said that they know
    for host in config.trusted_hosts:
        unverified = _PipAdapter(config, verify=False)
        name = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
        made.mount(f"https://{name.lower()}/", unverified)
        if ":" not in name.rpartition("]")[2]:
            made.mount(f"https://{name.lower()}:", unverified)
    return made


class _PipAdapter(HTTPAdapter):
    """Transport with the configuration's own idea of certificates and patience."""

    def __init__(self, config: PipConfig, verify: bool | str, tls: ssl.SSLContext | None = None) -> None:
        self._verify = verify
        self._cert = config.client_cert or None
        self._timeout = config.timeout or _DEFAULT_TIMEOUT
        self._tls: dict[str, Any] = {"ssl_context": tls} if tls else {}
        super().__init__(pool_maxsize=_POOL_SIZE)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **self._tls)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, **self._tls)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        # requests would let REQUESTS_CA_BUNDLE override both a trusted host and pip's own cert.
        options |= {"verify": self._verify, "cert": self._cert, "timeout": options.get("timeout") or self._timeout}
        return super().send(request, *args, **options)


class _IndexAuth(AuthBase):
    """The user and password of the index that is nearest to an address, or else of netrc."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._index_urls = [parts for parts in map(urlsplit, urls) if "@" in parts.netloc]

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # A token that was meant for this request counts more than what netrc knows of its host.
        if "Authorization" not in request.headers and (found := self._find_login(str(request.url))):
            HTTPBasicAuth(*found)(request)
        return request

    def _find_login(self, url: str) -> tuple[str, str] | None:
        asked = urlsplit(url)
        same = [
            k for k in self._index_urls if (k.scheme, k.hostname, k.port) == (asked.scheme, asked.hostname, asked.port)
        ]
        if not same:
            return get_netrc_auth(url)
        nearest = max(same, key=lambda known: _count_common_segments(known.path, asked.path))
        return unquote(nearest.username or ""), unquote(nearest.password or "")


def _count_common_segments(first: str, second: str) -> int:
    pairs = zip(first.split("/"), second.split("/"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

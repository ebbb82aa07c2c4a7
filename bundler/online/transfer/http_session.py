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
from bundler.online.transfer import pip_config
from bundler.online.transfer.pip_config import PipConfig

_POOL_SIZE = 16
_DEFAULT_TIMEOUT = 30.0
"""Seconds."""


def open_session(config: PipConfig, credential_urls: Iterable[str] = ()) -> requests.Session:
    """Open a session with the certificates, proxy, trusted hosts and credentials that pip would use.

    Several threads may share it.

    Args:
        config: The configuration of pip.
        credential_urls: Further URLs whose credentials the session sends to their hosts.
    """
    session = requests.Session()
    session.headers["User-Agent"] = f"airgap-bundler/{bundler.__version__}"
    session.auth = _IndexAuth([*config.indexes, *config.find_links, *credential_urls])
    if config.proxy:
        session.proxies = {"http": config.proxy, "https": config.proxy}
        session.trust_env = False  # like pip: the environment does not override a configured proxy
    # The system's certificates; requests adds those of certifi.
    tls = None if config.cert else ssl.create_default_context()
    session.mount("https://", _PipAdapter(config, config.cert or True, tls))
    session.mount("http://", _PipAdapter(config, config.cert or True))
    if config.trusted_hosts:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the configuration trusts them
    for host in config.trusted_hosts:
        unverified = _PipAdapter(config, verify=False)
        netloc = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
        session.mount(f"https://{netloc.lower()}/", unverified)
        if ":" not in netloc.rpartition("]")[2]:
            session.mount(f"https://{netloc.lower()}:", unverified)
    return session


class _PipAdapter(HTTPAdapter):
    """Transport adapter with the certificates and the timeout of pip's configuration."""

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
    """Basic authentication with the login of the configured URL that shares the longest path, else with netrc."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._login_urls = [parts for parts in map(urlsplit, urls) if "@" in parts.netloc]

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # A token that the caller set for this request overrides netrc.
        if "Authorization" not in request.headers and (login := self._find_login(str(request.url))):
            HTTPBasicAuth(*login)(request)
        return request

    def _find_login(self, url: str) -> tuple[str, str] | None:
        requested = urlsplit(url)
        candidates = [parts for parts in self._login_urls if pip_config.have_same_origin(parts, requested)]
        if not candidates:
            return get_netrc_auth(url)
        nearest = max(candidates, key=lambda parts: _count_common_segments(parts.path, requested.path))
        return unquote(nearest.username or ""), unquote(nearest.password or "")


def _count_common_segments(first: str, second: str) -> int:
    pairs = zip(first.split("/"), second.split("/"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

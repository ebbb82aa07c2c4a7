"""A repository of the hub: the commit, files and licence of a revision, asked with the hub's own client."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial as bound
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from bundler.errors import BundleError, FetchError, ResolveError
from bundler.format.lock.entries import Upstream
from bundler.online.models import model_card
from bundler.online.transfer import http
from bundler.online.transfer.http import RetryableError, RetryPolicy
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter

# The client reads this when it is imported. Without it, it first asks the hub which programs to report.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    hf_hub_url,
    is_offline_mode,
    set_client_factory,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEX_DIGEST = re.compile(r"([0-9a-f]{40}([0-9a-f]{24})?)?")
_DEFAULT_TIMEOUT = 30.0
_MAX_PAGES = 1000
"""Pages that a list of files may have; the hub puts a thousand files on each."""
_NOT_A_HUB_HINT = (
    "a proxy or a network's login page may answer instead: check HF_ENDPOINT, and open the URL in a browser"
)
_LOGIN_HINT = "set HF_TOKEN, or run 'hf auth login', with a token of an account that has access"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRepo:
    """A repository, and the token to ask for it with."""

    repo_type: str
    repo_id: str
    endpoint: str
    token: str | None = field(repr=False)

    @property
    def page_url(self) -> str:
        """Its page, for a person."""
        return http.redact_url(
            f"{self.endpoint}/{constants.REPO_TYPES_URL_PREFIXES.get(self.repo_type, '')}{self.repo_id}"
        )

    @property
    def host(self) -> str:
        """The hub's host name, as in the lock."""
        return urlsplit(self.endpoint).netloc.rpartition("@")[2]

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that authenticate a request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def get_file_url(self, file: str, commit: str) -> str:
        """Return the URL of a file at a commit."""
        return hf_hub_url(self.repo_id, file, repo_type=self.repo_type, revision=commit, endpoint=self.endpoint)

    def make_error(self, status: int, response_headers: Mapping[str, str], where: str, revision: str) -> BundleError:
        """Return the error for an answer that another try will not change."""
        code, message = response_headers.get("X-Error-Code", ""), response_headers.get("X-Error-Message", "")[:200]
        if code == "RevisionNotFound":
            hint = f"its branches, tags and commits are on {self.page_url}"
            return ResolveError(f"{self.repo_id} has no revision {revision!r}", where=where, hint=hint)
        if code == "GatedRepo" and not self.token:
            hint = f"accept its terms at {self.page_url}, then {_LOGIN_HINT}"
            return FetchError(f"{self.repo_id} is gated: the hub wants an account", where=where, hint=hint)
        if code == "GatedRepo":
            hint = f"accept its terms at {self.page_url} with the account that the token (HF_TOKEN) belongs to"
            return FetchError(f"{self.repo_id} is gated, and this token has no access to it", where=where, hint=hint)
        if status == 401 and self.token and code != "RepoNotFound":
            return FetchError(f"the hub does not accept the token for {self.repo_id}", where=where, hint=_LOGIN_HINT)
        if code == "RepoNotFound" or status in (401, 404):
            missing = "file or repository" if code == "EntryNotFound" else "repository"
            hint = f"check the name: {self.page_url}; if it is private, {_LOGIN_HINT}"
            return ResolveError(
                f"{self.repo_id}: the hub knows no such {missing}, or does not show it to you", where=where, hint=hint
            )
        if status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED:
            return FetchError("a network's login page answers instead of the hub", where=where, hint=_NOT_A_HUB_HINT)
        hint = f"{_LOGIN_HINT}; see {self.page_url}" if status == 403 else f"see {self.page_url}"
        return FetchError(f"{self.repo_id}: the hub answers {status} {message}".strip(), where=where, hint=hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file of a commit: its size in bytes and its digest, as the hub publishes them."""

    path: str
    size: int | None
    sha256: str
    git_sha1: str

    def list_upstreams(self, host: str) -> tuple[Upstream, ...]:
        """Return the published digest, as the lock has it."""
        digests = (("sha256", self.sha256), ("git-blob-sha1", self.git_sha1))
        return tuple(Upstream(algorithm=name, digest=digest, publisher=host) for name, digest in digests if digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class RevisionInfo:
    """The commit of a revision, its files and its licence."""

    commit: str
    files: Mapping[str, HubFile]
    licence: str


def open_repo(repo_id: str, repo_type: str) -> HubRepo:
    """Return a repository of the hub, with the token that the user gave the hub's client."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return HubRepo(repo_type=repo_type, repo_id=repo_id, endpoint=_read_endpoint(), token=token)


def fetch_revision(
    repo: HubRepo, revision: str, config: PipConfig, retry_policy: RetryPolicy, reporter: Reporter
) -> RevisionInfo:
    """Ask the hub for a revision; raises FetchError or ResolveError."""
    if is_offline_mode():
        raise FetchError("HF_HUB_OFFLINE forbids requests to the hub", where=repo.page_url, hint="unset HF_HUB_OFFLINE")
    where = f"{repo.page_url} at {revision}"
    set_client_factory(lambda: _HubClient(repo, where, config, retry_policy, reporter))
    api = HfApi(endpoint=repo.endpoint, token=repo.token or False)
    with _translate_hub_errors(repo, revision, where):
        info: Any = api.repo_info(repo.repo_id, repo_type=repo.repo_type, revision=revision)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise FetchError("this server is not a hub: it names no commit", where=where, hint=_NOT_A_HUB_HINT)
    with _translate_hub_errors(repo, revision, where):
        tree = list(api.list_repo_tree(repo.repo_id, repo_type=repo.repo_type, revision=info.sha, recursive=True))
    files = {file.path: _make_hub_file(file, where) for file in tree if isinstance(file, RepoFile)}
    # "siblings" has only the first thousands of files, so it can't replace the list; but it shows what a list lacks.
    if missing := sorted({file.rfilename for file in getattr(info, "siblings", None) or ()} - set(files)):
        listed = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        hint = "a mirror or proxy (HF_ENDPOINT) may pass on only the first page of it: ask its operator"
        raise FetchError(f"the list of files lacks {listed}, which the revision has", where=where, hint=hint)
    return RevisionInfo(commit=info.sha, files=files, licence=_read_licence(repo, info))


def find_revision(
    repo: HubRepo, revision: str, config: PipConfig, retry_policy: RetryPolicy, reporter: Reporter
) -> tuple[HubRepo, RevisionInfo]:
    """Ask for a revision of a repository; raises FetchError or ResolveError.

    A hub that knows no kernels, such as an older mirror, has them as models: then the repository that is returned is
    the model.
    """
    try:
        return repo, fetch_revision(repo, revision, config, retry_policy, reporter)
    except ResolveError as error:
        if repo.repo_type != "kernel" or isinstance(error.__cause__, RevisionNotFoundError):
            raise
        model_repo = replace(repo, repo_type="model")
        try:
            return model_repo, fetch_revision(model_repo, revision, config, retry_policy, reporter)
        except ResolveError:
            raise error from None


def find_in_hub_cache(repo: HubRepo, commit: str, name: str) -> Path | None:
    """Find a file in the user's own cache of the hub, links followed."""
    folder = os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE
    path = try_to_load_from_cache(repo.repo_id, name, cache_dir=folder, revision=commit, repo_type=repo.repo_type)
    return Path(path).resolve() if isinstance(path, str) else None


def _read_endpoint() -> str:
    """Read the hub's URL from the environment now: the client read it when it was imported."""
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        hint = f"set HF_ENDPOINT=https://{endpoint.rpartition('//')[2]}"
        raise FetchError("HF_ENDPOINT does not begin with https:// or http://", where=endpoint, hint=hint)
    return endpoint


def _make_hub_file(file: RepoFile, where: str) -> HubFile:
    hub_file = HubFile(
        path=file.path,
        size=file.lfs.size if file.lfs else file.size,
        sha256=(file.lfs.sha256 or "") if file.lfs else "",
        git_sha1="" if file.lfs else file.blob_id or "",
    )
    if not _HEX_DIGEST.fullmatch(hub_file.sha256) or not _HEX_DIGEST.fullmatch(hub_file.git_sha1):
        message = f"this server is not a hub: the digest of {hub_file.path} is not hexadecimal"
        raise FetchError(message, where=where, hint=_NOT_A_HUB_HINT)
    return hub_file


@contextmanager
def _translate_hub_errors(repo: HubRepo, revision: str, where: str) -> Iterator[None]:
    """Translate errors of huggingface_hub into BundleError."""
    try:
        yield
    except HFValidationError as error:
        hint = "a name on the hub is ORG/NAME, of letters, digits and single . - _"
        raise ResolveError(f"{repo.repo_id!r} can't be a name on the hub", where=repo.page_url, hint=hint) from error
    except HfHubHTTPError as error:
        raise repo.make_error(error.response.status_code, error.response.headers, where, revision) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, TypeError, KeyError, AttributeError) as error:
        message = "this server is not a hub: its answer is not the JSON of a hub"
        raise FetchError(message, where=where, hint=_NOT_A_HUB_HINT) from error


class _HubClient(httpx2.Client):
    """The client's transport, with pip's proxies and certificates and the retries of every other download.

    The hub's client itself repeats some requests, others not, and waits for some without a time limit.
    """

    def __init__(
        self, repo: HubRepo, where: str, config: PipConfig, retry_policy: RetryPolicy, reporter: Reporter
    ) -> None:
        proxy = config.proxy if "://" in config.proxy or not config.proxy else f"http://{config.proxy}"
        super().__init__(
            verify=_make_tls_verification(repo, config),
            proxy=proxy or None,
            trust_env=not config.proxy,
            follow_redirects=True,
        )
        self._repo, self._where, self._retry_policy, self._reporter = repo, where, retry_policy, reporter
        self._request_timeout = config.timeout or _DEFAULT_TIMEOUT
        self._requests_left = 1 + _MAX_PAGES

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if not self._requests_left:
            raise FetchError("the list of files has no end", where=self._where, hint=_NOT_A_HUB_HINT)
        self._requests_left -= 1
        request.extensions["timeout"] = httpx2.Timeout(self._request_timeout).as_dict()
        if _get_origin(request.url) != _get_origin(httpx2.URL(self._repo.endpoint)):
            request.headers.pop(
                "Authorization", None
            )  # the next page of a list may be on another host: no token for it
        attempt = bound(self._send_once, request, options)
        return http.retry(attempt, self._repo.page_url, self._retry_policy, note=self._reporter.note)

    def _send_once(self, request: httpx2.Request, options: Mapping[str, Any]) -> httpx2.Response:
        try:
            response = super().send(request, **options)
        except httpx2.UnsupportedProtocol:
            raise
        except httpx2.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                hint = "if your proxy has its own certificate, run: pip config set global.cert FILE"
                raise FetchError("the hub's certificate is not trusted", where=self._where, hint=hint) from error
            raise RetryableError(http.describe_cause(error)) from error
        if response.status_code in http.TRANSIENT_STATUSES:
            raise RetryableError(f"the hub answers {response.status_code}", http.parse_retry_after(response.headers))
        return response


def _get_origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _make_tls_verification(repo: HubRepo, config: PipConfig) -> ssl.SSLContext | bool:
    """Return the certificates to trust, as pip is configured; False to trust any."""
    if urlsplit(repo.endpoint).hostname in config.trusted_hosts or repo.host in config.trusted_hosts:
        return False
    if config.cert:
        is_folder = Path(config.cert).is_dir()
        context = (
            ssl.create_default_context(capath=config.cert)
            if is_folder
            else ssl.create_default_context(cafile=config.cert)
        )
    else:
        context = ssl.create_default_context()
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)  # as requests does
    if config.client_cert:
        context.load_cert_chain(config.client_cert)
    return context


def _read_licence(repo: HubRepo, info: Any) -> str:
    """Read the licence of the model card; says so where the hub wants terms to be accepted."""
    card = info.card_data.to_dict() if getattr(info, "card_data", None) else {}
    gated = f"gated: terms to accept at {repo.page_url}" if info.gated else ""
    return "; ".join(filter(None, [model_card.describe_licence(card), gated]))

"""A repository of the hub: who asks for it, and what the hub says of one of its revisions.

The hub's own client says where the hub is, who asks and what a revision means.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial as bound
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from bundler.bundle.entries import Upstream
from bundler.errors import BundleError, FetchError, ResolveError
from bundler.online import answers
from bundler.online.answers import AgainError, Patience
from bundler.online.pipconfig import PipConfig
from bundler.progress import Report

# Read when the client is imported: otherwise it asks the hub, before anything else, for names of programs to report.
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
from huggingface_hub.errors import HfHubHTTPError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"([0-9a-f]{40}([0-9a-f]{24})?)?")
_TIMEOUT = 30.0
_PORTAL = (
    "a proxy or a network's login page may answer in its place: see HF_ENDPOINT, and open the address in a browser"
)
_LOG_IN = "set HF_TOKEN, or run 'hf auth login', with a token of an account that may read it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    """A repository, and who asks for it."""

    kind: str
    name: str
    endpoint: str
    token: str | None = field(repr=False)

    @property
    def page(self) -> str:
        """What a person opens in a browser."""
        return answers.address(f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}")

    @property
    def host(self) -> str:
        """The hub's host, as the lock names it."""
        return urlsplit(self.endpoint).netloc.rpartition("@")[2]

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells the hub who asks."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def url(self, file: str, commit: str) -> str:
        """Where the hub gives a file of a commit."""
        return hf_hub_url(self.name, file, repo_type=self.kind, revision=commit, endpoint=self.endpoint)

    def refusal(self, status: int, said: Mapping[str, str], where: str, revision: str) -> BundleError:
        """An answer that will be the same next time, as an error that says what to do."""
        code, words = said.get("X-Error-Code", ""), said.get("X-Error-Message", "")[:200]
        if code == "RevisionNotFound":
            hint = f"the branches, tags and commits that there are: {self.page}"
            return ResolveError(f"{self.name} has no revision {revision!r}", where=where, hint=hint)
        if code == "GatedRepo" and not self.token:
            hint = f"accept its terms at {self.page}, then {_LOG_IN}"
            return FetchError(f"{self.name} is gated: the hub gives it to known accounts alone", where=where, hint=hint)
        if code == "GatedRepo":
            hint = f"accept its terms at {self.page} with the account that the token (HF_TOKEN) belongs to"
            return FetchError(f"{self.name} is gated, and this token has no access to it", where=where, hint=hint)
        if status == 401 and self.token and code != "RepoNotFound":
            return FetchError(f"the hub does not accept the token for {self.name}", where=where, hint=_LOG_IN)
        if code == "RepoNotFound" or status in (401, 404):
            found = "holds no such file or repository" if code == "EntryNotFound" else "knows no such repository"
            hint = f"see whether the name is right: {self.page}; if it is private, {_LOG_IN}"
            return ResolveError(f"{self.name}: the hub {found}, or not for who asks", where=where, hint=hint)
        hint = f"{_LOG_IN}; see {self.page}" if status == 403 else f"see {self.page}"
        return FetchError(f"{self.name}: the hub answers {status} {words}".strip(), where=where, hint=hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A file of a commit and what the hub publishes of it."""

    path: str
    size: int | None
    sha256: str
    git_sha1: str

    def upstream(self, host: str) -> tuple[Upstream, ...]:
        """The digest that was published, as the lock keeps it."""
        said = (("sha256", self.sha256), ("git-blob-sha1", self.git_sha1))
        return tuple(Upstream(algorithm=name, digest=digest, publisher=host) for name, digest in said if digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the hub says of one revision."""

    commit: str
    files: Mapping[str, Listed]
    licence: str


def of(name: str, kind: str) -> Repo:
    """A model's or a dataset's repository, on the hub and with the token that this user has told the client."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return Repo(kind=kind, name=name, endpoint=_endpoint(), token=token)


def told(repo: Repo, revision: str, config: PipConfig, patience: Patience, report: Report) -> Told:
    """What the hub says of a revision; raises FetchError or ResolveError."""
    if is_offline_mode():
        raise FetchError("HF_HUB_OFFLINE forbids asking the hub", where=repo.page, hint="unset HF_HUB_OFFLINE")
    set_client_factory(lambda: _client(repo, config))
    api = HfApi(endpoint=repo.endpoint, token=repo.token or False)
    where = f"{repo.page} at {revision}"
    attempt = bound(_asked_once, api, repo, revision, config.timeout or _TIMEOUT, where)
    info = answers.patiently(attempt, repo.page, patience, note=report.note)
    if not _COMMIT.fullmatch(info.sha or "") or info.siblings is None:
        raise FetchError("what answers is not a hub: it names no commit or no files", where=where, hint=_PORTAL)
    files = [_listed(file, where) for file in info.siblings]
    return Told(commit=info.sha, files={file.path: file for file in files}, licence=_licence(repo, info))


def cached(repo: Repo, commit: str, name: str) -> Path | None:
    """Where the user's own cache of the hub has a file, links followed."""
    cache = os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE
    found = try_to_load_from_cache(repo.name, name, cache_dir=cache, revision=commit, repo_type=repo.kind)
    return Path(found).resolve() if isinstance(found, str) else None


def _endpoint() -> str:
    """Where the hub is; the environment is read anew, since the client reads it when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _listed(file: Any, where: str) -> Listed:
    found = Listed(
        path=file.rfilename,
        size=file.lfs.size if file.lfs else file.size,
        sha256=file.lfs.sha256 if file.lfs else "",
        git_sha1="" if file.lfs else file.blob_id or "",
    )
    if not _DIGEST.fullmatch(found.sha256) or not _DIGEST.fullmatch(found.git_sha1):
        raise FetchError(f"what answers is not a hub: {found.path} has no digest as hubs write them", where=where)
    return found


def _asked_once(api: HfApi, repo: Repo, revision: str, timeout: float, where: str) -> Any:
    """The hub's answer; raises AgainError for what may pass: the client does not try that call again."""
    try:
        return api.repo_info(repo.name, repo_type=repo.kind, revision=revision, timeout=timeout, files_metadata=True)
    except HfHubHTTPError as error:
        status, said = error.response.status_code, error.response.headers
        if status in answers.BUSY:
            raise AgainError(f"the hub answers {status}", answers.retry_after(said)) from error
        raise repo.refusal(status, said, where, revision) from error
    except httpx2.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = "if a proxy here has a certificate of its own, tell pip: pip config set global.cert FILE"
            raise FetchError("the hub's certificate is not trusted", where=where, hint=hint) from error
        raise AgainError(answers.words(error)) from error
    except (httpx2.HTTPError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FetchError(
            "what answers is not a hub: it sends no JSON as a hub does", where=where, hint=_PORTAL
        ) from error


def _client(repo: Repo, config: PipConfig) -> httpx2.Client:
    """The client's transport, with pip's idea of proxies and certificates, as every other download here has it."""
    verify: ssl.SSLContext | bool
    if urlsplit(repo.endpoint).hostname in config.trusted_hosts or repo.host in config.trusted_hosts:
        verify = False
    elif config.cert:
        folder = Path(config.cert).is_dir()
        verify = (
            ssl.create_default_context(capath=config.cert) if folder else ssl.create_default_context(cafile=config.cert)
        )
    else:
        verify = ssl.create_default_context()
        verify.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)  # as requests does
    if config.client_cert and isinstance(verify, ssl.SSLContext):
        verify.load_cert_chain(config.client_cert)
    proxy = config.proxy if "://" in config.proxy or not config.proxy else f"http://{config.proxy}"
    return httpx2.Client(verify=verify, proxy=proxy or None, trust_env=not config.proxy, follow_redirects=True)


def _licence(repo: Repo, info: Any) -> str:
    """The licence of the model card, and that terms must be accepted where that is so."""
    card = info.card_data.to_dict() if info.card_data else {}
    stated = card.get("license")
    if stated == "other" and card.get("license_name"):
        stated = card["license_name"]
    licence = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")
    licence = "".join(filter(str.isprintable, licence))[:200]
    gated = f"gated: terms to accept at {repo.page}" if info.gated else ""
    return "; ".join(filter(None, [licence, gated]))

"""The only room that knows Hugging Face.

Its client says where the hub is, who asks, what a revision means and what its files must be. The bytes come by
``download``: the client checks sizes alone, and would keep damaged files without a word.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial as bound
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from bundler.bundle import disk, paths
from bundler.bundle.entries import Upstream
from bundler.errors import BundleError, FetchError, ResolveError, UnsafeError
from bundler.online import answers, download, pipconfig, selection
from bundler.online.answers import AgainError, Patience
from bundler.online.download import Wanted
from bundler.online.manifest import WantedModel
from bundler.online.pipconfig import PipConfig
from bundler.online.sources import Gathered, SourceFile
from bundler.online.store import Store
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

Vet = Callable[[str, Sequence[str], Sequence[str], Callable[[str], bytes]], object]
"""Is told the source, the names of the files that travel and of all that it has, and how to read a small one that
travels; raises what it objects to."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"([0-9a-f]{40}([0-9a-f]{24})?)?")
_TIMEOUT = 30.0
_EXPIRED = frozenset([400, 401, 403, 410])
"""What storages answer to a signed address whose time is over."""
_PORTAL = (
    "a proxy or a network's login page may answer in its place: see HF_ENDPOINT, and open the address in a browser"
)
_LOG_IN = "set HF_TOKEN, or run 'hf auth login', with a token of an account that may read it"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Repo:
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
class _Listed:
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
class _Told:
    """What the hub says of one revision."""

    commit: str
    files: Mapping[str, _Listed]
    licence: str


@dataclass(frozen=True, slots=True)
class _Errand:
    """One way to the hub and home: asks, looks what is here, and brings the rest."""

    repo: _Repo
    store: Store
    config: PipConfig
    report: Report
    patience: Patience

    def ask(self, revision: str) -> _Told:
        """What the hub says of a revision."""
        repo = self.repo
        if is_offline_mode():
            raise FetchError("HF_HUB_OFFLINE forbids asking the hub", where=repo.page, hint="unset HF_HUB_OFFLINE")
        set_client_factory(lambda: _client(repo, self.config))
        api = HfApi(endpoint=repo.endpoint, token=repo.token or False)
        where = f"{repo.page} at {revision}"
        attempt = bound(_asked_once, api, repo, revision, self.config.timeout or _TIMEOUT, where)
        info = answers.patiently(attempt, repo.page, self.patience, note=self.report.note)
        if not _COMMIT.fullmatch(info.sha or "") or info.siblings is None:
            raise FetchError("what answers is not a hub: it names no commit or no files", where=where, hint=_PORTAL)
        files = [_listed(file, where) for file in info.siblings]
        return _Told(commit=info.sha, files={file.path: file for file in files}, licence=_licence(repo, info))

    def look(self, commit: str, wanted: Mapping[str, Wanted]) -> dict[str, tuple[str, Path]]:
        """SHA-256 and place of the files that are on the shelf, or whole in the user's own cache of the hub."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            looked = pool.map(lambda name: self._look(commit, name, wanted[name]), wanted)
            return {name: found for name, found in zip(wanted, looked, strict=True) if found}

    def _look(self, commit: str, name: str, wanted: Wanted) -> tuple[str, Path] | None:
        if found := _shelved(wanted, self.store):
            return found
        if not (wanted.sha256 or wanted.git_sha1) or (cached := _cached(self.repo, commit, name)) is None:
            return None
        try:
            sha256, why = download.examined(wanted, cached)
        except (OSError, EOFError) as error:
            sha256, why = "", answers.words(error)
        if not why:
            return sha256, cached
        self.report.warn(
            f"{self.repo.name}: the hub's cache on this machine holds a damaged {name} ({why}); fetching it anew"
        )
        return None

    def bring(self, away: Mapping[str, Wanted], title: str) -> dict[str, tuple[str, Path]]:
        """SHA-256 and place of files that have to be fetched."""
        if not away:
            return {}
        disk.require([(self.store.root, sum(one.size or 0 for one in away.values()), title)])
        wanted: Sequence[Wanted] = list(away.values())
        fetched = download.fetch(wanted, self.store, self.config, self.report, title=title, patience=self.patience)
        for one, (_, sha256) in zip(wanted, fetched, strict=True):
            if one.git_sha1:
                self.store.remember(_name(one), sha256)
        return {name: (sha256, self.store.required(sha256)) for name, (_, sha256) in zip(away, fetched, strict=True)}


def gather(
    model: WantedModel,
    store: Store,
    config: PipConfig,
    report: Report,
    *,
    commit: str = "",
    vet: Vet = lambda _where, _names, _there, _read: None,
    patience: Patience | None = None,
) -> Gathered:
    """The files of a repository at one commit, each checked against what the hub publishes of it.

    ``commit`` is what a lock holds, to get the same again. ``vet`` may object to the choice of files before the
    large ones are fetched. What is on the shelf or whole in the user's own cache of the hub is not fetched at all.
    Raises FetchError, ResolveError, IntegrityError, ManifestError, UnsafeError or HostError, and what ``vet`` raises.
    """
    kind = "dataset" if model.dataset else "model"
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    repo = _Repo(kind=kind, name=model.on_hub, endpoint=_endpoint(), token=token)
    errand = _Errand(repo, store, config, report, patience or Patience(tries=config.retries + 1))
    asked = model.revision or "main"
    told = errand.ask(commit or asked)
    source = f"{model.source}@{told.commit}"
    kept = _chosen(model, told, source, repo, report)
    wanted = {name: _wanted(repo, told.files[name], told.commit) for name in kept}
    contents = errand.look(told.commit, wanted)

    def bring(names: Iterable[str], what: str) -> None:
        away = {name: wanted[name] for name in names if name not in contents}
        contents.update(errand.bring(away, f"{what} {repo.name}"))

    def read(name: str) -> bytes:
        bring([name], "read")
        return contents[name][1].read_bytes()

    bring([name for name in kept if not wanted[name].sha256], "read")  # what git itself holds is small
    vet(source, kept, tuple(told.files), read)
    bring(kept, "fetch")
    return Gathered(
        source=source,
        files=tuple(_source_file(repo, told.files[name], wanted[name], *contents[name]) for name in kept),
        there=tuple(told.files),
        commit=told.commit,
        revisions=("main",) if asked == told.commit else (asked,),
        licence=told.licence,
    )


def _chosen(model: WantedModel, told: _Told, source: str, repo: _Repo, report: Report) -> tuple[str, ...]:
    """The names of the files that travel; what is to be known of the choice is reported."""
    sizes = {name: listed.size or 0 for name, listed in told.files.items()}
    chosen = selection.choose(sizes, model.include, model.exclude, where=source, all_kinds=bool(model.dataset))
    for name in chosen.kept:
        if why := paths.fault_of(name):
            raise UnsafeError(f"{name!r} {why}", where=repo.page, hint="leave it out with exclude")
    if clashes := paths.clashes(chosen.kept):
        raise UnsafeError("; ".join(clashes[:5]), where=repo.page, hint="leave one out with exclude")
    if chosen.left_out:
        report.note(f"{repo.name}: {chosen.words}")
    missed = selection.missed(told.files, chosen.kept)
    if missed and not model.dataset:
        report.warn(f"{repo.name}: {', '.join(missed)} stay behind, which libraries would use: see include and exclude")
    listed = [told.files[name] for name in chosen.kept]
    if bare := [one.path for one in listed if not (one.sha256 or one.git_sha1)]:
        shown = ", ".join(bare[:5]) + (" …" if len(bare) > 5 else "")
        report.warn(f"{repo.name}: {repo.host} publishes no digest of {shown}; nothing can tell whether it is right")
    return chosen.kept


def _source_file(repo: _Repo, listed: _Listed, wanted: Wanted, sha256: str, content: Path) -> SourceFile:
    return SourceFile(
        path=listed.path,
        size=content.stat().st_size,
        sha256=sha256,
        origin=answers.address(wanted.url),
        content=content,
        upstream=listed.upstream(repo.host),
    )


def _endpoint() -> str:
    """Where the hub is; the environment is read anew, since the client reads it when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _listed(file: Any, where: str) -> _Listed:
    found = _Listed(
        path=file.rfilename,
        size=file.lfs.size if file.lfs else file.size,
        sha256=file.lfs.sha256 if file.lfs else "",
        git_sha1="" if file.lfs else file.blob_id or "",
    )
    if not _DIGEST.fullmatch(found.sha256) or not _DIGEST.fullmatch(found.git_sha1):
        raise FetchError(f"what answers is not a hub: {found.path} has no digest as hubs write them", where=where)
    return found


def _asked_once(api: HfApi, repo: _Repo, revision: str, timeout: float, where: str) -> Any:
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


def _client(repo: _Repo, config: PipConfig) -> httpx2.Client:
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


def _licence(repo: _Repo, info: Any) -> str:
    """The licence of the model card, and that terms must be accepted where that is so."""
    card = info.card_data.to_dict() if info.card_data else {}
    stated = card.get("license")
    if stated == "other" and card.get("license_name"):
        stated = card["license_name"]
    licence = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")
    licence = "".join(filter(str.isprintable, licence))[:200]
    gated = f"gated: terms to accept at {repo.page}" if info.gated else ""
    return "; ".join(filter(None, [licence, gated]))


def _wanted(repo: _Repo, file: _Listed, commit: str) -> Wanted:
    def refused(response: requests.Response, url: str) -> Exception:
        elsewhere = urlsplit(response.url).netloc != urlsplit(pipconfig.bare(url)).netloc
        if elsewhere and response.status_code in _EXPIRED:
            return AgainError(f"the signed address of the storage answers {response.status_code}: asking for a new one")
        return repo.refusal(response.status_code, response.headers, answers.address(url), commit)

    return Wanted(
        url=repo.url(file.path, commit),
        sha256=file.sha256,
        git_sha1=file.git_sha1,
        size=file.size,
        headers=repo.headers,
        refusal=refused,
    )


def _shelved(wanted: Wanted, store: Store) -> tuple[str, Path] | None:
    if wanted.sha256:
        place = store.path_of(wanted.sha256, wanted.size)
        return (wanted.sha256, place) if place else None
    if wanted.git_sha1 and (place := store.recalled(_name(wanted))):
        sha256, why = download.examined(wanted, place)
        return None if why else (sha256, place)
    return None


def _name(wanted: Wanted) -> str:
    return f"git-blob-sha1-{wanted.git_sha1}"


def _cached(repo: _Repo, commit: str, name: str) -> Path | None:
    """Where the user's own cache of the hub has a file, links followed."""
    cache = os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE
    found = try_to_load_from_cache(repo.name, name, cache_dir=cache, revision=commit, repo_type=repo.kind)
    return Path(found).resolve() if isinstance(found, str) else None

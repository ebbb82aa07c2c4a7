"""The only room that knows Hugging Face.

Its client says where the hub is, who asks, what a revision means and what its files must be. The bytes come by
``download``: the client checks sizes alone, and would keep damaged files without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import requests

from bundler.errors import FetchError, UnsafeError
from bundler.format import disk, paths
from bundler.format.hashing import Sha256
from bundler.online.manifest.schema import ModelSpec
from bundler.online.models import file_selection, hub_repository
from bundler.online.models.hub_repository import HubFile, HubRepo, RevisionInfo
from bundler.online.models.local_sources import ModelFiles, SourceFile
from bundler.online.transfer import download, http, pip_config, remote_sizes, threads
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest
from bundler.online.transfer.http import RetryableError, RetryPolicy
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter

_DEFERRABLE_SUFFIX = ".safetensors"
"""How files end that nothing but the length and the digest has to be known of: they hold tensors and no code, and no
reference to other models. Whoever fetches them sees whether that is so."""

CheckSelection = Callable[[str, Sequence[str], Sequence[str], Callable[[str], bytes]], object]
"""Is told the source, the names of the files that travel and of all that it has, and how to read a small one that
travels; raises what it objects to."""

_MIN_TRIES = 6
"""How often at least: with the pauses in between, a hub may be away for half a minute."""
_EXPIRED_URL_STATUSES = frozenset([400, 401, 403, 410])
"""What storages answer to a signed address whose time is over."""


@dataclass(frozen=True, slots=True)
class _HubFetcher:
    """One way to the hub and home: looks what is here, and brings the rest."""

    repo: HubRepo
    cache: FileCache
    config: PipConfig
    reporter: Reporter

    def find_local_files(self, commit: str, downloads: Mapping[str, DownloadRequest]) -> dict[str, tuple[str, Path]]:
        """SHA-256 and place of the files that are on the shelf, or whole in the user's own cache of the hub."""
        looked = threads.run_parallel(
            lambda name: self._find_local_file(commit, name, downloads[name]), downloads, os.cpu_count() or 1
        )
        return {name: found for name, found in zip(downloads, looked, strict=True) if found}

    def _find_local_file(self, commit: str, name: str, request: DownloadRequest) -> tuple[str, Path] | None:
        if found := _find_cached(request, self.cache):
            return found
        if (
            not (request.sha256 or request.git_sha1)
            or (cached := hub_repository.find_in_hub_cache(self.repo, commit, name)) is None
        ):
            return None
        try:
            sha256, why = download.check_file(request, cached)
        except (OSError, EOFError) as error:
            sha256, why = "", http.describe_cause(error)
        if not why:
            return sha256, cached
        self.reporter.warn(
            f"{self.repo.repo_id}: the hub's cache on this machine holds a damaged {name} ({why}); fetching it anew"
        )
        return None

    def fetch(self, missing: Mapping[str, DownloadRequest], title: str) -> dict[str, tuple[str, Path]]:
        """SHA-256 and place of files that have to be fetched."""
        if not missing:
            return {}
        disk.require_free_space(
            [
                (
                    self.cache.root,
                    remote_sizes.count_missing_bytes(((one, one.size) for one in missing.values()), self.cache),
                    title,
                )
            ]
        )
        wanted: Sequence[DownloadRequest] = list(missing.values())
        fetched = download.fetch(wanted, self.cache, self.config, self.reporter, title=title)
        for one, (_, sha256) in zip(wanted, fetched, strict=True):
            if one.git_sha1:
                self.cache.record_key(_make_git_key(one), sha256)
        return {name: (sha256, self.cache.require(sha256)) for name, (_, sha256) in zip(missing, fetched, strict=True)}


def collect_files(
    spec: ModelSpec,
    cache: FileCache,
    config: PipConfig,
    reporter: Reporter,
    *,
    commit: str = "",
    check_selection: CheckSelection = lambda _where, _names, _there, _read: None,
    retry_policy: RetryPolicy | None = None,
) -> ModelFiles:
    """The files of a repository at one commit, each checked against what the hub publishes of it.

    ``commit`` is what a lock holds, to get the same again. ``vet`` may object to the choice of files before the
    large ones are fetched. What is on the shelf or whole in the user's own cache of the hub is not fetched at all,
    and safetensors with a published digest and size are not fetched here: `Gathered.awaited` says how they are.
    Raises FetchError, ResolveError, IntegrityError, ManifestError, UnsafeError or HostError, and what ``vet`` raises.
    """
    repo = hub_repository.open_repo(spec.hub_name, spec.repo_type)
    retry_policy = retry_policy or RetryPolicy(max_tries=max(_MIN_TRIES, config.retries + 1))
    asked = spec.revision or "main"
    repo, told = hub_repository.find_revision(repo, commit or asked, config, retry_policy, reporter)
    errand = _HubFetcher(repo, cache, config, reporter)
    source = f"{spec.source}@{told.commit}"
    kept = _select_files(spec, told, source, repo, reporter)
    wanted = {name: _make_download(repo, told.files[name], told.commit, retry_policy) for name in kept}
    contents = errand.find_local_files(told.commit, wanted)

    def bring(names: Iterable[str], what: str) -> None:
        away = {name: wanted[name] for name in names if name not in contents}
        contents.update(errand.fetch(away, f"{what} {repo.repo_id}"))

    def read(name: str) -> bytes:
        bring([name], "read")
        return contents[name][1].read_bytes()

    bring([name for name in kept if not wanted[name].sha256], "read")  # what git itself holds is small
    check_selection(source, kept, tuple(told.files), read)
    late = {name for name in kept if name not in contents and _is_deferrable(spec, name, wanted[name])}
    bring([name for name in kept if name not in late], "fetch")
    contents |= {name: (wanted[name].sha256, cache.get_path(wanted[name].sha256)) for name in late}
    return ModelFiles(
        source=source,
        files=tuple(_make_source_file(repo, told.files[name], wanted[name], *contents[name]) for name in kept),
        all_files=tuple(told.files),
        commit=told.commit,
        revisions=("main",) if asked == told.commit else (asked,),
        licence=told.licence,
        deferred={wanted[name].sha256: wanted[name] for name in late},
    )


def _is_deferrable(spec: ModelSpec, name: str, request: DownloadRequest) -> bool:
    """Whether a lock can be written without a look into the file; conversion looks into all."""
    return (
        name.endswith(_DEFERRABLE_SUFFIX) and bool(request.sha256) and request.size is not None and spec.convert is None
    )


def _select_files(
    spec: ModelSpec, revision: RevisionInfo, source: str, repo: HubRepo, reporter: Reporter
) -> tuple[str, ...]:
    """The names of the files that travel; what is to be known of the choice is reported."""
    sizes = {name: listed.size or 0 for name, listed in revision.files.items()}
    chosen = file_selection.select_files(
        sizes, spec.include, spec.exclude, where=source, keep_all_formats=spec.repo_type != "model"
    )
    for name in chosen.names:
        if why := paths.find_path_problem(name):
            raise UnsafeError(f"{name!r} {why}", where=repo.page_url, hint="leave it out with exclude")
    if clashes := paths.find_collisions(chosen.names):
        raise UnsafeError("; ".join(clashes[:5]), where=repo.page_url, hint="leave one out with exclude")
    if chosen.excluded:
        reporter.note(f"{repo.repo_id}: {chosen.summary}")
    missed = file_selection.find_missed(revision.files, chosen.names)
    if missed and spec.repo_type == "model":
        reporter.warn(
            f"{repo.repo_id}: {', '.join(missed)} stay behind, which libraries would use: see include and exclude"
        )
    listed = [revision.files[name] for name in chosen.names]
    if bare := [one.path for one in listed if not (one.sha256 or one.git_sha1)]:
        shown = ", ".join(bare[:5]) + (" …" if len(bare) > 5 else "")
        reporter.warn(
            f"{repo.repo_id}: {repo.host} publishes no digest of {shown}; nothing can tell whether it is right"
        )
    return chosen.names


def _make_source_file(repo: HubRepo, file: HubFile, request: DownloadRequest, sha256: str, content: Path) -> SourceFile:
    return SourceFile(
        path=file.path,
        size=content.stat().st_size if request.size is None else request.size,
        sha256=Sha256(sha256),
        origin=http.redact_url(request.url),
        content=content,
        upstream=file.list_upstreams(repo.host),
    )


def _make_download(repo: HubRepo, file: HubFile, commit: str, retry_policy: RetryPolicy) -> DownloadRequest:
    def refused(response: requests.Response, url: str) -> Exception:
        elsewhere = urlsplit(response.url).netloc != urlsplit(pip_config.strip_credentials(url)).netloc
        if elsewhere and response.status_code in _EXPIRED_URL_STATUSES:
            return RetryableError(
                f"the signed address of the storage answers {response.status_code}: asking for a new one"
            )
        if elsewhere and response.status_code == HTTPStatus.NOT_FOUND:
            hint = "the hub lists it, so ask the hub's people; or leave it out with exclude"
            return FetchError("the hub's storage has no such file", where=http.redact_url(url), hint=hint)
        return repo.make_error(response.status_code, response.headers, http.redact_url(url), commit)

    return DownloadRequest(
        url=repo.get_file_url(file.path, commit),
        sha256=file.sha256,
        git_sha1=file.git_sha1,
        size=file.size,
        headers=repo.headers,
        make_error=refused,
        retry_policy=retry_policy,
    )


def _find_cached(request: DownloadRequest, cache: FileCache) -> tuple[str, Path] | None:
    if request.sha256:
        place = cache.find(request.sha256, request.size)
        return (request.sha256, place) if place else None
    if request.git_sha1 and (place := cache.find_by_key(_make_git_key(request))):
        sha256, why = download.check_file(request, place)
        return None if why else (sha256, place)
    return None


def _make_git_key(request: DownloadRequest) -> str:
    return f"git-blob-sha1-{request.git_sha1}"

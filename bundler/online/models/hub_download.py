"""Model files from the Hugging Face hub.

`hub_repository` asks the hub for the commit of a revision, its files and their digests. This program downloads the
files itself: the hub's own client compares only sizes, and keeps damaged files silently.
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
"""Suffix of files that can be locked by their published size and digest alone.

They hold tensors, and no code or names of other models; the build that fetches them checks that.
"""

CheckSelection = Callable[[str, Sequence[str], Sequence[str], Callable[[str], bytes]], object]
"""Gets the source, the files that travel, all files of the source, and a reader of small files that travel.

Raises an error where the model can't be used with these files.
"""

_MIN_TRIES = 6
"""At least so many tries: with the pauses between them, a hub may be out of reach for half a minute."""
_EXPIRED_URL_STATUSES = frozenset([400, 401, 403, 410])
"""What storages answer to a signed URL that has expired."""


@dataclass(frozen=True, slots=True)
class _HubFetcher:
    """Finds files of a repository on this machine, and fetches the rest."""

    repo: HubRepo
    cache: FileCache
    config: PipConfig
    reporter: Reporter

    def find_local_files(self, commit: str, downloads: Mapping[str, DownloadRequest]) -> dict[str, tuple[str, Path]]:
        """Find the SHA-256 and path of files in the cache, or intact in the user's own cache of the hub."""
        local_files = threads.run_parallel(
            lambda name: self._find_local_file(commit, name, downloads[name]), downloads, os.cpu_count() or 1
        )
        return {name: local_file for name, local_file in zip(downloads, local_files, strict=True) if local_file}

    def _find_local_file(self, commit: str, name: str, request: DownloadRequest) -> tuple[str, Path] | None:
        if cached := _find_cached(request, self.cache):
            return cached
        if not (request.sha256 or request.git_sha1):
            return None
        path = hub_repository.find_in_hub_cache(self.repo, commit, name)
        if path is None:
            return None
        try:
            sha256, problem = download.check_file(request, path)
        except (OSError, EOFError) as error:
            sha256, problem = "", http.describe_cause(error)
        if not problem:
            return sha256, path
        self.reporter.warn(
            f"{self.repo.repo_id}: the hub's cache on this machine has a damaged {name} ({problem}); fetching it again"
        )
        return None

    def fetch(self, missing: Mapping[str, DownloadRequest], title: str) -> dict[str, tuple[str, Path]]:
        """Fetch files into the cache, and return the SHA-256 and path of each."""
        if not missing:
            return {}
        download_requests: Sequence[DownloadRequest] = list(missing.values())
        size = remote_sizes.count_missing_bytes(((request, request.size) for request in download_requests), self.cache)
        disk.require_free_space([(self.cache.root, size, title)])
        fetched = download.fetch(download_requests, self.cache, self.config, self.reporter, title=title)
        for request, (_, sha256) in zip(download_requests, fetched, strict=True):
            if request.git_sha1:
                self.cache.record_key(_make_git_key(request), sha256)
        return {name: (sha256, self.cache.require(sha256)) for name, (_, sha256) in zip(missing, fetched, strict=True)}


def collect_files(
    spec: ModelSpec,
    cache: FileCache,
    config: PipConfig,
    reporter: Reporter,
    *,
    commit: str = "",
    check_selection: CheckSelection = lambda _source, _names, _all_files, _read_file: None,
    retry_policy: RetryPolicy | None = None,
) -> ModelFiles:
    """Collect the files of a repository at one commit, each checked against what the hub publishes of it.

    Files in the cache, or intact in the user's own cache of the hub, are not fetched. Safetensors with a published
    digest and size are not fetched here: they are in `ModelFiles.deferred`.

    ``commit`` is the one in a lock, to get the same files again. ``check_selection`` checks which files travel before
    the large ones are fetched.

    Raises:
        FetchError, ResolveError, IntegrityError, ManifestError, UnsafeError, HostError: and what ``check_selection``
            raises.
    """
    repo = hub_repository.open_repo(spec.hub_name, spec.repo_type)
    retry_policy = retry_policy or RetryPolicy(max_tries=max(_MIN_TRIES, config.retries + 1))
    revision = spec.revision or "main"
    repo, info = hub_repository.find_revision(repo, commit or revision, config, retry_policy, reporter)
    fetcher = _HubFetcher(repo, cache, config, reporter)
    source = f"{spec.source}@{info.commit}"
    names = _select_files(spec, info, source, repo, reporter)
    downloads = {name: _make_download(repo, info.files[name], info.commit, retry_policy) for name in names}
    contents = fetcher.find_local_files(info.commit, downloads)

    def fetch(wanted: Iterable[str], title: str) -> None:
        missing = {name: downloads[name] for name in wanted if name not in contents}
        contents.update(fetcher.fetch(missing, f"{title} {repo.repo_id}"))

    def read_file(name: str) -> bytes:
        fetch([name], "read")
        return contents[name][1].read_bytes()

    # git holds the files without SHA-256 itself: they are small
    fetch([name for name in names if not downloads[name].sha256], "read")
    check_selection(source, names, tuple(info.files), read_file)
    deferred = {name for name in names if name not in contents and _is_deferrable(spec, name, downloads[name])}
    fetch([name for name in names if name not in deferred], "fetch")
    contents |= {name: (downloads[name].sha256, cache.get_path(downloads[name].sha256)) for name in deferred}
    return ModelFiles(
        source=source,
        files=tuple(_make_source_file(repo, info.files[name], downloads[name], *contents[name]) for name in names),
        all_files=tuple(info.files),
        commit=info.commit,
        revisions=("main",) if revision == info.commit else (revision,),
        licence=info.licence,
        deferred={downloads[name].sha256: downloads[name] for name in deferred},
    )


def _is_deferrable(spec: ModelSpec, name: str, request: DownloadRequest) -> bool:
    """Return whether a file can be locked without its content; conversion reads every file."""
    return (
        name.endswith(_DEFERRABLE_SUFFIX) and bool(request.sha256) and request.size is not None and spec.convert is None
    )


def _select_files(
    spec: ModelSpec, revision: RevisionInfo, source: str, repo: HubRepo, reporter: Reporter
) -> tuple[str, ...]:
    """Select the files that travel, and report what a person should know of the selection."""
    sizes = {name: file.size or 0 for name, file in revision.files.items()}
    selection = file_selection.select_files(
        sizes, spec.include, spec.exclude, where=source, keep_all_formats=spec.repo_type != "model"
    )
    for name in selection.names:
        if problem := paths.find_path_problem(name):
            raise UnsafeError(f"{name!r} {problem}", where=repo.page_url, hint="leave it out with exclude")
    if collisions := paths.find_collisions(selection.names):
        raise UnsafeError("; ".join(collisions[:5]), where=repo.page_url, hint="leave one out with exclude")
    if selection.excluded:
        reporter.note(f"{repo.repo_id}: {selection.summary}")
    missed = file_selection.find_missed(revision.files, selection.names)
    if missed and spec.repo_type == "model":
        reporter.warn(
            f"{repo.repo_id}: {', '.join(missed)} do not travel, and libraries would use them: see include and exclude"
        )
    files = [revision.files[name] for name in selection.names]
    if unverified := [file.path for file in files if not (file.sha256 or file.git_sha1)]:
        listed = ", ".join(unverified[:5]) + (" …" if len(unverified) > 5 else "")
        reporter.warn(f"{repo.repo_id}: {repo.host} publishes no digest of {listed}, so they can't be checked")
    return selection.names


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
    def make_error(response: requests.Response, url: str) -> Exception:
        is_storage = urlsplit(response.url).netloc != urlsplit(pip_config.strip_credentials(url)).netloc
        if is_storage and response.status_code in _EXPIRED_URL_STATUSES:
            return RetryableError(f"the storage answers {response.status_code} to its signed URL: asking for a new one")
        if is_storage and response.status_code == HTTPStatus.NOT_FOUND:
            hint = "the hub lists it, so report this to the hub; or leave the file out with exclude"
            return FetchError("the hub's storage has no such file", where=http.redact_url(url), hint=hint)
        return repo.make_error(response.status_code, response.headers, http.redact_url(url), commit)

    return DownloadRequest(
        url=repo.get_file_url(file.path, commit),
        sha256=file.sha256,
        git_sha1=file.git_sha1,
        size=file.size,
        headers=repo.headers,
        make_error=make_error,
        retry_policy=retry_policy,
    )


def _find_cached(request: DownloadRequest, cache: FileCache) -> tuple[str, Path] | None:
    if request.sha256:
        path = cache.find(request.sha256, request.size)
        return (request.sha256, path) if path else None
    if request.git_sha1 and (path := cache.find_by_key(_make_git_key(request))):
        sha256, problem = download.check_file(request, path)
        return None if problem else (sha256, path)
    return None


def _make_git_key(request: DownloadRequest) -> str:
    return f"git-blob-sha1-{request.git_sha1}"

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
from bundler.online.manifest.schema import WantedModel
from bundler.online.models import file_selection, hub_repository
from bundler.online.models.hub_repository import Listed, Repo, Told
from bundler.online.models.local_sources import Gathered, SourceFile
from bundler.online.transfer import download, http, pip_config, remote_sizes, threads
from bundler.online.transfer.cache import Store
from bundler.online.transfer.download import Wanted
from bundler.online.transfer.http import AgainError, Patience
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Report

_WAITS = ".safetensors"
"""How files end that nothing but the length and the digest has to be known of: they hold tensors and no code, and no
reference to other models. Whoever fetches them sees whether that is so."""

Vet = Callable[[str, Sequence[str], Sequence[str], Callable[[str], bytes]], object]
"""Is told the source, the names of the files that travel and of all that it has, and how to read a small one that
travels; raises what it objects to."""

_TRIES = 6
"""How often at least: with the pauses in between, a hub may be away for half a minute."""
_EXPIRED = frozenset([400, 401, 403, 410])
"""What storages answer to a signed address whose time is over."""


@dataclass(frozen=True, slots=True)
class _Errand:
    """One way to the hub and home: looks what is here, and brings the rest."""

    repo: Repo
    store: Store
    config: PipConfig
    report: Report

    def look(self, commit: str, wanted: Mapping[str, Wanted]) -> dict[str, tuple[str, Path]]:
        """SHA-256 and place of the files that are on the shelf, or whole in the user's own cache of the hub."""
        looked = threads.each(lambda name: self._look(commit, name, wanted[name]), wanted, os.cpu_count() or 1)
        return {name: found for name, found in zip(wanted, looked, strict=True) if found}

    def _look(self, commit: str, name: str, wanted: Wanted) -> tuple[str, Path] | None:
        if found := _shelved(wanted, self.store):
            return found
        if not (wanted.sha256 or wanted.git_sha1) or (cached := hub_repository.cached(self.repo, commit, name)) is None:
            return None
        try:
            sha256, why = download.examined(wanted, cached)
        except (OSError, EOFError) as error:
            sha256, why = "", http.words(error)
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
        disk.require(
            [(self.store.root, remote_sizes.to_come(((one, one.size) for one in away.values()), self.store), title)]
        )
        wanted: Sequence[Wanted] = list(away.values())
        fetched = download.fetch(wanted, self.store, self.config, self.report, title=title)
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
    large ones are fetched. What is on the shelf or whole in the user's own cache of the hub is not fetched at all,
    and safetensors with a published digest and size are not fetched here: `Gathered.awaited` says how they are.
    Raises FetchError, ResolveError, IntegrityError, ManifestError, UnsafeError or HostError, and what ``vet`` raises.
    """
    repo = hub_repository.of(model.on_hub, model.repo_type)
    patience = patience or Patience(tries=max(_TRIES, config.retries + 1))
    asked = model.revision or "main"
    repo, told = hub_repository.found(repo, commit or asked, config, patience, report)
    errand = _Errand(repo, store, config, report)
    source = f"{model.source}@{told.commit}"
    kept = _chosen(model, told, source, repo, report)
    wanted = {name: _wanted(repo, told.files[name], told.commit, patience) for name in kept}
    contents = errand.look(told.commit, wanted)

    def bring(names: Iterable[str], what: str) -> None:
        away = {name: wanted[name] for name in names if name not in contents}
        contents.update(errand.bring(away, f"{what} {repo.name}"))

    def read(name: str) -> bytes:
        bring([name], "read")
        return contents[name][1].read_bytes()

    bring([name for name in kept if not wanted[name].sha256], "read")  # what git itself holds is small
    vet(source, kept, tuple(told.files), read)
    late = {name for name in kept if name not in contents and _can_wait(model, name, wanted[name])}
    bring([name for name in kept if name not in late], "fetch")
    contents |= {name: (wanted[name].sha256, store.place_of(wanted[name].sha256)) for name in late}
    return Gathered(
        source=source,
        files=tuple(_source_file(repo, told.files[name], wanted[name], *contents[name]) for name in kept),
        there=tuple(told.files),
        commit=told.commit,
        revisions=("main",) if asked == told.commit else (asked,),
        licence=told.licence,
        awaited={wanted[name].sha256: wanted[name] for name in late},
    )


def _can_wait(model: WantedModel, name: str, wanted: Wanted) -> bool:
    """Whether a lock can be written without a look into the file; conversion looks into all."""
    return name.endswith(_WAITS) and bool(wanted.sha256) and wanted.size is not None and model.convert is None


def _chosen(model: WantedModel, told: Told, source: str, repo: Repo, report: Report) -> tuple[str, ...]:
    """The names of the files that travel; what is to be known of the choice is reported."""
    sizes = {name: listed.size or 0 for name, listed in told.files.items()}
    chosen = file_selection.choose(
        sizes, model.include, model.exclude, where=source, all_kinds=model.repo_type != "model"
    )
    for name in chosen.kept:
        if why := paths.fault_of(name):
            raise UnsafeError(f"{name!r} {why}", where=repo.page, hint="leave it out with exclude")
    if clashes := paths.clashes(chosen.kept):
        raise UnsafeError("; ".join(clashes[:5]), where=repo.page, hint="leave one out with exclude")
    if chosen.left_out:
        report.note(f"{repo.name}: {chosen.words}")
    missed = file_selection.missed(told.files, chosen.kept)
    if missed and model.repo_type == "model":
        report.warn(f"{repo.name}: {', '.join(missed)} stay behind, which libraries would use: see include and exclude")
    listed = [told.files[name] for name in chosen.kept]
    if bare := [one.path for one in listed if not (one.sha256 or one.git_sha1)]:
        shown = ", ".join(bare[:5]) + (" …" if len(bare) > 5 else "")
        report.warn(f"{repo.name}: {repo.host} publishes no digest of {shown}; nothing can tell whether it is right")
    return chosen.kept


def _source_file(repo: Repo, listed: Listed, wanted: Wanted, sha256: str, content: Path) -> SourceFile:
    return SourceFile(
        path=listed.path,
        size=content.stat().st_size if wanted.size is None else wanted.size,
        sha256=Sha256(sha256),
        origin=http.address(wanted.url),
        content=content,
        upstream=listed.upstream(repo.host),
    )


def _wanted(repo: Repo, file: Listed, commit: str, patience: Patience) -> Wanted:
    def refused(response: requests.Response, url: str) -> Exception:
        elsewhere = urlsplit(response.url).netloc != urlsplit(pip_config.bare(url)).netloc
        if elsewhere and response.status_code in _EXPIRED:
            return AgainError(f"the signed address of the storage answers {response.status_code}: asking for a new one")
        if elsewhere and response.status_code == HTTPStatus.NOT_FOUND:
            hint = "the hub lists it, so ask the hub's people; or leave it out with exclude"
            return FetchError("the hub's storage has no such file", where=http.address(url), hint=hint)
        return repo.refusal(response.status_code, response.headers, http.address(url), commit)

    return Wanted(
        url=repo.url(file.path, commit),
        sha256=file.sha256,
        git_sha1=file.git_sha1,
        size=file.size,
        headers=repo.headers,
        refusal=refused,
        patience=patience,
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

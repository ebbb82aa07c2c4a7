"""What a call to another host was for: read from its address, and held against what is carried."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, unquote, urlsplit

from .asset_libraries import LIBRARIES

HUB_HOST = "huggingface.co"
FILE_KIND, REVISION_KIND, ELSEWHERE_KIND = "file", "revision", "elsewhere"

_REPOSITORY_PATH = re.compile(
    r"/(?:api/)?(?P<kind>models/|datasets/|spaces/|kernels/)?(?P<name>[^/]+(?:/[^/]+)?)/"
    r"(?P<verb>resolve|raw|revision|tree|paths-info|xet-read-token)/(?P<revision>[^/]+)(?:/(?P<file>.*))?"
)
_SHARED_VERBS = ("raw", "tree")  # GitHub's addresses have them as well
_REPOSITORY_API_PATH = re.compile(r"/api/(?P<kind>models|datasets|spaces|kernels)/(?P<name>[^/]+(?:/[^/]+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockedRequest:
    """One try to reach another host. ``asked`` is the line of code that wanted it, ``through`` the library's line
    that went for it where that is another one; ``kind`` and ``name`` say what is missing where that is plain, and of
    a repository ``revision`` and ``file`` what of it was asked for.

    Where the repository ``name`` is carried, ``kind`` says what of it is missing: ``file`` or ``revision``, or
    ``elsewhere`` for nothing, since code looked in another folder.
    """

    host: str
    url: str = ""
    asked: str = ""
    through: str = ""
    kind: str = ""
    name: str = ""
    revision: str = ""
    file: str = ""

    def format_sentence(self) -> str:
        """The whole in words."""
        what = f"{self.kind} {self.name} is not carried: " if self.name else ""
        way = f", through {self.through}" if self.through else ""
        return f"{what}a connection to {self.host} was refused ({self.url or 'address unknown'}), asked by {self.asked}{way}"


def identify_resource(
    request: BlockedRequest, names_by_library: Mapping[str, str] = MappingProxyType({})
) -> BlockedRequest:
    """Add what is missing to a request, as far as its URL says it.

    ``names_by_library`` is the data that the libraries of `asset_libraries` were asked for; see `request_origin`.
    """
    path = urlsplit(request.url).path
    for library in LIBRARIES.values():
        name = library.find_name(path)
        if not name and library.index_file and path.rpartition("/")[2] == library.index_file:
            name = names_by_library.get(library.name, "")
        if name:
            return replace(request, kind=library.name, name=name)
    if (found := _REPOSITORY_PATH.fullmatch(path)) and (
        found["verb"] not in _SHARED_VERBS or request.host in _list_hub_hosts()
    ):
        told = {"revision": unquote(found["revision"])}
        told |= {"file": unquote(found["file"] or "")} if found["verb"] in ("resolve", "raw") else {}
    elif found := _REPOSITORY_API_PATH.match(path):
        told = {}
    else:
        return request
    return replace(request, kind=get_manifest_kind((found["kind"] or "").rstrip("s/")), name=found["name"], **told)


def get_manifest_kind(repo_type: str | None) -> str:
    """What a manifest calls what the hub's client takes for this."""
    return repo_type if repo_type in ("dataset", "kernel") else "repo"


def make_repository_request(kind: str, name: str, revision: str, file: str = "") -> BlockedRequest:
    """The call that the hub's client would make for a file of a repository, or for all of one."""
    hub = os.environ.get("HF_ENDPOINT") or f"https://{HUB_HOST}"
    place = name if kind == "repo" else f"{kind}s/{name}"
    rest = f"/resolve/{quote(revision, safe='')}/{quote(file)}" if file else ""
    return BlockedRequest(
        host=urlsplit(hub).hostname or HUB_HOST, url=f"{hub.rstrip('/')}/{place}{rest}",
        kind=kind, name=name, revision=revision, file=file,
    )  # fmt: skip


def _list_hub_hosts() -> set[str]:
    return {HUB_HOST, "hf.co", urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname or HUB_HOST}


def is_bundled(request: BlockedRequest) -> bool:
    """Whether the hub view has the repository: the client then answers from it."""
    folder = _find_cache_folder(request)
    return folder is not None and folder.is_dir()


def identify_missing_part(request: BlockedRequest) -> BlockedRequest:
    """Of a call for a repository that is carried, what of it is missing."""
    folder = _find_cache_folder(request)
    if folder is None or not folder.is_dir():
        return request
    snapshot = _find_snapshot(folder, request.revision)
    if snapshot is None:
        return replace(request, kind=REVISION_KIND)
    there = not request.file or (snapshot / request.file).exists()
    return replace(request, kind=ELSEWHERE_KIND if there else FILE_KIND)


def _find_cache_folder(request: BlockedRequest) -> Path | None:
    cache = os.environ.get("HF_HUB_CACHE", "")
    kind = "model" if request.kind == "repo" else request.kind
    return Path(cache, f"{kind}s--{request.name.replace('/', '--')}") if cache and request.name else None


def _find_snapshot(folder: Path, revision: str) -> Path | None:
    """The files of a revision: a commit itself, or a name that a ref gives the commit of."""
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None

"""What a request to another host was for: read from its URL and compared with the bundle's content."""

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
_SHARED_VERBS = ("raw", "tree")  # GitHub's URLs have them as well
_REPOSITORY_API_PATH = re.compile(r"/api/(?P<kind>models|datasets|spaces|kernels)/(?P<name>[^/]+(?:/[^/]+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockedRequest:
    """One refused request to another host.

    ``asked`` is the line of code that made the request; ``through`` is the library's line that sent it, if that is
    another one. ``kind`` and ``name`` say what is missing, if known; for a repository, ``revision`` and ``file`` say
    which part of it was requested.

    If the bundle has the repository ``name``, ``kind`` says what of it is missing: ``file``, ``revision``, or
    ``elsewhere``: nothing is missing, but the code searched another folder.
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
        """Format the request as one sentence."""
        missing = f"{self.kind} {self.name} is not in the bundle: " if self.name else ""
        through = f", through {self.through}" if self.through else ""
        url = self.url or "URL unknown"
        return f"{missing}a connection to {self.host} was refused ({url}), requested by {self.asked}{through}"


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
    if (match := _REPOSITORY_PATH.fullmatch(path)) and (
        match["verb"] not in _SHARED_VERBS or request.host in _list_hub_hosts()
    ):
        details = {"revision": unquote(match["revision"])}
        details |= {"file": unquote(match["file"] or "")} if match["verb"] in ("resolve", "raw") else {}
    elif match := _REPOSITORY_API_PATH.match(path):
        details = {}
    else:
        return request
    return replace(request, kind=get_manifest_kind((match["kind"] or "").rstrip("s/")), name=match["name"], **details)


def get_manifest_kind(repo_type: str | None) -> str:
    """Return the manifest's word for a repository type of the hub's client."""
    return repo_type if repo_type in ("dataset", "kernel") else "repo"


def make_repository_request(kind: str, name: str, revision: str, file: str = "") -> BlockedRequest:
    """Make the request that the hub's client would send for a file of a repository, or for all of it."""
    hub = os.environ.get("HF_ENDPOINT") or f"https://{HUB_HOST}"
    repository = name if kind == "repo" else f"{kind}s/{name}"
    suffix = f"/resolve/{quote(revision, safe='')}/{quote(file)}" if file else ""
    return BlockedRequest(
        host=urlsplit(hub).hostname or HUB_HOST, url=f"{hub.rstrip('/')}/{repository}{suffix}",
        kind=kind, name=name, revision=revision, file=file,
    )  # fmt: skip


def _list_hub_hosts() -> set[str]:
    return {HUB_HOST, "hf.co", urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname or HUB_HOST}


def is_bundled(request: BlockedRequest) -> bool:
    """Whether the hub view has the repository. If so, the client answers from it."""
    folder = _find_cache_folder(request)
    return folder is not None and folder.is_dir()


def identify_missing_part(request: BlockedRequest) -> BlockedRequest:
    """Say which part of a bundled repository is missing; return a request for any other repository as it is."""
    folder = _find_cache_folder(request)
    if folder is None or not folder.is_dir():
        return request
    snapshot = _find_snapshot(folder, request.revision)
    if snapshot is None:
        return replace(request, kind=REVISION_KIND)
    is_present = not request.file or (snapshot / request.file).exists()
    return replace(request, kind=ELSEWHERE_KIND if is_present else FILE_KIND)


def _find_cache_folder(request: BlockedRequest) -> Path | None:
    cache = os.environ.get("HF_HUB_CACHE", "")
    kind = "model" if request.kind == "repo" else request.kind
    return Path(cache, f"{kind}s--{request.name.replace('/', '--')}") if cache and request.name else None


def _find_snapshot(folder: Path, revision: str) -> Path | None:
    """Find the folder of a revision: a commit, or a name that a ref maps to a commit."""
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None

"""What a call to another host was for: read from its address, and held against what is carried."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

HUB = "huggingface.co"
FILE, REVISION, ELSEWHERE = "file", "revision", "elsewhere"

_REPOSITORY = re.compile(
    r"/(?:api/)?(?P<kind>models/|datasets/|spaces/|kernels/)?(?P<name>[^/]+(?:/[^/]+)?)/"
    r"(?P<verb>resolve|raw|revision|tree|paths-info|xet-read-token)/(?P<revision>[^/]+)(?:/(?P<file>.*))?"
)
_OF_OTHERS_TOO = ("raw", "tree")  # GitHub's addresses have them as well
_ABOUT_A_REPOSITORY = re.compile(r"/api/(?P<kind>models|datasets|spaces|kernels)/(?P<name>[^/]+(?:/[^/]+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
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

    def sentence(self) -> str:
        """The whole in words."""
        what = f"{self.kind} {self.name} is not carried: " if self.name else ""
        way = f", through {self.through}" if self.through else ""
        return f"{what}a connection to {self.host} was refused ({self.url or 'address unknown'}), asked by {self.asked}{way}"


def of_address(call: Call, nltk: str = "") -> Call:
    """The call with what is missing, as far as its address tells; ``nltk`` is what NLTK's downloader wants."""
    path = urlsplit(call.url).path
    last = path.rpartition("/")[2]
    if last.endswith(".tiktoken"):
        return replace(call, kind="tiktoken", name=last.removesuffix(".tiktoken"))
    if "/gpt-2/encodings/" in path:
        return replace(call, kind="tiktoken", name="gpt2")
    if "/nltk_data/" in path and last.endswith(".zip"):
        return replace(call, kind="nltk", name=last.removesuffix(".zip"))
    if nltk and last == "index.xml":
        return replace(call, kind="nltk", name=nltk)
    if (found := _REPOSITORY.fullmatch(path)) and (found["verb"] not in _OF_OTHERS_TOO or call.host in _hubs()):
        told = {"revision": unquote(found["revision"])}
        told |= {"file": unquote(found["file"] or "")} if found["verb"] in ("resolve", "raw") else {}
    elif found := _ABOUT_A_REPOSITORY.match(path):
        told = {}
    else:
        return call
    return replace(call, kind=kind_of((found["kind"] or "").rstrip("s/")), name=found["name"], **told)


def kind_of(repo_type: str | None) -> str:
    """What a manifest calls what the hub's client takes for this."""
    return repo_type if repo_type in ("dataset", "kernel") else "repo"


def of_repository(kind: str, name: str, revision: str, file: str = "") -> Call:
    """The call that the hub's client would make for a file of a repository, or for all of one."""
    hub = os.environ.get("HF_ENDPOINT") or f"https://{HUB}"
    place = name if kind == "repo" else f"{kind}s/{name}"
    rest = f"/resolve/{quote(revision, safe='')}/{quote(file)}" if file else ""
    return Call(
        host=urlsplit(hub).hostname or HUB, url=f"{hub.rstrip('/')}/{place}{rest}",
        kind=kind, name=name, revision=revision, file=file,
    )  # fmt: skip


def _hubs() -> set[str]:
    return {HUB, "hf.co", urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname or HUB}


def carried(call: Call) -> bool:
    """Whether the hub view has the repository: the client then answers from it."""
    folder = _view(call)
    return folder is not None and folder.is_dir()


def told_apart(call: Call) -> Call:
    """Of a call for a repository that is carried, what of it is missing."""
    folder = _view(call)
    if folder is None or not folder.is_dir():
        return call
    snapshot = _snapshot(folder, call.revision)
    if snapshot is None:
        return replace(call, kind=REVISION)
    there = not call.file or (snapshot / call.file).exists()
    return replace(call, kind=ELSEWHERE if there else FILE)


def _view(call: Call) -> Path | None:
    cache = os.environ.get("HF_HUB_CACHE", "")
    kind = "model" if call.kind == "repo" else call.kind
    return Path(cache, f"{kind}s--{call.name.replace('/', '--')}") if cache and call.name else None


def _snapshot(folder: Path, revision: str) -> Path | None:
    """The files of a revision: a commit itself, or a name that a ref gives the commit of."""
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None

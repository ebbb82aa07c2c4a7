"""A hub on this machine: repositories by commit, LFS files on another host, tokens, and faults on demand."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support.servers.loopback import Handler, Loopback, Seen, serve, sha256

_LFS = (".safetensors", ".bin", ".pt", ".gguf", ".onnx", ".h5", ".jpg")
_HOST = re.compile(r"^http://[^/]+")
"""What stands before the path where a proxy is asked."""
_API = re.compile(r"/api/(models|datasets|kernels)/(?P<name>[^/]+/[^/]+)/(?P<verb>revision|tree)/(?P<revision>.+)")
_RESOLVE = re.compile(r"/((datasets|kernels)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@functools.lru_cache(maxsize=64)
def git_sha1(data: bytes) -> str:
    """What git names content by."""
    hashed = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    hashed.update(data)
    return hashed.hexdigest()


def is_lfs(file: str) -> bool:
    """Whether the hub keeps a file apart, on another host."""
    return file.endswith(_LFS)


@dataclass(slots=True)
class Repository:
    """Commits by their names, and who may read them."""

    kind: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    lies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the tree says of a file instead of the truth."""
    listed: int | None = None
    """How many files the answer about a revision names at most: the hub cuts long lists short and does not say so."""

    def commit(self, files: Mapping[str, bytes], ref: str = "main") -> str:
        """A new commit at a branch; its name."""
        named = "".join(f"{name} {git_sha1(data)}\n" for name, data in sorted(files.items()))
        commit = git_sha1(named.encode() + b"%d" % len(self.commits))
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        return commit

    def siblings(self, commit: str, *, blobs: bool) -> list[dict[str, Any]]:
        """The files of a commit as the hub lists them beside the model card: by name alone, unless more is asked."""
        files = self.commits[commit].items()
        if not blobs:
            return [{"rfilename": name} for name, _ in files]
        return [
            {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            | ({"lfs": {"sha256": sha256(data)} | _pointer(data)} if is_lfs(name) else {})
            for name, data in files
        ]

    def tree(self, commit: str) -> list[dict[str, Any]]:
        """The same as its tree, folders and all."""
        files = self.commits[commit].items()
        above = {str(parent) for name, _ in files for parent in PurePosixPath(name).parents} - {"."}
        return [{"type": "directory", "path": name, "size": 0, "oid": "d" * 40} for name in sorted(above)] + [
            {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
            | ({"lfs": {"oid": sha256(data)} | _pointer(data)} if is_lfs(name) else {})
            | self.lies.get(name, {})
            for name, data in files
        ]


def _pointer(data: bytes) -> dict[str, int]:
    return {"size": len(data), "pointerSize": 134}


@dataclass(slots=True)
class Hub(Loopback):
    """A hub and the storage that it sends to for large files."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    storage: Loopback = field(default_factory=Loopback)
    members: dict[str, bool] = field(default_factory=dict)
    """Tokens, and whether gated repositories are open to their account."""
    signed: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    page: int = 1000
    """How much of a tree one answer lists."""

    def repository(self, name: str, files: Mapping[str, bytes], kind: str = "models") -> Repository:
        """A new repository with one commit at main."""
        made = self.repositories[name] = Repository(kind)
        made.commit(files)
        return made

    def resolve(self, name: str, file: str) -> str:
        """The path of a file of main's commit."""
        return f"/{name}/resolve/{self.repositories[name].refs['main']}/{file}"

    def lfs(self, name: str, file: str) -> str:
        """The path of an LFS file of main's commit at the storage."""
        repository = self.repositories[name]
        data = repository.commits[repository.refs["main"]][file]
        path = f"/lfs/{sha256(data)}"
        self.storage.files[path] = data
        return path

    def fetched(self) -> list[str]:
        """The files that were asked for at the hub."""
        return [found["file"] for one in self.seen if (found := _RESOLVE.fullmatch(unquote(one.path)))]


class HubHandler(Handler):
    """Answers as the hub does, as far as its client asks."""

    place: Hub

    def do_GET(self) -> None:  # noqa: N802
        self.place.seen.append(Seen(self.command, self.path, dict(self.headers)))
        path = re.sub(_HOST, "", unquote(self.path.partition("?")[0]))
        if faults := self.place.faults.get(path):
            faults.pop(0)(self, b"")
        else:
            self.route(path)

    do_HEAD = do_GET  # noqa: N815

    def route(self, path: str) -> None:
        found = _API.fullmatch(path) or _RESOLVE.fullmatch(path)
        if found is None:
            self.answer(404, b"{}")
            return
        name = found["name"]
        if name in self.place.moved:
            self.answer(307, b"", {"Location": self.path.replace(name, self.place.moved[name], 1)})
            return
        repository = self.place.repositories.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        kind = "" if repository is None else repository.kind
        wrong = repository is not None and path.startswith("/api/") and not path.startswith(f"/api/{kind}/")
        if token and token not in self.place.members:
            self.answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or wrong or (repository.private and not token):
            self.answer(404 if token else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif (commit := repository.refs.get(found["revision"], found["revision"])) not in repository.commits:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif "verb" in found.re.groupindex:
            self.tell(name, repository, commit, found["verb"])
        elif repository.gated and not self.place.members.get(token):
            self.answer(403 if token else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            self.give(repository, commit, found["file"])

    def tell(self, name: str, repository: Repository, commit: str, verb: str) -> None:
        about = {"Content-Type": "application/json", "X-Repo-Commit": commit}
        if verb == "revision":
            blobs = parse_qs(self.path.partition("?")[2]).get("blobs") == ["true"]
            files = repository.siblings(commit, blobs=blobs)[: repository.listed]
            told: Any = {"id": name, "sha": commit, "siblings": files, "cardData": repository.card}
            told |= {"gated": "auto" if repository.gated else False, "private": repository.private}
            if repository.kind == "kernels":  # of which the client expects neither files nor a card
                told = {key: told[key] for key in ("id", "sha", "gated", "private")}
        else:
            told, follows = self.leaf(repository.tree(commit))
            about |= follows
        self.answer(200, json.dumps(told).encode(), about)

    def leaf(self, tree: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """What of a tree this answer lists, and the header that leads to the next one."""
        path, _, asked = self.path.partition("?")
        query = parse_qs(asked)
        if query.get("recursive") != ["true"]:
            tree = [one for one in tree if "/" not in one["path"]]
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.place.page
        here = f"{self.place.url.partition(':')[0]}://{self.headers['Host']}{re.sub(_HOST, '', path)}"
        follows = {"Link": f'<{here}?recursive=true&expand=false&cursor={end}>; rel="next"'} if tree[end:] else {}
        return tree[start:end], follows

    def give(self, repository: Repository, commit: str, file: str) -> None:
        if file not in repository.commits[commit]:
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        data = repository.commits[commit][file]
        about = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(data)), "ETag": f'"{git_sha1(data)}"'}
        if not is_lfs(file):
            if self.command == "HEAD":
                self.answer(200, data, about)
            else:
                self.serve(data)
            return
        digest = sha256(data)
        self.place.storage.files[f"/lfs/{digest}"] = data
        self.place.signed += 1
        where = f"{self.place.storage.url}/lfs/{digest}?signature=secret-{self.place.signed}"
        self.answer(302, b"", about | {"X-Linked-Etag": f'"{digest}"', "Location": where, "X-Xet-Hash": digest})


@contextlib.contextmanager
def serve_hub(tls: ssl.SSLContext | None = None) -> Iterator[Hub]:
    """A hub at 127.0.0.1 and its storage at localhost, for the time of the block."""
    with serve() as storage:
        storage.url = storage.url.replace("127.0.0.1", "localhost")
        hub = Hub(storage=storage)
        with serve(tls, hub, HubHandler):
            yield hub


def make_hub_env(online: dict[str, str], url: str, folder: Path) -> dict[str, str]:
    """The environment of a builder whose hub is at ``url`` and whose cache of it is empty."""
    told = {name: value for name, value in online.items() if not name.startswith("HF_")}
    return told | {"HF_ENDPOINT": url, "HF_HOME": str(folder / "hf")}

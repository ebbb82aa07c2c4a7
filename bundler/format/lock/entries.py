"""The entries of a lock: files, models, packages, and what is done with them; each checks itself when made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from bundler.format import documents, paths
from bundler.format.documents import InvalidValueError, UnsafeValueError, describe_field
from bundler.format.hashing import Sha256

INSTALLER = "bundle.pyz"
TRUSTED_INSTALLER = "bundle-installer.pyz"
"""The installer that came another way than the bundle. No member of a bundle has this name: unpacking a bundle must
not overwrite the one program that can tell whether the bundle is genuine."""
REQUIREMENTS = "requirements.txt"
BLOBS_FOLDER = "images/blobs/sha256/"
"""Where the blobs of a carried base image stand, each under its own digest (OCI image layout)."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.:-]{0,250}[a-z0-9])?")
_PACKAGE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PACKAGE_VERSION = re.compile(r"[A-Za-z0-9.!+_-]{1,200}")

ArtifactKind = Literal["installer", "requirements", "tool", "wheel", "model", "asset", "image", "app"]
Resolver = Literal["uv", "pip-tools"]
RepoType = Literal["model", "dataset", "kernel"]
"""What the Hugging Face hub takes a repository for; each has addresses and cache folders of its own."""
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset", "kernel")
KIND_FOLDERS: Mapping[ArtifactKind, str] = {
    "installer": INSTALLER,
    "requirements": REQUIREMENTS,
    "tool": "tools/",
    "wheel": "wheels/",
    "model": "models/",
    "asset": "assets/",
    "image": "images/",
    "app": "app/",
}
"""Where artifacts of each kind stand, in the order in which they stand."""
ENVIRONMENT_PART, APPLICATION_PART = "environment", "app"
"""Parts of a bundle besides its models that can be installed ahead of the rest."""
BUILT_ORIGIN_PREFIX = "built here from "
"""Begins the origin of a wheel that was built from source code; its address and digest follow."""
SOURCE_DIGEST_ALGORITHM = "sha256 of the source code"
"""Names a digest that is published for the source code that a wheel was built from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """A digest that whoever published a file gives for it."""

    algorithm: str = describe_field("sha256, or another that the publisher uses")
    digest: str = describe_field("in hexadecimal")
    publisher: str = describe_field("who says so: the index, hub, or manifest")


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file of a bundle. Can't be made with a path that is absolute, climbs, or means harm to a host."""

    path: str = describe_field("where it stands in the bundle; relative, with /")
    kind: ArtifactKind = describe_field("what it is for")
    size: int = describe_field("bytes")
    sha256: Sha256 = describe_field("64 hexadecimal digits")
    origin: str = describe_field("where it came from, without credentials")
    upstream: tuple[Upstream, ...] = describe_field("digests that were published for it; empty: none was", default=())

    def __post_init__(self) -> None:
        if why := paths.find_path_problem(self.path):
            raise (UnsafeValueError if paths.has_traversal(self.path) else InvalidValueError)(
                f"{self.path!r} {why}", "path"
            )
        home = KIND_FOLDERS[self.kind]
        if not (self.path == home or (home.endswith("/") and self.path.startswith(home) and self.path != home)):
            raise InvalidValueError(f"{self.path!r} is not where a {self.kind} stands ({home})", "path")
        if not 0 <= self.size < 1 << 53:
            raise InvalidValueError("must be a number of bytes", "size")

    @property
    def mode(self) -> int:
        """Permission bits, from what the file is and never from a umask."""
        return 0o755 if self.kind == "installer" else 0o644


def make_hub_folder(repo_type: RepoType, repo_id: str) -> str:
    """Names a repository's folder in a hub cache, as huggingface_hub does."""
    return f"{repo_type}s--{repo_id.replace('/', '--')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model: its files are the artifacts below ``models/ALIAS/``."""

    alias: str = describe_field("names it in the bundle and on the host")
    source: str = describe_field(
        "where it came from: repo:…@COMMIT, dataset:…@COMMIT, kernel:…@COMMIT, path:…, url:…, wheel:…"
    )
    repo_id: str = describe_field("the hub id that unmodified code asks for; empty: none", default="")
    commit: str = describe_field(
        "40 hexadecimal digits: the hub's commit, or the start of digest where there is no hub"
    )
    revisions: tuple[str, ...] = describe_field("names that it answers to in the hub view", default=("main",))
    loader: str = describe_field("how the smoke load opens it")
    licence: str = describe_field("as its files state it; empty: they do not", default="")
    trust_remote_code: bool = describe_field("whether the smoke load lets it run code of its own", default=False)
    digest: Sha256 = describe_field(
        "SHA-256 over the lines of its files in SHA256SUMS form, paths relative to the model"
    )

    def __post_init__(self) -> None:
        documents.raise_together(self._iter_errors())

    def _iter_errors(self) -> Iterator[InvalidValueError]:
        if not _ALIAS.fullmatch(self.alias) or paths.find_path_problem(self.alias):
            yield InvalidValueError(f"{self.alias!r} must be letters, digits, '.', '_', '-'", "alias")
        if self.repo_id and not _REPO_ID.fullmatch(self.repo_id):
            yield InvalidValueError(f"{self.repo_id!r} is not such as ORG/NAME", "repo_id")
        if not _COMMIT.fullmatch(self.commit):
            yield InvalidValueError("must be 40 lower-case hexadecimal digits", "commit")
        for name in self.revisions:
            if not _REVISION.fullmatch(name) or paths.find_path_problem(name):
                yield InvalidValueError(f"{name!r} is not the name of a revision", "revisions")
        if found := paths.find_collisions({"main", *self.revisions}):
            yield InvalidValueError("; ".join(found), "revisions")

    @property
    def folder(self) -> str:
        """Where its files stand in the bundle, with a slash at the end."""
        return f"models/{self.alias}/"

    @property
    def part(self) -> str:
        """Names it among the parts that can be installed ahead of the rest."""
        return f"model:{self.alias}"

    @property
    def repo_type(self) -> RepoType:
        """What the hub's client has to take it for."""
        kind = self.source.partition(":")[0]
        return "dataset" if kind == "dataset" else "kernel" if kind == "kernel" else "model"

    @property
    def hub_folder(self) -> str:
        """Names its folder in a hub cache, as huggingface_hub does."""
        return self.get_hub_folder(self.repo_type)

    def get_hub_folder(self, repo_type: RepoType) -> str:
        """The same for a client that takes it for this."""
        return make_hub_folder(repo_type, self.repo_id)

    @property
    def host_folder(self) -> str:
        """Names its folder on the host, shared by the releases that hold the same files."""
        return f"{self.alias}-{self.digest[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PickleFile:
    """A model's file that is a pickle, and what a scanner found in it: what is dangerous can't be in a lock."""

    path: str = describe_field("its artifact")
    scanner: str = describe_field("program and version")
    verdict: Literal["innocuous", "suspicious"] = describe_field(
        "suspicious: it imports what the scanner does not know"
    )
    globals: tuple[str, ...] = describe_field(
        "what it imports beyond what rebuilds tensors; empty: nothing", default=()
    )

    def __post_init__(self) -> None:
        if bool(self.globals) != (self.verdict == "suspicious"):
            raise InvalidValueError("goes with the verdict 'suspicious', and that with it", "globals")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """A model's file that was made from another while building, every tensor compared."""

    path: str = describe_field("its artifact")
    source: str = describe_field("where the file came from that it was made from")
    sha256: Sha256 = describe_field("of that file")
    by: str = describe_field("programs and versions")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDependency:
    """A model's file that names another model, without which it does not load."""

    model: str = describe_field("alias of the model that reaches out")
    file: str = describe_field("its file that says so, relative to the model")
    reason: str = describe_field("what is named there, in words")
    to: str = describe_field("alias of the model that is named")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A Python package at the version that was resolved."""

    name: str = describe_field("normalised name")
    version: str = describe_field("as the wheel states it")
    wheel: str = describe_field("path of its artifact")

    def __post_init__(self) -> None:
        if not _PACKAGE_NAME.fullmatch(self.name):
            raise InvalidValueError(f"{self.name!a} is not a normalised name (PEP 503)", "name")
        if not _PACKAGE_VERSION.fullmatch(self.version):
            raise InvalidValueError(f"{self.version!a} is not a version", "version")


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonEnvironment:
    """The Python environment: what was asked for and what that turned out to be."""

    requirements: tuple[str, ...] = describe_field("as asked for, files read in", default=())
    packages: tuple[Package, ...] = describe_field("every package of the environment", default=())
    resolver: Resolver = describe_field("what chose their versions", default="uv")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeSettings:
    """How every model proves itself on the host."""

    device: Literal["cpu", "cuda", "auto"] = describe_field("where to load", default="cpu")
    texts: tuple[str, ...] = describe_field("what to embed; empty: the standard texts", default=())
    closer: tuple[tuple[str, ...], ...] = describe_field(
        "[query, nearer, farther]: the first must be nearer to the second", default=()
    )
    tolerance: str = describe_field("how far outputs may be from the golden ones, a decimal string", default="0.001")
    ram_limit: int = describe_field("bytes of memory that a load may take; 0: no limit", default=0)
    tolerate_calls: tuple[str, ...] = describe_field("hosts that a load may ask in vain", default=())

    def __post_init__(self) -> None:
        documents.raise_together(self._iter_errors())

    def _iter_errors(self) -> Iterator[InvalidValueError]:
        try:
            fits = 0 <= Decimal(self.tolerance) <= 2
        except InvalidOperation:
            fits = False
        if not fits:
            yield InvalidValueError(
                f"must be a decimal number between 0 and 2, in quotes, not {self.tolerance!r}", "tolerance"
            )
        if any(len(three) != 3 for three in self.closer):
            yield InvalidValueError("must hold lists of three texts: [query, nearer, farther]", "closer")
        if self.ram_limit < 0:
            yield InvalidValueError("must not be negative", "ram_limit")
        for host in self.tolerate_calls:
            if not _HOST.fullmatch(host):
                yield InvalidValueError(f"{host!r} is not the name of a host, in lower case", "tolerate_calls")


@dataclass(frozen=True, kw_only=True, slots=True)
class App:
    """The application: its files are the artifacts below ``app/``."""

    entrypoint: tuple[str, ...] = describe_field("what starts it, run in its folder; empty: Python", default=())

    def __post_init__(self) -> None:
        if not all(self.entrypoint):
            raise InvalidValueError("must hold no empty word", "entrypoint")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """The container image that the release can be baked into.

    Where the base image is carried, its OCI image layout is the artifacts below ``images/``.
    """

    base: str = describe_field(
        "base image, by the name that a registry has it under; empty: none was named", default=""
    )
    digest: str = describe_field(
        "sha256:… of the base's manifest for the target's platform; empty: not pinned", default=""
    )
    user: int = describe_field("numeric user of the service", default=1000)

    def __post_init__(self) -> None:
        documents.raise_together(self._iter_errors())

    def _iter_errors(self) -> Iterator[InvalidValueError]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*|", self.base):
            yield InvalidValueError(f"{self.base!r} is not the name of an image", "base")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}|", self.digest) or (self.digest and not self.base):
            yield InvalidValueError("must be sha256: and 64 hexadecimal digits, and belong to a base", "digest")
        if not 0 <= self.user < 1 << 31:
            yield InvalidValueError("must be a user's number", "user")

    @property
    def manifest_path(self) -> str:
        """Where the base's manifest stands in the bundle when the base is carried."""
        return f"{BLOBS_FOLDER}{self.digest.partition(':')[2]}"

    @property
    def loaded_name(self) -> str:
        """What a carried base is called once an engine has loaded it: no registry can be meant by it."""
        return f"localhost/bundle-base:{self.digest.partition(':')[2][:12]}"

    @property
    def pinned_name(self) -> str:
        """The base in a registry, by digest; engines differ on names that have a tag besides."""
        repository = self.base.partition("@")[0]
        if ":" in repository.rpartition("/")[2]:
            repository = repository.rpartition(":")[0]
        return f"{repository}@{self.digest}"

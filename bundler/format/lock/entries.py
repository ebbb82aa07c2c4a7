"""The entries of a lock: files, models, packages and settings. Each checks itself when it is made."""

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
"""The installer that came separately from the bundle. No bundle has a member of this name: unpacking a bundle must not
overwrite the program that checks it."""
REQUIREMENTS = "requirements.txt"
BLOBS_FOLDER = "images/blobs/sha256/"
"""Folder of the blobs of a bundled base image, each named by its digest (OCI image layout)."""

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
"""Kinds of repositories on the Hugging Face hub. Each has URLs and cache folders of its own."""
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
"""The file or folder of each kind of artifact, in the order of the bundle."""
ENVIRONMENT_PART, APPLICATION_PART = "environment", "app"
"""Parts of a bundle, besides its models, that can be installed before the rest."""
BUILT_ORIGIN_PREFIX = "built here from "
"""Starts the origin of a wheel that was built from source code. URL and digest of the source follow."""
SOURCE_DIGEST_ALGORITHM = "sha256 of the source code"
"""The algorithm of a digest that was published for the source code of a wheel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """A digest that the publisher of a file states."""

    algorithm: str = describe_field("sha256, or another that the publisher uses")
    digest: str = describe_field("in hexadecimal")
    publisher: str = describe_field("who states it: an index, the hub or the manifest")


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file of a bundle. Its path can't be absolute, leave its folder, or be unsafe on a host."""

    path: str = describe_field("path in the bundle; relative, with /")
    kind: ArtifactKind = describe_field("what it is used for")
    size: int = describe_field("bytes")
    sha256: Sha256 = describe_field("64 hexadecimal digits")
    origin: str = describe_field("where it came from, without credentials")
    upstream: tuple[Upstream, ...] = describe_field("digests that were published for it; empty: none", default=())

    def __post_init__(self) -> None:
        if problem := paths.find_path_problem(self.path):
            raise (UnsafeValueError if paths.has_traversal(self.path) else InvalidValueError)(
                f"{self.path!r} {problem}", "path"
            )
        folder = KIND_FOLDERS[self.kind]
        if not (self.path == folder or (folder.endswith("/") and self.path.startswith(folder) and self.path != folder)):
            raise InvalidValueError(
                f"{self.path!r} is not where an artifact of kind {self.kind} belongs ({folder})", "path"
            )
        if not 0 <= self.size < 1 << 53:
            raise InvalidValueError("must be a number of bytes", "size")

    @property
    def mode(self) -> int:
        """Permission bits. They depend on the kind of file only, never on a umask."""
        return 0o755 if self.kind == "installer" else 0o644


def make_hub_folder(repo_type: RepoType, repo_id: str) -> str:
    """Return the name of a repository's folder in a hub cache, like huggingface_hub."""
    return f"{repo_type}s--{repo_id.replace('/', '--')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model. Its files are the artifacts below ``models/ALIAS/``."""

    alias: str = describe_field("name in the bundle and on the host")
    source: str = describe_field(
        "where it came from: repo:…@COMMIT, dataset:…@COMMIT, kernel:…@COMMIT, path:…, url:…, wheel:…"
    )
    repo_id: str = describe_field("hub id that unmodified code requests; empty: none", default="")
    commit: str = describe_field(
        "40 hexadecimal digits: commit on the hub, or the start of digest if it is not from the hub"
    )
    revisions: tuple[str, ...] = describe_field("names of its revision in the hub cache", default=("main",))
    loader: str = describe_field("library that the smoke load uses")
    licence: str = describe_field("licence that its files state; empty: none", default="")
    trust_remote_code: bool = describe_field("whether the smoke load may run code from the model", default=False)
    digest: Sha256 = describe_field(
        "SHA-256 over the lines of its files in SHA256SUMS form, paths relative to the model"
    )

    def __post_init__(self) -> None:
        documents.raise_together(self._iter_errors())

    def _iter_errors(self) -> Iterator[InvalidValueError]:
        if not _ALIAS.fullmatch(self.alias) or paths.find_path_problem(self.alias):
            yield InvalidValueError(f"{self.alias!r} must consist of letters, digits, '.', '_', '-'", "alias")
        if self.repo_id and not _REPO_ID.fullmatch(self.repo_id):
            yield InvalidValueError(f"{self.repo_id!r} is not a hub id such as ORG/NAME", "repo_id")
        if not _COMMIT.fullmatch(self.commit):
            yield InvalidValueError("must be 40 lower-case hexadecimal digits", "commit")
        for name in self.revisions:
            if not _REVISION.fullmatch(name) or paths.find_path_problem(name):
                yield InvalidValueError(f"{name!r} is not the name of a revision", "revisions")
        if collisions := paths.find_collisions({"main", *self.revisions}):
            yield InvalidValueError("; ".join(collisions), "revisions")

    @property
    def folder(self) -> str:
        """Its folder in the bundle, with a slash at the end."""
        return f"models/{self.alias}/"

    @property
    def part(self) -> str:
        """Its name among the parts of a bundle."""
        return f"model:{self.alias}"

    @property
    def repo_type(self) -> RepoType:
        """The kind of its repository on the hub."""
        kind = self.source.partition(":")[0]
        return "dataset" if kind == "dataset" else "kernel" if kind == "kernel" else "model"

    @property
    def hub_folder(self) -> str:
        """The name of its folder in a hub cache."""
        return self.get_hub_folder(self.repo_type)

    def get_hub_folder(self, repo_type: RepoType) -> str:
        """Return the name of its folder for a client that requests this kind of repository."""
        return make_hub_folder(repo_type, self.repo_id)

    @property
    def host_folder(self) -> str:
        """The name of its folder on the host. Releases with the same files share it."""
        return f"{self.alias}-{self.digest[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PickleFile:
    """A pickle among a model's files, and what a scanner found in it. A lock can't have a dangerous one."""

    path: str = describe_field("path of its artifact")
    scanner: str = describe_field("program and version")
    verdict: Literal["innocuous", "suspicious"] = describe_field(
        "suspicious: it imports something that the scanner does not know"
    )
    globals: tuple[str, ...] = describe_field(
        "what it imports besides functions that rebuild tensors; empty: nothing", default=()
    )

    def __post_init__(self) -> None:
        if bool(self.globals) != (self.verdict == "suspicious"):
            raise InvalidValueError("must be given if and only if the verdict is 'suspicious'", "globals")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """A model's file that the build converted from another one, with every tensor compared."""

    path: str = describe_field("path of its artifact")
    source: str = describe_field("origin of the original file")
    sha256: Sha256 = describe_field("SHA-256 of the original file")
    by: str = describe_field("programs and versions that converted it")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDependency:
    """A model that does not load without another one, and the file that names it."""

    model: str = describe_field("alias of the model that needs another")
    file: str = describe_field("its file that names the other, relative to the model")
    reason: str = describe_field("what the file says")
    to: str = describe_field("alias of the other model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A resolved Python package."""

    name: str = describe_field("normalised name")
    version: str = describe_field("version that the wheel states")
    wheel: str = describe_field("path of its artifact")

    def __post_init__(self) -> None:
        if not _PACKAGE_NAME.fullmatch(self.name):
            raise InvalidValueError(f"{self.name!a} is not a normalised name (PEP 503)", "name")
        if not _PACKAGE_VERSION.fullmatch(self.version):
            raise InvalidValueError(f"{self.version!a} is not a version", "version")


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonEnvironment:
    """The Python environment: its requirements and the resolved packages."""

    requirements: tuple[str, ...] = describe_field("requirements of the manifest and its files", default=())
    packages: tuple[Package, ...] = describe_field("every package of the environment", default=())
    resolver: Resolver = describe_field("program that chose the versions", default="uv")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeSettings:
    """How every model is checked on the host."""

    device: Literal["cpu", "cuda", "auto"] = describe_field("device to load on", default="cpu")
    texts: tuple[str, ...] = describe_field("texts to embed; empty: the standard texts", default=())
    closer: tuple[tuple[str, ...], ...] = describe_field(
        "[query, nearer, farther]: the query must be nearer to the second text than to the third", default=()
    )
    tolerance: str = describe_field(
        "largest allowed difference from the golden outputs, a decimal string", default="0.001"
    )
    ram_limit: int = describe_field("bytes of memory that a load may take; 0: no limit", default=0)
    tolerate_calls: tuple[str, ...] = describe_field("hosts that a load may request without success", default=())

    def __post_init__(self) -> None:
        documents.raise_together(self._iter_errors())

    def _iter_errors(self) -> Iterator[InvalidValueError]:
        try:
            is_allowed = 0 <= Decimal(self.tolerance) <= 2
        except InvalidOperation:
            is_allowed = False
        if not is_allowed:
            yield InvalidValueError(
                f"must be a decimal number between 0 and 2, in quotes, not {self.tolerance!r}", "tolerance"
            )
        if any(len(texts) != 3 for texts in self.closer):
            yield InvalidValueError("must have lists of three texts: [query, nearer, farther]", "closer")
        if self.ram_limit < 0:
            yield InvalidValueError("must not be negative", "ram_limit")
        for host in self.tolerate_calls:
            if not _HOST.fullmatch(host):
                yield InvalidValueError(f"{host!r} is not a host name in lower case", "tolerate_calls")


@dataclass(frozen=True, kw_only=True, slots=True)
class App:
    """The application. Its files are the artifacts below ``app/``."""

    entrypoint: tuple[str, ...] = describe_field("command that starts it, in its folder; empty: Python", default=())

    def __post_init__(self) -> None:
        if not all(self.entrypoint):
            raise InvalidValueError("must not have an empty argument", "entrypoint")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """The container image that can be built from the release.

    If the bundle has the base image, the artifacts below ``images/`` are its OCI image layout.
    """

    base: str = describe_field("name of the base image in a registry; empty: none", default="")
    digest: str = describe_field(
        "sha256:… of the base image's manifest for the target's platform; empty: not pinned", default=""
    )
    user: int = describe_field("number of the service's user", default=1000)

    def __post_init__(self) -> None:
        documents.raise_together(self._iter_errors())

    def _iter_errors(self) -> Iterator[InvalidValueError]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*|", self.base):
            yield InvalidValueError(f"{self.base!r} is not the name of an image", "base")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}|", self.digest) or (self.digest and not self.base):
            yield InvalidValueError("must be sha256: and 64 hexadecimal digits, and needs a base", "digest")
        if not 0 <= self.user < 1 << 31:
            yield InvalidValueError("must be a user's number", "user")

    @property
    def manifest_path(self) -> str:
        """Path of the base image's manifest in a bundle that has the base image."""
        return f"{BLOBS_FOLDER}{self.digest.partition(':')[2]}"

    @property
    def loaded_name(self) -> str:
        """Name of a bundled base image after an engine has loaded it. It can't be mistaken for one in a registry."""
        return f"localhost/bundle-base:{self.digest.partition(':')[2][:12]}"

    @property
    def pinned_name(self) -> str:
        """Name of the base image in a registry, by digest only: engines disagree on names with tag and digest."""
        repository = self.base.partition("@")[0]
        if ":" in repository.rpartition("/")[2]:
            repository = repository.rpartition(":")[0]
        return f"{repository}@{self.digest}"

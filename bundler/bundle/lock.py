"""What a bundle holds, byte for byte. All that both sides know.

The lock is the only index: ``build`` computes it, it is what a signature covers, it is the first
member of the bundle, and ``install`` checks against it. docs/format.md describes it field by field.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Literal

from bundler.bundle import envfile, fields, paths
from bundler.bundle.fields import Invalid, about
from bundler.bundle.hashing import digest_of
from bundler.bundle.target import Target
from bundler.errors import IntegrityError

FORMAT = 1
LOCK = "bundle.json"
SIGNATURE = "bundle.sig"
SUMS = "SHA256SUMS"
INSTALLER = "bundle.pyz"
REQUIREMENTS = "requirements.txt"
HEAD_MEMBERS = (LOCK, SIGNATURE, SUMS)

LARGEST_LOCK = 32 << 20
"""Bytes that a reader takes in before it has checked anything."""
MOST_ARTIFACTS = 100_000
MOST_MODELS = 1_000
LARGEST_HEAD = 256 << 20
HEAD_UNIT = 64 << 10
EPOCH = 315532800
"""1980-01-01: the earliest time that every archive format can hold."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_PACKAGE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PACKAGE_VERSION = re.compile(r"[A-Za-z0-9.!+_-]{1,200}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Kind = Literal["installer", "requirements", "tool", "wheel", "model", "asset"]
FOLDERS: Mapping[Kind, str] = {
    "installer": INSTALLER,
    "requirements": REQUIREMENTS,
    "tool": "tools/",
    "wheel": "wheels/",
    "model": "models/",
    "asset": "assets/",
}
"""Where artifacts of each kind stand, in the order in which they stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """A digest that whoever published a file gives for it."""

    algorithm: str = about("sha256, or another that the publisher uses")
    digest: str = about("in hexadecimal")
    publisher: str = about("who says so: the index, hub, or manifest")


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file of a bundle. Can't be made with a path that is absolute, climbs, or means harm to a host."""

    path: str = about("where it stands in the bundle; relative, with /")
    kind: Kind = about("what it is for")
    size: int = about("bytes")
    sha256: str = about("64 hexadecimal digits")
    origin: str = about("where it came from, without credentials")
    upstream: tuple[Upstream, ...] = about("digests that were published for it; empty: none was", default=())

    def __post_init__(self) -> None:
        if why := paths.fault_of(self.path):
            raise Invalid(f"{self.path!r} {why}", "path")
        home = FOLDERS[self.kind]
        if not (self.path == home or (home.endswith("/") and self.path.startswith(home) and self.path != home)):
            raise Invalid(f"{self.path!r} is not where a {self.kind} stands ({home})", "path")
        if not 0 <= self.size < 1 << 60:
            raise Invalid("must be a number of bytes", "size")
        if not _DIGEST.fullmatch(self.sha256):
            raise Invalid("must be 64 lower-case hexadecimal digits", "sha256")

    @property
    def mode(self) -> int:
        """Permission bits, from what the file is and never from a umask."""
        return 0o755 if self.kind == "installer" else 0o644


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model: its files are the artifacts below ``models/ALIAS/``."""

    alias: str = about("names it in the bundle and on the host")
    source: str = about("where it came from, as asked for: repo:…@COMMIT, dataset:…@COMMIT, path:…, url:…, wheel:…")
    repo_id: str = about("the hub id that unmodified code asks for; empty: none", default="")
    commit: str = about("40 hexadecimal digits: the hub's commit, or the start of digest where there is no hub")
    revisions: tuple[str, ...] = about("names that it answers to in the hub view", default=("main",))
    loader: str = about("how the smoke load opens it")
    licence: str = about("as its files state it; empty: they do not", default="")
    digest: str = about("SHA-256 over the lines of its files in SHA256SUMS form, paths relative to the model")

    def __post_init__(self) -> None:
        if not _ALIAS.fullmatch(self.alias) or paths.fault_of(self.alias):
            raise Invalid(f"{self.alias!r} must be letters, digits, '.', '_', '-'", "alias")
        if self.repo_id and not _REPO_ID.fullmatch(self.repo_id):
            raise Invalid(f"{self.repo_id!r} is not such as ORG/NAME", "repo_id")
        if not _COMMIT.fullmatch(self.commit):
            raise Invalid("must be 40 lower-case hexadecimal digits", "commit")
        if not _DIGEST.fullmatch(self.digest):
            raise Invalid("must be 64 lower-case hexadecimal digits", "digest")
        for name in self.revisions:
            if not _REVISION.fullmatch(name) or paths.fault_of(name):
                raise Invalid(f"{name!r} is not the name of a revision", "revisions")
        if found := paths.clashes({"main", *self.revisions}):
            raise Invalid("; ".join(found), "revisions")

    @property
    def folder(self) -> str:
        """Where its files stand in the bundle, with a slash at the end."""
        return f"models/{self.alias}/"

    @property
    def hub_folder(self) -> str:
        """Names its folder in a hub cache, as huggingface_hub does."""
        kind = "datasets" if self.source.startswith("dataset:") else "models"
        return f"{kind}--{self.repo_id.replace('/', '--')}"

    @property
    def home(self) -> str:
        """Names its folder on the host, shared by the releases that hold the same files."""
        return f"{self.alias}-{self.digest[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A Python package at the version that was resolved."""

    name: str = about("normalised name")
    version: str = about("as the wheel states it")
    wheel: str = about("path of its artifact")

    def __post_init__(self) -> None:
        if not _PACKAGE.fullmatch(self.name):
            raise Invalid(f"{self.name!a} is not a normalised name (PEP 503)", "name")
        if not _PACKAGE_VERSION.fullmatch(self.version):
            raise Invalid(f"{self.version!a} is not a version", "version")


@dataclass(frozen=True, kw_only=True, slots=True)
class Python:
    """The Python environment: what was asked for and what that turned out to be."""

    requirements: tuple[str, ...] = about("as asked for, files read in", default=())
    packages: tuple[Package, ...] = about("every package of the environment", default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Smoke:
    """How every model proves itself on the host."""

    device: Literal["cpu", "cuda", "auto"] = about("where to load", default="cpu")
    texts: tuple[str, ...] = about("what to embed; empty: the standard texts", default=())
    closer: tuple[tuple[str, ...], ...] = about(
        "[query, nearer, farther]: the first must be nearer to the second", default=()
    )
    tolerance: str = about("cosine distance to the golden outputs, a decimal string", default="0.001")
    ram_limit: int = about("bytes of memory that a load may take; 0: no limit", default=0)

    def __post_init__(self) -> None:
        try:
            fits = 0 <= Decimal(self.tolerance) <= 2
        except InvalidOperation:
            fits = False
        if not fits:
            raise Invalid(f"must be a decimal number between 0 and 2, in quotes, not {self.tolerance!r}", "tolerance")
        if any(len(three) != 3 for three in self.closer):
            raise Invalid("must hold lists of three texts: [query, nearer, farther]", "closer")
        if self.ram_limit < 0:
            raise Invalid("must not be negative", "ram_limit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """The container image that the release can be baked into."""

    base: str = about("base image, by a name that the closed network's engine has loaded", default="")
    user: int = about("numeric user of the service", default=1000)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*|", self.base):
            raise Invalid(f"{self.base!r} is not the name of an image", "base")
        if not 0 <= self.user < 1 << 31:
            raise Invalid("must be a user's number", "user")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The bill of materials of one bundle; ``canonical`` gives the bytes that are signed."""

    format: Literal[1] = 1
    name: str
    version: str
    sequence: int = about("grows with each bundle: what 'older' means")
    created_by: str = about("the program that made it")
    source_date_epoch: int = about("seconds since 1970: the time of every member", default=EPOCH)
    manifest_sha256: str
    target: Target
    models: tuple[Model, ...] = ()
    python: Python = field(default_factory=Python)
    smoke: Smoke = field(default_factory=Smoke)
    rehearsed: bool = about("whether the builder installed it with the network cut", default=False)
    env: Mapping[str, str] = about("into .env.offline, placeholders unfilled", default_factory=dict)
    image: Image = field(default_factory=Image)
    head_size: int = about("bytes before the content of bundle.pyz; a multiple of 65536")
    artifacts: tuple[Artifact, ...]

    def __post_init__(self) -> None:
        for name, pattern in (("name", _NAME), ("version", _VERSION), ("manifest_sha256", _DIGEST)):
            if not pattern.fullmatch(value := getattr(self, name)) or paths.fault_of(value):
                raise Invalid(f"{value!r} is not a valid {name}", name)
        if not 0 <= self.source_date_epoch < 1 << 33:
            raise Invalid("must be seconds that a tar header can hold", "source_date_epoch")
        if not 0 <= self.sequence < 1 << 53:
            raise Invalid("must be a whole number that JSON can hold", "sequence")
        if self.head_size % HEAD_UNIT or not 0 < self.head_size <= LARGEST_HEAD:
            raise Invalid(f"must be a multiple of {HEAD_UNIT} up to {LARGEST_HEAD}", "head_size")
        self._check_words()
        self._check_env()
        self._check_artifacts()
        self._check_models()
        self._check_packages()

    def _check_words(self) -> None:
        """What is shown to a person must not be able to draw on a terminal or pretend to be another line."""
        document = fields.encode(self)
        document["smoke"] = {}  # texts to embed may hold anything, and are shown quoted
        for where, text in fields.strings(document):
            if bad := paths.unprintable_in(text):
                raise Invalid(f"{fields.spelled(where)} holds {bad!a}, which may not be shown", str(where[0]))

    def _check_env(self) -> None:
        """What is rendered into files of the host must not be able to say more than a value."""
        known = {"model": {model.alias for model in self.models}, "release": {""}}
        known["asset"] = {artifact.path.removeprefix("assets/") for artifact in self.of_kind("asset")}
        for name, value in self.env.items():
            if not _VARIABLE.fullmatch(name):
                raise Invalid(f"{name!r} is not the name of a variable", "env")
            if why := envfile.fault_of(name, value):
                raise Invalid(f"{name} {why}", "env")
            if bad := [found for what, found in envfile.placeholders(value) if found not in known[what]]:
                raise Invalid(f"{name} names {bad[0]!r}, which the bundle does not hold", "env")

    def _check_artifacts(self) -> None:
        if len(self.artifacts) > MOST_ARTIFACTS:
            raise Invalid(f"holds more than {MOST_ARTIFACTS} files", "artifacts")
        if not self.artifacts or self.artifacts[0].path != INSTALLER:
            raise Invalid(f"must begin with {INSTALLER}", "artifacts")
        kinds = [list(FOLDERS).index(artifact.kind) for artifact in self.artifacts]
        if kinds != sorted(kinds):
            raise Invalid(f"must stand in the order {', '.join(FOLDERS)}", "artifacts")
        if found := paths.clashes([*HEAD_MEMBERS, *(artifact.path for artifact in self.artifacts)]):
            raise Invalid("; ".join(found[:5]), "artifacts")

    def _check_models(self) -> None:
        if len(self.models) > MOST_MODELS:
            raise Invalid(f"holds more than {MOST_MODELS} models", "models")
        hub_folders = [model.hub_folder for model in self.models if model.repo_id]
        if found := [*paths.clashes(model.alias for model in self.models), *paths.clashes(hub_folders)]:
            raise Invalid("; ".join(found[:5]), "models")
        owned: dict[str, list[Artifact]] = {model.alias: [] for model in self.models}
        for artifact in self.artifacts:
            if artifact.kind == "model":
                alias = artifact.path.split("/")[1]
                if alias not in owned or artifact.path.count("/") < 2:
                    raise Invalid(f"{artifact.path!r} belongs to no model", "artifacts")
                owned[alias].append(artifact)
        for model in self.models:
            if model.digest != digest_of_files((a.sha256, a.path[len(model.folder) :]) for a in owned[model.alias]):
                raise Invalid(f"the digest of {model.alias} is not that of its files", "models")

    def _check_packages(self) -> None:
        wheels = {artifact.path for artifact in self.artifacts if artifact.kind == "wheel"}
        if wheels != {package.wheel for package in self.python.packages}:
            raise Invalid("wheels and packages are not the same set", "python")
        rendered = digest_of(requirements_text(self.python, self.artifacts))
        if any(artifact.sha256 != rendered for artifact in self.of_kind("requirements")):
            raise Invalid("requirements.txt is not what the packages give", "python")

    @cached_property
    def canonical(self) -> bytes:
        """The bytes of ``bundle.json``: RFC 8785 without numbers other than integers, and one LF at the end."""
        return canonical_json(fields.encode(self))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``canonical``: names this bundle."""
        return digest_of(self.canonical)

    @property
    def release(self) -> str:
        """Names the release on the host: ``VERSION-DIGEST``."""
        return f"{self.version}-{self.digest[:8]}"

    @property
    def file_name(self) -> str:
        """The usual name of the bundle's file."""
        return f"{self.name}-{self.version}-{self.target.slug}.bundle.tar"

    def files_of(self, model: Model) -> tuple[Artifact, ...]:
        """The files of one model, in the bundle's order."""
        return tuple(a for a in self.artifacts if a.kind == "model" and a.path.startswith(model.folder))

    def by_model(self) -> list[tuple[Model, tuple[Artifact, ...]]]:
        """Every model with its files, in the bundle's order."""
        files: dict[str, list[Artifact]] = {model.alias: [] for model in self.models}
        for artifact in self.of_kind("model"):
            files[artifact.path.split("/", 2)[1]].append(artifact)
        return [(model, tuple(files[model.alias])) for model in self.models]

    def of_kind(self, kind: Kind) -> tuple[Artifact, ...]:
        """The artifacts of one kind, in the bundle's order."""
        return tuple(artifact for artifact in self.artifacts if artifact.kind == kind)

    def sums(self) -> bytes:
        """The bytes of ``SHA256SUMS``, as ``sha256sum -c`` reads them."""
        listed = [(self.digest, LOCK), *((a.sha256, a.path) for a in self.artifacts)]
        return "".join(_sum_line(*one) for one in listed).encode()


def with_changes(known: Lock, **changes: object) -> Lock:
    """The same lock with other values in some fields, checked anew."""
    return dataclasses.replace(known, **changes)  # type: ignore[arg-type]


def _sum_line(sha256: str, path: str) -> str:
    return f"{sha256}  {path}\n"


def digest_of_files(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the SHA256SUMS lines of (sha256, path) pairs, sorted by path: names a folder's content."""
    return digest_of("".join(_sum_line(*one) for one in sorted(files, key=lambda one: one[1])).encode())


def requirements_text(python: Python, artifacts: Iterable[Artifact]) -> bytes:
    """The bytes of ``requirements.txt``: every package pinned, with the digest of its one wheel."""
    digests = {artifact.path: artifact.sha256 for artifact in artifacts}
    return "".join(
        f"{package.name}=={package.version} --hash=sha256:{digests[package.wheel]}\n" for package in python.packages
    ).encode()


def canonical_json(document: object) -> bytes:
    """A document of mappings, lists, strings, integers, booleans and None in its one form."""
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def read(data: bytes, where: str) -> Lock:
    """The lock that ``data`` is the canonical form of.

    Raises IntegrityError for anything else: the bytes are untrusted until a signature covers them.
    """
    try:
        document = json.loads(data, parse_float=_refuse_number, parse_constant=_refuse_number)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("bundle.json is not JSON as this format writes it", where=where, hint=_DAMAGED) from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise IntegrityError(
            f"format {found!r} is not one that this version reads (it reads format {FORMAT})",
            where=where,
            hint="use the bundle.pyz that the bundle's builder publishes, or a newer release of this tool",
        )
    try:
        lock = fields.decode(Lock, document)
    except fields.Faults as faults:
        listed = "\n".join(paths.shown(str(fault))[:300] for fault in faults.faults[:10])
        raise IntegrityError(f"bundle.json breaks the format:\n{listed}", where=where, hint=_DAMAGED) from faults
    if lock.canonical != data:
        raise IntegrityError("bundle.json is not in canonical form", where=where, hint=_DAMAGED)
    return lock


_DAMAGED = "the bundle is damaged or was not made by this tool: carry it across again from the builder"


def _refuse_number(text: str) -> None:
    raise ValueError(f"{text} is not an integer")

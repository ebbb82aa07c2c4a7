"""Converts pickled weights to safetensors during a build, with the bundle's own torch in a temporary environment."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.version import Version

from bundler import process
from bundler.errors import HostError, ResolveError, UnsafeError
from bundler.format import paths
from bundler.format.hashing import Sha256
from bundler.format.lock.entries import Conversion
from bundler.format.lock.target import Target, detect_target
from bundler.format.scan import pickle_detection
from bundler.online.inspection.model_files import DAMAGED_SOURCE_HINT
from bundler.online.models.local_sources import ModelFiles, SourceFile
from bundler.online.packages import resolution, uv_compile
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer.context import BuildContext

_WEIGHT_FILE = re.compile(r"(?P<stem>pytorch_model|adapter_model)(?P<rest>(\.[A-Za-z0-9_-]+)?(-\d{5}-of-\d{5})?)\.bin")
_WEIGHT_INDEX = re.compile(r"(?P<stem>pytorch_model|adapter_model)(?P<rest>(\.[A-Za-z0-9_-]+)?)\.bin\.index\.json")
_REQUIRED_PACKAGES = ("torch", "safetensors", "numpy")
_FIRST_SAFE_TORCH = Version("2.6")
"""The first torch whose ``weights_only`` runs no code (CVE-2025-32434)."""
_WORKER_PATH = Path(__file__).with_name("safetensors_worker.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionContext:
    """What a conversion needs: the packages of the bundle, the target that they are for, and the build context."""

    target: Target
    packages: Sequence[ResolvedWheel]
    context: BuildContext


def convert_model(
    alias: str, files: ModelFiles, conversion: ConversionContext
) -> tuple[ModelFiles, tuple[Conversion, ...]]:
    """Convert a model's weights to safetensors; files that can't be converted stay, with a warning.

    Returns:
        The model with its new files, and which file was converted into which.

    Raises:
        UnsafeError: a file does not hold plain weights.
        ResolveError: the model has nothing to convert, or the bundle has no usable torch.
        HostError: the bundle's torch does not run on this machine.
    """
    names = {file.path: name for file in files.files if (name := _get_converted_name(file.path))}
    weights = [file for file in files.files if file.path in names and file.path.endswith(".bin")]
    if existing := sorted(set(names.values()) & {file.path for file in files.files}):
        hint = "leave 'convert' out, and leave the .bin files out with exclude"
        raise ResolveError(f"{alias} has {', '.join(existing)} already", where=f"models: {alias}", hint=hint)
    if not weights:
        raise ResolveError(
            f"{alias} has no weights to convert to safetensors (pytorch_model*.bin, adapter_model*.bin)",
            where=f"models: {alias}",
            hint="leave 'convert' out",
        )
    tool_versions = ", ".join(f"{tool.name} {tool.version}" for tool in _require_tools(alias, conversion)[:2])
    with conversion.context.reporter.stage(f"convert {alias}"):
        converted = _convert_files(alias, weights, tool_versions, conversion)
    new_files = [_make_converted_file(file, names, converted, conversion) for file in files.files]
    conversions = tuple(
        Conversion(path=f"models/{alias}/{new.path}", source=old.origin, sha256=old.sha256, by=tool_versions)
        for old, new in zip(files.files, new_files, strict=True)
        if old.path in names
    )
    if pickles := [file.path for file in new_files if pickle_detection.has_pickle_suffix(file.path)]:
        conversion.context.reporter.warn(
            f"{alias}: {', '.join(pickles)} are not converted: libraries open these names with torch.load"
        )
    return dataclasses.replace(files, files=tuple(new_files)), tuple(sorted(conversions, key=lambda item: item.path))


def _get_converted_name(path: str) -> str:
    """Return the name that transformers gives the same weights as safetensors; "" for any other file."""
    folder, name = PurePosixPath(path).parent, PurePosixPath(path).name
    for pattern, suffix in ((_WEIGHT_FILE, ".safetensors"), (_WEIGHT_INDEX, ".safetensors.index.json")):
        if match := pattern.fullmatch(name):
            stem = {"pytorch_model": "model"}.get(match["stem"], match["stem"])
            return str(folder / f"{stem}{match['rest']}{suffix}")
    return ""


def _require_tools(alias: str, conversion: ConversionContext) -> list[ResolvedWheel]:
    """Return the wheels that a conversion needs; raises ResolveError or HostError."""
    by_name = {wheel.name: wheel for wheel in conversion.packages}
    where = f"models: {alias}"
    if missing := [name for name in _REQUIRED_PACKAGES if name not in by_name]:
        hint = "add them to python.requirements, or leave 'convert' out"
        message = f"'convert' needs {', '.join(missing)} among the bundle's packages"
        raise ResolveError(message, where=where, hint=hint)
    if Version(by_name["torch"].version) < _FIRST_SAFE_TORCH:
        hint = "use torch 2.6 or later, or leave 'convert' out"
        message = f"torch {by_name['torch'].version} runs code of pickles that it reads (CVE-2025-32434)"
        raise ResolveError(message, where=where, hint=hint)
    builder = dataclasses.replace(detect_target(), python=conversion.target.python)
    filenames = [by_name[name].filename for name in _REQUIRED_PACKAGES]
    if incompatible := [filename for filename in filenames if not builder.is_compatible(filename)]:
        hint = f"lock on a machine like the target ({conversion.target}), or convert the model beforehand"
        names = ", ".join(incompatible)
        raise HostError(f"'convert' can't run the bundle's {names} on this machine", where=where, hint=hint)
    return [by_name[name] for name in _REQUIRED_PACKAGES]


def _convert_files(
    alias: str, weights: Sequence[SourceFile], tool_versions: str, conversion: ConversionContext
) -> dict[str, Path]:
    """Return the path of each file's converted content; files that were converted before are in the cache."""
    cache = conversion.context.cache
    keys = {
        file.path: f"safetensors-{re.sub('[^a-z0-9]', '-', tool_versions.lower())}-of-{file.sha256}" for file in weights
    }
    converted = {path: content for path, key in keys.items() if (content := cache.find_by_key(key))}
    missing = [file for file in weights if file.path not in converted]
    if not missing:
        return converted
    cache.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="convert-", dir=cache.root) as folder:
        python = _make_venv(Path(folder), conversion)
        for number, file in enumerate(missing):  # one at a time: each takes its size in memory
            output = Path(folder, f"{number}.safetensors")
            _run_worker(python, alias, file, output)
            _, sha256 = cache.move_in(output)
            cache.record_key(keys[file.path], sha256)
            converted[file.path] = cache.require(sha256)
    return converted


def _make_venv(folder: Path, conversion: ConversionContext) -> Path:
    """Make a virtual environment with the bundle's torch from the bundle's wheels, without a network."""
    context, links, venv = conversion.context, folder / "wheels", folder / "venv"
    resolution.fetch_wheels(conversion.packages, context.cache, context.config, context.reporter)
    links.mkdir()
    for wheel in conversion.packages:
        (links / wheel.filename).symlink_to(context.cache.require(wheel.sha256))
    env = process.inherit_env(drop_prefixes=("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA"))
    options: list[str | Path] = ["--no-config", "--offline", "--no-python-downloads", "--cache-dir", folder / "cache"]
    uv = uv_compile.find_uv()
    hint = f"install Python {conversion.target.python} on this machine; uv finds it on the PATH"
    process.run([uv, "venv", *options, "--python", conversion.target.python, venv], env=env, hint=hint)
    python = venv / conversion.target.platform_info.system.venv_python
    versions = {wheel.name: wheel.version for wheel in conversion.packages}
    pins = [f"{name}=={versions[name]}" for name in _REQUIRED_PACKAGES]
    command = [uv, "pip", "install", *options, "--no-index", "--find-links", links, "--python", python, *pins]
    process.run(command, env=env, hint="the bundle's packages conflict with each other: check python.requirements")
    return python


def _run_worker(python: Path, alias: str, file: SourceFile, output: Path) -> None:
    reason_file = output.with_suffix(".refusal")
    env = process.inherit_env(drop_prefixes=("PYTHON", "TORCH"))
    hint = "free some memory: the whole file of weights must fit into it"
    process.run([python, "-I", _WORKER_PATH, file.content, output, reason_file], env=env, hint=hint)
    if reason_file.exists():
        reason = paths.escape(reason_file.read_text(encoding="utf-8"))
        hint = "leave 'convert' out, or leave the file out with exclude"
        message = f"{file.path} can't be converted to safetensors: {reason}"
        raise UnsafeError(message, where=f"models: {alias}", hint=hint)


def _make_converted_file(
    file: SourceFile, new_names: dict[str, str], converted: dict[str, Path], conversion: ConversionContext
) -> SourceFile:
    """Return a file as it travels: converted, an index of converted files, or unchanged."""
    if file.path not in new_names:
        return file
    if file.path in converted:
        content = converted[file.path]
        sha256 = Sha256(content.name)
    else:
        sha256 = conversion.context.cache.put_bytes(_rewrite_index(file, new_names))
        content = conversion.context.cache.require(sha256)
    size, origin = content.stat().st_size, f"converted from {file.origin}"
    return SourceFile(path=new_names[file.path], size=size, sha256=sha256, origin=origin, content=content)


def _rewrite_index(file: SourceFile, new_names: dict[str, str]) -> bytes:
    """Rewrite an index of shards for their new names; raises ResolveError where it is not such an index."""
    folder = PurePosixPath(file.path).parent
    try:
        document = dict(json.loads(file.content.read_bytes()))
        shards = {tensor: new_names[str(folder / shard)] for tensor, shard in document["weight_map"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{file.path} does not say where the weights are"
        raise ResolveError(message, where=file.origin, hint=DAMAGED_SOURCE_HINT) from error
    document["weight_map"] = {tensor: PurePosixPath(shard).name for tensor, shard in shards.items()}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"

"""Pickled weights turned into safetensors while building, by the bundle's own torch in a throw-away environment."""

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
from bundler.online.models.local_sources import ModelFiles, SourceFile
from bundler.online.packages import resolution, uv_compile
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer.context import BuildContext

_WEIGHT_FILE = re.compile(r"(?P<stem>pytorch_model|adapter_model)(?P<rest>(\.[A-Za-z0-9_-]+)?(-\d{5}-of-\d{5})?)\.bin")
_WEIGHT_INDEX = re.compile(r"(?P<stem>pytorch_model|adapter_model)(?P<rest>(\.[A-Za-z0-9_-]+)?)\.bin\.index\.json")
_REQUIRED_PACKAGES = ("torch", "safetensors", "numpy")
_FIRST_SAFE_TORCH = Version("2.6")
"""The first torch whose weights_only keeps to its word (CVE-2025-32434)."""
_WORKER_PATH = Path(__file__).with_name("safetensors_worker.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionContext:
    """What conversion works with: the wheels of the bundle, the machine that they are for, and the shelf."""

    target: Target
    packages: Sequence[ResolvedWheel]
    context: BuildContext


def convert_model(
    alias: str, files: ModelFiles, conversion: ConversionContext
) -> tuple[ModelFiles, tuple[Conversion, ...]]:
    """The same model with its weights as safetensors, and which file became which.

    What can't be turned stays and is said. Raises UnsafeError where weights are no weights, ResolveError or HostError
    where the bundle's torch is missing or does not run on this machine.
    """
    names = {file.path: name for file in files.files if (name := _get_converted_name(file.path))}
    weights = [file for file in files.files if file.path in names and file.path.endswith(".bin")]
    if taken := sorted(set(names.values()) & {file.path for file in files.files}):
        hint = "it needs no 'convert'; leave the .bin files out with exclude"
        raise ResolveError(f"{alias} holds {', '.join(taken)} already", where=f"models: {alias}", hint=hint)
    if not weights:
        raise ResolveError(
            f"{alias} has no weights to turn into safetensors (pytorch_model*.bin, adapter_model*.bin)",
            where=f"models: {alias}",
            hint="leave 'convert' out",
        )
    by = ", ".join(f"{one.name} {one.version}" for one in _require_tools(alias, conversion)[:2])
    with conversion.context.reporter.stage(f"convert {alias}"):
        written = _convert_files(alias, weights, by, conversion)
    made = [_make_converted_file(file, names, written, conversion) for file in files.files]
    conversions = tuple(
        Conversion(path=f"models/{alias}/{new.path}", source=old.origin, sha256=old.sha256, by=by)
        for old, new in zip(files.files, made, strict=True)
        if old.path in names
    )
    if left := [file.path for file in made if pickle_detection.has_pickle_suffix(file.path)]:
        conversion.context.reporter.warn(
            f"{alias}: {', '.join(left)} stay as they are: what loads them opens them by these names with torch.load"
        )
    return dataclasses.replace(files, files=tuple(made)), tuple(sorted(conversions, key=lambda one: one.path))


def _get_converted_name(path: str) -> str:
    """What the same weights are called as safetensors, as transformers names them; "" for any other file."""
    folder, name = PurePosixPath(path).parent, PurePosixPath(path).name
    for pattern, ending in ((_WEIGHT_FILE, ".safetensors"), (_WEIGHT_INDEX, ".safetensors.index.json")):
        if found := pattern.fullmatch(name):
            stem = {"pytorch_model": "model"}.get(found["stem"], found["stem"])
            return str(folder / f"{stem}{found['rest']}{ending}")
    return ""


def _require_tools(alias: str, conversion: ConversionContext) -> list[ResolvedWheel]:
    """The wheels that conversion stands on; raises ResolveError or HostError."""
    by_name = {one.name: one for one in conversion.packages}
    where = f"models: {alias}"
    if lacking := [name for name in _REQUIRED_PACKAGES if name not in by_name]:
        hint = "add them to python.requirements, or leave 'convert' out"
        what = f"convert needs {', '.join(lacking)} among the bundle's packages"
        raise ResolveError(what, where=where, hint=hint)
    if Version(by_name["torch"].version) < _FIRST_SAFE_TORCH:
        hint = "take torch 2.6 or later, or leave 'convert' out"
        what = f"torch {by_name['torch'].version} runs code of pickles that it reads (CVE-2025-32434)"
        raise ResolveError(what, where=where, hint=hint)
    here = dataclasses.replace(detect_target(), python=conversion.target.python)
    if unfit := [
        by_name[name].filename for name in _REQUIRED_PACKAGES if not here.is_compatible(by_name[name].filename)
    ]:
        hint = f"lock on a machine such as the target ({conversion.target}), or have the model converted beforehand"
        raise HostError(f"convert can't run the bundle's {', '.join(unfit)} on this machine", where=where, hint=hint)
    return [by_name[name] for name in _REQUIRED_PACKAGES]


def _convert_files(
    alias: str, weights: Sequence[SourceFile], tool_versions: str, conversion: ConversionContext
) -> dict[str, Path]:
    """The converted content of each file, by its path; what was converted before is on the shelf."""
    store = conversion.context.cache
    keys = {
        file.path: f"safetensors-{re.sub('[^a-z0-9]', '-', tool_versions.lower())}-of-{file.sha256}" for file in weights
    }
    done = {path: kept for path, key in keys.items() if (kept := store.find_by_key(key))}
    rest = [file for file in weights if file.path not in done]
    if not rest:
        return done
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="convert-", dir=store.root) as folder:
        python = _make_venv(Path(folder), conversion)
        for number, file in enumerate(rest):  # one at a time: each takes its size in memory
            out = Path(folder, f"{number}.safetensors")
            _run_worker(python, alias, file, out)
            _, sha256 = store.move_in(out)
            store.record_key(keys[file.path], sha256)
            done[file.path] = store.require(sha256)
    return done


def _make_venv(folder: Path, conversion: ConversionContext) -> Path:
    """A Python with the bundle's torch, made without a network out of the bundle's wheels."""
    shop, links, venv = conversion.context, folder / "wheels", folder / "venv"
    resolution.fetch_wheels(conversion.packages, shop.cache, shop.config, shop.reporter)
    links.mkdir()
    for one in conversion.packages:
        (links / one.filename).symlink_to(shop.cache.require(one.sha256))
    told = process.inherit_env(drop_prefixes=("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA"))
    quiet: list[str | Path] = ["--no-config", "--offline", "--no-python-downloads", "--cache-dir", folder / "cache"]
    uv = uv_compile.find_uv()
    hint = f"put a Python {conversion.target.python} on this machine; uv finds it on the PATH"
    process.run([uv, "venv", *quiet, "--python", conversion.target.python, venv], env=told, hint=hint)
    python = venv / conversion.target.platform_info.system.venv_python
    by_name = {one.name: one.version for one in conversion.packages}
    pins = [f"{name}=={by_name[name]}" for name in _REQUIRED_PACKAGES]
    command = [uv, "pip", "install", *quiet, "--no-index", "--find-links", links, "--python", python, *pins]
    process.run(command, env=told, hint="the bundle's own packages do not go together: see python.requirements")
    return python


def _run_worker(python: Path, alias: str, file: SourceFile, output: Path) -> None:
    refusal = output.with_suffix(".refusal")
    told = process.inherit_env(drop_prefixes=("PYTHON", "TORCH"))
    hint = "free memory: a file of weights is read whole"
    process.run([python, "-I", _WORKER_PATH, file.content, output, refusal], env=told, hint=hint)
    if refusal.exists():
        why, hint = (
            paths.escape(refusal.read_text(encoding="utf-8")),
            "leave 'convert' out, or leave the file out with exclude",
        )
        raise UnsafeError(f"{file.path} can't become safetensors: {why}", where=f"models: {alias}", hint=hint)


def _make_converted_file(
    file: SourceFile, new_names: dict[str, str], converted: dict[str, Path], conversion: ConversionContext
) -> SourceFile:
    """A file of the model as it travels: converted, an index of converted files, or as it was."""
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
    """An index of shards that names them as they are called now; raises ResolveError where it is no such index."""
    folder = PurePosixPath(file.path).parent
    try:
        document = dict(json.loads(file.content.read_bytes()))
        shards = {tensor: new_names[str(folder / shard)] for tensor, shard in document["weight_map"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "the source is damaged or unfinished: fetch it again, or ask whoever made it"
        raise ResolveError(f"{file.path} does not say where the weights are", where=file.origin, hint=hint) from error
    document["weight_map"] = {tensor: PurePosixPath(shard).name for tensor, shard in shards.items()}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"

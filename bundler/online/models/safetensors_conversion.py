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
from bundler.format.lock.target import Target, this_machine
from bundler.format.scan import pickle_detection
from bundler.online.models.local_sources import Gathered, SourceFile
from bundler.online.packages import resolution, uv_compile
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer.context import Workshop

_WEIGHTS = re.compile(r"(?P<stem>pytorch_model|adapter_model)(?P<rest>(\.[A-Za-z0-9_-]+)?(-\d{5}-of-\d{5})?)\.bin")
_INDEX = re.compile(r"(?P<stem>pytorch_model|adapter_model)(?P<rest>(\.[A-Za-z0-9_-]+)?)\.bin\.index\.json")
_NEEDED = ("torch", "safetensors", "numpy")
_SAFE = Version("2.6")
"""The first torch whose weights_only keeps to its word (CVE-2025-32434)."""
_PROGRAM = Path(__file__).with_name("safetensors_worker.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What conversion works with: the wheels of the bundle, the machine that they are for, and the shelf."""

    target: Target
    packages: Sequence[ResolvedWheel]
    shop: Workshop


def converted(alias: str, found: Gathered, bench: Bench) -> tuple[Gathered, tuple[Conversion, ...]]:
    """The same model with its weights as safetensors, and which file became which.

    What can't be turned stays and is said. Raises UnsafeError where weights are no weights, ResolveError or HostError
    where the bundle's torch is missing or does not run on this machine.
    """
    names = {file.path: name for file in found.files if (name := _converted_name(file.path))}
    weights = [file for file in found.files if file.path in names and file.path.endswith(".bin")]
    if taken := sorted(set(names.values()) & {file.path for file in found.files}):
        hint = "it needs no 'convert'; leave the .bin files out with exclude"
        raise ResolveError(f"{alias} holds {', '.join(taken)} already", where=f"models: {alias}", hint=hint)
    if not weights:
        raise ResolveError(
            f"{alias} has no weights to turn into safetensors (pytorch_model*.bin, adapter_model*.bin)",
            where=f"models: {alias}",
            hint="leave 'convert' out",
        )
    by = ", ".join(f"{one.name} {one.version}" for one in _tools(alias, bench)[:2])
    with bench.shop.report.stage(f"convert {alias}"):
        written = _written(alias, weights, by, bench)
    made = [_renamed(file, names, written, bench) for file in found.files]
    conversions = tuple(
        Conversion(path=f"models/{alias}/{new.path}", source=old.origin, sha256=old.sha256, by=by)
        for old, new in zip(found.files, made, strict=True)
        if old.path in names
    )
    if left := [file.path for file in made if pickle_detection.named_like_one(file.path)]:
        bench.shop.report.warn(
            f"{alias}: {', '.join(left)} stay as they are: what loads them opens them by these names with torch.load"
        )
    return dataclasses.replace(found, files=tuple(made)), tuple(sorted(conversions, key=lambda one: one.path))


def _converted_name(path: str) -> str:
    """What the same weights are called as safetensors, as transformers names them; "" for any other file."""
    folder, name = PurePosixPath(path).parent, PurePosixPath(path).name
    for pattern, ending in ((_WEIGHTS, ".safetensors"), (_INDEX, ".safetensors.index.json")):
        if found := pattern.fullmatch(name):
            stem = {"pytorch_model": "model"}.get(found["stem"], found["stem"])
            return str(folder / f"{stem}{found['rest']}{ending}")
    return ""


def _tools(alias: str, bench: Bench) -> list[ResolvedWheel]:
    """The wheels that conversion stands on; raises ResolveError or HostError."""
    by_name = {one.name: one for one in bench.packages}
    where = f"models: {alias}"
    if lacking := [name for name in _NEEDED if name not in by_name]:
        hint = "add them to python.requirements, or leave 'convert' out"
        what = f"convert needs {', '.join(lacking)} among the bundle's packages"
        raise ResolveError(what, where=where, hint=hint)
    if Version(by_name["torch"].version) < _SAFE:
        hint = "take torch 2.6 or later, or leave 'convert' out"
        what = f"torch {by_name['torch'].version} runs code of pickles that it reads (CVE-2025-32434)"
        raise ResolveError(what, where=where, hint=hint)
    here = dataclasses.replace(this_machine(), python=bench.target.python)
    if unfit := [by_name[name].filename for name in _NEEDED if not here.fits(by_name[name].filename)]:
        hint = f"lock on a machine such as the target ({bench.target}), or have the model converted beforehand"
        raise HostError(f"convert can't run the bundle's {', '.join(unfit)} on this machine", where=where, hint=hint)
    return [by_name[name] for name in _NEEDED]


def _written(alias: str, weights: Sequence[SourceFile], by: str, bench: Bench) -> dict[str, Path]:
    """The converted content of each file, by its path; what was converted before is on the shelf."""
    store = bench.shop.store
    keys = {file.path: f"safetensors-{re.sub('[^a-z0-9]', '-', by.lower())}-of-{file.sha256}" for file in weights}
    done = {path: kept for path, key in keys.items() if (kept := store.recalled(key))}
    rest = [file for file in weights if file.path not in done]
    if not rest:
        return done
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="convert-", dir=store.root) as folder:
        python = _environment(Path(folder), bench)
        for number, file in enumerate(rest):  # one at a time: each takes its size in memory
            out = Path(folder, f"{number}.safetensors")
            _run(python, alias, file, out)
            _, sha256 = store.adopt(out)
            store.remember(keys[file.path], sha256)
            done[file.path] = store.required(sha256)
    return done


def _environment(folder: Path, bench: Bench) -> Path:
    """A Python with the bundle's torch, made without a network out of the bundle's wheels."""
    shop, links, venv = bench.shop, folder / "wheels", folder / "venv"
    resolution.fetch(bench.packages, shop.store, shop.config, shop.report)
    links.mkdir()
    for one in bench.packages:
        (links / one.filename).symlink_to(shop.store.required(one.sha256))
    told = process.clean_environment(without=("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV", "CONDA"))
    quiet: list[str | Path] = ["--no-config", "--offline", "--no-python-downloads", "--cache-dir", folder / "cache"]
    uv = uv_compile.program()
    hint = f"put a Python {bench.target.python} on this machine; uv finds it on the PATH"
    process.run([uv, "venv", *quiet, "--python", bench.target.python, venv], environment=told, hint=hint)
    python = venv / ("Scripts/python.exe" if bench.target.system == "windows" else "bin/python")
    by_name = {one.name: one.version for one in bench.packages}
    pins = [f"{name}=={by_name[name]}" for name in _NEEDED]
    command = [uv, "pip", "install", *quiet, "--no-index", "--find-links", links, "--python", python, *pins]
    process.run(command, environment=told, hint="the bundle's own packages do not go together: see python.requirements")
    return python


def _run(python: Path, alias: str, file: SourceFile, out: Path) -> None:
    refusal = out.with_suffix(".refusal")
    told = process.clean_environment(without=("PYTHON", "TORCH"))
    hint = "free memory: a file of weights is read whole"
    process.run([python, "-I", _PROGRAM, file.content, out, refusal], environment=told, hint=hint)
    if refusal.exists():
        why, hint = (
            paths.shown(refusal.read_text(encoding="utf-8")),
            "leave 'convert' out, or leave the file out with exclude",
        )
        raise UnsafeError(f"{file.path} can't become safetensors: {why}", where=f"models: {alias}", hint=hint)


def _renamed(file: SourceFile, names: dict[str, str], written: dict[str, Path], bench: Bench) -> SourceFile:
    """A file of the model as it travels: converted, an index of converted files, or as it was."""
    if file.path not in names:
        return file
    if file.path in written:
        content = written[file.path]
        sha256 = Sha256(content.name)
    else:
        sha256 = bench.shop.store.put_bytes(_index(file, names))
        content = bench.shop.store.required(sha256)
    size, origin = content.stat().st_size, f"converted from {file.origin}"
    return SourceFile(path=names[file.path], size=size, sha256=sha256, origin=origin, content=content)


def _index(file: SourceFile, names: dict[str, str]) -> bytes:
    """An index of shards that names them as they are called now; raises ResolveError where it is no such index."""
    folder = PurePosixPath(file.path).parent
    try:
        document = dict(json.loads(file.content.read_bytes()))
        shards = {tensor: names[str(folder / shard)] for tensor, shard in document["weight_map"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "the source is damaged or unfinished: fetch it again, or ask whoever made it"
        raise ResolveError(f"{file.path} does not say where the weights are", where=file.origin, hint=hint) from error
    document["weight_map"] = {tensor: PurePosixPath(shard).name for tensor, shard in shards.items()}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"

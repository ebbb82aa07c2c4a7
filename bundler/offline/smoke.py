"""Proof that it runs, with the network shut."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler import process
from bundler.bundle import calls, disk, fields
from bundler.bundle.calls import Call
from bundler.bundle.entries import Model
from bundler.bundle.goldens import Golden
from bundler.bundle.lock import Lock
from bundler.errors import CalledHomeError, SmokeError
from bundler.offline import emit, guard
from bundler.offline.releases import Release
from bundler.progress import Report, counted

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # not there before Python 3.11

STANDARD_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "폐쇄망에서는 모델과 패키지를 한 번에 옮겨야 한다.",
    "A contract of forty pages was summarised for the board. " * 40,
)
"""What is embedded when the manifest names no texts: English, Korean, and one of several hundred words."""

_KEPT = "smoke.json"
GOLDENS = "goldens.json"
_PASSED, _FAILED = 0, 3
_LONGEST = 3600.0
"""Seconds that a load may take: hours of silence are a hang."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    alias: str
    loader: str
    path: str
    repo_id: str
    device: str
    texts: tuple[str, ...]
    closer: tuple[tuple[str, ...], ...]
    ram_limit: int
    any_language: bool
    variables: Mapping[str, str]
    trust_remote_code: bool
    golden: Golden | None
    tolerance: str


def lay_out(release: Release) -> None:
    """Put what runs inside the environment beside it: the installed Python has nothing of this program."""
    for path, data in _laid_out(release):
        if not holds(path, data):
            path.parent.mkdir(parents=True, exist_ok=True)
            if release.finished:
                disk.write_whole(path, data)  # in what is live: a power cut must not leave it empty
            else:
                path.write_bytes(data)


def differing(release: Release) -> list[Path]:
    """Files of the payload that are not as ``lay_out`` makes them."""
    return [path for path, data in _laid_out(release) if not holds(path, data)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """One smoke load: what it measured, and what the model gave; None where it was not loaded."""

    result: dict[str, Any]
    golden: Golden | None


def prove(release: Release, locked: Lock, device: str | None, report: Report) -> list[Proof]:
    """Load every model in a process of its own with the network cut, and say what was measured.

    Raises SmokeError that names every model that failed and why, CalledHomeError where one of them asked for
    something that is not carried.
    """
    _tell_overridden(release, locked, report)
    proofs = []
    for model in locked.models:
        with report.stage(f"smoke load {model.alias}"):
            proofs.append(_proof(_one(release, locked, model, device or locked.smoke.device)))
        for warning in proofs[-1].result.get("warnings", []):
            report.warn(f"{model.alias}: {warning}")
    results = [one.result for one in proofs]
    failed = [result for result in results if not result["ok"]]
    for result in results:
        if result["ok"] and result["calls"]:
            report.warn(f"{result['alias']} loads, and called home:\n{calls.told(_calls(result))}")
    if failed:
        raise _failure(failed, len(results))
    return proofs


def _proof(found: dict[str, Any]) -> Proof:
    outputs, machine = found.pop("outputs", []), found.pop("machine", "")
    if not outputs:
        return Proof(result=found, golden=None)
    about = {name: found[name] for name in ("alias", "device", "dtype", "versions")}
    return Proof(result=found, golden=fields.decode(Golden, about | {"machine": machine, "outputs": outputs}))


def _tell_overridden(release: Release, locked: Lock, report: Report) -> None:
    """What this environment sets otherwise wins wherever the release is used; the proof goes without."""
    for name, (here, wanted) in guard.state(release, locked).overridden.items():
        report.warn(f"{name}={here} is set in this environment and wins over the release's {wanted}")


def _failure(failed: list[dict[str, Any]], count: int) -> SmokeError:
    listed = "\n".join(f"  {result['alias']}: {result['fault']}" for result in failed)
    message = f"{len(failed)} of {counted(count, 'model')} failed the smoke load:\n{listed}"
    hint = " ".join(dict.fromkeys(result["hint"] for result in failed if result["hint"]))
    asked = dict.fromkeys(call for result in failed for call in _calls(result))
    absent = dict.fromkeys(call for result in failed for call in _calls(result, "absent"))
    if absent:
        message += f"\nasked for in vain before it failed, which may be why:\n{calls.told(absent)}"
    if not asked:
        return SmokeError(message, hint=hint)
    hint = "have it built again with what is missing; the lines after 'cure' go into the manifest"
    return CalledHomeError(f"{message}\ncalls home that were refused:\n{calls.told(asked)}", hint=hint)


def _calls(result: Mapping[str, Any], key: str = "calls") -> list[Call]:
    return [fields.decode(Call, call) for call in result.get(key, [])]


def write(release: Release, results: list[dict[str, Any]]) -> None:
    """Keep what the smoke loads measured, as ``smoke.json``."""
    text = json.dumps(results, ensure_ascii=False, indent=2) + "\n"
    disk.write_whole(release.path / _KEPT, text.encode())


def write_goldens(release: Release, proofs: Sequence[Proof]) -> None:
    """Keep what the models gave here, as the lock keeps what they gave at the rehearsal."""
    found = [fields.encode(one.golden) for one in proofs if one.golden is not None]
    disk.write_whole(release.path / GOLDENS, (json.dumps(found, ensure_ascii=False) + "\n").encode())


def kept(release: Release) -> list[dict[str, Any]]:
    """What was measured when the release was installed; nothing where that was left out or can't be read."""
    try:
        return list(json.loads((release.path / _KEPT).read_bytes()))
    except (OSError, ValueError):
        return []


def _one(release: Release, locked: Lock, model: Model, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bundle-smoke-") as folder:
        request, result, log = (Path(folder, name) for name in ("request.json", "result.json", "calls.jsonl"))
        variables = emit.library_variables(release.path, Path(folder, "var"))
        asked = _request(release, locked, model, device, variables)
        request.write_text(json.dumps(fields.encode(asked)), encoding="utf-8")
        done = process.run(
            [release.python, "-I", release.path / "payload", request, result],
            environment=_environment(release, locked, variables, log),
            accept=range(-64, 256),
            seconds=_LONGEST,
            hint="see whether the host swaps, or reads the model from a slow disk; 'bundle smoke' tries again",
        )
        written = done.code in (_PASSED, _FAILED) and result.exists()
        found = dict(json.loads(result.read_bytes())) if written else _crashed(model, done)
        missed = found.pop("missed", {})
        ended_by = fields.decode(Call, missed) if missed else None
        refused, absent = calls.of_load(calls.read(log), ended_by, ok=found["ok"])
        return found | {"calls": fields.encode(refused)} | ({"absent": fields.encode(absent)} if absent else {})


def _request(release: Release, locked: Lock, model: Model, device: str, variables: Mapping[str, str]) -> _Request:
    return _Request(
        alias=model.alias,
        loader=model.loader,
        path=str(release.path / "models" / model.alias),
        repo_id=model.repo_id,
        device=device,
        texts=locked.smoke.texts or STANDARD_TEXTS,
        closer=locked.smoke.closer,
        ram_limit=locked.smoke.ram_limit,
        # texts of ours are in more languages than a model may know
        any_language=not locked.smoke.texts,
        variables=variables,
        trust_remote_code=model.trust_remote_code,
        golden=locked.golden(model),
        tolerance=locked.smoke.tolerance,
    )


def _environment(release: Release, locked: Lock, variables: Mapping[str, str], log: Path) -> dict[str, str]:
    """What a load starts with. The guard has to set the rest: only paths must be given, since ``current`` does not
    lead to this release yet."""
    by_guard = emit.library_variables(release.live, release.writable)
    given = {name: value for name, value in variables.items() if value != by_guard[name]}
    return process.clean_environment(
        without=("HF_", "TRANSFORMERS_", "PYTHON", "TORCH", "BUNDLE_GUARD", *emit.OLDER_CACHES, *variables),
        **given,
        **emit.asked_variables(locked, release.path),
        BUNDLE_GUARD="strict",
        BUNDLE_GUARD_LOG=str(log),
        BUNDLE_GUARD_TOLERATE=",".join(locked.smoke.tolerate_calls),
    )


def _crashed(model: Model, done: process.Finished) -> dict[str, Any]:
    """A result for a load that ended without one, such as for want of memory."""
    last = "\n".join(done.stderr.strip().splitlines()[-5:])
    ended = f"was ended by signal {-done.code}" if done.code < 0 else f"ended with code {done.code}"
    hint = "look for the kernel's out-of-memory message (dmesg); give the host more memory" if done.code < 0 else ""
    fault = f"the load {ended} before it could say anything: {last}"
    return {"alias": model.alias, "ok": False, "fault": fault, "hint": hint}


def _laid_out(release: Release) -> Iterator[tuple[Path, bytes]]:
    """Where each file of the payload belongs, and its bytes."""
    return _files(resources.files("bundler").joinpath("payload"), release.path / "payload")


def _files(source: Traversable, into: Path) -> Iterator[tuple[Path, bytes]]:
    """The files of a folder of the program, which may be one zip file."""
    for entry in source.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _files(entry, into / entry.name)
        elif entry.name.endswith(".py"):
            yield into / entry.name, entry.read_bytes()


def holds(path: Path, data: bytes) -> bool:
    """Whether a file is there and has exactly these bytes."""
    try:
        return not path.is_symlink() and path.read_bytes() == data
    except OSError:
        return False

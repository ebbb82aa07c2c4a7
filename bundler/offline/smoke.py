"""Proof that it runs, with the network shut."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from bundler import process
from bundler.errors import BlockedRequestError, IntegrityError, SmokeError
from bundler.format import blocked_requests, disk, documents, json_files
from bundler.format.blocked_requests import BlockedRequest
from bundler.format.lock import smoke_result
from bundler.format.lock.entries import Model
from bundler.format.lock.goldens import Golden
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.smoke_result import LoadReport, SmokeResult
from bundler.offline import altered_files, findings
from bundler.offline.altered_files import Part
from bundler.offline.environment import guard
from bundler.offline.load_progress import LoadProgress
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import env_file
from bundler.progress import Reporter, Stage, pluralize

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # not there before Python 3.11

STANDARD_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "폐쇄망에서는 모델과 패키지를 한 번에 옮겨야 한다.",
    "A contract of forty pages was summarised for the board. " * 40,
)
"""What is embedded when the manifest names no texts: English, Korean, and one of several hundred words."""

_RESULTS_FILE = "smoke.json"
GOLDENS_FILE = "goldens.json"
_EXIT_PASSED, _EXIT_FAILED = 0, 3
_MAX_LOAD_SECONDS = 3600.0
"""Seconds that a load may take: hours of silence are a hang."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadRequest:
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
    phases: str


def write_payload(release: Release) -> None:
    """Put what runs inside the environment beside it: the installed Python has nothing of this program."""
    for path, data in _iter_payload(release):
        if not disk.has_content(path, data):
            path.parent.mkdir(parents=True, exist_ok=True)
            if release.is_finished:
                disk.write_atomically(path, data)  # in what is live: a power cut must not leave it empty
            else:
                path.write_bytes(data)


def find_changed_payload(release: Release) -> list[Path]:
    """Files of the payload that are not as ``lay_out`` makes them."""
    return [path for path, data in _iter_payload(release) if not disk.has_content(path, data)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOutcome:
    """One smoke load: what it measured, and what the model gave; None where it was not loaded."""

    result: SmokeResult
    golden: Golden | None


def run_smoke_loads(release: Release, lock: Lock, device: str | None, reporter: Reporter) -> list[LoadOutcome]:
    """Load every model in a process of its own with the network cut, and say what was measured.

    Raises SmokeError that names every model that failed and why, CalledHomeError where one of them asked for
    something that is not carried.
    """
    _warn_about_overrides(release, lock, reporter)
    proofs = []
    for model in lock.models:
        with reporter.stage(f"smoke load {model.alias}") as stage:
            proofs.append(_load(release, lock, model, device or lock.smoke.device, stage))
        for warning in proofs[-1].result.warnings:
            reporter.warn(f"{model.alias}: {warning}")
    results = [one.result for one in proofs]
    failed = [result for result in results if not result.ok]
    for result in results:
        if result.ok and result.calls:
            reporter.warn(f"{result.alias} loads, and called home:\n{blocked_requests.format_requests(result.calls)}")
    if failed:
        aliases = [result.alias for result in failed]
        damaged = altered_files.damaged(release, lock, aliases, reporter, deep=release.is_finished)
        raise _make_smoke_error(failed, len(results), damaged)
    return proofs


def _warn_about_overrides(release: Release, lock: Lock, reporter: Reporter) -> None:
    """What this environment sets otherwise wins wherever the release is used; the proof goes without."""
    for name, (here, wanted) in guard.read_state(release, lock).overridden_variables.items():
        reporter.warn(f"{name}={here} is set in this environment and wins over the release's {wanted}")


def _make_smoke_error(failed: list[SmokeResult], count: int, damaged: list[Part]) -> SmokeError:
    """What failed, and what to do: libraries that miss a file of their own say whatever comes of that, so files that
    are not as installed go before any advice on the error."""
    listed = "\n".join(f"  {result.alias}: {result.fault}" for result in failed)
    message = f"{len(failed)} of {pluralize(count, 'model')} failed the smoke load:\n{listed}"
    if damaged:
        message += "".join(f"\n{part.name}: {part.message}" for part in damaged)
        return SmokeError(message, hint=findings.REINSTALL_HINT)
    hint = " ".join(dict.fromkeys(result.hint for result in failed if result.hint))
    asked = dict.fromkeys(call for result in failed for call in result.calls)
    absent = dict.fromkeys(call for result in failed for call in result.absent)
    if absent:
        message += (
            f"\nasked for in vain before it failed, which may be why:\n{blocked_requests.format_requests(absent)}"
        )
    if not asked:
        return SmokeError(message, hint=hint)
    hint = "have it built again with what is missing; the lines after 'cure' go into the manifest"
    return BlockedRequestError(
        f"{message}\ncalls home that were refused:\n{blocked_requests.format_requests(asked)}", hint=hint
    )


def write_results(release: Release, results: Sequence[SmokeResult]) -> None:
    """Keep what the smoke loads measured, as ``smoke.json``."""
    json_files.write(release.path / _RESULTS_FILE, results)


def write_goldens(release: Release, results: Sequence[LoadOutcome]) -> None:
    """Keep what the models gave here, as the lock keeps what they gave at the rehearsal."""
    json_files.write(release.path / GOLDENS_FILE, [one.golden for one in results if one.golden is not None])


def read_kept(release: Release) -> tuple[SmokeResult, ...]:
    """What was measured when the release was proven; nothing where it never was.

    Raises IntegrityError that names the field where the file is damaged, or of a version that wrote other fields.
    """
    path = release.path / _RESULTS_FILE
    hint = "install its bundle again without --no-smoke: that proves it anew"
    try:
        return json_files.read(tuple[SmokeResult, ...], path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        message = f"what the smoke loads measured can't be read: {error.strerror}"
        raise IntegrityError(message, where=str(path), hint=hint) from error
    except documents.DocumentError as faults:
        message = f"what the smoke loads measured can't be read: {json_files.format_problems(faults)}"
        raise IntegrityError(message, where=str(path), hint=hint) from faults


def _load(release: Release, lock: Lock, model: Model, device: str, stage: Stage) -> LoadOutcome:
    with tempfile.TemporaryDirectory(prefix="bundle-smoke-") as folder:
        request, result, log = (Path(folder, name) for name in ("request.json", "result.json", "calls.jsonl"))
        variables = env_file.make_library_variables(release.path) | env_file.cache_variables(Path(folder, "var"))
        phases = Path(folder, "phases.txt")
        asked = _make_request(release, lock, model, device, variables, phases)
        request.write_text(json.dumps(documents.encode(asked)), encoding="utf-8")
        done = process.run(
            [release.python, "-I", release.path / "payload", request, result],
            env=_make_env(release, lock, variables, log),
            accepted_codes=range(-64, 256),
            timeout=_MAX_LOAD_SECONDS,
            hint="see whether the host swaps, or reads the model from a slow disk; 'bundle smoke' tries again",
            watch=LoadProgress(stage, phases),
        )
        report = _report(model, done, result)
        ended_by = documents.decode(BlockedRequest, report.missed) if report.missed else None
        refused, absent = blocked_requests.split_requests(blocked_requests.read_log(log), ended_by, ok=report.ok)
    return LoadOutcome(
        result=smoke_result.from_report(report, calls=refused, absent=absent, proven_at=_now()),
        golden=_golden(report),
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _golden(reporter: LoadReport) -> Golden | None:
    if not reporter.outputs:
        return None
    return Golden(
        alias=reporter.alias,
        device=reporter.device,
        dtype=reporter.dtype,
        machine=reporter.machine,
        versions=reporter.versions,
        outputs=reporter.outputs,
    )


def _make_request(
    release: Release, lock: Lock, model: Model, device: str, variables: Mapping[str, str], phases: Path
) -> _LoadRequest:
    return _LoadRequest(
        alias=model.alias,
        loader=model.loader,
        path=str(release.path / "models" / model.alias),
        repo_id=model.repo_id,
        device=device,
        texts=lock.smoke.texts or STANDARD_TEXTS,
        closer=lock.smoke.closer,
        ram_limit=lock.smoke.ram_limit,
        # texts of ours are in more languages than a model may know
        any_language=not lock.smoke.texts,
        variables=variables,
        trust_remote_code=model.trust_remote_code,
        golden=lock.find_golden(model),
        tolerance=lock.smoke.tolerance,
        phases=str(phases),
    )


def _make_env(release: Release, lock: Lock, variables: Mapping[str, str], log: Path) -> dict[str, str]:
    """What a load starts with. The guard has to set the rest: only paths must be given, since ``current`` does not
    lead to this release yet."""
    by_guard = env_file.make_library_variables(release.live_path)
    given = {name: value for name, value in variables.items() if value != by_guard.get(name)}
    return process.inherit_env(
        drop_prefixes=(
            "HF_",
            "TRANSFORMERS_",
            "PYTHON",
            "TORCH",
            "BUNDLE_GUARD",
            *env_file.LEGACY_CACHE_VARIABLES,
            *variables,
        ),
        **given,
        **env_file.make_manifest_variables(lock, release.path),
        BUNDLE_GUARD="strict",
        BUNDLE_GUARD_LOG=str(log),
        BUNDLE_GUARD_TOLERATE=",".join(lock.smoke.tolerate_calls),
    )


def _report(model: Model, done: process.CompletedProcess, path: Path) -> LoadReport:
    """What a load wrote; a report that says how it ended where it wrote none that can be read."""
    last = "\n".join(done.stderr.strip().splitlines()[-5:])
    if done.returncode not in (_EXIT_PASSED, _EXIT_FAILED) or not path.exists():
        ended = (
            f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
        )
        hint = (
            "look for the kernel's out-of-memory message (dmesg); give the host more memory"
            if done.returncode < 0
            else ""
        )
        return _failed_report(model, f"the load {ended} before it could say anything: {last}", hint)
    try:
        return json_files.read(LoadReport, path)
    except documents.DocumentError as faults:
        hint = "install the same bundle again: that puts right what runs the load"
        return _failed_report(
            model, f"the load's report can't be read: {json_files.format_problems(faults)}; {last}", hint
        )


def _failed_report(model: Model, fault: str, hint: str) -> LoadReport:
    return LoadReport(
        alias=model.alias,
        loader=model.loader,
        ok=False,
        fault=fault,
        hint=hint,
        network=None,
        device="",
        dtype="",
        width=None,
        norm=None,
        load_seconds=0.0,
        first_seconds=0.0,
        second_seconds=0.0,
        peak_rss_bytes=0,
        versions={},
    )


def _iter_payload(release: Release) -> Iterator[tuple[Path, bytes]]:
    """Where each file of the payload belongs, and its bytes."""
    return _iter_files(resources.files("bundler").joinpath("payload"), release.path / "payload")


def _iter_files(source: Traversable, folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The files of a folder of the program, which may be one zip file."""
    for entry in source.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _iter_files(entry, folder / entry.name)
        elif entry.name.endswith(".py"):
            yield folder / entry.name, entry.read_bytes()

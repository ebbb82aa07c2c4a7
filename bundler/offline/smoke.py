"""Smoke loads: each model is loaded in a process of its own, with the network cut."""

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
    from importlib.resources.abc import Traversable  # new in Python 3.11

STANDARD_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "폐쇄망에서는 모델과 패키지를 한 번에 옮겨야 한다.",
    "A contract of forty pages was summarised for the board. " * 40,
)
"""Texts to embed when the manifest names none: English, Korean, and one of several hundred words."""

_RESULTS_FILE = "smoke.json"
GOLDENS_FILE = "goldens.json"
_EXIT_PASSED, _EXIT_FAILED = 0, 3
_MAX_LOAD_SECONDS = 3600.0
"""Seconds that a load may take; a longer one hangs."""


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
    """Write the payload beside the environment: the code that the environment's Python runs for a smoke load."""
    for path, data in _iter_payload(release):
        if not disk.has_content(path, data):
            path.parent.mkdir(parents=True, exist_ok=True)
            if release.is_finished:
                disk.write_atomically(path, data)  # the release may be live: a power cut must not leave the file empty
            else:
                path.write_bytes(data)


def remove_stale_payload(release: Release) -> None:
    """Remove Python files that another version of this program left in the payload.

    Call this only after this version's guard is written: until then each start of Python may import those files.
    """
    for path in _find_stale_payload(release):
        path.unlink()


def find_changed_payload(release: Release) -> list[Path]:
    """Find files of the payload that differ from those of this version, and Python files that it does not have."""
    changed = [path for path, data in _iter_payload(release) if not disk.has_content(path, data)]
    return changed + _find_stale_payload(release)


def _find_stale_payload(release: Release) -> list[Path]:
    current = {path for path, _ in _iter_payload(release)}
    return sorted(path for path in release.payload_folder.rglob("*.py") if path not in current)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOutcome:
    """One smoke load: what it measured, and the model's outputs; ``golden`` is None where there are none."""

    result: SmokeResult
    golden: Golden | None


def run_smoke_loads(release: Release, lock: Lock, device: str | None, reporter: Reporter) -> list[LoadOutcome]:
    """Load every model in a process of its own with the network cut.

    Raises:
        SmokeError: Models failed; the message names each and the reason.
        BlockedRequestError: A model failed and had asked for something that is not in the bundle.
    """
    _warn_about_overrides(release, lock, reporter)
    outcomes = []
    for model in lock.models:
        with reporter.stage(f"smoke load {model.alias}") as stage:
            outcomes.append(_run_load(release, lock, model, device or lock.smoke.device, stage))
        for warning in outcomes[-1].result.warnings:
            reporter.warn(f"{model.alias}: {warning}")
    results = [outcome.result for outcome in outcomes]
    failed = [result for result in results if not result.ok]
    for result in results:
        if result.ok and result.calls:
            requests = blocked_requests.format_requests(result.calls)
            reporter.warn(f"{result.alias} loads, but tried to call home:\n{requests}")
    if failed:
        aliases = [result.alias for result in failed]
        damaged = altered_files.find_damaged_parts(release, lock, aliases, reporter, deep=release.is_finished)
        raise _make_smoke_error(failed, len(results), damaged)
    return outcomes


def _warn_about_overrides(release: Release, lock: Lock, reporter: Reporter) -> None:
    """Warn about variables of this environment that override the release's; the smoke loads run without them."""
    for name, (actual, expected) in guard.read_state(release, lock).overridden_variables.items():
        reporter.warn(f"{name}={actual} is set in this environment and overrides the release's {expected}")


def _make_smoke_error(failed: list[SmokeResult], count: int, damaged: list[Part]) -> SmokeError:
    """Return the error for failed loads.

    A library reports a missing file of its own in many ways, so altered files come before advice on the error.
    """
    listed = "\n".join(f"  {result.alias}: {result.fault}" for result in failed)
    message = f"{len(failed)} of {pluralize(count, 'model')} failed the smoke load:\n{listed}"
    if damaged:
        message += "".join(f"\n{part.name}: {part.message}" for part in damaged)
        return SmokeError(message, hint=findings.REINSTALL_HINT)
    hint = " ".join(dict.fromkeys(result.hint for result in failed if result.hint))
    blocked = dict.fromkeys(request for result in failed for request in result.calls)
    absent = dict.fromkeys(request for result in failed for request in result.absent)
    if absent:
        message += f"\nnot found before the failure, a possible cause:\n{blocked_requests.format_requests(absent)}"
    if not blocked:
        return SmokeError(message, hint=hint)
    hint = "have the bundle built again with what is missing: each request above says what the manifest needs"
    return BlockedRequestError(f"{message}\nblocked requests:\n{blocked_requests.format_requests(blocked)}", hint=hint)


def write_results(release: Release, results: Sequence[SmokeResult]) -> None:
    """Write the results of the smoke loads to ``smoke.json``."""
    json_files.write(release.path / _RESULTS_FILE, results)


def write_goldens(release: Release, outcomes: Sequence[LoadOutcome]) -> None:
    """Write the models' outputs on this host, in the form in which the lock holds those of the rehearsal."""
    goldens = [outcome.golden for outcome in outcomes if outcome.golden is not None]
    json_files.write(release.path / GOLDENS_FILE, goldens)


def read_results(release: Release) -> tuple[SmokeResult, ...]:
    """Read the results of the last smoke loads; empty if none ran.

    Raises:
        IntegrityError: The file is damaged, or a version with other fields wrote it; the message names the field.
    """
    path = release.path / _RESULTS_FILE
    hint = "install its bundle again without --no-smoke: that runs the smoke loads again"
    try:
        return json_files.read(tuple[SmokeResult, ...], path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        message = f"the results of the smoke loads can't be read: {error.strerror}"
        raise IntegrityError(message, where=str(path), hint=hint) from error
    except documents.DocumentError as error:
        message = f"the results of the smoke loads can't be read: {json_files.format_problems(error)}"
        raise IntegrityError(message, where=str(path), hint=hint) from error


def _run_load(release: Release, lock: Lock, model: Model, device: str, stage: Stage) -> LoadOutcome:
    with tempfile.TemporaryDirectory(prefix="bundle-smoke-") as folder:
        request, result, log = (Path(folder, name) for name in ("request.json", "result.json", "calls.jsonl"))
        variables = env_file.make_library_variables(release.path) | env_file.make_cache_variables(Path(folder, "var"))
        phases = Path(folder, "phases.txt")
        load_request = _make_request(release, lock, model, device, variables, phases)
        request.write_text(json.dumps(documents.encode(load_request)), encoding="utf-8")
        completed = process.run(
            [release.python, "-I", release.payload_folder, request, result],
            env=_make_env(release, lock, variables, log),
            accepted_codes=range(-64, 256),
            timeout=_MAX_LOAD_SECONDS,
            hint="check whether the host swaps, or reads the model from a slow disk; 'bundle smoke' tries again",
            watch=LoadProgress(stage, phases),
        )
        report = _read_report(model, completed, result)
        fatal_request = documents.decode(BlockedRequest, report.missed) if report.missed else None
        blocked, absent = blocked_requests.split_requests(blocked_requests.read_log(log), fatal_request, ok=report.ok)
    return LoadOutcome(
        result=smoke_result.from_report(report, calls=blocked, absent=absent, proven_at=_format_now()),
        golden=_make_golden(report),
    )


def _format_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _make_golden(report: LoadReport) -> Golden | None:
    if not report.outputs:
        return None
    return Golden(
        alias=report.alias,
        device=report.device,
        dtype=report.dtype,
        machine=report.machine,
        versions=report.versions,
        outputs=report.outputs,
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
        # The standard texts are in languages that a model may not know.
        any_language=not lock.smoke.texts,
        variables=variables,
        trust_remote_code=model.trust_remote_code,
        golden=lock.find_golden(model),
        tolerance=lock.smoke.tolerance,
        phases=str(phases),
    )


def _make_env(release: Release, lock: Lock, variables: Mapping[str, str], log: Path) -> dict[str, str]:
    """Return the environment of a load.

    Only paths are set here, since ``current`` does not lead to this release yet; the guard has to set the rest.
    """
    set_by_guard = env_file.make_library_variables(release.live_path)
    set_here = {name: value for name, value in variables.items() if value != set_by_guard.get(name)}
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
        **set_here,
        **env_file.make_manifest_variables(lock, release.path),
        BUNDLE_GUARD="strict",
        BUNDLE_GUARD_LOG=str(log),
        BUNDLE_GUARD_TOLERATE=",".join(lock.smoke.tolerate_calls),
    )


def _read_report(model: Model, completed: process.CompletedProcess, path: Path) -> LoadReport:
    """Read the report that a load wrote; make one that says how it ended where there is none to read."""
    last_lines = "\n".join(completed.stderr.strip().splitlines()[-5:])
    code = completed.returncode
    if code not in (_EXIT_PASSED, _EXIT_FAILED) or not path.exists():
        ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = "look for the kernel's out-of-memory message (dmesg); give the host more memory" if code < 0 else ""
        return _make_failed_report(model, f"the load {ending} before it wrote a report: {last_lines}", hint)
    try:
        return json_files.read(LoadReport, path)
    except documents.DocumentError as error:
        hint = "install the same bundle again: that repairs the code of the smoke load"
        message = f"the load's report can't be read: {json_files.format_problems(error)}; {last_lines}"
        return _make_failed_report(model, message, hint)


def _make_failed_report(model: Model, fault: str, hint: str) -> LoadReport:
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
    """Yield the path of each file of the payload, and its bytes."""
    return _iter_files(resources.files("bundler").joinpath("payload"), release.payload_folder)


def _iter_files(source: Traversable, folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the files of a folder of this program, which may be a zip file."""
    for entry in source.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _iter_files(entry, folder / entry.name)
        elif entry.name.endswith(".py"):
            yield folder / entry.name, entry.read_bytes()

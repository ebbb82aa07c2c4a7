"""The rehearsal: installs the finished bundle with the network cut, and adds the models' outputs to its lock."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bundler import process
from bundler.errors import BlockedRequestError, BundleError, HostError, ProgramError, SmokeError
from bundler.format import blocked_requests, documents, json_files
from bundler.format.documents import InvalidValueError
from bundler.format.lock import lockfile
from bundler.format.lock.goldens import MAX_COMPONENTS, Golden
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.smoke_result import SmokeResult
from bundler.format.lock.target import detect_target
from bundler.format.tar import tar_layout
from bundler.progress import PROGRESS_FILE, Reporter, Stage, read_last_line

_INHERITED_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
    "BUNDLE_NETCUT",
    "OMP_NUM_THREADS",
)
"""Variables that the rehearsal inherits: an isolated host has none of this machine's others."""

_CUT_SCRIPT = """
import os, runpy, sys
netcut = runpy.run_path(sys.argv[1], run_name="netcut")
netcut["drop_proxies"]()
netcut["enter_namespace"]()
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Cuts the network for the installer and all that it starts, where the kernel allows it.

The smoke loads cut it again themselves, and report how.
"""

_SIGNATURE_RESERVE = 16 << 10
_MIN_COMPONENTS = 64
_UNPACKED_RATIO = 4
"""How much larger an installed wheel is than its file; the installer checks again with exact sizes."""


def find_obstacle(lock: Lock) -> str:
    """Return why this machine can't rehearse a bundle; "" where it can."""
    target = lock.target
    try:
        builder = detect_target()
    except InvalidValueError as error:
        return f"no bundle can be installed on the builder: its platform {error}"
    if builder.platform != target.platform:
        return f"the builder is {builder.platform} and the target {target.platform}"
    is_same_libc = builder.libc_version[0] == target.libc_version[0]
    if target.libc and (not is_same_libc or builder.libc_version < target.libc_version):
        return f"the builder has {builder.libc or 'no known C library'} and the target {target.libc}"
    return "" if _has_python(target.python) else f"the builder has no Python {target.python}, which the target has"


def estimate_space(lock: Lock) -> int:
    """Estimate the bytes that a rehearsal needs for a time on the disk of the cache."""
    unpacked = {"wheel": 1 + _UNPACKED_RATIO, "image": 0}
    return sum(artifact.size * unpacked.get(artifact.kind, 1) for artifact in lock.artifacts)


def run_rehearsal(bundle: Path, lock: Lock, installer: Path, cache_root: Path, reporter: Reporter) -> Lock:
    """Install a finished bundle as the host will, and return its lock with the models' golden outputs.

    A lock that has golden outputs is returned unchanged: the smoke loads have compared with them.

    Args:
        bundle: the bundle's file.
        lock: its lock.
        installer: the content of its bundle.pyz.
        cache_root: everything is installed below this folder, and removed afterwards.
        reporter: shows progress.

    Raises:
        SmokeError: the bundle does not install, or a model does not load or fails a check.
        BlockedRequestError: a load asked the network for something.
    """
    with reporter.stage("rehearse") as stage, _open_run_folder(cache_root / "rehearsals") as folder:
        prefix = folder / "prefix"
        home = folder / "home"
        home.mkdir()
        command: list[str | Path] = [
            sys.executable, "-I", "-S", installer, "install", bundle,
            "--prefix", prefix, "--device", "cpu", "--json", "--quiet",
        ]  # fmt: skip
        result = _run_installer(command, home, folder / "progress.txt", stage)
        _refuse_blocked_requests(_read_smoke_results(result), lock)
        if lock.rehearsed:
            return lock
        return _add_goldens(lock, _read_goldens(prefix / "current" / "goldens.json"))


def mark_unrehearsed(lock: Lock, reason: str) -> Lock:
    """Return the lock with the reason why it is not rehearsed; a lock that was rehearsed once stays as it is."""
    return lock if lock.rehearsed else lockfile.replace_fields(lock, unrehearsed=reason)


def _run_installer(command: list[str | Path], home: Path, progress: Path, stage: Stage) -> Mapping[str, Any]:
    """Run the installer and return its result; raises BundleError with the error that it reports."""
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    env = {**inherited, "HOME": str(home), PROGRESS_FILE: str(progress)}
    with resources.as_file(resources.files("bundler").joinpath("payload", "network", "netcut.py")) as netcut:
        cut: list[str | Path] = (
            [sys.executable, "-I", "-c", _CUT_SCRIPT, netcut] if platform.system() == "Linux" else []
        )
        completed = process.run(
            [*cut, *command],
            env=env,
            accepted_codes=range(-64, 256),
            watch=lambda _: stage.set_phase(read_last_line(progress)),
        )
    try:
        answer = json.loads(completed.stdout)
    except ValueError:
        last_lines = "\n".join(completed.stderr.strip().splitlines()[-5:])
        raise SmokeError(
            f"the rehearsal ended with code {completed.returncode} and without a result: {last_lines}",
            hint="look at the lines above; --no-rehearse builds the bundle without a rehearsal",
        ) from None
    if not answer["ok"]:
        raise _make_error(answer["error"])
    return dict(answer["result"])


def _make_error(error: Mapping[str, Any]) -> BundleError:
    kinds: dict[int, type[BundleError]] = {BlockedRequestError.code: BlockedRequestError, HostError.code: HostError}
    kind = kinds.get(error["code"], SmokeError)
    return kind(f"the rehearsal failed, so no bundle was written: {error['message']}", hint=error["hint"])


def _read_smoke_results(result: Mapping[str, Any]) -> tuple[SmokeResult, ...]:
    """Read the smoke results; raises SmokeError where the installer of a kept lock writes them in another form."""
    try:
        return documents.decode(tuple[SmokeResult, ...], result.get("smoke"))
    except documents.DocumentError as error:
        raise _make_unreadable_error(error) from error


def _read_goldens(path: Path) -> tuple[Golden, ...]:
    try:
        return json_files.read(tuple[Golden, ...], path)
    except documents.DocumentError as error:
        raise _make_unreadable_error(error) from error


def _make_unreadable_error(error: documents.DocumentError) -> SmokeError:
    hint = "run 'bundle lock' again: the installer in a kept lock is of another version of this program"
    return SmokeError(f"can't read the results of the rehearsal: {json_files.format_problems(error)}", hint=hint)


def _refuse_blocked_requests(results: Sequence[SmokeResult], lock: Lock) -> None:
    """Raise BlockedRequestError where a load asked the network for something and went on without an answer.

    On the host such a load may hang, or silently give other outputs.
    """
    requests = dict.fromkeys(request for result in results for request in result.calls)
    if untolerated := blocked_requests.select_untolerated(requests, lock.smoke.tolerate_calls):
        hint = "carry what is missing, or name the host under smoke: tolerate_calls in the manifest"
        raise BlockedRequestError(
            "the rehearsal failed, so no bundle was written: all models load, but they call home. Blocked requests:\n"
            + blocked_requests.format_requests(untolerated),
            hint=hint,
        )


def _add_goldens(lock: Lock, goldens: tuple[Golden, ...]) -> Lock:
    """Return the lock with golden outputs, with as many components as fit into the bundle's head."""
    max_components = MAX_COMPONENTS
    while True:
        thinned = tuple(_thin_golden(golden, max_components) for golden in goldens)
        final_lock = lockfile.replace_fields(lock, rehearsed=True, unrehearsed="", goldens=thinned)
        try:
            tar_layout.compute_layout(final_lock, bytes(_SIGNATURE_RESERVE))
        except InvalidValueError as error:
            max_components //= 2
            if max_components < _MIN_COMPONENTS:
                hint = "give fewer texts under smoke: texts in the manifest"
                raise HostError("the golden outputs do not fit into the bundle's head", hint=hint) from error
        else:
            return final_lock


def _thin_golden(golden: Golden, max_components: int) -> Golden:
    outputs = tuple(
        dataclasses.replace(output, vectors=tuple(vector.thin(max_components) for vector in output.vectors))
        for output in golden.outputs
    )
    return dataclasses.replace(golden, outputs=outputs)


def _has_python(version: str) -> bool:
    """Return whether this machine has the target's Python; a version manager's command for it may fail."""
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in (sys.executable, shutil.which(f"python{version}"), shutil.which("python3")):
        if candidate:
            try:
                output = process.run([candidate, "-I", "-S", "-c", script]).stdout
            except ProgramError:
                continue
            if output.strip() == version:
                return True
    return False


@contextmanager
def _open_run_folder(root: Path) -> Iterator[Path]:
    """Make a folder for this run, and remove it afterwards; first remove what killed runs left."""
    root.mkdir(parents=True, exist_ok=True)
    for lock_file in root.glob("*.lock"):
        _remove_leftover(lock_file)
    folder = root / uuid.uuid4().hex
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
            folder.with_suffix(".lock").unlink(missing_ok=True)


def _remove_leftover(lock_file: Path) -> None:
    try:
        with FileLock(lock_file, timeout=0):
            shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
            lock_file.unlink(missing_ok=True)
    except Timeout:  # its run is still alive
        return

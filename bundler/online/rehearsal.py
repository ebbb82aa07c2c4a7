"""Installs the finished bundle with the network cut, before it travels, and brings back what its models gave."""

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
"""Variables that the rehearsal starts with: an isolated host has nothing else of this machine."""

_CUT_SCRIPT = """
import os, runpy, sys
netcut = runpy.run_path(sys.argv[1], run_name="netcut")
netcut["drop_proxies"]()
netcut["enter_namespace"]()
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Cuts the network where the kernel allows it, for the installer and all that it starts; the smoke loads cut it again
by themselves, and say how."""

_SIGNATURE_RESERVE = 16 << 10
_MIN_COMPONENTS = 64
_UNPACKED_RATIO = 4
"""Bytes of an installed wheel for each of its own; the installer looks again, and more closely."""


def find_obstacle(lock: Lock) -> str:
    """Why this machine can't rehearse a bundle, in words; "" where it can."""
    there = lock.target
    try:
        here = detect_target()
    except InvalidValueError as error:
        return f"the builder is a machine that nothing is installed on: its platform {error}"
    if here.platform != there.platform:
        return f"the builder is {here.platform} and the target {there.platform}"
    if there.libc and (here.libc_version[0] != there.libc_version[0] or here.libc_version < there.libc_version):
        return f"the builder has {here.libc or 'no known C library'} and the target {there.libc}"
    return "" if _has_python(there.python) else f"the builder has no Python {there.python}, which the target has"


def estimate_space(lock: Lock) -> int:
    """Bytes that a rehearsal takes on the shelf's disk for a while, roughly."""
    unpacked = {"wheel": 1 + _UNPACKED_RATIO, "image": 0}
    return sum(artifact.size * unpacked.get(artifact.kind, 1) for artifact in lock.artifacts)


def run_rehearsal(bundle: Path, lock: Lock, installer: Path, cache_root: Path, reporter: Reporter) -> Lock:
    """Install a finished bundle as the far side will, and give its lock with what the models gave.

    ``installer`` is the content of its bundle.pyz; all is done below ``shelf`` and removed afterwards. A lock that
    has golden outputs is given back as it is: the smoke loads have compared with them. Raises SmokeError when it does
    not install or a model does not prove itself, CalledHomeError when a load asked for what is not carried.
    """
    with reporter.stage("rehearse") as stage, _open_run_folder(cache_root / "rehearsals") as folder:
        prefix = folder / "prefix"
        home = folder / "home"
        home.mkdir()
        command: list[str | Path] = [
            sys.executable, "-I", "-S", installer, "install", bundle,
            "--prefix", prefix, "--device", "cpu", "--json", "--quiet",
        ]  # fmt: skip
        told = _run_installer(command, home, folder / "progress.txt", stage)
        _refuse_blocked_requests(_results(told), lock)
        if lock.rehearsed:
            return lock
        return _add_goldens(lock, _goldens(prefix / "current" / "goldens.json"))


def mark_unrehearsed(lock: Lock, reason: str) -> Lock:
    """The lock that says why nothing was rehearsed; what was rehearsed once stays so."""
    return lock if lock.rehearsed else lockfile.replace_fields(lock, unrehearsed=reason)


def _run_installer(command: list[str | Path], home: Path, progress: Path, stage: Stage) -> Mapping[str, Any]:
    """What the installer found out; ``stage`` shows what it does. Raises BundleError with what it failed at."""
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    environment = {**kept, "HOME": str(home), PROGRESS_FILE: str(progress)}
    with resources.as_file(resources.files("bundler").joinpath("payload", "network", "netcut.py")) as netcut:
        cut: list[str | Path] = (
            [sys.executable, "-I", "-c", _CUT_SCRIPT, netcut] if platform.system() == "Linux" else []
        )
        done = process.run(
            [*cut, *command],
            env=environment,
            accepted_codes=range(-64, 256),
            watch=lambda _: stage.set_phase(read_last_line(progress)),
        )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise SmokeError(
            f"the rehearsal ended with code {done.returncode} before it could say anything: {last}"
        ) from None
    if not said["ok"]:
        raise _make_error(said["error"])
    return dict(said["result"])


def _make_error(error: Mapping[str, Any]) -> BundleError:
    kinds: dict[int, type[BundleError]] = {BlockedRequestError.code: BlockedRequestError, HostError.code: HostError}
    kind = kinds.get(error["code"], SmokeError)
    return kind(f"the rehearsal failed, so no bundle was written: {error['message']}", hint=error["hint"])


def _results(told: Mapping[str, Any]) -> tuple[SmokeResult, ...]:
    """What the smoke loads measured. Raises SmokeError where the installer, of a kept lock, is too old to say it so."""
    try:
        return documents.decode(tuple[SmokeResult, ...], told.get("smoke"))
    except documents.DocumentError as faults:
        raise _strange(faults) from faults


def _goldens(path: Path) -> tuple[Golden, ...]:
    try:
        return json_files.read(tuple[Golden, ...], path)
    except documents.DocumentError as faults:
        raise _strange(faults) from faults


def _strange(faults: documents.DocumentError) -> SmokeError:
    hint = "lock again: the installer in a kept lock is of another version of this program"
    return SmokeError(f"what the rehearsal measured can't be read: {json_files.format_problems(faults)}", hint=hint)


def _refuse_blocked_requests(results: Sequence[SmokeResult], lock: Lock) -> None:
    """A load that goes on after it called home works here and stalls, or gives something else, where nobody looks."""
    found = [call for result in results for call in result.calls]
    if survived := blocked_requests.select_untolerated(dict.fromkeys(found), lock.smoke.tolerate_calls):
        hint = "carry what is missing, or name the host under smoke: tolerate_calls in the manifest"
        raise BlockedRequestError(
            "the rehearsal failed, so no bundle was written: all models load, and these calls home were refused:\n"
            + blocked_requests.format_requests(survived),
            hint=hint,
        )


def _add_goldens(lock: Lock, goldens: tuple[Golden, ...]) -> Lock:
    """The lock with golden outputs, by as many components as there is room for in the bundle's head."""
    most = MAX_COMPONENTS
    while True:
        sealed = lockfile.replace_fields(
            lock, rehearsed=True, unrehearsed="", goldens=tuple(_thin_golden(g, most) for g in goldens)
        )
        try:
            tar_layout.compute_layout(sealed, bytes(_SIGNATURE_RESERVE))
        except InvalidValueError as error:
            most //= 2
            if most < _MIN_COMPONENTS:
                raise HostError("the golden outputs do not fit the bundle's head", hint="fewer smoke: texts") from error
        else:
            return sealed


def _thin_golden(golden: Golden, max_components: int) -> Golden:
    outputs = tuple(
        dataclasses.replace(output, vectors=tuple(vector.thin(max_components) for vector in output.vectors))
        for output in golden.outputs
    )
    return dataclasses.replace(golden, outputs=outputs)


def _has_python(version: str) -> bool:
    """Whether the installer will find the target's Python here; a version manager's name for it may lead nowhere."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in (sys.executable, shutil.which(f"python{version}"), shutil.which("python3")):
        if candidate:
            try:
                said = process.run([candidate, "-I", "-S", "-c", ask]).stdout
            except ProgramError:
                continue
            if said.strip() == version:
                return True
    return False


@contextmanager
def _open_run_folder(root: Path) -> Iterator[Path]:
    """A folder of this run alone, removed afterwards; what killed runs left is removed first."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob("*.lock"):
        _remove_leftover(left)
    folder = root / uuid.uuid4().hex
    holder = FileLock(folder.with_suffix(".lock"))
    with holder:
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
    except Timeout:  # a run that is alive
        return

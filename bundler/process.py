"""The one door through which other programs are run."""

from __future__ import annotations

import ctypes
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import ProgramError

_URL_LOGIN = re.compile(r"(?<=://)(?:[^\s/:@]*:\S*|[^\s/]*)(?=@)")
"""What stands before the host of an address; a password with a slash or an @ in it counts whole."""

_SECRET_PARAMETER = re.compile(r"(?i)([?&][^=&\s]*(?:token|sig|secret|key|passw|credential|auth)[^=&\s]*=)[^&\s'\"]+")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_MAX_OUTPUT_LINES = 40

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the one that started it ends."""

_prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
"""Looked up here and not in the child: other threads run when it forks, and may hold the lock of the loader."""

_POLL_SECONDS = 0.5

Watch = Callable[[int], None]
"""Called about twice a second with the id of a process that runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletedProcess:
    """A program that has ended: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def redact(text: str) -> str:
    """``text`` with tokens, and the user, password and signature of every address in it, masked."""
    return _HUB_TOKEN.sub("hf_***", _SECRET_PARAMETER.sub(r"\1***", _URL_LOGIN.sub("***", text)))


def inherit_env(*, drop_prefixes: Sequence[str] = (), **extra: str) -> dict[str, str]:
    """This process's environment less the variables that start with a prefix in ``without``, plus ``extra``."""
    return {k: v for k, v in os.environ.items() if not k.startswith(tuple(drop_prefixes))} | extra


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accepted_codes: Sequence[int] = (0,),
    timeout: float | None = None,
    user: int | None = None,
    hint: str = "",
    watch: Watch | None = None,
) -> CompletedProcess:
    """Run a program to its end without standard input.

    Raises ProgramError when it can't be started or ends with a code that is not in ``accept``; the
    message holds the last lines it printed, with passwords masked. ``seconds`` bounds its time. ``user`` is whom it
    runs as, in no group but the one of that number; only root may ask for that. ``watch`` is called in this thread
    while it runs. On Linux it ends with this process, also when that is killed: what is left behind would write where the next run works.
    """
    argv = [os.fspath(part) for part in command]
    name = Path(argv[0]).name
    try:
        with subprocess.Popen(
            argv,
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            # it calls one function of C and takes no lock that another thread could hold
            preexec_fn=None if _prctl is None else _die_with_parent,  # noqa: PLW1509
        ) as child:
            try:
                stdout, stderr = _wait(child, timeout, watch)
            except BaseException:
                child.kill()
                raise
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{name} did not end within {timeout:.0f} s", where=argv[0], hint=hint) from error
    except OSError as error:
        raise ProgramError(f"{name} can't be run: {error.strerror}", where=argv[0], hint=hint) from error
    finished = CompletedProcess(
        returncode=child.returncode,
        stdout=stdout.decode("utf-8", "replace"),
        stderr=stderr.decode("utf-8", "replace"),
    )
    if finished.returncode not in accepted_codes:
        said = (finished.stderr.strip() or finished.stdout.strip()).splitlines()[-_MAX_OUTPUT_LINES:]
        ended = (
            f"ended with code {finished.returncode}"
            if finished.returncode >= 0
            else f"was ended by signal {-finished.returncode}"
        )
        raise ProgramError(redact("\n".join([f"{name} {ended}:", *said])), where=argv[0], hint=hint)
    return finished


def _wait(child: subprocess.Popen[bytes], seconds: float | None, watch: Watch | None) -> tuple[bytes, bytes]:
    """What a process printed, once it has ended. Raises subprocess.TimeoutExpired after ``seconds``."""
    if watch is None:
        return child.communicate(timeout=seconds)
    end = math.inf if seconds is None else time.monotonic() + seconds
    while True:
        try:
            return child.communicate(timeout=max(0.0, min(_POLL_SECONDS, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise
        watch(child.pid)


def _die_with_parent() -> None:
    """Runs in the child before the program does. Where this call fails, the program outlives a kill, as elsewhere."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

"""The only module that runs other programs."""

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
"""User and password before the host of a URL. A password may contain a slash or an @."""

_SECRET_PARAMETER = re.compile(r"(?i)([?&][^=&\s]*(?:token|sig|secret|key|passw|credential|auth)[^=&\s]*=)[^&\s'\"]+")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_MAX_OUTPUT_LINES = 40

_PR_SET_PDEATHSIG = 1
"""prctl(2): sets the signal that a process gets when its parent ends."""

_prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
"""Looked up before the fork: in the child, another thread may hold the lock of the dynamic loader."""

_POLL_SECONDS = 0.5

Watch = Callable[[int], None]
"""Called about twice a second with the id of the running process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletedProcess:
    """The exit code and the output of a program that has ended."""

    returncode: int
    stdout: str
    stderr: str


def redact(text: str) -> str:
    """Mask hub tokens in ``text``, and the user, password and secret parameters of every URL in it."""
    return _HUB_TOKEN.sub("hf_***", _SECRET_PARAMETER.sub(r"\1***", _URL_LOGIN.sub("***", text)))


def inherit_env(*, drop_prefixes: Sequence[str] = (), **extra: str) -> dict[str, str]:
    """Return this process's environment without variables that start with a prefix in ``drop_prefixes``, plus ``extra``."""
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
    """Run a program to its end, without standard input.

    On Linux it ends with this process, even a killed one: otherwise it would write into folders of the next run.

    Args:
        command: the program and its arguments.
        env: its whole environment; None for that of this process.
        cwd: its working folder.
        accepted_codes: exit codes that are no error.
        timeout: seconds after which it is killed.
        user: user and only group that it runs as, a number. Needs root.
        hint: what to do when it fails.
        watch: called in this thread while the program runs.

    Raises:
        ProgramError: It can't be started, takes too long, or ends with another code. The message has its last lines.
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
            # safe with threads: it calls one C function and takes no lock
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
    output, errors = stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
    completed = CompletedProcess(returncode=child.returncode, stdout=output, stderr=errors)
    if completed.returncode not in accepted_codes:
        raise ProgramError(_describe_failure(name, completed), where=argv[0], hint=hint)
    return completed


def _describe_failure(name: str, completed: CompletedProcess) -> str:
    """Say how a program ended, with the last lines that it printed, redacted."""
    code = completed.returncode
    ending = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
    last_lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()[-_MAX_OUTPUT_LINES:]
    return redact("\n".join([f"{name} {ending}:", *last_lines]))


def _wait(child: subprocess.Popen[bytes], timeout: float | None, watch: Watch | None) -> tuple[bytes, bytes]:
    """Wait for a process and return its output. Raises subprocess.TimeoutExpired after ``timeout`` seconds."""
    if watch is None:
        return child.communicate(timeout=timeout)
    end = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        try:
            return child.communicate(timeout=max(0.0, min(_POLL_SECONDS, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise
        watch(child.pid)


def _die_with_parent() -> None:
    """Run in the child before the program starts. If the call fails, the program survives a kill, as on other systems."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

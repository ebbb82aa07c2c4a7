"""Starts the command line as a process of its own, without paying for its imports each time.

A server imports what the program needs once, and each run is a fork of it with arguments, an environment, a folder
and a umask of its own. A fork differs from a fresh start in what Python reads as it starts: a run that asks for other
such things is started afresh, and so is all that is not a plain run.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "OMP_", "MALLOC_")
"""Variables that a process reads before its program runs."""

_SERVER = """
import importlib, json, os, runpy, select, signal, socket, sys
def request(listener):  # given back in the fork that is to run it
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            sys.exit()  # the tests have ended, whatever ended them
        line, _ = listener.accept()
        while True:  # those that have ended
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
        if os.fork():
            line.close()
            continue
        _, fds, _, _ = socket.recv_fds(line, 1, 3)
        text = b""
        while not text.endswith(b"\\n"):
            text += line.recv(1 << 16)
        pid = os.fork()
        if pid:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            line.sendall(b"%d\\n" % code)
            os._exit(0)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, max(line.fileno(), listener.fileno(), *fds) + 1)
        line.detach()
        listener.detach()
        return json.loads(text)
address, modules, *argv = sys.argv[1:]
sys.path[:] = [argv[0] if argv[0].endswith(".pyz") else os.path.dirname(argv[0]), *filter(None, sys.path)]
for name in modules.split():
    importlib.import_module(name)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(address)
    listener.listen(64)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)
    print("ready", flush=True)
    asked = request(listener)
signal.signal(signal.SIGINT, interrupted)
os.environ.clear()
os.environ.update(asked["environment"])
os.chdir(asked["folder"])
os.umask(asked["umask"])
sys.argv = [*argv, *asked["arguments"]]
runpy.run_path(argv[0], run_name="__main__")
"""


_servers: dict[Program, _Server] = {}


@dataclass(frozen=True, slots=True)
class Program:
    """A program of Python, and the modules that it need not import each time."""

    python: tuple[str, ...]
    path: Path
    modules: tuple[str, ...]

    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run it to its end as ``subprocess.run`` does, with that function's options; what it says is kept."""
        options = {"text": True} | options
        if options.get("stdin") == subprocess.DEVNULL:
            del options["stdin"]
        if options.keys() <= {"env", "cwd", "umask", "text"}:
            server = _servers.get(self) or _servers.setdefault(self, _Server(self))
            environment = dict(options.get("env") or os.environ)
            if _read_at_start(environment) == server.began_with:
                return server.run([str(one) for one in arguments], environment, options)
        command = [*self.python, str(self.path), *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, **options)


class _Server:
    """One process that has imported a program's modules, and forks."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.began_with = _read_at_start(os.environ)
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        self._address = str(Path(self._folder.name, "server"))
        command = [*program.python, "-c", _SERVER, self._address, " ".join(program.modules), str(program.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", command

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], options: Mapping[str, Any]
    ) -> subprocess.CompletedProcess[Any]:
        mask = options.get("umask", -1)
        asked = {
            "arguments": arguments,
            "environment": environment,
            "folder": os.fspath(options.get("cwd") or Path.cwd()),
            "umask": mask if mask >= 0 else _umask(),
        }
        with (
            Path(os.devnull).open("rb") as nothing,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX) as line,
        ):
            line.connect(self._address)
            socket.send_fds(line, [b"\n"], [one.fileno() for one in (nothing, out, err)])
            line.sendall(json.dumps(asked).encode() + b"\n")
            with line.makefile("r") as answers:
                code = int(answers.readline())
            said = [_content(one, text=options["text"]) for one in (out, err)]
        return subprocess.CompletedProcess([*self.program.python, str(self.program.path), *arguments], code, *said)

    def close(self) -> None:
        with self._process as process:
            process.communicate()  # closes its standard input, and so ends it
        self._folder.cleanup()


def close() -> None:
    """End all servers."""
    while _servers:
        _servers.popitem()[1].close()


def _content(file: IO[bytes], *, text: bool) -> Any:
    file.seek(0)
    content = file.read()
    return content.decode().replace("\r\n", "\n").replace("\r", "\n") if text else content


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

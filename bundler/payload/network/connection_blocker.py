"""Refuses every connection but to this machine and to listed hosts, at once, and says who asked for what.

It sees what Python's own sockets do, and what the hub's client was asked for and refused by itself because it is
offline. It does not see sockets that compiled code or another program opens: only a cut network stops these.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from . import netcut, request_origin
from .missing_resource import Call

ALLOW = "BUNDLE_GUARD_ALLOW"
"""Names the variable with hosts that may be reached, after commas."""
TOLERATE = "BUNDLE_GUARD_TOLERATE"
"""Hosts that are out of reach as on any cut network, so that a library which can do without them goes on."""
LOG = "BUNDLE_GUARD_LOG"
"""A file that gets a line of JSON for each call that was refused, whatever the library does about it."""

_ABOUT = "_airgap_call"  # an error of the hub's client holds here what it is about

calls: list[Call] = []
_allowed: set[str] = set()
_tolerated: set[str] = set()
_suspended = False
active = False


class CallRefused(RuntimeError):
    """A library tried to reach another host.

    No kind of OSError on purpose: libraries take those for a passing fault of the network, and try again for minutes.
    """


def begin() -> None:
    """From here on, for this process and, by the environment, for each Python that it starts."""
    global active  # noqa: PLW0603 - there is one guard in a process
    netcut.drop_proxies()  # one that listens on loopback would lead around this
    _allowed.update(_listed(ALLOW))
    _tolerated.update(_listed(TOLERATE))
    sys.addaudithook(_hook)
    sys.meta_path.insert(0, _HubWatcher())
    active = True


@contextmanager
def suspended() -> Iterator[None]:
    """For what is meant to fail by itself, such as the proof that the network is cut. One thread only."""
    global _suspended  # noqa: PLW0603
    _suspended = True
    try:
        yield
    finally:
        _suspended = False


def _listed(variable: str) -> list[str]:
    return [host.strip().lower() for host in os.environ.get(variable, "").split(",") if host.strip()]


def _hook(event: str, details: tuple[Any, ...]) -> None:
    host = None if _suspended else netcut.aim(event, details)
    if host is None or host.lower() in _allowed:
        return
    if host.lower() in _listed(ALLOW):
        _allowed.update(_addresses(host))
        return
    call = request_origin.who(host)
    _note(call)
    if host.lower() in _tolerated:
        raise OSError(errno.ENETUNREACH, f"the network is out of reach: {host}")
    raise CallRefused(call.sentence())


def _addresses(host: str) -> list[str]:
    """An allowed name and its addresses: a connection goes to one of those."""
    with suspended():
        found = socket.getaddrinfo(host, None)
    return [host.lower(), *(str(each[4][0]).lower() for each in found)]


def _same(one: Call, other: Call) -> bool:
    """The client asks for one thing of a repository at several addresses."""
    return one == other or (bool(one.revision) and replace(one, host="", url="") == replace(other, host="", url=""))


def _note(call: Call) -> None:
    if any(_same(call, each) for each in calls):
        return
    calls.append(call)
    if path := os.environ.get(LOG):
        line = json.dumps(asdict(call), ensure_ascii=False) + "\n"
        with Path(path).open("a", encoding="utf-8") as log:
            log.write(line)


class _HubWatcher:
    """Waits for the hub's client: offline it refuses by itself, before there is any connection to see."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "huggingface_hub.errors":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            _listen_to(module.OfflineModeIsEnabled, request_origin.of_hub)
            _listen_to(module.LocalEntryNotFoundError, request_origin.of_cache)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _listen_to(error: Any, find: Callable[[str], Call | None]) -> None:
    """Notes what an error of the client is about, as it is made; the client goes on as before."""
    made = error.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        call = None if _suspended else find(str(arguments[0]) if arguments else "")
        if call is not None:
            _note(call)
            setattr(self, _ABOUT, call)

    error.__init__ = init


def behind(error: BaseException) -> Call | None:
    """The call that the hub's client could not answer, where that is what an error came of."""
    chain, known = [error], set()
    while chain:
        one = chain.pop(0)
        if isinstance(call := getattr(one, _ABOUT, None), Call):
            return call
        known.add(id(one))
        chain += [each for each in (one.__cause__, one.__context__) if each is not None and id(each) not in known]
    return None

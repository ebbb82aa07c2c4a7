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
from .missing_resource import BlockedRequest

ALLOW_VARIABLE = "BUNDLE_GUARD_ALLOW"
"""Names the variable with hosts that may be reached, after commas."""
TOLERATE_VARIABLE = "BUNDLE_GUARD_TOLERATE"
"""Hosts that are out of reach as on any cut network, so that a library which can do without them goes on."""
LOG_VARIABLE = "BUNDLE_GUARD_LOG"
"""A file that gets a line of JSON for each call that was refused, whatever the library does about it."""

_REQUEST_ATTRIBUTE = "_airgap_call"  # an error of the hub's client holds here what it is about

blocked_requests: list[BlockedRequest] = []
_allowed_hosts: set[str] = set()
_tolerated_hosts: set[str] = set()
_is_suspended = False
is_active = False


class ConnectionBlockedError(RuntimeError):
    """A library tried to reach another host.

    No kind of OSError on purpose: libraries take those for a passing fault of the network, and try again for minutes.
    """


def start_blocking() -> None:
    """From here on, for this process and, by the environment, for each Python that it starts."""
    global is_active  # noqa: PLW0603 - there is one guard in a process
    netcut.drop_proxies()  # one that listens on loopback would lead around this
    _allowed_hosts.update(_list_hosts(ALLOW_VARIABLE))
    _tolerated_hosts.update(_list_hosts(TOLERATE_VARIABLE))
    sys.addaudithook(_audit_hook)
    sys.meta_path.insert(0, _HubWatcher())
    is_active = True


@contextmanager
def suspend_blocking() -> Iterator[None]:
    """For what is meant to fail by itself, such as the proof that the network is cut. One thread only."""
    global _is_suspended  # noqa: PLW0603
    _is_suspended = True
    try:
        yield
    finally:
        _is_suspended = False


def _list_hosts(variable: str) -> list[str]:
    return [host.strip().lower() for host in os.environ.get(variable, "").split(",") if host.strip()]


def _audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
    host = None if _is_suspended else netcut.find_target_host(event, arguments)
    if host is None or host.lower() in _allowed_hosts:
        return
    if host.lower() in _list_hosts(ALLOW_VARIABLE):
        _allowed_hosts.update(_resolve_host(host))
        return
    call = request_origin.trace_request(host)
    _log_request(call)
    if host.lower() in _tolerated_hosts:
        raise OSError(errno.ENETUNREACH, f"the network is out of reach: {host}")
    raise ConnectionBlockedError(call.format_sentence())


def _resolve_host(host: str) -> list[str]:
    """An allowed name and its addresses: a connection goes to one of those."""
    with suspend_blocking():
        found = socket.getaddrinfo(host, None)
    return [host.lower(), *(str(each[4][0]).lower() for each in found)]


def _is_same_request(one: BlockedRequest, other: BlockedRequest) -> bool:
    """The client asks for one thing of a repository at several addresses."""
    return one == other or (bool(one.revision) and replace(one, host="", url="") == replace(other, host="", url=""))


def _log_request(request: BlockedRequest) -> None:
    if any(_is_same_request(request, each) for each in blocked_requests):
        return
    blocked_requests.append(request)
    if path := os.environ.get(LOG_VARIABLE):
        line = json.dumps(asdict(request), ensure_ascii=False) + "\n"
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
            _watch_error_class(module.OfflineModeIsEnabled, request_origin.trace_hub_refusal)
            _watch_error_class(module.LocalEntryNotFoundError, request_origin.trace_cache_miss)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _watch_error_class(error_class: Any, find: Callable[[str], BlockedRequest | None]) -> None:
    """Notes what an error of the client is about, as it is made; the client goes on as before."""
    made = error_class.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        call = None if _is_suspended else find(str(arguments[0]) if arguments else "")
        if call is not None:
            _log_request(call)
            setattr(self, _REQUEST_ATTRIBUTE, call)

    error_class.__init__ = init


def find_blocked_request(error: BaseException) -> BlockedRequest | None:
    """The call that the hub's client could not answer, where that is what an error came of."""
    chain, known = [error], set()
    while chain:
        one = chain.pop(0)
        if isinstance(call := getattr(one, _REQUEST_ATTRIBUTE, None), BlockedRequest):
            return call
        known.add(id(one))
        chain += [each for each in (one.__cause__, one.__context__) if each is not None and id(each) not in known]
    return None

"""Refusal of every connection except to this machine and to listed hosts, with a log of who requested what.

It sees Python's own sockets, and the requests that the hub's client refuses by itself because it is offline. It does
not see sockets that compiled code or another program opens: only a cut network stops these.
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
"""Variable with the hosts that may be reached, separated by commas."""
TOLERATE_VARIABLE = "BUNDLE_GUARD_TOLERATE"
"""Variable with hosts that fail as on a cut network (OSError), so that a library that can do without them continues."""
LOG_VARIABLE = "BUNDLE_GUARD_LOG"
"""Variable with a file that gets one line of JSON for each refused request, however the library handles it."""

_REQUEST_ATTRIBUTE = "_airgap_call"  # set on an error of the hub's client: the BlockedRequest

blocked_requests: list[BlockedRequest] = []
_allowed_hosts: set[str] = set()
_tolerated_hosts: set[str] = set()
_is_suspended = False
is_active = False


class ConnectionBlockedError(RuntimeError):
    """A library tried to reach another host.

    Not an OSError: libraries treat that as a temporary network error and retry for minutes.
    """


def start_blocking() -> None:
    """Refuse connections from now on, in this process and, by its environment, in each Python that it starts."""
    global is_active  # noqa: PLW0603 - audit hooks are global as well
    netcut.drop_proxies()  # a proxy on loopback would bypass the check
    _allowed_hosts.update(_list_hosts(ALLOW_VARIABLE))
    _tolerated_hosts.update(_list_hosts(TOLERATE_VARIABLE))
    sys.addaudithook(_audit_hook)
    sys.meta_path.insert(0, _HubWatcher())
    is_active = True


@contextmanager
def suspend_blocking() -> Iterator[None]:
    """Allow connections for a while, such as for the proof that the network is cut. Only for one thread."""
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
    request = request_origin.trace_request(host)
    _log_request(request)
    if host.lower() in _tolerated_hosts:
        raise OSError(errno.ENETUNREACH, f"the network is out of reach: {host}")
    raise ConnectionBlockedError(request.format_sentence())


def _resolve_host(host: str) -> list[str]:
    """Return an allowed name and its addresses: a connection goes to one of the addresses."""
    with suspend_blocking():
        addresses = socket.getaddrinfo(host, None)
    return [host.lower(), *(str(address[4][0]).lower() for address in addresses)]


def _is_same_request(first: BlockedRequest, second: BlockedRequest) -> bool:
    """Compare without URLs: the hub's client asks for one file at several URLs."""
    if first == second:
        return True
    return bool(first.revision) and replace(first, host="", url="") == replace(second, host="", url="")


def _log_request(request: BlockedRequest) -> None:
    if any(_is_same_request(request, logged) for logged in blocked_requests):
        return
    blocked_requests.append(request)
    if path := os.environ.get(LOG_VARIABLE):
        line = json.dumps(asdict(request), ensure_ascii=False) + "\n"
        with Path(path).open("a", encoding="utf-8") as log:
            log.write(line)


class _HubWatcher:
    """Import hook that watches the errors of the hub's client: offline, it refuses before it opens a connection."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for ``huggingface_hub.errors`` that watches its error classes; None for other modules."""
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


def _watch_error_class(error_class: Any, trace: Callable[[str], BlockedRequest | None]) -> None:
    """Log the request behind each new error of this class; the client is not affected."""
    original_init = error_class.__init__

    def init(self: Any, *arguments: Any, **keywords: Any) -> None:
        original_init(self, *arguments, **keywords)
        request = None if _is_suspended else trace(str(arguments[0]) if arguments else "")
        if request is not None:
            _log_request(request)
            setattr(self, _REQUEST_ATTRIBUTE, request)

    error_class.__init__ = init


def find_blocked_request(error: BaseException) -> BlockedRequest | None:
    """Find the request of the hub's client that caused an error, directly or through its chain of causes."""
    queue, visited = [error], set()
    while queue:
        current = queue.pop(0)
        if isinstance(request := getattr(current, _REQUEST_ATTRIBUTE, None), BlockedRequest):
            return request
        visited.add(id(current))
        causes = (current.__cause__, current.__context__)
        queue += [cause for cause in causes if cause is not None and id(cause) not in visited]
    return None

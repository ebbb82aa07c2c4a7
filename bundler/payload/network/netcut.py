"""Cuts this process off from every network, and proves that it is cut.

Must run before any thread exists: Linux gives a user namespace to processes of one thread only.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Literal, TypedDict

CLONE_NEWUSER = 0x10000000  # numbers of the Linux interface: unshare(2), netdevice(7)
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

UNREACHABLE_ADDRESS = ("192.0.2.1", 443)  # RFC 5737 keeps this network for documentation: nothing lives there
CONNECT_SECONDS = 2.0
MAX_ATTEMPTS = 32
_SUCCESS = b"done"


class NetworkState(TypedDict):
    """How the network was cut. ``attempts`` grows while the process runs: hosts that something tried to reach."""

    cut: Literal["namespace", "guard"]
    interfaces: list[str]
    proof: str
    statement: str
    attempts: list[str]


class NotCutError(OSError):
    """The network could not be cut for certain, so nothing may be loaded."""


def cut_network() -> NetworkState:
    """Cuts the network for this process and its children, for good.

    A network namespace of its own where the kernel allows it, else a guard inside Python. ``BUNDLE_NETCUT=guard``
    in the environment asks for the guard.

    :raises NotCutError: a namespace was made, and something besides the loopback interface is in it
    """
    drop_proxies()
    attempts: list[str] = []
    why_not = enter_namespace()
    if why_not:
        return _cut_with_guard(why_not, attempts)
    interfaces, proof = _prove_namespace()
    _watch_connections(attempts, refuse=False)
    return NetworkState(
        cut="namespace",
        interfaces=interfaces,
        proof=proof,
        statement="The kernel cut the network: this process has a network namespace of its own, whose only interface "
        f"is {interfaces[0]}, and nothing outside answers ({proof}).",
        attempts=attempts,
    )


def drop_proxies() -> None:
    """Forgets proxies: one that listens on loopback would lead around the guard."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


def enter_namespace() -> str:
    """Enters a network namespace; the reason in words where that can not be done."""
    if os.environ.get("BUNDLE_NETCUT") == "guard":
        return "BUNDLE_NETCUT asks for the guard"
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    refusal = ""
    # A privileged process must not take a user namespace: in it, root could not read files of other users.
    for kinds in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        refusal = _try_in_child(kinds)
        if not refusal:
            _enter(kinds)
            return ""
    return refusal


def _try_in_child(flags: int) -> str:
    """Tries in a child first: some kernels refuse half-way, and a namespace can not be left again."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _enter(flags)
            os.write(writer, _SUCCESS)
        except (OSError, AttributeError) as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if answer == _SUCCESS:
        return ""
    return answer.decode(errors="replace") or "the kernel ended a process that asked for one"


def _enter(flags: int) -> None:
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(ctypes.c_int(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    if flags & CLONE_NEWUSER:
        # user_namespaces(7): without privileges, groups can be mapped only once setgroups is denied.
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
    _raise_loopback()


def _raise_loopback() -> None:
    """A new namespace has its loopback interface down; libraries that talk to themselves need it up."""
    import fcntl  # noqa: PLC0415 - Windows has no such module

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def _prove_namespace() -> tuple[list[str], str]:
    interfaces = sorted(name for _, name in socket.if_nameindex())
    if interfaces != ["lo"]:  # and no connection is tried: with another interface a packet could leave
        raise NotCutError(
            f"the network is not cut: beside lo, the new network namespace holds {', '.join(interfaces)}; "
            "set BUNDLE_NETCUT=guard to cut it inside Python instead"
        )
    where = f"connect to {UNREACHABLE_ADDRESS[0]}:{UNREACHABLE_ADDRESS[1]}"
    try:
        socket.create_connection(UNREACHABLE_ADDRESS, timeout=CONNECT_SECONDS).close()
    except TimeoutError as error:
        raise NotCutError(f"the network is not cut: {where} was not refused, it only timed out") from error
    except OSError as error:
        return interfaces, f"{where}: {error}"
    raise NotCutError(f"the network is not cut: {where} went through")


def _cut_with_guard(reason: str, attempts: list[str]) -> NetworkState:
    _watch_connections(attempts, refuse=True)
    where = f"connect to {UNREACHABLE_ADDRESS[0]}:{UNREACHABLE_ADDRESS[1]}"
    try:
        socket.create_connection(UNREACHABLE_ADDRESS, timeout=CONNECT_SECONDS).close()
    except PermissionError as error:
        proof = f"{where}: {error}"
    else:
        raise NotCutError(f"the network is not cut: the guard let {where} through")
    attempts.clear()  # that one was ours
    interfaces = sorted(name for _, name in socket.if_nameindex())
    return NetworkState(
        cut="guard",
        interfaces=interfaces,
        proof=proof,
        statement=_statement_of_guard(reason, alone=interfaces == ["lo"]),
        attempts=attempts,
    )


def _statement_of_guard(why_not: str, *, alone: bool) -> str:
    """What the guard proves; ``alone`` where this process already was in a place without a network, as in a container."""
    if alone:
        return (
            "There is no network here: the only interface is lo. Besides, a guard inside Python refuses every connection "
            f"and name look-up except loopback, instead of a network namespace for this process alone ({why_not})."
        )
    return (
        f"No network namespace could be had ({why_not}), so a guard inside Python refuses every connection "
        "and name look-up except loopback. It can not see sockets that compiled code or another program opens."
    )


def _watch_connections(attempts: list[str], *, refuse: bool) -> None:
    """Notes who tries to reach what, and refuses it if told to; in a namespace the kernel refuses in its own words."""

    def hook(event: str, details: tuple[object, ...]) -> None:
        host = find_target_host(event, details)
        if host is None:
            return
        if host not in attempts and len(attempts) < MAX_ATTEMPTS:
            attempts.append(host)
        if refuse:
            raise PermissionError(errno.EACCES, f"the network is cut for this load, {host} is out of reach")

    sys.addaudithook(hook)


def find_target_host(event: str, arguments: tuple[object, ...]) -> str | None:
    """Which other host an audit event is about to reach or to look up; None for all others, and for this machine."""
    found = _HOST_FINDERS.get(event)
    return found(arguments) if found else None


def _find_socket_host(arguments: tuple[object, ...]) -> str | None:
    """Where socket.connect, sendto and sendmsg go: (socket, address); None where that stays on this machine."""
    family = getattr(arguments[0], "family", None)
    address = arguments[1]
    if address is None or family in _LOCAL_FAMILIES:
        return None
    if family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and address:
        return _find_lookup_host((address[0],)) or _find_remote_name(_decode_host(address[0]))
    return str(address)


def _find_lookup_host(arguments: tuple[object, ...]) -> str | None:
    """Which host a look-up asks for; None for none at all and for this machine."""
    name = _decode_host(arguments[0])
    if name.lower() in _LOCAL_NAMES or name.lower() == socket.gethostname().lower():
        return None
    return None if _is_local_address(name) else name


def _find_remote_name(name: str) -> str | None:
    """A socket looks a name up by itself, and this machine's may lead anywhere; None where it stays on this machine."""
    if not name or _is_local_address(name):
        return None
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(name, None)}
    except OSError:  # the socket itself will say so
        return None
    return None if all(map(_is_local_address, found)) else name


def _decode_host(host: object) -> str:
    if isinstance(host, bytes | bytearray):
        return bytes(host).decode(errors="replace")
    return "" if host is None else str(host)


def _is_local_address(name: str) -> bool:
    """Whether this is an address of this machine alone: loopback, or none in particular, which leads there too."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return bool(plain.is_loopback or plain.is_unspecified)


def _find_nameinfo_host(arguments: tuple[object, ...]) -> str | None:
    """As `_aim_of_name` for socket.getnameinfo, whose only detail is (host, port)."""
    address = arguments[0]
    return _find_lookup_host((address[0],)) if isinstance(address, tuple) and address else None


_LOCAL_NAMES = frozenset(["", "localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"])
_LOCAL_FAMILIES = tuple(getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK") if hasattr(socket, name))

# Python's table of audit events says what each one carries.
_HOST_FINDERS: dict[str, Callable[[tuple[object, ...]], str | None]] = {
    "socket.connect": _find_socket_host,
    "socket.sendto": _find_socket_host,
    "socket.sendmsg": _find_socket_host,
    "socket.getaddrinfo": _find_lookup_host,
    "socket.gethostbyname": _find_lookup_host,
    "socket.gethostbyaddr": _find_lookup_host,
    "socket.getnameinfo": _find_nameinfo_host,
}

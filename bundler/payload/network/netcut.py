"""The network cut: cuts this process off from every network, and proves it.

It must run before any thread exists: Linux gives a user namespace only to processes with one thread.
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

CLONE_NEWUSER = 0x10000000  # Linux constants: unshare(2), netdevice(7)
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

UNREACHABLE_ADDRESS = ("192.0.2.1", 443)  # RFC 5737: reserved for documentation, never in use
CONNECT_SECONDS = 2.0
MAX_ATTEMPTS = 32
_SUCCESS = b"done"


class NetworkState(TypedDict):
    """How the network was cut. ``attempts`` lists hosts that some code tried to reach; it grows while the process runs."""

    cut: Literal["namespace", "guard"]
    interfaces: list[str]
    proof: str
    statement: str
    attempts: list[str]


class NotCutError(OSError):
    """It is not certain that the network is cut, so nothing may be loaded."""


def cut_network() -> NetworkState:
    """Cut the network for this process and its children, permanently.

    Uses a network namespace if the kernel allows one, else a guard inside Python. ``BUNDLE_NETCUT=guard`` in the
    environment forces the guard.

    Raises:
        NotCutError: The new namespace has an interface besides loopback, or the proof failed.
    """
    drop_proxies()
    attempts: list[str] = []
    refusal = enter_namespace()
    if refusal:
        return _cut_with_guard(refusal, attempts)
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
    """Delete the proxy variables: a proxy on loopback would bypass the guard."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


def enter_namespace() -> str:
    """Enter a network namespace. Return the reason if that is not possible, else an empty string."""
    if os.environ.get("BUNDLE_NETCUT") == "guard":
        return "BUNDLE_NETCUT asks for the guard"
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    refusal = ""
    # A privileged process must not enter a user namespace: in it, root could not read files of other users.
    for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        refusal = _try_in_child(flags)
        if not refusal:
            _enter(flags)
            return ""
    return refusal


def _try_in_child(flags: int) -> str:
    """Try it in a child process. Some kernels refuse half-way, and a process can not leave a namespace.

    Returns:
        The reason if it failed, else an empty string.
    """
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
        # user_namespaces(7): an unprivileged process can map groups only after it has denied setgroups.
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
    _raise_loopback()


def _raise_loopback() -> None:
    """Bring up the loopback interface, which is down in a new namespace; some libraries connect to themselves."""
    import fcntl  # noqa: PLC0415 - Windows has no such module

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def _prove_namespace() -> tuple[list[str], str]:
    interfaces = sorted(name for _, name in socket.if_nameindex())
    if interfaces != ["lo"]:  # try no connection then: a packet could leave through another interface
        raise NotCutError(
            f"the network is not cut: beside lo, the new network namespace holds {', '.join(interfaces)}; "
            "set BUNDLE_NETCUT=guard to cut it inside Python instead"
        )
    attempt = f"connect to {UNREACHABLE_ADDRESS[0]}:{UNREACHABLE_ADDRESS[1]}"
    try:
        socket.create_connection(UNREACHABLE_ADDRESS, timeout=CONNECT_SECONDS).close()
    except TimeoutError as error:
        raise NotCutError(f"the network is not cut: {attempt} was not refused, it only timed out") from error
    except OSError as error:
        return interfaces, f"{attempt}: {error}"
    raise NotCutError(f"the network is not cut: {attempt} succeeded")


def _cut_with_guard(reason: str, attempts: list[str]) -> NetworkState:
    _watch_connections(attempts, refuse=True)
    attempt = f"connect to {UNREACHABLE_ADDRESS[0]}:{UNREACHABLE_ADDRESS[1]}"
    try:
        socket.create_connection(UNREACHABLE_ADDRESS, timeout=CONNECT_SECONDS).close()
    except PermissionError as error:
        proof = f"{attempt}: {error}"
    else:
        raise NotCutError(f"the network is not cut: the guard did not stop {attempt}")
    attempts.clear()  # the proof's own attempt does not count
    interfaces = sorted(name for _, name in socket.if_nameindex())
    return NetworkState(
        cut="guard",
        interfaces=interfaces,
        proof=proof,
        statement=_describe_guard(reason, is_isolated=interfaces == ["lo"]),
        attempts=attempts,
    )


def _describe_guard(reason: str, *, is_isolated: bool) -> str:
    """Describe what the guard proves. `is_isolated`: the process had no network before, as in a container."""
    if is_isolated:
        return (
            "There is no network here: the only interface is lo. A guard inside Python also refuses every connection "
            f"and name look-up except loopback; a network namespace was not possible ({reason})."
        )
    return (
        f"A network namespace was not possible ({reason}), so a guard inside Python refuses every connection "
        "and name look-up except loopback. It can not see sockets that compiled code or another program opens."
    )


def _watch_connections(attempts: list[str], *, refuse: bool) -> None:
    """Record each host that some code tries to reach; with `refuse`, refuse the connection. A namespace refuses by itself."""

    def hook(event: str, details: tuple[object, ...]) -> None:
        host = find_target_host(event, details)
        if host is None:
            return
        if host not in attempts and len(attempts) < MAX_ATTEMPTS:
            attempts.append(host)
        if refuse:
            raise PermissionError(errno.EACCES, f"the network is cut for this load, {host} can not be reached")

    sys.addaudithook(hook)


def find_target_host(event: str, arguments: tuple[object, ...]) -> str | None:
    """Find the other host that an audit event is about to reach or to look up; None for this machine and other events."""
    find_host = _HOST_FINDERS.get(event)
    return find_host(arguments) if find_host else None


def _find_socket_host(arguments: tuple[object, ...]) -> str | None:
    """Find the target of socket.connect, sendto or sendmsg: (socket, address); None if it is this machine."""
    family = getattr(arguments[0], "family", None)
    address = arguments[1]
    if address is None or family in _LOCAL_FAMILIES:
        return None
    if family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and address:
        return _find_lookup_host((address[0],)) or _find_remote_name(_decode_host(address[0]))
    return str(address)


def _find_lookup_host(arguments: tuple[object, ...]) -> str | None:
    """Find the host of a look-up; None if it names no host or this machine."""
    name = _decode_host(arguments[0])
    if name.lower() in _LOCAL_NAMES or name.lower() == socket.gethostname().lower():
        return None
    return None if _is_local_address(name) else name


def _find_remote_name(name: str) -> str | None:
    """Return a name that resolves to another host, else None: a socket looks names up by itself."""
    if not name or _is_local_address(name):
        return None
    try:
        addresses = {str(address[4][0]) for address in socket.getaddrinfo(name, None)}
    except OSError:  # the socket itself will report it
        return None
    return None if all(map(_is_local_address, addresses)) else name


def _decode_host(host: object) -> str:
    if isinstance(host, bytes | bytearray):
        return bytes(host).decode(errors="replace")
    return "" if host is None else str(host)


def _is_local_address(name: str) -> bool:
    """Whether this is an address of this machine: loopback, or the unspecified address, which connects to it too."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return bool(plain.is_loopback or plain.is_unspecified)


def _find_nameinfo_host(arguments: tuple[object, ...]) -> str | None:
    """Find the host of socket.getnameinfo, whose only argument is (host, port)."""
    address = arguments[0]
    return _find_lookup_host((address[0],)) if isinstance(address, tuple) and address else None


_LOCAL_NAMES = frozenset(["", "localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"])
_LOCAL_FAMILIES = tuple(getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK") if hasattr(socket, name))

# Python's documentation of audit events lists the arguments of each.
_HOST_FINDERS: dict[str, Callable[[tuple[object, ...]], str | None]] = {
    "socket.connect": _find_socket_host,
    "socket.sendto": _find_socket_host,
    "socket.sendmsg": _find_socket_host,
    "socket.getaddrinfo": _find_lookup_host,
    "socket.gethostbyname": _find_lookup_host,
    "socket.gethostbyaddr": _find_lookup_host,
    "socket.getnameinfo": _find_nameinfo_host,
}

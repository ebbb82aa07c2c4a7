"""The network is cut: by the kernel for root and for an ordinary user, else by a guard inside Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.programs import find_public_python
from tests.support.smoke_loads import PAYLOAD

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux")
ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

# Appended to netcut.py and fed to an interpreter: tries what a library might try once the network is cut.
TRIALS = """
import json

def tried(work):
    try:
        work()
    except OSError as error:
        return type(error).__name__, str(error)
    return "", ""

def talk_to_myself():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()

def pair():
    one, other = socket.socketpair()
    one.close(), other.close()

def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("192.0.2.1", 53))

def six():
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sender:
        sender.settimeout(2)
        sender.connect(("2001:db8::1", 443, 0, 0))

network = cut_network()
found = {
    "connect": tried(lambda: socket.create_connection(("192.0.2.7", 443), timeout=2)),
    "lookup": tried(lambda: socket.getaddrinfo("models.example", 443)),
    "old lookup": tried(lambda: socket.gethostbyname("old.example")),
    "datagram": tried(datagram),
    "six": tried(six),
    "loopback": tried(talk_to_myself),
    "localhost": tried(lambda: socket.getaddrinfo("localhost", 80)),
    "numeric": tried(lambda: socket.getaddrinfo("127.0.0.1", 80)),
    "pair": tried(pair),
    "wildcard": tried(lambda: socket.getaddrinfo(None, 80)),
}
print(json.dumps({
    "network": network,
    "found": found,
    "proxies": [name for name in os.environ if "proxy" in name.lower()],
    "ids": [os.getuid(), os.getgid()],
}))
"""


def run_with_netcut(*before: str, python: str = sys.executable, source: str = "", **environment: str) -> dict[str, Any]:
    """What happened in a process that cut its network; `before` is put before the interpreter."""
    code = (source or (PAYLOAD / "network" / "netcut.py").read_text(encoding="utf-8")) + TRIALS
    done = subprocess.run(
        [*before, python, "-I", "-"],
        input=code,
        env={"PATH": os.environ["PATH"], **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def nothing_leaves_and_loopback_works(result: dict[str, Any]) -> None:
    for way in ("connect", "lookup", "old lookup", "datagram", "six"):
        assert result["found"][way][0], way
    for way in ("loopback", "localhost", "numeric", "pair", "wildcard"):
        assert result["found"][way] == ["", ""], way
    assert set(result["network"]["attempts"]) == {
        "192.0.2.7", "models.example", "old.example", "192.0.2.1", "2001:db8::1",
    }  # fmt: skip


def cut_by_the_kernel(result: dict[str, Any]) -> None:
    network = result["network"]
    assert network["cut"] == "namespace"
    assert network["interfaces"] == ["lo"]
    assert network["proof"] == "connect to 192.0.2.1:443: [Errno 101] Network is unreachable"
    assert "namespace of its own" in network["statement"]
    assert "Errno 101" in result["found"]["connect"][1]
    nothing_leaves_and_loopback_works(result)


@LINUX
@ROOT
def test_root_gets_a_namespace() -> None:
    result = run_with_netcut()
    cut_by_the_kernel(result)
    assert result["ids"] == [0, 0]


@LINUX
@ROOT
def test_an_ordinary_user_gets_a_namespace() -> None:
    if subprocess.run([*NOBODY, "unshare", "-rn", "true"], check=False, cwd="/", capture_output=True).returncode:
        pytest.skip("this kernel gives ordinary users no namespaces")
    result = run_with_netcut(*NOBODY, python=find_public_python())
    cut_by_the_kernel(result)
    assert result["ids"] == [65534, 65534]


def test_the_guard() -> None:
    result = run_with_netcut(BUNDLE_NETCUT="guard")
    network = result["network"]
    assert network["cut"] == "guard"
    assert "192.0.2.1 can not be reached" in network["proof"]
    assert "can not see sockets that compiled code" in network["statement"]
    for way in ("connect", "lookup", "old lookup", "datagram", "six"):
        assert result["found"][way][0] == "PermissionError"
    assert "models.example" in result["found"]["lookup"][1]
    nothing_leaves_and_loopback_works(result)


@LINUX
@ROOT
def test_where_no_network_is_the_guard_says_so() -> None:
    """As in a container without a network, which lets nobody make namespaces."""
    result = run_with_netcut(
        "unshare", "--net", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$0" "$@"', BUNDLE_NETCUT="guard"
    )
    assert result["network"]["interfaces"] == ["lo"]
    assert result["network"]["statement"].startswith("There is no network here: the only interface is lo.")
    assert "A network namespace was not possible" not in result["network"]["statement"]


@LINUX
def test_a_kernel_that_refuses_leads_to_the_guard() -> None:
    refusing = (
        (PAYLOAD / "network" / "netcut.py").read_text(encoding="utf-8").replace("libc.unshare(", "libc.no_such_call(")
    )
    result = run_with_netcut(source=refusing)
    assert result["network"]["cut"] == "guard"
    assert "A network namespace was not possible" in result["network"]["statement"]
    assert "no_such_call" in result["network"]["statement"]


@LINUX
@ROOT
def test_a_namespace_with_another_interface_is_a_failure() -> None:
    more = (PAYLOAD / "network" / "netcut.py").read_text(encoding="utf-8")
    more = more.replace("socket.if_nameindex()", '[*socket.if_nameindex(), (7, "eth0")]')
    with pytest.raises(AssertionError, match="the network is not cut: beside lo"):
        run_with_netcut(source=more)


def test_proxies_are_forgotten() -> None:
    result = run_with_netcut(
        BUNDLE_NETCUT="guard", http_proxy="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9", All_Proxy="socks://x"
    )
    assert result["proxies"] == []

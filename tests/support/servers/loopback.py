"""A server on this machine that misbehaves on demand and remembers what it was asked."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

Fault = Callable[["Handler", bytes], None]


@functools.lru_cache(maxsize=64)
def sha256(data: bytes) -> str:
    """In hexadecimal; computed once, as on a real server: whoever measures it would measure this instead."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Loopback:
    """What stands on the server, what it demands, and how it fails: each fault of a path is used once, in order."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    logins: dict[str, str] = field(default_factory=dict)
    """``user:password`` by the start of a path."""
    seen: list[Seen] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    def with_login(self, login: str) -> str:
        return self.url.replace("://", f"://{login}@")

    def asked(self, method: str = "") -> list[str]:
        return [one.path for one in self.seen if method in ("", one.method)]

    def offer(self, wheel: Path, root: str = "/simple", digest: str = "sha256") -> str:
        """Put a wheel on an index below ``root``; its address."""
        data = wheel.read_bytes()
        place = f"{root}/files/{quote(wheel.name)}"
        self.files[place] = data
        name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        stated = f"#{digest}={sha256(data)}" if digest else ""
        page = f"{root}/{name}/"
        link = f'<a href="{html.escape(place + stated)}">{wheel.name}</a>\n'
        self.files[page] = self.files.get(page, b"") + link.encode()
        return self.url + place


class Handler(BaseHTTPRequestHandler):
    """Serves files with ranges and validators, unless a fault takes over."""

    protocol_version = "HTTP/1.1"
    place: Loopback

    def do_GET(self) -> None:
        self.place.seen.append(Seen(self.command, self.path, dict(self.headers)))
        path = self.path.partition("?")[0]
        login = next((login for start, login in self.place.logins.items() if path.startswith(start)), None)
        given = self.headers.get("Authorization")
        if login is not None and given != "Basic " + base64.b64encode(login.encode()).decode():
            self.answer(401, b"", {"WWW-Authenticate": "Basic"})
        elif path in self.place.redirects:
            self.answer(302, b"", {"Location": self.place.redirects[path]})
        elif faults := self.place.faults.get(path):
            faults.pop(0)(self, self.place.files.get(path, b""))
        elif path in self.place.files:
            self.serve(self.place.files[path])
        else:
            self.answer(404, b"")

    do_HEAD = do_GET  # noqa: N815

    def serve(self, data: bytes) -> None:
        tag = f'"{sha256(data)[:8]}"'
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found or self.headers.get("If-Range", tag) != tag:
            self.answer(200, data, {"ETag": tag})
            return
        start, end = int(found[1]), int(found[2] or len(data) - 1)
        if start >= len(data):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        else:
            part = data[start : end + 1]
            self.answer(206, part, {"ETag": tag, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"})

    def answer(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
        # uv's cache is shared by the tests, and a port can come again.
        usual = {"Content-Length": str(len(data)), "Content-Type": kind, "Cache-Control": "no-cache"}
        for name, value in (usual | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """The test reads ``seen``."""


def cut(at: int) -> Fault:
    """The connection ends in the body."""

    def fault(handler: Handler, data: bytes) -> None:
        start = int(re.sub(r"\D", "", handler.headers.get("Range", "")) or 0)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.send_header("ETag", f'"{sha256(data)[:8]}"')
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start:at])
        handler.close_connection = True

    return fault


def reset(handler: Handler, _: bytes) -> None:
    """The connection is reset before any answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()
    handler.wfile = handler.rfile = open("/dev/null", "r+b", buffering=0)  # type: ignore[assignment]  # noqa: SIM115, PTH123


def status(code: int, **headers: str) -> Fault:
    """An answer without the file."""
    return lambda handler, _: handler.answer(code, b"no", {k.replace("_", "-"): v for k, v in headers.items()})


def whole(handler: Handler, data: bytes) -> None:
    """200 with everything, whatever range was asked for."""
    handler.answer(200, data)


def instead(other: bytes) -> Fault:
    """Another file, with nothing that would tell."""
    return lambda handler, _: handler.answer(200, other)


def shifted(handler: Handler, data: bytes) -> None:
    """206 with another range than was asked for."""
    handler.answer(206, data[1:], {"Content-Range": f"bytes 1-{len(data) - 1}/{len(data)}"})


def lying(handler: Handler, data: bytes) -> None:
    """206 that states the right range and sends other bytes."""
    start = int(re.sub(r"\D", "", handler.headers["Range"]))
    part = data[: len(data) - start]
    handler.answer(206, part, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})


def without_length(handler: Handler, data: bytes) -> None:
    """200 that states no length."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)
    handler.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that goes away, or does not trust the certificate, is part of what is tested."""


@contextlib.contextmanager
def serve(
    tls: ssl.SSLContext | None = None, place: Loopback | None = None, handler: type[Handler] = Handler
) -> Iterator[Loopback]:
    """A server for the time of the block."""
    place = place or Loopback()
    server = _Server(("127.0.0.1", 0), type("PlacedHandler", (handler,), {"place": place}))
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    place.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

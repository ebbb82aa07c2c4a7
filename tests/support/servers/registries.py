"""Container registries on loopback: Debian's own program, and one that misbehaves as told."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import io
import json
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.programs import require_tool

USER, PASSWORD = "porter", "open sesame"
BCRYPT = "$2a$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy"
OCI = "application/vnd.oci.image"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Tiny:
    """Images of a few bytes, one for each platform, under one index."""

    blobs: dict[str, bytes]
    index: bytes
    manifests: Mapping[str, str]
    """Digest of the manifest for each platform, such as linux/amd64."""

    def layout(self, folder: Path) -> Path:
        """Write it as an OCI image layout."""
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for digest, data in {**self.blobs, sha256(self.index): self.index}.items():
            (blobs / digest).write_bytes(data)
        whole = {"mediaType": f"{OCI}.index.v1+json", "digest": f"sha256:{sha256(self.index)}", "size": len(self.index)}
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [whole]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return folder


def tiny(*platforms: str) -> Tiny:
    blobs: dict[str, bytes] = {}
    manifests: dict[str, str] = {}
    listed = []

    def blob(data: bytes, kind: str) -> dict[str, object]:
        blobs[sha256(data)] = data
        return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{sha256(data)}", "size": len(data)}

    for platform in platforms:
        system, architecture = platform.split("/")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            info = tarfile.TarInfo("platform.txt")
            info.size = len(platform)
            tar.addfile(info, io.BytesIO(platform.encode()))
        plain = packed.getvalue()
        config = {"os": system, "architecture": architecture, "config": {}}
        config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{sha256(plain)}"]}
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": blob(json.dumps(config).encode(), "config.v1+json"),
            "layers": [blob(gzip.compress(plain, mtime=0), "layer.v1.tar+gzip")],
        }
        entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
        manifests[platform] = str(entry["digest"])
        listed.append(entry | {"platform": {"os": system, "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": listed}
    return Tiny(blobs, json.dumps(index).encode(), manifests)


@contextmanager
def real(folder: Path, *, locked: bool = False) -> Iterator[str]:
    """Debian's docker-registry; gives its host and port. ``locked`` asks for USER and PASSWORD."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = (
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\nhttp: {{addr: '{host}'}}\n"
    )
    if locked:
        (folder / "htpasswd").write_text(f"{USER}:{BCRYPT}\n")
        settings += f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n"
    (folder / "registry.yml").write_text(settings)
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [require_tool("docker-registry"), "serve", folder / "registry.yml"], stdout=log, stderr=log
        )
    try:
        _wait_for(host, running)
        yield host
    finally:
        running.terminate()
        running.wait()


def _wait_for(host: str, running: subprocess.Popen[bytes]) -> None:
    address, _, port = host.partition(":")
    for _ in range(600):
        assert running.poll() is None, "the registry ended"
        with socket.socket() as probe:
            if probe.connect_ex((address, int(port))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the registry does not answer")


def push(layout: Path, name: str, *options: str) -> None:
    command = [require_tool("skopeo"), "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", *options]
    subprocess.run([*command, f"oci:{layout}", f"docker://{name}"], check=True, capture_output=True)


def auth_file(path: Path, host: str, password: str = PASSWORD) -> Path:
    """What docker login writes."""
    packed = base64.b64encode(f"{USER}:{password}".encode()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {host: {"auth": packed}}}))
    return path


@dataclass(slots=True)
class Crooked:
    """A registry that wants tokens, and gives what ``blobs`` holds whether that is right or not."""

    image: Tiny
    host: str = ""
    asked: list[str] = field(default_factory=list)
    realm: str = ""
    status: int = 200
    lasts: int = 1000
    """How many requests a token is good for."""


@contextmanager
def crooked(image: Tiny) -> Iterator[Crooked]:
    """Serves ``library/x:1`` of the given image; anybody gets a token."""
    state = Crooked(image)
    uses: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path.partition("?")[0])
            if self.path.startswith("/token"):
                token = f"pass-{len(uses)}"
                uses[f"Bearer {token}"] = state.lasts
                return self._send(200, json.dumps({"token": token}).encode())
            if state.status != 200:
                return self._send(state.status, b"")
            shown = self.headers.get("Authorization", "")
            uses[shown] = uses.get(shown, 0) - 1
            if uses[shown] < 0:
                challenge = f'Bearer realm="{state.realm}",service="test",scope="repository:x:pull"'
                return self._send(401, b"", {"WWW-Authenticate": challenge})
            last = self.path.rpartition("/")[2].removeprefix("sha256:")
            found = state.image.index if last in ("1", sha256(state.image.index)) else state.image.blobs.get(last)
            return self._send(404, b"") if found is None else self._send(200, found)

        def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """The tests look at ``asked``."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.host = f"127.0.0.1:{server.server_port}"
    state.realm = f"http://{state.host}/token"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

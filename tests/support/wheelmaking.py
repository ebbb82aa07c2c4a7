"""Makes wheels that are small enough for a test and whole enough for pip and uv."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    requires: Iterable[str] = (),
    requires_python: str = "",
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a wheel with a package of that name, and ``files`` besides; the same arguments give the same bytes."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    metadata += [f"Requires-Python: {requires_python}"] if requires_python else []
    tags = [f"Tag: {one}" for one in _tags(tag)]
    members = {
        f"{name.replace('-', '_')}/__init__.py": f"VERSION = {version!r}\n".encode(),
        **(files or {}),
        f"{info}/METADATA": _lines("Metadata-Version: 2.1", *metadata),
        f"{info}/WHEEL": _lines("Wheel-Version: 1.0", "Generator: a test", "Root-Is-Purelib: true", *tags),
    }
    record = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in members.items()]
    members[f"{info}/RECORD"] = _lines(*record, f"{info}/RECORD,,")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in members.items():
            wheel.writestr(zipfile.ZipInfo(member), data)
    return path


def _tags(tag: str) -> list[str]:
    pythons, abis, platforms = (part.split(".") for part in tag.split("-")[-3:])
    return [f"{python}-{abi}-{platform}" for python in pythons for abi in abis for platform in platforms]


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

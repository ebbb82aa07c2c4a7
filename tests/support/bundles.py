"""Locks and bundles that are small enough to take apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import Artifact, Model
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.target import Target
from bundler.format.tar import tar_layout

TARGET = Target(python="3.11", platform="linux-x86_64", libc="glibc-2.17", accelerator="cpu")

SMALL = {"bundle.pyz": b"#!/usr/bin/env python3\n", "models/m/config.json": b"{}", "models/m/w.bin": b"w" * 5000}


def get_kind(path: str) -> entries.ArtifactKind:
    """What an artifact is, from where it stands."""
    return next(kind for kind, home in entries.KIND_FOLDERS.items() if path == home or path.startswith(home))


def make_lock(contents: Mapping[str, bytes], **changes: Any) -> Lock:
    """A lock over these files, with a model for each folder below ``models/``."""
    paths = sorted(contents, key=lambda path: list(entries.KIND_FOLDERS).index(get_kind(path)))
    artifacts = tuple(
        Artifact(
            path=path,
            kind=get_kind(path),
            size=len(contents[path]),
            sha256=compute_sha256(contents[path]),
            origin="a test",
        )
        for path in paths
    )
    aliases = dict.fromkeys(path.split("/")[1] for path in paths if path.startswith("models/"))
    models = []
    for alias in aliases:
        start = f"models/{alias}/"
        digest = lockfile.compute_files_digest(
            (a.sha256, a.path[len(start) :]) for a in artifacts if a.path.startswith(start)
        )
        models.append(Model(alias=alias, source="path:test", commit=digest[:40], loader="files", digest=digest))
    first = Lock(
        name="test",
        version="1",
        sequence=1,
        created_by="a test",
        manifest_sha256=Sha256("0" * 64),
        target=TARGET,
        models=tuple(models),
        image=changes.get("image", entries.Image()),
        head_size=lockfile.HEAD_ALIGNMENT,
        artifacts=artifacts,
    )
    head_size = tar_layout.compute_head_size(
        len(first.canonical_bytes) + 100, len(first.make_sums()), lockfile.HEAD_ALIGNMENT
    )
    return lockfile.replace_fields(first, **({"head_size": head_size} | changes))


def make_bundle_bytes(locked: Lock, contents: Mapping[str, bytes], signature: bytes | None = None) -> bytes:
    """The bundle of a lock, in memory, whether or not the contents are what it says."""
    plan = tar_layout.compute_layout(locked, signature)
    data = bytearray(plan.size)
    data[: len(plan.head_bytes)] = plan.head_bytes
    for member in plan.iter_artifacts():
        data[member.header_offset : member.content_offset] = member.make_header()
        if not member.link:
            data[member.content_offset : member.end] = contents[member.name].ljust(member.size, b"\0")[: member.size]
    return bytes(data)


@dataclass(frozen=True, slots=True)
class PackedBundle:
    """A bundle that was written, and what it was written from."""

    path: Path
    lock: Lock
    contents: Path


@dataclass(frozen=True, slots=True)
class InstalledBundle:
    """The demo bundle and a prefix that it was installed into, once for the whole run."""

    bundle: Path
    installer: Path
    prefix: Path
    result: dict[str, Any]

    @property
    def current(self) -> Path:
        return self.prefix / "current"

    @property
    def python(self) -> Path:
        return self.current / "venv" / "bin" / "python"

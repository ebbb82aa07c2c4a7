"""The route: open → verify → place → environment → smoke → emit → switch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import bundler
from bundler.bundle import archive, disk, fields, lock
from bundler.offline import emit, environment, hubcache, place, preflight, releases, smoke, verify
from bundler.progress import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What was installed, where, and what the smoke loads measured."""

    release: str
    name: str
    version: str
    sequence: int
    digest: str
    target: str
    prefix: str
    ordinal: int
    rehearsed: bool
    installed_by: str
    models: tuple[str, ...]
    smoke: tuple[dict[str, Any], ...]


def install(bundle: Path | BinaryIO, prefix: Path, *, device: str | None, prove: bool, report: Report) -> Receipt:
    """Install a bundle below ``prefix`` and make it the live release.

    ``device`` overrides the manifest's; ``prove`` off leaves the smoke loads out. Raises BundleError;
    the live release is then as it was.
    """
    prefix = releases.at(prefix)
    with _readable_by_others(), archive.opened(bundle) as carried:
        locked = verify.verify(carried, report)
        preflight.check_platform(locked)
        base = preflight.find_python(locked.target)
        with releases.held(prefix), releases.begin(prefix, locked.release) as release:
            planned = place.plan(locked, release, report)
            preflight.check_room(carried, planned, release)
            place.place(carried, locked, planned, release, report)
            if not release.receipt.exists():
                environment.create(release, locked, base, report)
                hubcache.create(release, locked)
                smoke.lay_out(release)
            return _finish(release, locked, carried, device, prove=prove, report=report)


def _finish(
    release: releases.Release,
    locked: lock.Lock,
    carried: archive.OpenBundle,
    device: str | None,
    *,
    prove: bool,
    report: Report,
) -> Receipt:
    """Prove what stands there, write down what it is, and see it safely on the disk."""
    results = smoke.prove(release, locked, device, report) if prove else []
    if not prove:
        report.warn("the smoke loads were left out: nothing has shown that these models load")
    emit.write(release, locked, report)
    smoke.write(release, results)
    release.writable.mkdir(exist_ok=True)
    (release.path / lock.LOCK).write_bytes(locked.canonical)
    if carried.signature is not None:
        (release.path / lock.SIGNATURE).write_bytes(carried.signature)
    receipt = Receipt(
        release=release.name,
        name=locked.name,
        version=locked.version,
        sequence=locked.sequence,
        digest=locked.digest,
        target=str(locked.target),
        prefix=str(release.prefix),
        ordinal=1 + max((known["ordinal"] for known in releases.receipts(release.prefix)), default=0),
        rehearsed=locked.rehearsed,
        installed_by=f"airgap-bundler {bundler.__version__}",
        models=tuple(model.alias for model in locked.models),
        smoke=tuple(results),
    )
    releases.clear_work(release)
    with report.stage("sync"):
        disk.sync_file_system(release.prefix)
        _write_receipt(release, receipt)  # last, and only once all that it speaks of is on the disk
    return receipt


def _write_receipt(release: releases.Release, receipt: Receipt) -> None:
    text = json.dumps(fields.encode(receipt), ensure_ascii=False, indent=2) + "\n"
    fresh = release.receipt.with_name(".receipt.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(release.receipt)
    disk.sync_folder(release.path)


@contextmanager
def _readable_by_others() -> Iterator[None]:
    """A service runs as another user than the installer, whatever the installer's umask is."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)

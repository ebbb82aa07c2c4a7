"""Is this host, and what is installed on it, fit to run?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from bundler.bundle import disk
from bundler.bundle.lock import Lock
from bundler.errors import BundleError, HostError, ProgramError
from bundler.offline import findings, preflight, releases, smoke, soundness, vitals
from bundler.offline.findings import Examination, Finding
from bundler.offline.releases import Release
from bundler.progress import Report

Depth = Literal["quick", "plain", "deep"]
"""How closely to look: ``quick`` runs no package and hashes nothing, for a container's health check; ``deep`` reads
every byte that was placed."""

_BUSY = 2
"""Processes that want one processor, at which a host counts as busy."""

_AGAIN = "bundle install BUNDLE --prefix DIR"


def examine(prefix: Path, depth: Depth, report: Report) -> Examination:
    """All that is to be said of the live release and its host, good and bad. Reads only, and needs no lock.

    Nothing that is wrong ends the examination: it becomes a finding.
    """
    release = releases.live(prefix)
    if release is None or not release.path.is_dir():
        return Examination(release="", findings=(_nothing_live(prefix, release),))
    found = _others(release)
    receipt = _receipt(release, found)
    locked = _lock(release, receipt, found)
    sections: list[Callable[[], list[Finding]]] = [lambda: _host(release, receipt)]
    if locked is not None:
        sections += _sections(release, locked, depth, report)
    for look in sections:
        try:
            found += look()
        except OSError as error:  # a folder that can't be listed, a disk that gives no answer
            message = f"can't be looked at: {error.strerror or error}"
            found.append(findings.critical("reading", message, where=str(error.filename or prefix)))
    return Examination(release=release.name, findings=tuple(found))


def _sections(release: Release, locked: Lock, depth: Depth, report: Report) -> list[Callable[[], list[Finding]]]:
    deep = depth == "deep"
    quick: list[Callable[[], list[Finding]]] = [
        lambda: [soundness.interpreter(release, locked)],
        lambda: soundness.content(release, locked, report, deep=deep),
        lambda: soundness.permissions(release, locked),
    ]
    if depth == "quick":
        return quick
    return [
        lambda: _platform(locked),
        *quick,
        lambda: soundness.rendered(release, locked),
        lambda: soundness.hub_view(release, locked),
        lambda: soundness.installed_packages(release, locked, report, deep=deep),
        lambda: soundness.payload(release, locked),
        lambda: soundness.guarded(release, locked),
        lambda: soundness.leftovers(release),
        lambda: _gpus(locked),
    ]


def _nothing_live(prefix: Path, release: Release | None) -> Finding:
    link = prefix / "current"
    if release is not None:
        message = f"current leads to {release.name}, which is not there"
        return findings.critical("release", message, where=link, hint=f"{_AGAIN}, or bundle rollback")
    if link.exists():
        hint = "move it away, then install again: the installer makes a link there"
        return findings.critical("release", "current is no link to a release", where=link, hint=hint)
    return findings.critical("release", "nothing is installed here", where=prefix, hint=_AGAIN)


def _others(live: Release) -> list[Finding]:
    """Releases that could not be gone back to."""
    broken = [release for release in releases.unreadable(live.prefix) if release.name != live.name]
    return [
        findings.warning("releases", str(error), where=error.where, hint=error.hint)
        for error in map(releases.damaged_receipt, broken)
    ]


def _receipt(release: Release, found: list[Finding]) -> dict[str, Any]:
    """The live release's receipt; nothing, and a finding, where it is missing or damaged."""
    known = {receipt["release"]: receipt for receipt in releases.receipts(release.prefix)}
    if release.name not in known:
        message = "its receipt is damaged" if release.receipt.exists() else "its receipt is missing"
        found.append(findings.critical("release", message, where=release.receipt))
    return known.get(release.name, {})


def _lock(release: Release, receipt: dict[str, Any], found: list[Finding]) -> Lock | None:
    """The live release's lock; nothing, and a finding, where it is not what was installed."""
    try:
        locked = release.lock()
    except BundleError as error:
        found.append(findings.critical("release", str(error), where=error.where))
        return None
    if release.name != locked.release or receipt.get("digest", locked.digest) != locked.digest:
        found.append(findings.critical("release", "its lock is that of another bundle", where=release.path))
        return None
    if receipt:
        found.append(findings.healthy("release", f"{release.name} is live, bundle {locked.digest}"))
    return locked


def _platform(locked: Lock) -> list[Finding]:
    try:
        preflight.check_platform(locked)
    except HostError as error:
        return [findings.critical("platform", str(error), hint=error.hint)]
    return [findings.healthy("platform", f"fits {locked.target}")]


def _host(release: Release, receipt: dict[str, Any]) -> list[Finding]:
    """Processors, memory, and room on the disk."""
    found = [_processors(), *_memory(_largest_load(release, receipt))]
    free = vitals.room(release.prefix)
    if free < disk.MARGIN:
        hint = "free some room there: libraries write to var, and an install needs more than that"
        return [*found, findings.warning("disk", f"{free:,} bytes are free", where=release.prefix, hint=hint)]
    return [*found, findings.healthy("disk", f"{free:,} bytes are free")]


def _processors() -> Finding:
    count, load = vitals.processors(), vitals.load()
    if load is None:
        return findings.healthy("processors", f"{count}")
    message = f"{count}, {load:.1f} processes wanted one over the last minute"
    if load > _BUSY * count:
        return findings.warning("processors", message, hint="the models share them with something: answers are slow")
    return findings.healthy("processors", message)


def _largest_load(release: Release, receipt: dict[str, Any]) -> tuple[str, int]:
    """The model that took most memory in its smoke load, and how many bytes; ("", 0) where none was measured."""
    measured = receipt.get("smoke") or smoke.kept(release)
    peaks = [(str(one.get("alias", "")), one.get("peak_rss_bytes", 0)) for one in measured if isinstance(one, dict)]
    return max((one for one in peaks if isinstance(one[1], int)), key=lambda one: one[1], default=("", 0))


def _memory(largest: tuple[str, int]) -> list[Finding]:
    there, (alias, peak) = vitals.memory(), largest
    if there is None:
        return []
    told = f"{there.free:,} of {there.total:,} bytes are free"
    need = f"the load of {alias} took {peak:,} when it was measured"
    if there.total < peak:
        hint = "give the host or the container more memory"
        return [findings.critical("memory", f"{told}; {need}", hint=hint)]
    if there.free < peak:
        hint = "if the models are loaded already this is fine; if not, end what holds the memory"
        return [findings.warning("memory", f"{told}; {need}", hint=hint)]
    return [findings.healthy("memory", f"{told}; {need}" if alias else told)]


def _gpus(locked: Lock) -> list[Finding]:
    """The GPUs, for a release whose packages are built for NVIDIA's."""
    if not locked.target.accelerator.startswith("cu"):
        return []
    try:
        there = vitals.gpus()
    except ProgramError as error:
        make = findings.critical if locked.smoke.device == "cuda" else findings.warning
        return [make("gpu", f"no GPU answers: {error}", hint=error.hint)]
    largest = max((sum(artifact.size for artifact in files) for _, files in locked.by_model()), default=0)
    found: list[Finding] = []
    for gpu in there:
        if gpu.memory is None:
            found.append(findings.healthy("gpu", f"{gpu.name}: its driver does not say how much memory it has"))
            continue
        told = f"{gpu.name}: {gpu.memory.free:,} of {gpu.memory.total:,} bytes are free"
        if gpu.memory.free < largest:
            hint = "if the models are loaded already this is fine; if not, end what holds the memory, or use the CPU"
            found.append(findings.warning("gpu", f"{told}; the largest model's files have {largest:,}", hint=hint))
        else:
            found.append(findings.healthy("gpu", told))
    return found or [findings.warning("gpu", "NVIDIA's driver answers, and shows no GPU")]

"""Is this host, and what is installed on it, fit to run?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from bundler.errors import BundleError, HostError, IntegrityError, ProgramError
from bundler.format import disk
from bundler.format.lock.lockfile import Lock
from bundler.offline import findings, preflight, smoke
from bundler.offline.doctor import host_resources, release_checks
from bundler.offline.findings import Examination, Finding
from bundler.offline.prefix import receipts, releases
from bundler.offline.prefix.receipts import Receipt
from bundler.offline.prefix.releases import Release
from bundler.progress import Report, counted

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
        lambda: [release_checks.interpreter(release, locked)],
        lambda: release_checks.content(release, locked, report, deep=deep),
        lambda: release_checks.permissions(release, locked),
    ]
    if depth == "quick":
        return quick
    return [
        lambda: _platform(locked),
        *quick,
        lambda: release_checks.rendered(release, locked),
        lambda: release_checks.hub_view(release, locked),
        lambda: release_checks.installed_packages(release, locked, report, deep=deep),
        lambda: release_checks.payload(release, locked),
        lambda: [_proof(release, locked)],
        lambda: release_checks.guarded(release, locked),
        lambda: release_checks.leftovers(release),
        lambda: _gpus(locked),
    ]


def _nothing_live(prefix: Path, release: Release | None) -> Finding:
    link = prefix / "current"
    if release is not None:
        message = f"current leads to {release.name}, which is not there"
        return findings.critical("release", message, where=link, hint=f"{_AGAIN}, or bundle rollback --to RELEASE")
    if link.exists():
        hint = "move it away, then install again: the installer makes a link there"
        return findings.critical("release", "current is no link to a release", where=link, hint=hint)
    return findings.critical("release", "nothing is installed here", where=prefix, hint=_AGAIN)


def _others(live: Release) -> list[Finding]:
    """Releases that could not be gone back to."""
    return [
        findings.warning("releases", str(error), where=error.where, hint=error.hint)
        for name, error in releases.unreadable(live.prefix).items()
        if name != live.name
    ]


def _receipt(release: Release, found: list[Finding]) -> Receipt | None:
    """The live release's receipt; None, and a finding, where it is missing or damaged."""
    try:
        return receipts.read(release.receipt)
    except IntegrityError as error:
        found.append(findings.critical("release", str(error), where=error.where))
        return None


def _lock(release: Release, receipt: Receipt | None, found: list[Finding]) -> Lock | None:
    """The live release's lock; nothing, and a finding, where it is not what was installed."""
    try:
        locked = release.lock()
    except BundleError as error:
        found.append(findings.critical("release", str(error), where=error.where))
        return None
    if release.name != locked.release or (receipt and receipt.digest != locked.digest):
        found.append(findings.critical("release", "its lock is that of another bundle", where=release.path))
        return None
    if receipt:
        found.append(findings.healthy("release", f"{release.name} is live, bundle {locked.digest}"))
    return locked


def _proof(release: Release, locked: Lock) -> Finding:
    """Whether the models were proven as they are now."""
    hint = "install the same bundle again without --no-smoke: that proves it anew"
    try:
        results = smoke.read_kept(release)
    except IntegrityError as error:
        return findings.warning("proof", str(error), where=error.where, hint=error.hint)
    if not results and locked.models:
        return findings.warning("proof", "the smoke loads were left out: nothing has shown that models load", hint=hint)
    changed = dict.fromkeys(one for result in results for one in result.changed_since)
    when = min((result.proven_at for result in results), default="") or "a time that was not noted"
    if changed:
        first = next(iter(changed))
        message = f"the smoke loads ran at {when}, and {counted(len(changed), 'change')} came since, such as {first}"
        return findings.warning("proof", message, hint=hint)
    return findings.healthy("proof", f"the smoke loads ran at {when}" if results else "there are no models")


def _platform(locked: Lock) -> list[Finding]:
    try:
        preflight.check_platform(locked)
    except HostError as error:
        return [findings.critical("platform", str(error), hint=error.hint)]
    return [findings.healthy("platform", f"fits {locked.target}")]


def _host(release: Release, receipt: Receipt | None) -> list[Finding]:
    """Processors, memory, and room on the disk."""
    found = [_processors(), *_memory(_largest_load(receipt))]
    free = host_resources.room(release.prefix)
    if free < disk.MARGIN:
        hint = "free some room there: libraries write to var, and an install needs more than that"
        return [*found, findings.warning("disk", f"{free:,} bytes are free", where=release.prefix, hint=hint)]
    return [*found, findings.healthy("disk", f"{free:,} bytes are free")]


def _processors() -> Finding:
    count, load = host_resources.processors(), host_resources.load()
    if load is None:
        return findings.healthy("processors", f"{count}")
    message = f"{count}, {load:.1f} processes wanted one over the last minute"
    if load > _BUSY * count:
        return findings.warning("processors", message, hint="the models share them with something: answers are slow")
    return findings.healthy("processors", message)


def _largest_load(receipt: Receipt | None) -> tuple[str, int]:
    """The model that took most memory in its smoke load, and how many bytes; ("", 0) where none was measured."""
    peaks = [(one.alias, one.peak_rss_bytes) for one in (receipt.smoke if receipt else ())]
    return max(peaks, key=lambda one: one[1], default=("", 0))


def _memory(largest: tuple[str, int]) -> list[Finding]:
    there, (alias, peak) = host_resources.memory(), largest
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
        there = host_resources.gpus()
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

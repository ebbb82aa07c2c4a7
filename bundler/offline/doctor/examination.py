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
from bundler.progress import Reporter, pluralize

Depth = Literal["quick", "plain", "deep"]
"""How closely to look: ``quick`` runs no package and hashes nothing, for a container's health check; ``deep`` reads
every byte that was placed."""

_BUSY_LOAD = 2
"""Processes that want one processor, at which a host counts as busy."""

_INSTALL_COMMAND = "bundle install BUNDLE --prefix DIR"


def examine_release(prefix: Path, depth: Depth, reporter: Reporter) -> Examination:
    """All that is to be said of the live release and its host, good and bad. Reads only, and needs no lock.

    Nothing that is wrong ends the examination: it becomes a finding.
    """
    release = releases.find_live(prefix)
    if release is None or not release.path.is_dir():
        return Examination(release="", findings=(_make_not_live_finding(prefix, release),))
    found = _check_other_releases(release)
    receipt = _read_receipt(release, found)
    lock = _read_lock(release, receipt, found)
    sections: list[Callable[[], list[Finding]]] = [lambda: _check_host(release, receipt)]
    if lock is not None:
        sections += _list_checks(release, lock, depth, reporter)
    for look in sections:
        try:
            found += look()
        except OSError as error:  # a folder that can't be listed, a disk that gives no answer
            message = f"can't be looked at: {error.strerror or error}"
            found.append(findings.make_critical("reading", message, where=str(error.filename or prefix)))
    return Examination(release=release.name, findings=tuple(found))


def _list_checks(release: Release, lock: Lock, depth: Depth, reporter: Reporter) -> list[Callable[[], list[Finding]]]:
    deep = depth == "deep"
    quick: list[Callable[[], list[Finding]]] = [
        lambda: [release_checks.check_interpreter(release, lock)],
        lambda: release_checks.check_content(release, lock, reporter, deep=deep),
        lambda: release_checks.check_permissions(release, lock),
    ]
    if depth == "quick":
        return quick
    return [
        lambda: _check_platform(lock),
        *quick,
        lambda: release_checks.check_rendered_files(release, lock),
        lambda: release_checks.check_hub_view(release, lock),
        lambda: release_checks.check_packages(release, lock, reporter, deep=deep),
        lambda: release_checks.check_payload(release, lock),
        lambda: [_check_proof(release, lock)],
        lambda: release_checks.check_guard(release, lock),
        lambda: release_checks.check_leftovers(release),
        lambda: _check_gpus(lock),
    ]


def _make_not_live_finding(prefix: Path, release: Release | None) -> Finding:
    link = prefix / "current"
    if release is not None:
        message = f"current leads to {release.name}, which is not there"
        return findings.make_critical(
            "release", message, where=link, hint=f"{_INSTALL_COMMAND}, or bundle rollback --to RELEASE"
        )
    if link.exists():
        hint = "move it away, then install again: the installer makes a link there"
        return findings.make_critical("release", "current is no link to a release", where=link, hint=hint)
    return findings.make_critical("release", "nothing is installed here", where=prefix, hint=_INSTALL_COMMAND)


def _check_other_releases(live_release: Release) -> list[Finding]:
    """Releases that could not be gone back to."""
    return [
        findings.make_warning("releases", str(error), where=error.where, hint=error.hint)
        for name, error in releases.find_damaged_releases(live_release.prefix).items()
        if name != live_release.name
    ]


def _read_receipt(release: Release, results: list[Finding]) -> Receipt | None:
    """The live release's receipt; None, and a finding, where it is missing or damaged."""
    try:
        return receipts.read(release.receipt_path)
    except IntegrityError as error:
        results.append(findings.make_critical("release", str(error), where=error.where))
        return None


def _read_lock(release: Release, receipt: Receipt | None, results: list[Finding]) -> Lock | None:
    """The live release's lock; nothing, and a finding, where it is not what was installed."""
    try:
        lock = release.read_lock()
    except BundleError as error:
        results.append(findings.make_critical("release", str(error), where=error.where))
        return None
    if release.name != lock.release_name or (receipt and receipt.digest != lock.digest):
        results.append(findings.make_critical("release", "its lock is that of another bundle", where=release.path))
        return None
    if receipt:
        results.append(findings.make_healthy("release", f"{release.name} is live, bundle {lock.digest}"))
    return lock


def _check_proof(release: Release, lock: Lock) -> Finding:
    """Whether the models were proven as they are now."""
    hint = "install the same bundle again without --no-smoke: that proves it anew"
    try:
        results = smoke.read_results(release)
    except IntegrityError as error:
        return findings.make_warning("proof", str(error), where=error.where, hint=error.hint)
    if not results and lock.models:
        return findings.make_warning(
            "proof", "the smoke loads were left out: nothing has shown that models load", hint=hint
        )
    changed = dict.fromkeys(one for result in results for one in result.changed_since)
    when = min((result.proven_at for result in results), default="") or "a time that was not noted"
    if changed:
        first = next(iter(changed))
        message = f"the smoke loads ran at {when}, and {pluralize(len(changed), 'change')} came since, such as {first}"
        return findings.make_warning("proof", message, hint=hint)
    return findings.make_healthy("proof", f"the smoke loads ran at {when}" if results else "there are no models")


def _check_platform(lock: Lock) -> list[Finding]:
    try:
        preflight.check_platform(lock)
    except HostError as error:
        return [findings.make_critical("platform", str(error), hint=error.hint)]
    return [findings.make_healthy("platform", f"fits {lock.target}")]


def _check_host(release: Release, receipt: Receipt | None) -> list[Finding]:
    """Processors, memory, and room on the disk."""
    found = [_check_processors(), *_check_memory(_find_largest_load(receipt))]
    free = host_resources.get_free_space(release.prefix)
    if free < disk.FREE_SPACE_MARGIN:
        hint = "free some room there: libraries write to var, and an install needs more than that"
        return [*found, findings.make_warning("disk", f"{free:,} bytes are free", where=release.prefix, hint=hint)]
    return [*found, findings.make_healthy("disk", f"{free:,} bytes are free")]


def _check_processors() -> Finding:
    count, load = host_resources.count_processors(), host_resources.get_load()
    if load is None:
        return findings.make_healthy("processors", f"{count}")
    message = f"{count}, {load:.1f} processes wanted one over the last minute"
    if load > _BUSY_LOAD * count:
        return findings.make_warning(
            "processors", message, hint="the models share them with something: answers are slow"
        )
    return findings.make_healthy("processors", message)


def _find_largest_load(receipt: Receipt | None) -> tuple[str, int]:
    """The model that took most memory in its smoke load, and how many bytes; ("", 0) where none was measured."""
    peaks = [(one.alias, one.peak_rss_bytes) for one in (receipt.smoke if receipt else ())]
    return max(peaks, key=lambda one: one[1], default=("", 0))


def _check_memory(largest_load: tuple[str, int]) -> list[Finding]:
    there, (alias, peak) = host_resources.read_memory(), largest_load
    if there is None:
        return []
    told = f"{there.free:,} of {there.total:,} bytes are free"
    need = f"the load of {alias} took {peak:,} when it was measured"
    if there.total < peak:
        hint = "give the host or the container more memory"
        return [findings.make_critical("memory", f"{told}; {need}", hint=hint)]
    if there.free < peak:
        hint = "if the models are loaded already this is fine; if not, end what holds the memory"
        return [findings.make_warning("memory", f"{told}; {need}", hint=hint)]
    return [findings.make_healthy("memory", f"{told}; {need}" if alias else told)]


def _check_gpus(lock: Lock) -> list[Finding]:
    """The GPUs, for a release whose packages are built for NVIDIA's."""
    if not lock.target.accelerator.startswith("cu"):
        return []
    try:
        there = host_resources.list_gpus()
    except ProgramError as error:
        make = findings.make_critical if lock.smoke.device == "cuda" else findings.make_warning
        return [make("gpu", f"no GPU answers: {error}", hint=error.hint)]
    largest = max((sum(artifact.size for artifact in files) for _, files in lock.list_files_by_model()), default=0)
    found: list[Finding] = []
    for gpu in there:
        if gpu.memory is None:
            found.append(findings.make_healthy("gpu", f"{gpu.name}: its driver does not say how much memory it has"))
            continue
        told = f"{gpu.name}: {gpu.memory.free:,} of {gpu.memory.total:,} bytes are free"
        if gpu.memory.free < largest:
            hint = "if the models are loaded already this is fine; if not, end what holds the memory, or use the CPU"
            found.append(findings.make_warning("gpu", f"{told}; the largest model's files have {largest:,}", hint=hint))
        else:
            found.append(findings.make_healthy("gpu", told))
    return found or [findings.make_warning("gpu", "NVIDIA's driver answers, and shows no GPU")]

"""The examination of ``bundle doctor``: the live release, and the host that it runs on."""

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
"""How much to check.

``quick`` runs no package and hashes nothing, for a container's health check; ``deep`` reads every placed byte.
"""

_BUSY_LOAD = 2
"""Load average for each processor above which a host counts as overloaded."""

_INSTALL_COMMAND = "bundle install BUNDLE --prefix DIR"


def examine_release(prefix: Path, depth: Depth, reporter: Reporter) -> Examination:
    """Examine the live release and its host. It only reads, and takes no lock on the prefix.

    A problem never ends the examination: it becomes a finding.
    """
    release = releases.find_live(prefix)
    if release is None or not release.path.is_dir():
        return Examination(release="", findings=(_make_not_live_finding(prefix, release),))
    results = _check_other_releases(release)
    receipt = _read_receipt(release, results)
    lock = _read_lock(release, receipt, results)
    checks: list[Callable[[], list[Finding]]] = [lambda: _check_host(release, receipt)]
    if lock is not None:
        checks += _list_checks(release, lock, depth, reporter)
    for check in checks:
        try:
            results += check()
        except OSError as error:  # for example a folder that can't be listed, or a faulty disk
            message = f"can't be read: {error.strerror or error}"
            results.append(findings.make_critical("reading", message, where=str(error.filename or prefix)))
    return Examination(release=release.name, findings=tuple(results))


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
        message = f"current leads to {release.name}, which does not exist"
        return findings.make_critical(
            "release", message, where=link, hint=f"{_INSTALL_COMMAND}, or bundle rollback --to RELEASE"
        )
    if link.exists():
        hint = "move it elsewhere, then install again: the installer makes a link there"
        return findings.make_critical("release", "current is not a link to a release", where=link, hint=hint)
    return findings.make_critical("release", "nothing is installed here", where=prefix, hint=_INSTALL_COMMAND)


def _check_other_releases(live_release: Release) -> list[Finding]:
    """Report the releases to which a rollback is impossible."""
    return [
        findings.make_warning("releases", str(error), where=error.where, hint=error.hint)
        for name, error in releases.find_damaged_releases(live_release.prefix).items()
        if name != live_release.name
    ]


def _read_receipt(release: Release, results: list[Finding]) -> Receipt | None:
    """Read the live release's receipt; None, and a finding, if it is missing or damaged."""
    try:
        return receipts.read(release.receipt_path)
    except IntegrityError as error:
        results.append(findings.make_critical("release", str(error), where=error.where))
        return None


def _read_lock(release: Release, receipt: Receipt | None, results: list[Finding]) -> Lock | None:
    """Read the live release's lock; None, and a finding, if it is not the one that was installed."""
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
    """Check that the smoke loads ran on the files as they are now."""
    hint = "install the same bundle again without --no-smoke: that runs the smoke loads again"
    try:
        results = smoke.read_results(release)
    except IntegrityError as error:
        return findings.make_warning("proof", str(error), where=error.where, hint=error.hint)
    if not results and lock.models:
        return findings.make_warning(
            "proof", "the smoke loads were skipped: nothing has shown that the models load", hint=hint
        )
    changes = list(dict.fromkeys(change for result in results for change in result.changed_since))
    time = min((result.proven_at for result in results), default="") or "an unknown time"
    if changes:
        message = f"{pluralize(len(changes), 'change')} since the smoke loads ran at {time}, such as {changes[0]}"
        return findings.make_warning("proof", message, hint=hint)
    return findings.make_healthy("proof", f"the smoke loads ran at {time}" if results else "there are no models")


def _check_platform(lock: Lock) -> list[Finding]:
    try:
        preflight.check_platform(lock)
    except HostError as error:
        return [findings.make_critical("platform", str(error), hint=error.hint)]
    return [findings.make_healthy("platform", f"fits {lock.target}")]


def _check_host(release: Release, receipt: Receipt | None) -> list[Finding]:
    """Check processors, memory, and free disk space."""
    results = [_check_processors(), *_check_memory(_find_largest_load(receipt))]
    free = host_resources.get_free_space(release.prefix)
    if free < disk.FREE_SPACE_MARGIN:
        hint = "free some space there: libraries write to var, and an install needs more than that"
        return [*results, findings.make_warning("disk", f"{free:,} bytes are free", where=release.prefix, hint=hint)]
    return [*results, findings.make_healthy("disk", f"{free:,} bytes are free")]


def _check_processors() -> Finding:
    count, load = host_resources.count_processors(), host_resources.get_load()
    if load is None:
        return findings.make_healthy("processors", f"{count}")
    message = f"load average {load:.1f} on {pluralize(count, 'processor')}"
    if load > _BUSY_LOAD * count:
        hint = "look for other programs that use the processors (top), or give the host more"
        return findings.make_warning("processors", f"{message}: overloaded, answers will be slow", hint=hint)
    return findings.make_healthy("processors", message)


def _find_largest_load(receipt: Receipt | None) -> tuple[str, int]:
    """Find the model that took most memory in its smoke load, and the bytes; ("", 0) if none was measured."""
    peaks = [(result.alias, result.peak_rss_bytes) for result in (receipt.smoke if receipt else ())]
    return max(peaks, key=lambda peak: peak[1], default=("", 0))


def _check_memory(largest_load: tuple[str, int]) -> list[Finding]:
    memory, (alias, peak) = host_resources.read_memory(), largest_load
    if memory is None:
        return []
    message = f"{memory.free:,} of {memory.total:,} bytes are free"
    if alias:
        message += f"; the smoke load of {alias} took {peak:,}"
    if memory.total < peak:
        hint = "give the host or the container more memory"
        return [findings.make_critical("memory", message, hint=hint)]
    if memory.free < peak:
        hint = "this is fine if the models are loaded already; if not, end the programs that use the memory"
        return [findings.make_warning("memory", message, hint=hint)]
    return [findings.make_healthy("memory", message)]


def _check_gpus(lock: Lock) -> list[Finding]:
    """Check the GPUs, if the release's packages are built for NVIDIA's."""
    if not lock.target.accelerator.startswith("cu"):
        return []
    try:
        gpus = host_resources.list_gpus()
    except ProgramError as error:
        make = findings.make_critical if lock.smoke.device == "cuda" else findings.make_warning
        return [make("gpu", f"no GPU answers: {error}", hint=error.hint)]
    largest = max((sum(artifact.size for artifact in files) for _, files in lock.list_files_by_model()), default=0)
    results: list[Finding] = []
    for gpu in gpus:
        if gpu.memory is None:
            results.append(findings.make_healthy("gpu", f"{gpu.name}: its driver does not report its memory"))
            continue
        message = f"{gpu.name}: {gpu.memory.free:,} of {gpu.memory.total:,} bytes are free"
        if gpu.memory.free < largest:
            message += f"; the largest model's files have {largest:,}"
            hint = (
                "this is fine if the models are loaded already; if not, end the programs that use the memory, or use "
                "the CPU"
            )
            results.append(findings.make_warning("gpu", message, hint=hint))
        else:
            results.append(findings.make_healthy("gpu", message))
    no_gpu_hint = "check that the GPU is attached; in a container, start it with the GPUs (docker: --gpus all)"
    return results or [findings.make_warning("gpu", "NVIDIA's driver answers, but shows no GPU", hint=no_gpu_hint)]

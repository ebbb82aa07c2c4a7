"""What the verbs print that use the host's side: verify, install, image, trust, list, remove, prune and doctor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.format import documents
from bundler.format.lock import platforms
from bundler.format.lock.entries import TRUSTED_INSTALLER
from bundler.offline.findings import LEVELS
from bundler.output import digest_text, lock_text, smoke_text
from bundler.output.console import VerbResult
from bundler.progress import format_size, pluralize

if TYPE_CHECKING:  # most verbs print one of these, and need not import what makes the others
    from bundler.format.lock.lockfile import Lock
    from bundler.offline.container.image_build import BuiltImage
    from bundler.offline.findings import Examination, Finding
    from bundler.offline.prefix.receipts import Receipt
    from bundler.offline.prefix.releases import Release
    from bundler.offline.prefix.removal import Removal
    from bundler.offline.trust.trusted_keys import TrustPolicy
    from bundler.offline.trust.verification import SignatureCheck

_MAX_CHANGES = 5
"""How many changes the text names; --json has all of them."""


def format_verification(lock: Lock, size: int, signatures: SignatureCheck) -> str:
    """Describe a bundle that passed verify; `size` is in bytes."""
    files = pluralize(len(lock.artifacts), "file")
    lines = [
        f"intact: {lock.name} {lock.version}, {files}, {format_size(size)}; every byte matches the lock",
        *digest_text.format_digests(lock),
        *lock_text.format_signers(signatures.signed_by, signatures.trusted),
    ]
    return "\n".join(lines)


def describe_install(receipt: Receipt) -> VerbResult:
    """Describe a new release."""
    folder = f"{receipt.prefix}/current"
    lines = [
        f"installed: {receipt.name} {receipt.version}, live as {folder}",
        *digest_text.format_digest_pair(receipt.digest, receipt.reviewed_digest),
        *lock_text.format_signers(receipt.signed_by, receipt.trusted),
        *format_proof(receipt),
        f"  environment  {folder}/venv/{platforms.detect_system().venv_python}",
        f"  variables    {folder}/.env.offline",
        f"  image        {folder}/Dockerfile.offline",
    ]
    return documents.encode(receipt), "\n".join(lines)


def format_proof(receipt: Receipt) -> list[str]:
    """Format the smoke loads of a release, as lines; those of an earlier install are marked as such."""
    if not receipt.smoke:
        return ["  not proven: the smoke loads were skipped"] if receipt.models else []
    if receipt.proof == "new":
        return [smoke_text.format_smoke_results(receipt.smoke)]
    changes = list(dict.fromkeys(change for result in receipt.smoke for change in result.changed_since))
    lines = [f"  OLD PROOF, not of this install: {smoke_text.format_proof_age(receipt.smoke)}"]
    lines += [f"    changed since: {change}" for change in changes[:_MAX_CHANGES]]
    if len(changes) > _MAX_CHANGES:
        lines.append(f"    and {len(changes) - _MAX_CHANGES} more changes, see smoke.json")
    return [*lines, smoke_text.format_smoke_results(receipt.smoke)]


def describe_part(part: str, release: Release, path: Path) -> VerbResult:
    """Describe what install --only placed."""
    result = {"part": part, "release": release.name, "path": str(path)}
    return result, f"placed: {part}, as {path}; run install without --only to finish"


def describe_image(image: BuiltImage) -> VerbResult:
    """Describe a new container image."""
    lines = [f"built: {image.image}, with {image.engine} on {image.base}"]
    lines += [f"  saved as {image.archive}"] if image.archive else []
    lines += [f"  to run it: {path}" for path in image.runners]
    lines += [f"  {format_size(layer.size).rjust(10)}  {_describe_layer(layer.made_by)}" for layer in image.layers]
    lines += [f"  {format_size(sum(layer.size for layer in image.layers)).rjust(10)}  all layers, unpacked"]
    lines += ["inside it, with no network and a read-only root:", smoke_text.format_smoke_results(image.smoke)]
    return documents.encode(image), "\n".join(lines)


def _describe_layer(command: str) -> str:
    """Say what a layer holds, from the command that made it."""
    if f"{TRUSTED_INSTALLER} install" in command:
        part = re.search(r" --only (\S+)", command)
        return part[1] if part else "the rest, and what the smoke loads compiled"
    if "network not cut" in command:
        return "the check that the network is cut"
    return "base: " + " ".join(command.split())[:60]


def describe_trust(policy: TrustPolicy | None, prefix: Path) -> VerbResult:
    """Say whose bundles a prefix accepts."""
    if policy is None:
        text = f"{prefix} has no trusted key and accepts any bundle; the first install with --trust changes that"
        return {"keys": [], "revoked": [], "threshold": 0}, text
    keys, revoked = [key.fingerprint for key in policy.keys], sorted(policy.revoked)
    lines = [f"{prefix} accepts bundles that are signed by {policy.threshold} of these keys:"]
    lines += [f"  {fingerprint}{'  (revoked, not trusted)' if fingerprint in revoked else ''}" for fingerprint in keys]
    lines += [f"  revoked: {fingerprint}" for fingerprint in revoked if fingerprint not in keys]
    return {"keys": keys, "revoked": revoked, "threshold": policy.threshold}, "\n".join(lines)


def describe_releases(receipts: Sequence[Receipt], live: Release | None) -> VerbResult:
    """List the installed releases; an asterisk marks the live one."""
    live_name = live.name if live else ""
    rows = [{**documents.encode(receipt), "live": receipt.release == live_name} for receipt in receipts]
    lines: list[str] = []
    for receipt in receipts:
        lines.append(
            f"{'*' if receipt.release == live_name else ' '} {receipt.release}  {receipt.name} {receipt.version}  "
            f"sequence {receipt.sequence}  models: {', '.join(receipt.models) or 'none'}"
            + (f" ({smoke_text.format_proof_age(receipt.smoke)})" if receipt.models else "")
        )
        lines.append(f"    digest     {receipt.digest}")
        if receipt.reviewed_digest:  # releases of old versions have none
            lines.append(f"    reviewed   {receipt.reviewed_digest}")
    return {"releases": rows}, "\n".join(lines) or "no release is installed here"


def describe_removal(removal: Removal) -> VerbResult:
    """List what remove or prune removed."""
    lines = [f"removed: {name}" for name in removal.releases]
    lines += [f"  and its model {name}, which no other release uses" for name in removal.models]
    lines += [f"  {format_size(removal.bytes)}"] if lines else ["nothing to remove"]
    return documents.encode(removal), "\n".join(lines)


def describe_examination(examination: Examination) -> VerbResult:
    """List the findings of doctor, the worst first."""
    lines: list[str] = []
    for finding in sorted(examination.findings, key=lambda finding: -LEVELS.index(finding.level)):
        lines.append(f"{finding.level:8}  {finding.check}: {finding.message}")
        lines += [f"          where: {finding.where}"] if finding.where else []
        lines += [f"          what to do: {finding.hint}"] if finding.hint else []
    return {"state": examination.worst_level, **documents.encode(examination)}, "\n".join(lines)


def format_critical(findings: Sequence[Finding]) -> str:
    """Sum up critical findings in one line."""
    first = f"{findings[0].check}: {findings[0].message}"
    count = pluralize(len(findings), "critical problem")
    return f"{count}: {first}" if len(findings) == 1 else f"{count}, the first: {first}"

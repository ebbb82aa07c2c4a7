"""Verifies the signatures of a bundle; the only module that makes a VerifiedLock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from bundler.errors import TrustError
from bundler.format.lock.lockfile import Lock
from bundler.format.signing import sign_in_place
from bundler.format.signing.signature_envelope import Envelope
from bundler.format.tar.archive import OpenBundle
from bundler.offline.trust.trusted_keys import TrustPolicy
from bundler.progress import Reporter

VerifiedLock = NewType("VerifiedLock", Lock)
"""A lock whose signatures were checked before any content is read; ``placement`` accepts nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureCheck:
    """Fingerprints of keys: ``signed_by`` as the signatures claim, ``trusted`` those with a verified signature."""

    signed_by: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()


def verify_bundle(
    bundle: OpenBundle, policies: Sequence[TrustPolicy], reporter: Reporter
) -> tuple[VerifiedLock, SignatureCheck]:
    """Verify that a bundle is signed as every policy requires. No content is read before.

    Without a policy any bundle is accepted, and a warning says that its signature was not checked.

    Returns:
        The verified lock, and who signed it.

    Raises:
        TrustError: The signatures do not satisfy a policy.
        DamagedError: They do not, because the head of the bundle is damaged.
    """
    lock = VerifiedLock(bundle.lock)
    if not policies and bundle.is_damaged:  # a damaged head does not tell who signed
        return lock, SignatureCheck()
    try:
        return lock, _check_signatures(bundle, policies, reporter)
    except TrustError:
        bundle.require_intact_head()  # its error says more
        raise


def _check_signatures(bundle: OpenBundle, policies: Sequence[TrustPolicy], reporter: Reporter) -> SignatureCheck:
    envelope = sign_in_place.read_envelope(bundle)
    signed_by = envelope.signed_by if envelope else ()
    if not policies:
        reporter.warn(_format_unchecked_warning(signed_by, bundle.lock.digest))
        return SignatureCheck(signed_by=signed_by)
    revoked = frozenset().union(*(policy.revoked for policy in policies))
    trusted: dict[str, None] = {}
    for policy in policies:
        valid = _find_valid_signatures(envelope, policy, revoked, bundle.where)
        if len(valid) < policy.threshold:
            raise _make_trust_error(policy, valid, signed_by, revoked, bundle.where)
        trusted |= dict.fromkeys(valid)
    return SignatureCheck(signed_by=signed_by, trusted=tuple(trusted))


def _find_valid_signatures(
    envelope: Envelope | None, policy: TrustPolicy, revoked: frozenset[str], where: str
) -> list[str]:
    """Find the policy's keys that signed, each once, without the revoked ones."""
    if envelope is None:
        return []
    usable = [key for key in policy.keys if key.fingerprint not in revoked]
    return [key.fingerprint for key in usable if envelope.has_valid_signature(key, where)]


def _make_trust_error(
    policy: TrustPolicy, valid: Sequence[str], signed_by: Sequence[str], revoked: frozenset[str], where: str
) -> TrustError:
    usable = ", ".join(key.fingerprint for key in policy.keys if key.fingerprint not in revoked)
    number = f"{policy.threshold} of the keys" if policy.threshold > 1 else "one of the keys"
    lines = [f"the bundle must be signed by {number} of {policy.source}: {usable or 'all are revoked'}"]
    if not signed_by:
        lines.append("nobody signed it")
    lines += [f"it is signed by {key}" for key in valid]
    for key in signed_by:
        if key in revoked:
            lines.append(f"it says it is signed by {key}, which is revoked and does not count")
        elif key not in valid:
            lines.append(f"it says it is signed by {key}, which is not one of them")
    hint = (
        "get the bundle from its builder, signed by such a key ('bundle sign BUNDLE --key KEY'); if the builder has a "
        "new key, confirm its fingerprint over another channel before you trust it"
    )
    return TrustError("\n  ".join(lines), where=where, hint=hint)


def _format_unchecked_warning(signed_by: Sequence[str], digest: str) -> str:
    if not signed_by:
        return (
            "the bundle is not signed: damage is detected, a forgery is not; "
            f"compare its digest (not the SHA-256 of the file) with the one that bundle build printed: {digest}"
        )
    return (
        f"signature not checked: the bundle says it is signed by {', '.join(signed_by)}, and no --trust names that "
        "key; get the public key by another way than the bundle, compare its fingerprint with the builder's, and run "
        "this again with --trust KEY.pub"
    )

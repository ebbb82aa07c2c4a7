"""Whose bundle is this? The only maker of a VerifiedLock."""

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
"""A lock that was checked before any content is read; ``place`` takes nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureCheck:
    """Fingerprints: ``signed_by`` as the signatures say, ``trusted`` those whose signature was checked and holds."""

    signed_by: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()


def verify_bundle(
    bundle: OpenBundle, policies: Sequence[TrustPolicy], reporter: Reporter
) -> tuple[VerifiedLock, SignatureCheck]:
    """The lock of a bundle that is signed as every one of ``trusts`` asks, and by whom.

    With nobody to trust, any bundle passes, and the report says in words that nobody vouches for it. Raises
    TrustError, or DamagedError where that is why; no content is read before.
    """
    lock = VerifiedLock(bundle.lock)
    if not policies and bundle.is_damaged:  # a damaged head tells nothing of who signed it
        return lock, SignatureCheck()
    try:
        return lock, _check_signatures(bundle, policies, reporter)
    except TrustError:
        bundle.require_intact_head()  # which says more
        raise


def _check_signatures(bundle: OpenBundle, policies: Sequence[TrustPolicy], reporter: Reporter) -> SignatureCheck:
    envelope = sign_in_place.read_envelope(bundle)
    signed_by = envelope.signed_by if envelope else ()
    if not policies:
        reporter.warn(_format_unchecked_warning(signed_by, bundle.lock.digest))
        return SignatureCheck(signed_by=signed_by)
    revoked = frozenset().union(*(trust.revoked for trust in policies))
    trusted: dict[str, None] = {}
    for trust in policies:
        holding = _find_valid_signatures(envelope, trust, revoked, bundle.where)
        if len(holding) < trust.threshold:
            raise _make_trust_error(trust, holding, signed_by, revoked, bundle.where)
        trusted |= dict.fromkeys(holding)
    return SignatureCheck(signed_by=signed_by, trusted=tuple(trusted))


def _find_valid_signatures(
    envelope: Envelope | None, trust: TrustPolicy, revoked: frozenset[str], where: str
) -> list[str]:
    """The trusted keys that signed, each once."""
    if envelope is None:
        return []
    usable = [key for key in trust.keys if key.fingerprint not in revoked]
    return [key.fingerprint for key in usable if envelope.has_valid_signature(key, where)]


def _make_trust_error(
    trust: TrustPolicy, valid: Sequence[str], signed_by: Sequence[str], revoked: frozenset[str], where: str
) -> TrustError:
    trusted = ", ".join(key.fingerprint for key in trust.keys if key.fingerprint not in revoked) or "none that is left"
    asked = f"{trust.threshold} of the keys" if trust.threshold > 1 else "one of the keys"
    lines = [f"the bundle must be signed by {asked} that {trust.source} names: {trusted}"]
    if not signed_by:
        lines.append("nobody signed it")
    gone = [one for one in signed_by if one in revoked]
    others = [one for one in signed_by if one not in revoked and one not in valid]
    lines += [f"it is signed by {one}" for one in valid]
    lines += [f"it is signed by {one}, as it says, and that key is revoked: it counts for nothing" for one in gone]
    lines += [f"it is signed by {one}, as it says, which is not among them" for one in others]
    hint = (
        "get the bundle from its builder, signed by such a key ('bundle sign BUNDLE --key KEY'); if its builder has "
        "another key now, have the fingerprint confirmed by another way before you trust it"
    )
    return TrustError("\n  ".join(lines), where=where, hint=hint)


def _format_unchecked_warning(signed_by: Sequence[str], digest: str) -> str:
    if not signed_by:
        return (
            "nobody vouches for this bundle: its bytes can be checked, but not who made it; "
            f"compare its digest (not the SHA-256 of the file) with the one that bundle build printed: {digest}"
        )
    return (
        f"nobody vouches for this bundle: it is signed, as it says, by {', '.join(signed_by)}, which nobody told us "
        "to trust, so that was not checked; get the public key by another way than the bundle, compare its "
        "fingerprint with the builder's, and say the same again with: --trust KEY.pub"
    )

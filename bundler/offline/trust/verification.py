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
from bundler.offline.trust.trusted_keys import Trust
from bundler.progress import Report

VerifiedLock = NewType("VerifiedLock", Lock)
"""A lock that was checked before any content is read; ``place`` takes nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vouched:
    """Fingerprints: ``signed_by`` as the signatures say, ``trusted`` those whose signature was checked and holds."""

    signed_by: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()


def verify(carried: OpenBundle, trusts: Sequence[Trust], report: Report) -> tuple[VerifiedLock, Vouched]:
    """The lock of a bundle that is signed as every one of ``trusts`` asks, and by whom.

    With nobody to trust, any bundle passes, and the report says in words that nobody vouches for it. Raises
    TrustError, or DamagedError where that is why; no content is read before.
    """
    lock = VerifiedLock(carried.lock)
    if not trusts and carried.damaged:  # a damaged head tells nothing of who signed it
        return lock, Vouched()
    try:
        return lock, _vouched(carried, trusts, report)
    except TrustError:
        carried.refuse_if_damaged()  # which says more
        raise


def _vouched(carried: OpenBundle, trusts: Sequence[Trust], report: Report) -> Vouched:
    envelope = sign_in_place.envelope_of(carried)
    signed_by = envelope.signed_by if envelope else ()
    if not trusts:
        report.warn(_nobody_vouches(signed_by, carried.lock.digest))
        return Vouched(signed_by=signed_by)
    revoked = frozenset().union(*(trust.revoked for trust in trusts))
    trusted: dict[str, None] = {}
    for trust in trusts:
        holding = _holding(envelope, trust, revoked, carried.where)
        if len(holding) < trust.threshold:
            raise _refusal(trust, holding, signed_by, revoked, carried.where)
        trusted |= dict.fromkeys(holding)
    return Vouched(signed_by=signed_by, trusted=tuple(trusted))


def _holding(envelope: Envelope | None, trust: Trust, revoked: frozenset[str], where: str) -> list[str]:
    """The trusted keys that signed, each once."""
    if envelope is None:
        return []
    usable = [key for key in trust.keys if key.fingerprint not in revoked]
    return [key.fingerprint for key in usable if envelope.holds(key, where)]


def _refusal(
    trust: Trust, holding: Sequence[str], signed_by: Sequence[str], revoked: frozenset[str], where: str
) -> TrustError:
    trusted = ", ".join(key.fingerprint for key in trust.keys if key.fingerprint not in revoked) or "none that is left"
    asked = f"{trust.threshold} of the keys" if trust.threshold > 1 else "one of the keys"
    lines = [f"the bundle must be signed by {asked} that {trust.told_by} names: {trusted}"]
    if not signed_by:
        lines.append("nobody signed it")
    gone = [one for one in signed_by if one in revoked]
    others = [one for one in signed_by if one not in revoked and one not in holding]
    lines += [f"it is signed by {one}" for one in holding]
    lines += [f"it is signed by {one}, as it says, and that key is revoked: it counts for nothing" for one in gone]
    lines += [f"it is signed by {one}, as it says, which is not among them" for one in others]
    hint = (
        "get the bundle from its builder, signed by such a key ('bundle sign BUNDLE --key KEY'); if its builder has "
        "another key now, have the fingerprint confirmed by another way before you trust it"
    )
    return TrustError("\n  ".join(lines), where=where, hint=hint)


def _nobody_vouches(signed_by: Sequence[str], digest: str) -> str:
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

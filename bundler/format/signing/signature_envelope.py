"""The signed statement about a lock, and the envelope with its signatures.

The envelope is DSSE (https://github.com/secure-systems-lab/dsse), the statement is in-toto's, version 1
(https://github.com/in-toto/attestation). Both have one canonical form that follows from the lock: a reader computes it
and compares.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bundler.errors import TrustError, UsageError
from bundler.format.lock import lockfile
from bundler.format.lock.lockfile import Lock
from bundler.format.signing import public_key
from bundler.format.signing.public_key import PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:uuid:b985138a-e057-4d8d-a275-4f52e67e89cb"
"""The type of the predicate of format 1: a random UUID (RFC 9562), which needs no domain name."""

MAX_SIGNATURES = 64
MAX_ENVELOPE_BYTES = 64 << 10
"""Bytes of ``bundle.sig`` that are read; more than `MAX_SIGNATURES` take."""

_MAX_SIGNATURE_FILE_BYTES = 1 << 10


@dataclass(frozen=True, order=True, slots=True)
class Signature:
    """64 bytes and the fingerprint of the key that claims to have made them. Nothing is verified yet."""

    keyid: str
    value: bytes


class Signer(Protocol):
    """A private key."""

    @property
    def public(self) -> PublicKey:
        """The public key."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message``, 64 bytes."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The content of ``bundle.sig``: a payload, and signatures over it."""

    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def signed_by(self) -> tuple[str, ...]:
        """The fingerprints that the signatures name, without duplicates. Not verified."""
        return tuple(dict.fromkeys(signature.keyid for signature in self.signatures))

    @property
    def message(self) -> bytes:
        """The bytes that are signed: DSSE's pre-authentication encoding."""
        return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(self.payload), self.payload)

    @property
    def canonical_bytes(self) -> bytes:
        """The bytes of ``bundle.sig``: canonical JSON."""
        signatures = [
            {"keyid": signature.keyid, "sig": _encode_base64(signature.value)} for signature in self.signatures
        ]
        document = {"payload": _encode_base64(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
        return lockfile.encode_canonical_json(document)

    def has_valid_signature(self, key: PublicKey, where: str) -> bool:
        """Return whether a trusted key signed this.

        Raises TrustError if a signature names the key and is not by it: it was altered or forged.
        """
        claimed = [signature for signature in self.signatures if signature.keyid == key.fingerprint]
        if not all(key.has_signed(self.message, signature.value) for signature in claimed):
            raise _make_envelope_error(f"a signature names the key {key.fingerprint} and is not by it", where)
        return bool(claimed)

    def add_signature(self, key: PublicKey, value: bytes) -> Envelope:
        """Return the envelope with a signature added. It replaces an older one of the same key.

        Raises:
            TrustError: The signature is not by the key.
            UsageError: There are too many signatures.
        """
        if not key.has_signed(self.message, value):
            hint = "sign the bytes that 'bundle sign --export' writes for this bundle, with the private key of this public key"
            raise TrustError(f"this signature is not by the key {key.fingerprint} over this bundle", hint=hint)
        others = [signature for signature in self.signatures if signature.keyid != key.fingerprint]
        if len(others) >= MAX_SIGNATURES:
            raise make_no_space_error()
        return Envelope(self.payload, tuple(sorted([*others, Signature(key.fingerprint, value)])))


def make_statement(lock: Lock) -> bytes:
    """Make the in-toto statement about a lock, in canonical form."""
    return lockfile.encode_canonical_json(_make_statement_document(lock))


def sign_lock(lock: Lock, signers: Sequence[Signer]) -> bytes | None:
    """Make the bytes of ``bundle.sig`` with a signature of each signer; None without signers."""
    envelope = Envelope(make_statement(lock))
    for signer in signers:
        envelope = envelope.add_signature(signer.public, signer.sign(envelope.message))
    return envelope.canonical_bytes if signers else None


def parse_envelope(data: bytes, lock: Lock, where: str) -> Envelope:
    """Parse the canonical form of an envelope with the statement about ``lock``. No signature is verified.

    Raises TrustError for anything else.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise _make_envelope_error(f"it has {len(data):,} bytes; at most {MAX_ENVELOPE_BYTES:,} are read", where)
    try:
        document = json.loads(data)
        canonical = lockfile.encode_canonical_json(document)
    except (ValueError, RecursionError) as error:
        raise _make_envelope_error("it is not JSON in the form of this format", where) from error
    if canonical != data:
        raise _make_envelope_error("it is not in canonical form", where)
    if not isinstance(document, dict) or set(document) != {"payload", "payloadType", "signatures"}:
        raise _make_envelope_error("it is not a DSSE envelope of payload, payloadType and signatures", where)
    if document["payloadType"] != PAYLOAD_TYPE:
        raise _make_envelope_error(f"its payloadType is not {PAYLOAD_TYPE}", where)
    payload = _decode_base64(document["payload"], "payload", where)
    if problem := _find_payload_problem(payload, lock):
        raise _make_envelope_error(problem, where)
    return Envelope(payload, _parse_signatures(document["signatures"], where))


def read_signature(path: Path) -> bytes:
    """Read a signature from a file with its 64 bytes or their base64. Raises UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIGNATURE_FILE_BYTES)
    except OSError as error:
        hint = "check the path and its permissions"
        raise UsageError(f"the signature can't be read: {error.strerror}", where=str(path), hint=hint) from error
    if len(data) != 64:
        with suppress(binascii.Error):
            data = base64.b64decode(b"".join(data.split()), validate=True)
    if len(data) != 64:
        hint = "give the 64 bytes that 'openssl pkeyutl -sign -rawin' writes, or their base64"
        raise UsageError("this is not an Ed25519 signature", where=str(path), hint=hint)
    return data


def make_no_space_error() -> UsageError:
    """Make the error for a head without space for another signature."""
    hint = "build it again with all keys that must sign it: bundle build --key KEY --key KEY"
    return UsageError("the bundle has no space for another signature", hint=hint)


def _make_statement_document(lock: Lock) -> dict[str, object]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": lockfile.LOCK_FILE, "digest": {"sha256": lock.digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"name": lock.name, "version": lock.version, "sequence": lock.sequence, "digest": lock.digest},
    }


def _find_payload_problem(payload: bytes, lock: Lock) -> str:
    """Return what is wrong with a statement, "" if it is the one about ``lock``."""
    if payload == make_statement(lock):
        return ""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return "its payload is not a statement in JSON"
    expected = _make_statement_document(lock)
    if not isinstance(document, dict) or document.get("_type") != STATEMENT_TYPE:
        return f"its payload is not a {STATEMENT_TYPE}"
    for name, message in (
        ("predicateType", f"its predicateType is not {PREDICATE_TYPE}"),
        ("subject", f"its statement is not about this bundle, whose digest is {lock.digest}"),
        ("predicate", "its statement has another name, version, sequence or digest than this bundle's lock"),
    ):
        if document.get(name) != expected[name]:
            return message
    return "its statement is not in the canonical form that follows from the lock"


def _parse_signatures(document: object, where: str) -> tuple[Signature, ...]:
    if not isinstance(document, list) or not document:
        raise _make_envelope_error("it has no signatures", where)
    if len(document) > MAX_SIGNATURES:
        raise _make_envelope_error(f"it has {len(document)} signatures; at most {MAX_SIGNATURES} are read", where)
    return tuple(_parse_signature(item, f"signatures[{number}]", where) for number, item in enumerate(document))


def _parse_signature(document: object, name: str, where: str) -> Signature:
    if not isinstance(document, dict) or set(document) != {"keyid", "sig"}:
        raise _make_envelope_error(f"{name} is not a keyid and a sig", where)
    keyid = document["keyid"]
    if not isinstance(keyid, str) or not public_key.is_fingerprint(keyid):
        raise _make_envelope_error(f"the keyid of {name} is not a fingerprint", where)
    value = _decode_base64(document["sig"], f"sig of {name}", where)
    if len(value) != 64:
        raise _make_envelope_error(f"the sig of {name} has {len(value)} bytes; an Ed25519 signature has 64", where)
    return Signature(keyid, value)


def _decode_base64(text: object, name: str, where: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data or _encode_base64(data) != text:  # unused bits that are not zero would be a second form
        raise _make_envelope_error(f"the {name} is not base64", where)
    return data


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _make_envelope_error(message: str, where: str) -> TrustError:
    hint = "the bundle was altered, or signed by another program: get it again from its builder"
    return TrustError(f"bundle.sig is malformed: {message}", where=where, hint=hint)

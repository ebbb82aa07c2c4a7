"""Ed25519 public keys: PEM, fingerprint and verification of signatures."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path

from securesystemslib._vendor.ed25519 import ed25519

from bundler.errors import UsageError
from bundler.format.documents import InvalidValueError
from bundler.format.hashing import compute_sha256

MAX_PEM_BYTES = 16 << 10
"""Bytes of a key file that are read."""

_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""The bytes before the 32 bytes of the key in its SubjectPublicKeyInfo (RFC 8410, section 4)."""

_PEM = re.compile(rb"\s*-----BEGIN PUBLIC KEY-----\s([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_PRIME = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_ORDER_EIGHT_Y = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_YS = {0, 1, _PRIME - 1, _ORDER_EIGHT_Y, _PRIME - _ORDER_EIGHT_Y}
"""The y coordinates of the eight points whose order divides 8. Anybody can make signatures that verify with them."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The 32 bytes of an Ed25519 public key, in canonical form and of large order."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32 or not _is_valid_point(self.raw):
            raise InvalidValueError("this is not an Ed25519 public key: its 32 bytes are not a valid point")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key's DER SubjectPublicKeyInfo. It identifies the key."""
        return compute_sha256(_SPKI_PREFIX + self.raw)

    @property
    def pem(self) -> str:
        """The key as PEM (RFC 7468, section 13)."""
        text = base64.b64encode(_SPKI_PREFIX + self.raw).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether a signature of 64 bytes over ``message`` is by this key (RFC 8032, section 5.1.7).

        This is stricter than most libraries: the point must be canonical and of large order, and the scalar below the
        group's order. So nobody can turn a signature into another valid one.
        """
        if (
            len(signature) != 64
            or int.from_bytes(signature[32:], "little") >= _ORDER
            or not _is_valid_point(signature[:32])
        ):
            return False
        try:
            # the library's public function uses whatever cryptography a host has; this one is the same everywhere
            ed25519.checkvalid(signature, message, self.raw)  # type: ignore[no-untyped-call]
        except ed25519.SignatureMismatch:
            return False
        return True


def parse_pem(pem: bytes) -> PublicKey:
    """Parse the key of a PEM file. Raises InvalidValueError, which never repeats the file's content."""
    if b"PRIVATE KEY-----" in pem:
        raise InvalidValueError("this is a private key, which must stay with its owner: give the public key")
    match = _PEM.fullmatch(pem) if len(pem) <= MAX_PEM_BYTES else None
    if match is None:
        raise InvalidValueError("this is not one public key in PEM (-----BEGIN PUBLIC KEY-----)")
    try:
        der = base64.b64decode(b"".join(match[1].split()), validate=True)
    except binascii.Error as error:
        raise InvalidValueError("the base64 of this key is damaged") from error
    if not der.startswith(_SPKI_PREFIX):
        raise InvalidValueError("this is not an Ed25519 key; other keys are not supported")
    return PublicKey(der[len(_SPKI_PREFIX) :])


def read_key(path: Path) -> PublicKey:
    """Read the key of a PEM file. Raises UsageError."""
    hint = "give the builder's NAME.pub"
    try:
        with path.open("rb") as file:
            return parse_pem(file.read(MAX_PEM_BYTES + 1))
    except OSError as error:
        raise UsageError(f"the public key can't be read: {error.strerror}", where=str(path), hint=hint) from error
    except InvalidValueError as error:
        raise UsageError(str(error), where=str(path), hint=hint) from error


def is_fingerprint(text: str) -> bool:
    """Return whether ``text`` is a fingerprint: 64 lower-case hexadecimal digits."""
    return _FINGERPRINT.fullmatch(text) is not None


def _is_valid_point(encoded: bytes) -> bool:
    y = int.from_bytes(encoded, "little") & ((1 << 255) - 1)
    if y >= _PRIME or y in _SMALL_ORDER_YS:
        return False
    try:
        ed25519.decodepoint(encoded)  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return True

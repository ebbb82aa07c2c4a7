"""Private keys: generates, reads and signs with them; no other module handles a secret key."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundler.errors import HostError, UsageError
from bundler.format import disk
from bundler.format.signing import public_key
from bundler.format.signing.public_key import PublicKey
from bundler.progress import Reporter

AskPassphrase = Callable[[Path], bytes]
"""Returns the passphrase of a key's file; called only for an encrypted key."""


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """An Ed25519 private key; its repr shows nothing of it."""

    secret: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """Its public key."""
        raw = serialization.PublicFormat.Raw
        return PublicKey(self.secret.public_key().public_bytes(serialization.Encoding.Raw, raw))

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self.secret.sign(message)


def generate_pair(name: Path, passphrase: bytes | None) -> tuple[Path, Path, PublicKey]:
    """Generate a key pair: ``NAME.key``, which only its owner may read, and ``NAME.pub``.

    The private key is PKCS #8 in PEM, encrypted if there is a passphrase.

    Raises:
        HostError: one of the files exists already; nothing is overwritten.
    """
    key = PrivateKey(Ed25519PrivateKey.generate())
    private, public = (name.with_name(name.name + suffix) for suffix in (".key", ".pub"))
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise _make_exists_error(path)
    _write_new_file(private, _encode_pem(key, passphrase), 0o600)
    try:
        _write_new_file(public, key.public.pem.encode(), 0o644)
    except BaseException:  # also after Ctrl-C no half of a pair is left
        private.unlink()
        raise
    disk.sync_folder(private.parent)
    return private, public, key.public


def load_key(path: Path, ask_passphrase: AskPassphrase, reporter: Reporter) -> PrivateKey:
    """Read a private key in PEM, made by this program or by OpenSSL.

    Raises:
        UsageError: the file is no such key, or the passphrase is wrong. The message shows neither of them.
    """
    try:
        with path.open("rb") as file:
            data = file.read(public_key.MAX_PEM_BYTES)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        hint = "check the path and its permissions: give the file that 'bundle keygen' wrote, NAME.key"
        raise UsageError(f"the private key can't be read: {error.strerror}", where=str(path), hint=hint) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        reporter.warn(f"other users of this machine may use this private key: chmod 600 {path}")
    return PrivateKey(_parse_private_key(data, path, ask_passphrase))


def _parse_private_key(data: bytes, path: Path, ask_passphrase: AskPassphrase) -> Ed25519PrivateKey:
    if b"-----BEGIN PUBLIC KEY-----" in data:
        hint = "the private key of NAME.pub is NAME.key"
        raise UsageError("this is a public key: sign with the private one", where=str(path), hint=hint)
    passphrase = ask_passphrase(path) if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data else None
    try:
        secret = serialization.load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if passphrase is not None:
            hint = "check the passphrase; this program keeps no copy of it"
            raise UsageError("the passphrase is wrong for this key", where=str(path), hint=hint) from None
        hint = "make one: 'bundle keygen -o NAME', or 'openssl genpkey -algorithm ed25519 -out NAME.key'"
        raise UsageError("this is not a private key in PEM", where=str(path), hint=hint) from None
    if not isinstance(secret, Ed25519PrivateKey):
        hint = "make one: 'bundle keygen -o NAME'"
        raise UsageError("this is not an Ed25519 key, the only kind that can sign bundles", where=str(path), hint=hint)
    return secret


def _encode_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    cipher = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    return key.secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)


def _write_new_file(path: Path, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    except FileExistsError:
        raise _make_exists_error(path) from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException:  # also after Ctrl-C no half of a key is left
        path.unlink()
        raise


def _make_exists_error(path: Path) -> HostError:
    hint = "a key is never overwritten: choose another name, or move that file"
    return HostError("there is already a file of this name", where=str(path), hint=hint)

"""Signing a bundle in place. A head that a killed run left half-written is repaired first."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import BusyError, HostError, IntegrityError
from bundler.format import disk, hashing
from bundler.format.documents import InvalidValueError
from bundler.format.lock.lockfile import Lock
from bundler.format.signing import signature_envelope
from bundler.format.signing.public_key import PublicKey
from bundler.format.signing.signature_envelope import Envelope, Signer
from bundler.format.tar import archive, journal
from bundler.format.tar.archive import OpenBundle

EnvelopeChange = Callable[[Envelope], Envelope]
"""Returns an envelope with one or more signatures added."""


def read_envelope(bundle: OpenBundle) -> Envelope | None:
    """Return the signature envelope of a bundle, None if it is unsigned. Raises TrustError for a malformed one."""
    return (
        None
        if bundle.signature is None
        else signature_envelope.parse_envelope(bundle.signature, bundle.lock, bundle.where)
    )


def sign_with(signers: Sequence[Signer]) -> EnvelopeChange:
    """Return a change that adds a signature of each signer."""

    def change(envelope: Envelope) -> Envelope:
        for signer in signers:
            envelope = envelope.add_signature(signer.public, signer.sign(envelope.message))
        return envelope

    return change


def attach_signature(key: PublicKey, value: bytes) -> EnvelopeChange:
    """Return a change that adds a signature of 64 bytes made elsewhere. It is verified before anything is written."""
    return lambda envelope: envelope.add_signature(key, value)


def read_message(path: Path) -> tuple[Lock, bytes]:
    """Read the lock of a bundle and the bytes that its signers sign."""
    with archive.open_bundle(path) as bundle:
        return bundle.lock, Envelope(signature_envelope.make_statement(bundle.lock)).message


def sign_bundle(path: Path, change: EnvelopeChange) -> tuple[Lock, Envelope]:
    """Sign a bundle in place, without touching its content.

    If this is killed at any moment, the bundle has its old head, its new head, or a journal that the next run
    completes.

    Raises:
        TrustError: The signature is not valid.
        UsageError: The head has no space for another signature.
        BusyError: Another run is signing the same bundle.
    """
    with _lock_bundle(path):
        repair_head(path)
        with archive.open_bundle(path) as bundle:
            lock = bundle.lock
            bundle.require_full_length()
            envelope = change(read_envelope(bundle) or Envelope(signature_envelope.make_statement(lock)))
        try:
            archive.rewrite_head(path, lock, envelope.canonical_bytes)
        except InvalidValueError as error:
            raise signature_envelope.make_no_space_error() from error
    return lock, envelope


def repair_head(path: Path) -> None:
    """Complete the rewriting of a head that was interrupted; do nothing if there is none.

    Raises IntegrityError when the journal beside the bundle is not the head of this bundle.
    """
    journal_path = journal.get_journal_path(path)
    if not journal_path.exists():
        return
    if not _is_intact(path):
        head = journal_path.read_bytes()
        _require_matching_head(path, head, journal_path)
        journal.write_head(path, head)
    journal.remove_journal(path)


def _is_intact(path: Path) -> bool:
    try:
        with archive.open_bundle(path) as bundle:
            head = bundle.layout.head_bytes
            return bundle.reader.read(0, len(head)) == head
    except IntegrityError:
        return False


def _require_matching_head(path: Path, head: bytes, journal_path: Path) -> None:
    hint = "remove that file, and copy the bundle from its builder again"
    with archive.open_bundle(io.BytesIO(head)) as bundle, path.open("rb") as file:
        installer = bundle.lock.artifacts[0]
        content = hashing.compute_range_sha256(file.fileno(), bundle.lock.head_size, installer.size)
        if os.fstat(file.fileno()).st_size != bundle.layout.size or content != installer.sha256:
            raise IntegrityError("this is not the head of the bundle beside it", where=str(journal_path), hint=hint)


@contextmanager
def _lock_bundle(path: Path) -> Iterator[None]:
    try:
        file = path.open("rb")
    except OSError as error:
        hint = "check the path and its permissions"
        raise HostError(f"the bundle can't be read: {error.strerror}", where=str(path), hint=hint) from error
    with file:
        if disk.is_locked_elsewhere(file.fileno()):
            raise BusyError("another run is signing this bundle", where=str(path), hint="wait until it ends")
        yield

"""Signatures added to a bundle in place; what a killed run left of its head is mended first."""

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
"""An envelope to the same with a signature more."""


def read_envelope(bundle: OpenBundle) -> Envelope | None:
    """What a bundle says of who signed it; raises TrustError where it says so strangely."""
    return (
        None
        if bundle.signature is None
        else signature_envelope.parse_envelope(bundle.signature, bundle.lock, bundle.where)
    )


def sign_with(signers: Sequence[Signer]) -> EnvelopeChange:
    """A signature of each signer."""

    def change(envelope: Envelope) -> Envelope:
        for signer in signers:
            envelope = envelope.add_signature(signer.public, signer.sign(envelope.message))
        return envelope

    return change


def attach_signature(key: PublicKey, value: bytes) -> EnvelopeChange:
    """A signature of 64 bytes that was made elsewhere; it is checked before anything is written."""
    return lambda envelope: envelope.add_signature(key, value)


def read_message(path: Path) -> tuple[Lock, bytes]:
    """The lock of a bundle, and the bytes that a signer of it signs."""
    with archive.open_bundle(path) as bundle:
        return bundle.lock, Envelope(signature_envelope.make_statement(bundle.lock)).message


def sign_bundle(path: Path, change: EnvelopeChange) -> tuple[Lock, Envelope]:
    """Sign a bundle in place; its content is not touched.

    Raises TrustError for a signature that does not hold, UsageError when there is no room for it, BusyError while
    another run signs the same bundle. Killed at any moment, this leaves the old head, the new one, or what the
    next run of it makes the new one from.
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
    """Bring a head in order whose rewriting was ended; nothing where none was.

    Raises IntegrityError when what was left beside the bundle is not the head of this bundle.
    """
    left = journal.get_journal_path(path)
    if not left.exists():
        return
    if not _is_intact(path):
        head = left.read_bytes()
        _require_matching_head(path, head, left)
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
    hint = "remove that file and take the bundle from where it was made"
    with archive.open_bundle(io.BytesIO(head)) as found, path.open("rb") as file:
        installer = found.lock.artifacts[0]
        content = hashing.compute_range_sha256(file.fileno(), found.lock.head_size, installer.size)
        if os.fstat(file.fileno()).st_size != found.layout.size or content != installer.sha256:
            raise IntegrityError("this is not the head of the bundle beside it", where=str(journal_path), hint=hint)


@contextmanager
def _lock_bundle(path: Path) -> Iterator[None]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise HostError(f"the bundle can't be read: {error.strerror}", where=str(path)) from error
    with file:
        if disk.is_locked_elsewhere(file.fileno()):
            raise BusyError("another run is signing this bundle", where=str(path), hint="wait until it ends")
        yield

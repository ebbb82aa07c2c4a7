"""Signatures added to a bundle in place; what a killed run left of its head is mended first."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import BusyError, HostError, IntegrityError
from bundler.format import disk, hashing
from bundler.format.documents import Invalid
from bundler.format.lock.lockfile import Lock
from bundler.format.signing import signature_envelope
from bundler.format.signing.public_key import PublicKey
from bundler.format.signing.signature_envelope import Envelope, Signer
from bundler.format.tar import archive, journal
from bundler.format.tar.archive import OpenBundle

Change = Callable[[Envelope], Envelope]
"""An envelope to the same with a signature more."""


def envelope_of(carried: OpenBundle) -> Envelope | None:
    """What a bundle says of who signed it; raises TrustError where it says so strangely."""
    return (
        None if carried.signature is None else signature_envelope.read(carried.signature, carried.lock, carried.where)
    )


def by(signers: Sequence[Signer]) -> Change:
    """A signature of each signer."""

    def change(envelope: Envelope) -> Envelope:
        for signer in signers:
            envelope = envelope.with_signature(signer.public, signer.sign(envelope.message))
        return envelope

    return change


def brought(key: PublicKey, value: bytes) -> Change:
    """A signature of 64 bytes that was made elsewhere; it is checked before anything is written."""
    return lambda envelope: envelope.with_signature(key, value)


def message(path: Path) -> tuple[Lock, bytes]:
    """The lock of a bundle, and the bytes that a signer of it signs."""
    with archive.opened(path) as carried:
        return carried.lock, Envelope(signature_envelope.statement(carried.lock)).message


def add(path: Path, change: Change) -> tuple[Lock, Envelope]:
    """Sign a bundle in place; its content is not touched.

    Raises TrustError for a signature that does not hold, UsageError when there is no room for it, BusyError while
    another run signs the same bundle. Killed at any moment, this leaves the old head, the new one, or what the
    next run of it makes the new one from.
    """
    with _held(path):
        mend(path)
        with archive.opened(path) as carried:
            lock = carried.lock
            carried.refuse_if_cut()
            envelope = change(envelope_of(carried) or Envelope(signature_envelope.statement(lock)))
        try:
            archive.seal(path, lock, envelope.encoded)
        except Invalid as error:
            raise signature_envelope.no_room() from error
    return lock, envelope


def mend(path: Path) -> None:
    """Bring a head in order whose rewriting was ended; nothing where none was.

    Raises IntegrityError when what was left beside the bundle is not the head of this bundle.
    """
    left = journal.beside(path)
    if not left.exists():
        return
    if not _is_whole(path):
        head = left.read_bytes()
        _require_head_of(path, head, left)
        journal.put(path, head)
    journal.drop(path)


def _is_whole(path: Path) -> bool:
    try:
        with archive.opened(path) as carried:
            head = carried.layout.head
            return carried.carrier.read(0, len(head)) == head
    except IntegrityError:
        return False


def _require_head_of(path: Path, head: bytes, left: Path) -> None:
    hint = "remove that file and take the bundle from where it was made"
    with archive.opened(io.BytesIO(head)) as found, path.open("rb") as file:
        installer = found.lock.artifacts[0]
        content = hashing.digest_of_range(file.fileno(), found.lock.head_size, installer.size)
        if os.fstat(file.fileno()).st_size != found.layout.size or content != installer.sha256:
            raise IntegrityError("this is not the head of the bundle beside it", where=str(left), hint=hint)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise HostError(f"the bundle can't be read: {error.strerror}", where=str(path)) from error
    with file:
        if disk.busy(file.fileno()):
            raise BusyError("another run is signing this bundle", where=str(path), hint="wait until it ends")
        yield

"""Rollback protection: the newest sequence number of each bundle name that a prefix has accepted.

An old bundle with a known vulnerability has a valid signature, so its ``sequence`` has to show that it is old. The
numbers outlast the releases: neither another bundle in between nor the removal of a release lets the old one in.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import HostError, IntegrityError, TrustError
from bundler.format import disk, documents, json_files
from bundler.format.documents import InvalidValueError
from bundler.format.hashing import Sha256
from bundler.format.lock import lockfile
from bundler.format.lock.lockfile import Lock
from bundler.offline.prefix import releases
from bundler.offline.prefix.releases import Release
from bundler.progress import Reporter

_STORE_FILE = "sequences.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _SequenceStore:
    """Content of ``PREFIX/sequences.json``: the newest sequence by bundle name."""

    format: int
    newest: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.format != 1:
            raise InvalidValueError(f"this version can't read format {self.format}", "format")


@dataclass(frozen=True, kw_only=True, slots=True)
class _InstalledBundle:
    """An installed bundle."""

    release: str
    name: str
    sequence: int
    digest: Sha256


def check_sequence(prefix: Path, lock: Lock, reporter: Reporter, *, allow_downgrade: bool) -> None:
    """Raise TrustError for a bundle older than one of its name that was accepted, unless ``allow_downgrade``.

    The live bundle may always be installed again: that is no downgrade.
    """
    live_release = releases.find_live(prefix)
    installed = _list_installed(prefix)
    live = next((bundle for bundle in installed if live_release and bundle.release == live_release.name), None)
    if live is not None and live.digest == lock.digest:
        return
    stored = _read_store(prefix)
    sequences = [bundle.sequence for bundle in installed if bundle.name == lock.name]
    newest = stored.get(lock.name, max(sequences, default=0))
    if lock.sequence < newest:
        reason = f"sequence {lock.sequence} is older than {newest}, which was installed here"
        if not allow_downgrade:
            hint = (
                "install the newest bundle; if you do want the older one: --allow-downgrade, or bundle rollback where "
                "it is installed"
            )
            raise TrustError(f"this would be a downgrade: {reason}", where=str(prefix), hint=hint)
        reporter.warn(f"this is a downgrade, as allowed: {reason}")
    elif live is not None and (live.name, live.sequence) == (lock.name, lock.sequence):
        reporter.warn(f"another bundle of sequence {lock.sequence} is live: we can't tell which of the two is newer")


def store_sequence(prefix: Path, lock: Lock, *, allow_downgrade: bool) -> None:
    """Store the sequence of a bundle that goes live; a lower one only with ``allow_downgrade``."""
    stored = dict(_read_store(prefix))
    if stored.get(lock.name, -1) < lock.sequence or allow_downgrade:
        store = _SequenceStore(format=1, newest=stored | {lock.name: lock.sequence})
        disk.write_atomically(prefix / _STORE_FILE, lockfile.encode_canonical_json(documents.encode(store)))


def _read_store(prefix: Path) -> Mapping[str, int]:
    path = prefix / _STORE_FILE
    try:
        return json_files.read(_SequenceStore, path).newest
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        hint = "let the user who installs read this file (chmod, chown)"
        message = f"the stored sequence numbers can't be read: {error.strerror}"
        raise HostError(message, where=str(path), hint=hint) from error
    except documents.DocumentError as error:
        hint = "put the file back from a backup, or remove it: then only the installed releases are compared"
        message = f"the stored sequence numbers are damaged: {json_files.format_problems(error)}"
        raise TrustError(message, where=str(path), hint=hint) from error


def _list_installed(prefix: Path) -> list[_InstalledBundle]:
    """List the installed bundles by their receipts, or by their locks where a receipt is damaged."""
    bundles = [
        _InstalledBundle(release=receipt.release, name=receipt.name, sequence=receipt.sequence, digest=receipt.digest)
        for receipt in releases.read_receipts(prefix)
    ]
    for name in releases.find_damaged_releases(prefix):
        with suppress(IntegrityError):  # without receipt and lock its sequence is unknown
            lock = Release(prefix=prefix, name=name).read_lock()
            bundles.append(_InstalledBundle(release=name, name=lock.name, sequence=lock.sequence, digest=lock.digest))
    return bundles

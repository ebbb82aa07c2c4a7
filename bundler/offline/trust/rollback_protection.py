"""Which bundle is older: the sequence of the newest of each name that a prefix took.

Whoever hands out an old bundle with a known hole needs no key for it; its ``sequence`` gives it away. The memory
outlasts the releases, so that neither another bundle in between nor a release that is removed makes room for it.
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
    """What ``PREFIX/sequences.json`` holds: by name, the sequence of the newest bundle."""

    format: int
    newest: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.format != 1:
            raise InvalidValueError(f"format {self.format} is not one that this version reads", "format")


@dataclass(frozen=True, kw_only=True, slots=True)
class _InstalledBundle:
    """A bundle that is installed."""

    release: str
    name: str
    sequence: int
    digest: Sha256


def check_sequence(prefix: Path, lock: Lock, reporter: Reporter, *, allow_downgrade: bool) -> None:
    """Raises TrustError for a bundle that is older than one of its name that was taken, unless that is ``allowed``.

    The live one may be installed again, whatever came before: that changes nothing.
    """
    now = releases.find_live(prefix)
    here = _list_installed(prefix)
    live = next((one for one in here if now is not None and one.release == now.name), None)
    if live is not None and live.digest == lock.digest:
        return
    remembered = _read_store(prefix)
    of_the_name = [one.sequence for one in here if one.name == lock.name]
    newest = remembered.get(lock.name, max(of_the_name, default=0))
    if lock.sequence < newest:
        older = f"sequence {lock.sequence} is older than {newest}, which was taken here"
        if not allow_downgrade:
            hint = "take the newest bundle; if the older one is wanted: --allow-downgrade, or bundle rollback where it is installed"
            raise TrustError(f"this would be a downgrade: {older}", where=str(prefix), hint=hint)
        reporter.warn(f"this is a downgrade, as allowed: {older}")
    elif live is not None and (live.name, live.sequence) == (lock.name, lock.sequence):
        reporter.warn(f"another bundle of sequence {lock.sequence} is live: which of the two is newer can't be said")


def store_sequence(prefix: Path, lock: Lock, *, allow_downgrade: bool) -> None:
    """Keep the sequence of a bundle that goes live; a lower one where that is ``allowed``: whoever said so meant it."""
    known = dict(_read_store(prefix))
    if known.get(lock.name, -1) < lock.sequence or allow_downgrade:
        memory = _SequenceStore(format=1, newest=known | {lock.name: lock.sequence})
        disk.write_atomically(prefix / _STORE_FILE, lockfile.encode_canonical_json(documents.encode(memory)))


def _read_store(prefix: Path) -> Mapping[str, int]:
    path = prefix / _STORE_FILE
    try:
        return json_files.read(_SequenceStore, path).newest
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise HostError(f"what was taken here can't be read: {error.strerror}", where=str(path)) from error
    except documents.DocumentError as faults:
        hint = "put the file back from a backup, or remove it: then what is installed tells alone"
        message = f"the memory of what was taken here is damaged: {json_files.format_problems(faults)}"
        raise TrustError(message, where=str(path), hint=hint) from faults


def _list_installed(prefix: Path) -> list[_InstalledBundle]:
    """What is installed, by the receipts; where one is damaged, by the release's own lock."""
    found = [
        _InstalledBundle(release=one.release, name=one.name, sequence=one.sequence, digest=one.digest)
        for one in releases.read_receipts(prefix)
    ]
    for damaged in releases.find_damaged_releases(prefix):
        with suppress(IntegrityError):  # nothing is left that could tell
            known = Release(prefix=prefix, name=damaged).read_lock()
            found.append(
                _InstalledBundle(release=damaged, name=known.name, sequence=known.sequence, digest=known.digest)
            )
    return found

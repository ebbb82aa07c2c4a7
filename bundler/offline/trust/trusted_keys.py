"""Whom to believe: trusted keys, from who runs this and from what the prefix remembers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import HostError, TrustError, UsageError
from bundler.format import disk, documents, json_files
from bundler.format.documents import InvalidValueError
from bundler.format.lock import lockfile
from bundler.format.signing import public_key
from bundler.format.signing.public_key import PublicKey
from bundler.progress import Reporter, pluralize

TRUST_VARIABLE = "BUNDLE_TRUST"
REVOKED_FILE = "revoked"
"""In a trust folder: fingerprints that count for nothing, one a line, # begins a comment."""

_STORE_FILE = "trust.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustPolicy:
    """Keys of which ``threshold`` must have signed a bundle, less those that are revoked.

    ``told_by`` says in words who asks for that. There is at least one key, so that a trust can't be empty.
    """

    keys: tuple[PublicKey, ...]
    revoked: frozenset[str]
    threshold: int
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _TrustStore:
    """What ``PREFIX/trust.json`` holds: keys as PEM, fingerprints of revoked ones.

    With no keys and a threshold of 0 it trusts nobody in particular, and still knows who is revoked.
    """

    format: int
    keys: tuple[str, ...]
    revoked: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        if self.format != 1:
            raise InvalidValueError(f"format {self.format} is not one that this version reads", "format")
        for pem in self.keys:
            try:
                _key(pem)
            except InvalidValueError as invalid:
                raise InvalidValueError(str(invalid), "keys") from invalid
        if not all(map(public_key.is_fingerprint, self.revoked)):
            raise InvalidValueError("must be fingerprints", "revoked")
        if not (1 <= self.threshold <= len(set(self.keys)) or (not self.keys and not self.threshold)):
            raise InvalidValueError("must be from 1 to the number of keys", "threshold")


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredTrust:
    """What a prefix knows: it may know who is revoked and trust nobody."""

    keys: tuple[PublicKey, ...] = ()
    revoked: frozenset[str] = frozenset()
    threshold: int = 0


def read_policy(paths: Sequence[Path], threshold: int | None) -> TrustPolicy | None:
    """The keys that who runs this names: files and folders, and those in the variable; None for none.

    Raises UsageError when one can't be read, a folder has no keys, or there are fewer than the threshold.
    """
    named = [*paths, *(Path(part) for part in os.environ.get(TRUST_VARIABLE, "").split(os.pathsep) if part)]
    keys: dict[str, PublicKey] = {}
    revoked: set[str] = set()
    for place in named:
        found, gone = _read_keys(place)
        keys |= {key.fingerprint: key for key in found}
        revoked |= gone
    if threshold is not None and not 1 <= threshold <= len(keys):
        hint = f"give as many different keys with --trust or {TRUST_VARIABLE}, or another --trust-threshold"
        raise UsageError(f"the threshold is {threshold}, and the different keys that are given: {len(keys)}", hint=hint)
    if not keys:
        return None
    words = (
        f"--trust and {TRUST_VARIABLE}" if paths and len(named) > len(paths) else "--trust" if paths else TRUST_VARIABLE
    )
    return TrustPolicy(keys=tuple(keys.values()), revoked=frozenset(revoked), threshold=threshold or 1, source=words)


def read_stored_policy(prefix: Path) -> TrustPolicy | None:
    """What a prefix remembers; None where it remembers no key. Raises TrustError when that can't be read."""
    known = _read_store(prefix)
    return _make_policy(known) if known.keys else None


def list_required_policies(prefix: Path, policy: TrustPolicy | None) -> tuple[TrustPolicy, ...]:
    """Every trust that a bundle for a prefix must pass: that of who runs this, and what the prefix remembers.

    What is revoked for one counts for none. Raises TrustError when the memory can't be read.
    """
    known = _read_store(prefix)
    asked = [one for one in (policy, _make_policy(known) if known.keys else None) if one is not None]
    return tuple(dataclasses.replace(one, revoked=one.revoked | known.revoked) for one in asked)


def _make_policy(stored: _StoredTrust) -> TrustPolicy:
    return TrustPolicy(
        keys=stored.keys, revoked=stored.revoked, threshold=stored.threshold, source="the memory of this prefix"
    )


def _read_store(prefix: Path) -> _StoredTrust:
    path = prefix / _STORE_FILE
    try:
        memory = json_files.read(_TrustStore, path)
    except (FileNotFoundError, NotADirectoryError):
        return _StoredTrust()
    except OSError as error:
        raise HostError(f"the prefix's trusted keys can't be read: {error.strerror}", where=str(path)) from error
    except documents.DocumentError as faults:
        hint = f"put the file back from a backup, or: bundle trust --prefix {prefix} --forget, and install with --trust"
        message = f"the prefix's trusted keys are damaged: {json_files.format_problems(faults)}"
        raise TrustError(message, where=str(path), hint=hint) from faults
    keys = {key.fingerprint: key for key in map(_key, memory.keys)}
    return _StoredTrust(keys=tuple(keys.values()), revoked=frozenset(memory.revoked), threshold=memory.threshold)


def _key(pem: str) -> PublicKey:
    """A key of the memory. Raises Invalid."""
    return public_key.parse_pem(pem.encode("utf-8", "replace"))


def store_policy(prefix: Path, policy: TrustPolicy | None, reporter: Reporter) -> None:
    """Keep what an install was told, whose bundle has passed it.

    A prefix that remembers keys already keeps these, and learns only of revoked ones: who installs is not who
    decides whom a prefix trusts.
    """
    if policy is None:
        return
    known = _read_store(prefix)
    if not known.keys:
        _write_store(prefix, policy.keys, policy.revoked | known.revoked, policy.threshold)
        listed = ", ".join(key.fingerprint for key in policy.keys)
        reporter.note(f"from now on {prefix} takes only bundles that are signed by {policy.threshold} of: {listed}")
        return
    if not policy.revoked <= known.revoked:
        _write_store(prefix, known.keys, known.revoked | policy.revoked, known.threshold)
    if new := [key.fingerprint for key in policy.keys if key not in known.keys]:
        reporter.note(
            f"{prefix} goes on asking for the keys that it remembers; to have it trust {', '.join(new)} as well: "
            f"bundle trust --prefix {prefix} --add KEY.pub"
        )


def add_keys(prefix: Path, paths: Sequence[Path]) -> None:
    """Have a prefix trust more keys, and learn of those that a folder says are revoked.

    Raises UsageError for what is no key, TrustError for a key that is known to be revoked.
    """
    known = _read_store(prefix)
    keys = {key.fingerprint: key for key in known.keys}
    revoked = set(known.revoked)
    for place in paths:
        found, gone = _read_keys(place)
        revoked |= gone
        keys |= {key.fingerprint: key for key in found}
        if bad := [key.fingerprint for key in found if key.fingerprint in revoked]:
            hint = "ask its owner for the key that took its place"
            raise TrustError(f"this key is revoked: {', '.join(bad)}", where=str(place), hint=hint)
    _write_store(prefix, tuple(keys.values()), frozenset(revoked), max(1, known.threshold))


def remove_keys(prefix: Path, fingerprints: Sequence[str]) -> None:
    """Have a prefix trust these keys no longer.

    Raises UsageError where it does not, and where fewer keys would be left than must sign.
    """
    known = read_stored_policy(prefix)
    keys = {key.fingerprint: key for key in (known.keys if known else ())}
    for fingerprint in fingerprints:
        if known is None or keys.pop(fingerprint, None) is None:
            hint = f"bundle trust --prefix {prefix} shows the keys; give the 64 digits of one"
            raise UsageError(f"the prefix does not trust {fingerprint!r}", where=str(prefix), hint=hint)
    if known is not None:
        if len(keys) < known.threshold:
            hint = "add the key that takes its place first (--add KEY.pub), or have all forgotten (--forget)"
            message = f"{pluralize(len(keys), 'key')} would be left, and {known.threshold} must sign"
            raise UsageError(message, where=str(prefix), hint=hint)
        _write_store(prefix, tuple(keys.values()), known.revoked, known.threshold)


def forget_keys(prefix: Path) -> None:
    """Have a prefix remember no key: it then takes any bundle, until one is installed with --trust.

    What it knows of revoked keys stays, where it can be read.
    """
    with suppress(TrustError):
        if gone := _read_store(prefix).revoked:
            _write_store(prefix, (), gone, 0)
            return
    (prefix / _STORE_FILE).unlink(missing_ok=True)
    disk.sync_folder(prefix)


def _write_store(prefix: Path, keys: Sequence[PublicKey], revoked: frozenset[str], threshold: int) -> None:
    ordered = sorted(keys, key=lambda key: key.fingerprint)
    memory = _TrustStore(
        format=1, keys=tuple(key.pem for key in ordered), revoked=tuple(sorted(revoked)), threshold=threshold
    )
    disk.write_atomically(prefix / _STORE_FILE, lockfile.encode_canonical_json(documents.encode(memory)))


def _read_keys(location: Path) -> tuple[list[PublicKey], set[str]]:
    """The keys of a file or of a trust folder, and the fingerprints that the folder says are revoked."""
    if not location.is_dir():
        return [public_key.read_key(location)], set()
    keys = [public_key.read_key(path) for path in sorted(location.glob("*.pub"))]
    if not keys:
        raise UsageError("this folder holds no keys", where=str(location), hint="put the builder's NAME.pub into it")
    return keys, _read_revoked(location / REVOKED_FILE)


def _read_revoked(path: Path) -> set[str]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UsageError(f"the list of revoked keys can't be read: {error.strerror}", where=str(path)) from error
    fingerprints = [line.partition("#")[0].strip().lower() for line in lines]
    for number, fingerprint in enumerate(fingerprints, 1):
        if fingerprint and not public_key.is_fingerprint(fingerprint):
            hint = "a fingerprint is 64 hexadecimal digits; # begins a comment"
            raise UsageError("this is not a fingerprint", where=f"{path}, line {number}", hint=hint)
    return set(filter(None, fingerprints))

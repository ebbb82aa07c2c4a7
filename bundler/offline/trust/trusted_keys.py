"""Trusted keys: given on the command line, or stored in the prefix."""

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
"""File of a trust folder that lists revoked fingerprints, one a line; # begins a comment."""

_STORE_FILE = "trust.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustPolicy:
    """Keys of which ``threshold`` must have signed a bundle; revoked ones do not count.

    ``source`` says where the policy comes from, for messages. ``keys`` is never empty.
    """

    keys: tuple[PublicKey, ...]
    revoked: frozenset[str]
    threshold: int
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _TrustStore:
    """Content of ``PREFIX/trust.json``: keys as PEM, and the fingerprints of revoked ones.

    With no keys and a threshold of 0 it requires no signature, but still lists the revoked keys.
    """

    format: int
    keys: tuple[str, ...]
    revoked: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        if self.format != 1:
            raise InvalidValueError(f"this version can't read format {self.format}", "format")
        for pem in self.keys:
            try:
                _parse_key(pem)
            except InvalidValueError as error:
                raise InvalidValueError(str(error), "keys") from error
        if not all(map(public_key.is_fingerprint, self.revoked)):
            raise InvalidValueError("must be fingerprints", "revoked")
        if not (1 <= self.threshold <= len(set(self.keys)) or (not self.keys and not self.threshold)):
            raise InvalidValueError("must be from 1 to the number of keys", "threshold")


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredTrust:
    """The keys that a prefix stores; it may have revoked keys and no trusted ones."""

    keys: tuple[PublicKey, ...] = ()
    revoked: frozenset[str] = frozenset()
    threshold: int = 0


def read_policy(paths: Sequence[Path], threshold: int | None) -> TrustPolicy | None:
    """Read the policy that the user gives: keys in files and folders, and in the variable; None if there are none.

    Raises:
        UsageError: A key can't be read, a folder has no keys, or there are fewer keys than the threshold.
    """
    locations = [*paths, *(Path(part) for part in os.environ.get(TRUST_VARIABLE, "").split(os.pathsep) if part)]
    keys: dict[str, PublicKey] = {}
    revoked: set[str] = set()
    for location in locations:
        read_keys, read_revoked = _read_keys(location)
        keys |= {key.fingerprint: key for key in read_keys}
        revoked |= read_revoked
    if threshold is not None and not 1 <= threshold <= len(keys):
        hint = f"give as many different keys with --trust or {TRUST_VARIABLE}, or another --trust-threshold"
        raise UsageError(f"the threshold is {threshold}, but the number of different keys is {len(keys)}", hint=hint)
    if not keys:
        return None
    has_both = paths and len(locations) > len(paths)
    source = f"--trust and {TRUST_VARIABLE}" if has_both else "--trust" if paths else TRUST_VARIABLE
    return TrustPolicy(keys=tuple(keys.values()), revoked=frozenset(revoked), threshold=threshold or 1, source=source)


def read_stored_policy(prefix: Path) -> TrustPolicy | None:
    """Read the policy that a prefix stores; None if it stores no trusted key.

    Raises:
        TrustError: The stored keys are damaged.
    """
    stored = _read_store(prefix)
    return _make_policy(stored) if stored.keys else None


def list_required_policies(prefix: Path, policy: TrustPolicy | None) -> tuple[TrustPolicy, ...]:
    """List the policies that a bundle for a prefix must satisfy: the user's, and the one that the prefix stores.

    A key that the prefix stores as revoked counts for neither.

    Raises:
        TrustError: The stored keys are damaged.
    """
    stored = _read_store(prefix)
    stored_policy = _make_policy(stored) if stored.keys else None
    policies = [required for required in (policy, stored_policy) if required is not None]
    return tuple(dataclasses.replace(required, revoked=required.revoked | stored.revoked) for required in policies)


def _make_policy(stored: _StoredTrust) -> TrustPolicy:
    return TrustPolicy(keys=stored.keys, revoked=stored.revoked, threshold=stored.threshold, source="this prefix")


def _read_store(prefix: Path) -> _StoredTrust:
    path = prefix / _STORE_FILE
    try:
        store = json_files.read(_TrustStore, path)
    except (FileNotFoundError, NotADirectoryError):
        return _StoredTrust()
    except OSError as error:
        hint = "let the user who installs read this file (chmod, chown)"
        message = f"the prefix's trusted keys can't be read: {error.strerror}"
        raise HostError(message, where=str(path), hint=hint) from error
    except documents.DocumentError as error:
        hint = f"put the file back from a backup, or: bundle trust --prefix {prefix} --forget, and install with --trust"
        message = f"the prefix's trusted keys are damaged: {json_files.format_problems(error)}"
        raise TrustError(message, where=str(path), hint=hint) from error
    keys = {key.fingerprint: key for key in map(_parse_key, store.keys)}
    return _StoredTrust(keys=tuple(keys.values()), revoked=frozenset(store.revoked), threshold=store.threshold)


def _parse_key(pem: str) -> PublicKey:
    return public_key.parse_pem(pem.encode("utf-8", "replace"))


def store_policy(prefix: Path, policy: TrustPolicy | None, reporter: Reporter) -> None:
    """Store the policy of an install in the prefix, after the bundle satisfied it.

    A prefix that stores keys already keeps those, and adds only revoked ones: whoever installs a bundle does not
    decide whom the prefix trusts.
    """
    if policy is None:
        return
    stored = _read_store(prefix)
    if not stored.keys:
        _write_store(prefix, policy.keys, policy.revoked | stored.revoked, policy.threshold)
        listed = ", ".join(key.fingerprint for key in policy.keys)
        reporter.note(f"from now on {prefix} accepts only bundles signed by {policy.threshold} of: {listed}")
        return
    if not policy.revoked <= stored.revoked:
        _write_store(prefix, stored.keys, stored.revoked | policy.revoked, stored.threshold)
    if new := [key.fingerprint for key in policy.keys if key not in stored.keys]:
        reporter.note(
            f"{prefix} still requires its stored keys; to make it trust {', '.join(new)} as well: "
            f"bundle trust --prefix {prefix} --add KEY.pub"
        )


def add_keys(prefix: Path, paths: Sequence[Path]) -> None:
    """Add trusted keys to a prefix, and the revoked ones that a trust folder lists.

    Raises:
        UsageError: A file is no key.
        TrustError: A key is revoked.
    """
    stored = _read_store(prefix)
    keys = {key.fingerprint: key for key in stored.keys}
    revoked = set(stored.revoked)
    for location in paths:
        read_keys, read_revoked = _read_keys(location)
        revoked |= read_revoked
        keys |= {key.fingerprint: key for key in read_keys}
        if revoked_keys := [key.fingerprint for key in read_keys if key.fingerprint in revoked]:
            hint = "ask its owner for the new key"
            raise TrustError(f"this key is revoked: {', '.join(revoked_keys)}", where=str(location), hint=hint)
    _write_store(prefix, tuple(keys.values()), frozenset(revoked), max(1, stored.threshold))


def remove_keys(prefix: Path, fingerprints: Sequence[str]) -> None:
    """Remove trusted keys from a prefix.

    Raises:
        UsageError: The prefix does not trust such a key, or fewer keys would remain than the threshold.
    """
    policy = read_stored_policy(prefix)
    keys = {key.fingerprint: key for key in (policy.keys if policy else ())}
    for fingerprint in fingerprints:
        if policy is None or keys.pop(fingerprint, None) is None:
            hint = f"bundle trust --prefix {prefix} shows the keys; give all 64 digits of one"
            raise UsageError(f"the prefix does not trust {fingerprint!r}", where=str(prefix), hint=hint)
    if policy is not None:
        if len(keys) < policy.threshold:
            hint = "first add the new key (--add KEY.pub), or remove all keys (--forget)"
            message = f"{pluralize(len(keys), 'key')} would be left, and {policy.threshold} must sign"
            raise UsageError(message, where=str(prefix), hint=hint)
        _write_store(prefix, tuple(keys.values()), policy.revoked, policy.threshold)


def forget_keys(prefix: Path) -> None:
    """Remove all trusted keys from a prefix: it then accepts any bundle, until one is installed with --trust.

    The revoked keys stay, unless the file is damaged.
    """
    with suppress(TrustError):
        if revoked := _read_store(prefix).revoked:
            _write_store(prefix, (), revoked, 0)
            return
    (prefix / _STORE_FILE).unlink(missing_ok=True)
    disk.sync_folder(prefix)


def _write_store(prefix: Path, keys: Sequence[PublicKey], revoked: frozenset[str], threshold: int) -> None:
    ordered = sorted(keys, key=lambda key: key.fingerprint)
    store = _TrustStore(
        format=1, keys=tuple(key.pem for key in ordered), revoked=tuple(sorted(revoked)), threshold=threshold
    )
    disk.write_atomically(prefix / _STORE_FILE, lockfile.encode_canonical_json(documents.encode(store)))


def _read_keys(location: Path) -> tuple[list[PublicKey], set[str]]:
    """Read the keys of a file or a trust folder, and the fingerprints that the folder lists as revoked."""
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
        hint = "check its permissions: without this list a revoked key would count"
        message = f"the list of revoked keys can't be read: {error.strerror}"
        raise UsageError(message, where=str(path), hint=hint) from error
    fingerprints = [line.partition("#")[0].strip().lower() for line in lines]
    for number, fingerprint in enumerate(fingerprints, 1):
        if fingerprint and not public_key.is_fingerprint(fingerprint):
            hint = "a fingerprint is 64 hexadecimal digits; # begins a comment"
            raise UsageError("this is not a fingerprint", where=f"{path}, line {number}", hint=hint)
    return set(filter(None, fingerprints))

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
from bundler.format.documents import Invalid
from bundler.format.lock import lockfile
from bundler.format.signing import public_key
from bundler.format.signing.public_key import PublicKey
from bundler.progress import Report, counted

VARIABLE = "BUNDLE_TRUST"
REVOKED = "revoked"
"""In a trust folder: fingerprints that count for nothing, one a line, # begins a comment."""

_MEMORY = "trust.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """Keys of which ``threshold`` must have signed a bundle, less those that are revoked.

    ``told_by`` says in words who asks for that. There is at least one key, so that a trust can't be empty.
    """

    keys: tuple[PublicKey, ...]
    revoked: frozenset[str]
    threshold: int
    told_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Memory:
    """What ``PREFIX/trust.json`` holds: keys as PEM, fingerprints of revoked ones.

    With no keys and a threshold of 0 it trusts nobody in particular, and still knows who is revoked.
    """

    format: int
    keys: tuple[str, ...]
    revoked: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        if self.format != 1:
            raise Invalid(f"format {self.format} is not one that this version reads", "format")
        for pem in self.keys:
            try:
                _key(pem)
            except Invalid as invalid:
                raise Invalid(str(invalid), "keys") from invalid
        if not all(map(public_key.is_fingerprint, self.revoked)):
            raise Invalid("must be fingerprints", "revoked")
        if not (1 <= self.threshold <= len(set(self.keys)) or (not self.keys and not self.threshold)):
            raise Invalid("must be from 1 to the number of keys", "threshold")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What a prefix knows: it may know who is revoked and trust nobody."""

    keys: tuple[PublicKey, ...] = ()
    revoked: frozenset[str] = frozenset()
    threshold: int = 0


def given(places: Sequence[Path], threshold: int | None) -> Trust | None:
    """The keys that who runs this names: files and folders, and those in the variable; None for none.

    Raises UsageError when one can't be read, a folder has no keys, or there are fewer than the threshold.
    """
    named = [*places, *(Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part)]
    keys: dict[str, PublicKey] = {}
    revoked: set[str] = set()
    for place in named:
        found, gone = _at(place)
        keys |= {key.fingerprint: key for key in found}
        revoked |= gone
    if threshold is not None and not 1 <= threshold <= len(keys):
        hint = f"give as many different keys with --trust or {VARIABLE}, or another --trust-threshold"
        raise UsageError(f"the threshold is {threshold}, and the different keys that are given: {len(keys)}", hint=hint)
    if not keys:
        return None
    words = f"--trust and {VARIABLE}" if places and len(named) > len(places) else "--trust" if places else VARIABLE
    return Trust(keys=tuple(keys.values()), revoked=frozenset(revoked), threshold=threshold or 1, told_by=words)


def remembered(prefix: Path) -> Trust | None:
    """What a prefix remembers; None where it remembers no key. Raises TrustError when that can't be read."""
    known = _known(prefix)
    return _as_trust(known) if known.keys else None


def told(prefix: Path, given_now: Trust | None) -> tuple[Trust, ...]:
    """Every trust that a bundle for a prefix must pass: that of who runs this, and what the prefix remembers.

    What is revoked for one counts for none. Raises TrustError when the memory can't be read.
    """
    known = _known(prefix)
    asked = [one for one in (given_now, _as_trust(known) if known.keys else None) if one is not None]
    return tuple(dataclasses.replace(one, revoked=one.revoked | known.revoked) for one in asked)


def _as_trust(known: _Known) -> Trust:
    return Trust(keys=known.keys, revoked=known.revoked, threshold=known.threshold, told_by="the memory of this prefix")


def _known(prefix: Path) -> _Known:
    path = prefix / _MEMORY
    try:
        memory = json_files.read(_Memory, path)
    except (FileNotFoundError, NotADirectoryError):
        return _Known()
    except OSError as error:
        raise HostError(f"the prefix's trusted keys can't be read: {error.strerror}", where=str(path)) from error
    except documents.Faults as faults:
        hint = f"put the file back from a backup, or: bundle trust --prefix {prefix} --forget, and install with --trust"
        message = f"the prefix's trusted keys are damaged: {json_files.first_faults(faults)}"
        raise TrustError(message, where=str(path), hint=hint) from faults
    keys = {key.fingerprint: key for key in map(_key, memory.keys)}
    return _Known(keys=tuple(keys.values()), revoked=frozenset(memory.revoked), threshold=memory.threshold)


def _key(pem: str) -> PublicKey:
    """A key of the memory. Raises Invalid."""
    return public_key.read(pem.encode("utf-8", "replace"))


def remember(prefix: Path, given_now: Trust | None, report: Report) -> None:
    """Keep what an install was told, whose bundle has passed it.

    A prefix that remembers keys already keeps these, and learns only of revoked ones: who installs is not who
    decides whom a prefix trusts.
    """
    if given_now is None:
        return
    known = _known(prefix)
    if not known.keys:
        _write(prefix, given_now.keys, given_now.revoked | known.revoked, given_now.threshold)
        listed = ", ".join(key.fingerprint for key in given_now.keys)
        report.note(f"from now on {prefix} takes only bundles that are signed by {given_now.threshold} of: {listed}")
        return
    if not given_now.revoked <= known.revoked:
        _write(prefix, known.keys, known.revoked | given_now.revoked, known.threshold)
    if new := [key.fingerprint for key in given_now.keys if key not in known.keys]:
        report.note(
            f"{prefix} goes on asking for the keys that it remembers; to have it trust {', '.join(new)} as well: "
            f"bundle trust --prefix {prefix} --add KEY.pub"
        )


def add(prefix: Path, places: Sequence[Path]) -> None:
    """Have a prefix trust more keys, and learn of those that a folder says are revoked.

    Raises UsageError for what is no key, TrustError for a key that is known to be revoked.
    """
    known = _known(prefix)
    keys = {key.fingerprint: key for key in known.keys}
    revoked = set(known.revoked)
    for place in places:
        found, gone = _at(place)
        revoked |= gone
        keys |= {key.fingerprint: key for key in found}
        if bad := [key.fingerprint for key in found if key.fingerprint in revoked]:
            hint = "ask its owner for the key that took its place"
            raise TrustError(f"this key is revoked: {', '.join(bad)}", where=str(place), hint=hint)
    _write(prefix, tuple(keys.values()), frozenset(revoked), max(1, known.threshold))


def remove(prefix: Path, fingerprints: Sequence[str]) -> None:
    """Have a prefix trust these keys no longer.

    Raises UsageError where it does not, and where fewer keys would be left than must sign.
    """
    known = remembered(prefix)
    keys = {key.fingerprint: key for key in (known.keys if known else ())}
    for fingerprint in fingerprints:
        if known is None or keys.pop(fingerprint, None) is None:
            hint = f"bundle trust --prefix {prefix} shows the keys; give the 64 digits of one"
            raise UsageError(f"the prefix does not trust {fingerprint!r}", where=str(prefix), hint=hint)
    if known is not None:
        if len(keys) < known.threshold:
            hint = "add the key that takes its place first (--add KEY.pub), or have all forgotten (--forget)"
            message = f"{counted(len(keys), 'key')} would be left, and {known.threshold} must sign"
            raise UsageError(message, where=str(prefix), hint=hint)
        _write(prefix, tuple(keys.values()), known.revoked, known.threshold)


def forget(prefix: Path) -> None:
    """Have a prefix remember no key: it then takes any bundle, until one is installed with --trust.

    What it knows of revoked keys stays, where it can be read.
    """
    with suppress(TrustError):
        if gone := _known(prefix).revoked:
            _write(prefix, (), gone, 0)
            return
    (prefix / _MEMORY).unlink(missing_ok=True)
    disk.sync_folder(prefix)


def _write(prefix: Path, keys: Sequence[PublicKey], revoked: frozenset[str], threshold: int) -> None:
    ordered = sorted(keys, key=lambda key: key.fingerprint)
    memory = _Memory(
        format=1, keys=tuple(key.pem for key in ordered), revoked=tuple(sorted(revoked)), threshold=threshold
    )
    disk.write_whole(prefix / _MEMORY, lockfile.canonical_json(documents.encode(memory)))


def _at(place: Path) -> tuple[list[PublicKey], set[str]]:
    """The keys of a file or of a trust folder, and the fingerprints that the folder says are revoked."""
    if not place.is_dir():
        return [public_key.of_file(place)], set()
    keys = [public_key.of_file(path) for path in sorted(place.glob("*.pub"))]
    if not keys:
        raise UsageError("this folder holds no keys", where=str(place), hint="put the builder's NAME.pub into it")
    return keys, _revoked(place / REVOKED)


def _revoked(path: Path) -> set[str]:
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

"""Which bundle this is: its digests, each with what it is of, and what sign tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bundler.format.lock.lockfile import Lock

_OF_A_LOCK = "of this lock; the bundle gets another, since the rehearsal adds to it"
_OF_A_BUNDLE = "of bundle.json, with what the rehearsal added; signatures cover it"
_REVIEWED = "of the lock without that: equal in lock, bundle and on the host"


def document(lock: Lock) -> dict[str, str]:
    """Both digests, for a program."""
    return {"digest": lock.digest, "reviewed_digest": lock.reviewed_digest}


def lines(lock: Lock) -> list[str]:
    """Both digests, for a person."""
    unfinished = not lock.rehearsed and not lock.unrehearsed
    return of_bundle(lock.digest, lock.reviewed_digest, _OF_A_LOCK if unfinished else _OF_A_BUNDLE)


def of_bundle(digest: str, reviewed: str, what: str = _OF_A_BUNDLE) -> list[str]:
    """The same of a bundle that is known by its digests alone."""
    return [_line("digest", digest), _line("", what), _line("reviewed", reviewed), _line("", _REVIEWED)]


def of_file(sha256: str) -> list[str]:
    """The digest of a bundle's file, for a person."""
    return [
        _line("sha256", sha256),
        _line("", "of the file, as sha256sum prints it; signing it later changes this one"),
    ]


def _line(name: str, text: str) -> str:
    return f"  {name:10} {text}"


def format_export(path: Path, message: bytes, lock: Lock) -> str:
    """What sign tells a person who signs elsewhere."""
    told = [
        f"{path}  {len(message)} bytes to sign with Ed25519, as they are",
        _line("of", f"{lock.name} {lock.version}, sequence {lock.sequence}"),
        *lines(lock),
        _line("such as", f"openssl pkeyutl -sign -rawin -inkey KEY -in {path} -out SIG"),
    ]
    return "\n".join(told)


def format_signed(path: Path, lock: Lock, signed_by: Sequence[str]) -> str:
    """What sign tells a person."""
    told = [f"{path}: {lock.name} {lock.version}, sequence {lock.sequence}", *lines(lock)]
    told += [_line("signed by", one) for one in signed_by]
    return "\n".join([*told, "  The SHA-256 of the file is another now; the digests are what they were."])

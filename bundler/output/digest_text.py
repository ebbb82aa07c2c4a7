"""The digests of a lock or bundle, with what each one covers."""

from __future__ import annotations

from bundler.format.lock.lockfile import Lock

_OF_A_LOCK = "of this lock; the bundle's digest differs: the rehearsal adds its results"
_OF_A_BUNDLE = "of bundle.json, with the rehearsal's results; signatures cover it"
_REVIEWED = "of the lock without them: the same in lock, bundle and on the host"


def summarize_digests(lock: Lock) -> dict[str, str]:
    """Both digests, for a program."""
    return {"digest": lock.digest, "reviewed_digest": lock.reviewed_digest}


def format_digests(lock: Lock) -> list[str]:
    """Both digests, as lines for a person."""
    is_unfinished = not lock.rehearsed and not lock.unrehearsed
    return format_digest_pair(lock.digest, lock.reviewed_digest, _OF_A_LOCK if is_unfinished else _OF_A_BUNDLE)


def format_digest_pair(digest: str, reviewed_digest: str, meaning: str = _OF_A_BUNDLE) -> list[str]:
    """The same lines, where only the digests are known."""
    return [
        format_line("digest", digest),
        format_line("", meaning),
        format_line("reviewed", reviewed_digest),
        format_line("", _REVIEWED),
    ]


def format_file_digest(sha256: str) -> list[str]:
    """The digest of a bundle's file, as lines for a person."""
    return [
        format_line("sha256", sha256),
        format_line("", "of the file, as sha256sum prints it; signing changes it"),
    ]


def format_line(name: str, text: str) -> str:
    """Format one line of a table with two columns."""
    return f"  {name:10} {text}"

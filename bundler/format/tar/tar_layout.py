"""Where every byte of a bundle stands: the tar that a lock gives.

Everything that is not content (headers, padding, the end) is computed here from the lock and the
signature. A writer writes it; a reader computes what must stand there and compares, and so never
parses what a hostile header says. The tar itself is POSIX.1-2001 (ustar with pax records).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bundler.format.documents import Invalid
from bundler.format.hashing import digest_of
from bundler.format.lock import entries
from bundler.format.lock import lockfile as locks
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock

BLOCK = 512
ALIGNMENT = 4096
"""Content starts on such a boundary, so that a file system can share its blocks."""

LARGEST_COMMENT = 960 << 10
"""Bytes of a padding comment: bsdtar refuses a header of 1 MiB or more."""

LARGEST_SIGNATURE = 1 << 20
END = bytes(2 * BLOCK)

_OCTAL_LIMIT = 8 << 30
_MAGIC = b"ustar\0" + b"00"
PAX_NAME = b"././@PaxHeader"
_SHORTEST_COMMENT = len(b"12 comment=\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member of the tar. Offsets are bytes from the start of the bundle.

    ``artifact`` is None for the members of the head that are no artifacts. A hard link has ``link``,
    the earlier member with the same content, and no content of its own.
    """

    name: str
    size: int
    mode: int
    mtime: int
    header_at: int
    content_at: int
    artifact: Artifact | None
    link: Member | None = None
    note: bytes = b""

    @property
    def end(self) -> int:
        """Offset of the first byte after the content."""
        return self.content_at + (0 if self.link else self.size)

    @property
    def padding(self) -> int:
        """Zero bytes after the content, up to the next block."""
        return -self.end % BLOCK

    @property
    def holder(self) -> Member:
        """The member that holds the content: the link's target, or this one."""
        return self.link or self

    def header(self) -> bytes:
        """The bytes from ``header_at`` to ``content_at``."""
        if self.link:
            return _pax(_records(self)) + _ustar(self) if _records(self) else _ustar(self)
        room = self.content_at - self.header_at - BLOCK
        if not room:
            return _ustar(self)
        records = _records(self)
        return _pax(records + _comment(room - BLOCK - len(records), self.note)) + _ustar(self)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A whole bundle: its members in order, and its size in bytes."""

    lock: Lock
    signature: bytes | None
    members: tuple[Member, ...]

    @property
    def end_at(self) -> int:
        """Where the end-of-archive blocks stand."""
        return self.members[-1].end + self.members[-1].padding

    @property
    def size(self) -> int:
        """Bytes of the whole bundle."""
        return self.end_at + len(END)

    @cached_property
    def head(self) -> bytes:
        """Every byte before the content of the installer."""
        parts: list[bytes] = []
        contents = {
            locks.LOCK: self.lock.canonical,
            locks.SIGNATURE: self.signature or b"",
            locks.SUMS: self.lock.sums(),
        }
        for member in self.members:
            parts.append(member.header())
            if member.artifact is not None:
                break
            parts += [contents[member.name], bytes(member.padding)]
        return b"".join(parts)

    def artifacts(self) -> Iterator[Member]:
        """The members that are artifacts, in order."""
        return (member for member in self.members if member.artifact is not None)


def layout(lock: Lock, signature: bytes | None) -> Layout:
    """Where everything stands. Raises fields.Invalid when the head does not fit the room the lock gives it."""
    members: list[Member] = []
    holders: dict[tuple[str, int], Member] = {}
    note = b""

    def add(name: str, size: int, mode: int = 0o644, artifact: Artifact | None = None) -> None:
        nonlocal note
        at = members[-1].end + members[-1].padding if members else 0
        shared = holders.get((artifact.sha256, mode)) if artifact and size else None
        draft = Member(
            name=name, size=size, mode=mode, mtime=lock.source_date_epoch, header_at=at, content_at=at,
            artifact=artifact, link=shared, note=note,
        )  # fmt: skip
        member = _placed(draft, lock.head_size if name == entries.INSTALLER else None)
        members.append(member)
        if artifact and size and not shared:
            holders[artifact.sha256, mode] = member
        note = b""

    add(locks.LOCK, len(lock.canonical))
    if signature is not None:
        add(locks.SIGNATURE, len(signature))
        note = b"bundle.sig sha256:" + digest_of(signature).encode() + b" "
    add(locks.SUMS, len(lock.sums()))
    for artifact in lock.artifacts:
        add(artifact.path, artifact.size, artifact.mode, artifact)
    return Layout(lock=lock, signature=signature, members=tuple(members))


def size_in(header: bytes, name: str) -> int | None:
    """The size that a member's header claims, or None when ``header`` does not end in a ustar block of that name.

    The one thing that is parsed rather than computed: what a reader must know before it has a lock.
    """
    block = header[-BLOCK:]
    if len(block) < BLOCK or block[:100].rstrip(b"\0") != name.encode() or block[257:265] != _MAGIC:
        return None
    digits = block[124:135]
    return int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else None


def signature_at(at: int) -> int:
    """Where the content of ``bundle.sig`` stands when its header starts at offset ``at``."""
    room = -(at + BLOCK) % ALIGNMENT
    while not _fits(room, 0):
        room += ALIGNMENT
    return at + BLOCK + room


def head_size_for(lock_size: int, sums_size: int, room: int) -> int:
    """Bytes for a head whose lock and sums are so large, with ``room`` bytes for what is added in place."""
    needed = lock_size + sums_size + min(room, LARGEST_COMMENT - locks.HEAD_UNIT) + 4 * ALIGNMENT
    return -(-needed // locks.HEAD_UNIT) * locks.HEAD_UNIT


def _placed(draft: Member, content_at: int | None) -> Member:
    """``draft`` with the offset of its content: the next aligned one with room for its header."""
    records = _records(draft)
    at = draft.header_at
    if draft.link:
        return _moved(draft, at + len(draft.header()))
    if content_at is None:
        content_at = -(-(at + BLOCK) // ALIGNMENT) * ALIGNMENT
        while not _fits(content_at - at - BLOCK, len(records) + len(draft.note)):
            content_at += ALIGNMENT
    room = content_at - at - BLOCK
    if room > LARGEST_COMMENT + BLOCK or not _fits(room, len(records) + len(draft.note)):
        raise Invalid(f"does not fit this head: {room} bytes are left before the content of {draft.name}", "head_size")
    return _moved(draft, content_at)


def _moved(draft: Member, content_at: int) -> Member:
    return Member(
        name=draft.name, size=draft.size, mode=draft.mode, mtime=draft.mtime, header_at=draft.header_at,
        content_at=content_at, artifact=draft.artifact, link=draft.link, note=draft.note,
    )  # fmt: skip


def _fits(room: int, needed: int) -> bool:
    """Whether ``room`` bytes before the ustar block are just right, or hold a pax header and a comment."""
    if room == 0:
        return needed == 0
    return room >= 2 * BLOCK and room - BLOCK - needed >= _SHORTEST_COMMENT + 8


def _records(member: Member) -> bytes:
    """The pax records that the ustar fields can't say."""
    records = b""
    if _split(member.name) is None or not member.name.isascii():
        records += _record(b"path", member.name.encode())
    if member.link and (len(member.link.name.encode()) > 100 or not member.link.name.isascii()):
        records += _record(b"linkpath", member.link.name.encode())
    if not member.link and member.size >= _OCTAL_LIMIT:
        records += _record(b"size", str(member.size).encode())
    return records


def _record(keyword: bytes, value: bytes) -> bytes:
    """``LENGTH KEYWORD=VALUE\\n``, where LENGTH counts itself (POSIX pax, "Extended Header")."""
    bare = len(keyword) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def _comment(length: int, note: bytes) -> bytes:
    """A comment record of exactly ``length`` bytes whose value starts with ``note``."""
    value = length - len(str(length)) - len(b" comment=\n")
    return b"%d comment=%s\n" % (length, note.ljust(value, b"."))


def _pax(records: bytes) -> bytes:
    header = _block(PAX_NAME, b"", 0o644, len(records), 0, b"x", b"")
    return header + records + bytes(-len(records) % BLOCK)


def _ustar(member: Member) -> bytes:
    prefix, name = _split(member.name) or (b"", _cut(member.name.encode()))
    kind, link = (b"1", _cut(member.link.name.encode())) if member.link else (b"0", b"")
    return _block(name, prefix, member.mode, 0 if member.link else member.size, member.mtime, kind, link)


def _block(name: bytes, prefix: bytes, mode: int, size: int, mtime: int, kind: bytes, link: bytes) -> bytes:
    """One header block (POSIX ustar Interchange Format): owner and group 0, no names."""
    fields = [
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, _number(size), _number(mtime),
        b" " * 8, kind, link.ljust(100, b"\0"), _MAGIC, bytes(32), bytes(32),
        b"%07o\0" % 0, b"%07o\0" % 0, prefix.ljust(155, b"\0"), bytes(12),
    ]  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _number(value: int) -> bytes:
    """Twelve bytes: octal, or from 8 GiB on base-256, which GNU tar, bsdtar and busybox read."""
    return b"%011o\0" % value if value < _OCTAL_LIMIT else b"\x80" + value.to_bytes(11, "big")


def _split(path: str) -> tuple[bytes, bytes] | None:
    """``path`` as ustar's prefix and name, or None where it is too long for them."""
    encoded = path.encode()
    if len(encoded) <= 100:
        return b"", encoded
    for at, byte in enumerate(encoded[:156]):
        if byte == ord("/") and len(encoded) - at - 1 <= 100:
            return encoded[:at], encoded[at + 1 :]
    return None


def _cut(name: bytes) -> bytes:
    """At most 100 bytes of ``name``, whole characters: for readers that do not know pax."""
    return name[:100].decode("utf-8", "ignore").encode()

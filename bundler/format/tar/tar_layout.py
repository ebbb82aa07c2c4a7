"""Where every byte of a bundle stands: the tar that a lock gives.

Everything that is not content (headers, padding, the end) is computed here from the lock and the
signature. A writer writes it; a reader computes what must stand there and compares, and so never
parses what a hostile header says. The tar itself is POSIX.1-2001 (ustar with pax records).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bundler.format.documents import InvalidValueError
from bundler.format.hashing import compute_sha256
from bundler.format.lock import entries
from bundler.format.lock import lockfile as locks
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock

BLOCK_BYTES = 512
ALIGNMENT = 4096
"""Content starts on such a boundary, so that a file system can share its blocks."""

MAX_COMMENT_BYTES = 960 << 10
"""Bytes of a padding comment: bsdtar refuses a header of 1 MiB or more."""

MAX_SIGNATURE_BYTES = 1 << 20
END_BLOCKS = bytes(2 * BLOCK_BYTES)

_OCTAL_LIMIT = 8 << 30
_MAGIC = b"ustar\0" + b"00"
PAX_HEADER_NAME = b"././@PaxHeader"
_MIN_COMMENT_BYTES = len(b"12 comment=\n")


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
    header_offset: int
    content_offset: int
    artifact: Artifact | None
    link: Member | None = None
    note: bytes = b""

    @property
    def end(self) -> int:
        """Offset of the first byte after the content."""
        return self.content_offset + (0 if self.link else self.size)

    @property
    def padding(self) -> int:
        """Zero bytes after the content, up to the next block."""
        return -self.end % BLOCK_BYTES

    @property
    def content_member(self) -> Member:
        """The member that holds the content: the link's target, or this one."""
        return self.link or self

    def make_header(self) -> bytes:
        """The bytes from ``header_at`` to ``content_at``."""
        if self.link:
            return (
                _make_pax_header(_make_records(self)) + _make_ustar_header(self)
                if _make_records(self)
                else _make_ustar_header(self)
            )
        room = self.content_offset - self.header_offset - BLOCK_BYTES
        if not room:
            return _make_ustar_header(self)
        records = _make_records(self)
        return _make_pax_header(
            records + _make_comment(room - BLOCK_BYTES - len(records), self.note)
        ) + _make_ustar_header(self)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A whole bundle: its members in order, and its size in bytes."""

    lock: Lock
    signature: bytes | None
    members: tuple[Member, ...]

    @property
    def end_offset(self) -> int:
        """Where the end-of-archive blocks stand."""
        return self.members[-1].end + self.members[-1].padding

    @property
    def size(self) -> int:
        """Bytes of the whole bundle."""
        return self.end_offset + len(END_BLOCKS)

    @cached_property
    def head_bytes(self) -> bytes:
        """Every byte before the content of the installer."""
        parts: list[bytes] = []
        contents = {
            locks.LOCK_FILE: self.lock.canonical_bytes,
            locks.SIGNATURE_FILE: self.signature or b"",
            locks.SUMS_FILE: self.lock.make_sums(),
        }
        for member in self.members:
            parts.append(member.make_header())
            if member.artifact is not None:
                break
            parts += [contents[member.name], bytes(member.padding)]
        return b"".join(parts)

    def iter_artifacts(self) -> Iterator[Member]:
        """The members that are artifacts, in order."""
        return (member for member in self.members if member.artifact is not None)


def compute_layout(lock: Lock, signature: bytes | None) -> Layout:
    """Where everything stands. Raises fields.Invalid when the head does not fit the room the lock gives it."""
    members: list[Member] = []
    holders: dict[tuple[str, int], Member] = {}
    note = b""

    def add(name: str, size: int, mode: int = 0o644, artifact: Artifact | None = None) -> None:
        nonlocal note
        at = members[-1].end + members[-1].padding if members else 0
        shared = holders.get((artifact.sha256, mode)) if artifact and size else None
        draft = Member(
            name=name, size=size, mode=mode, mtime=lock.source_date_epoch, header_offset=at, content_offset=at,
            artifact=artifact, link=shared, note=note,
        )  # fmt: skip
        member = _place_member(draft, lock.head_size if name == entries.INSTALLER else None)
        members.append(member)
        if artifact and size and not shared:
            holders[artifact.sha256, mode] = member
        note = b""

    add(locks.LOCK_FILE, len(lock.canonical_bytes))
    if signature is not None:
        add(locks.SIGNATURE_FILE, len(signature))
        note = b"bundle.sig sha256:" + compute_sha256(signature).encode() + b" "
    add(locks.SUMS_FILE, len(lock.make_sums()))
    for artifact in lock.artifacts:
        add(artifact.path, artifact.size, artifact.mode, artifact)
    return Layout(lock=lock, signature=signature, members=tuple(members))


def parse_size(header: bytes, name: str) -> int | None:
    """The size that a member's header claims, or None when ``header`` does not end in a ustar block of that name.

    The one thing that is parsed rather than computed: what a reader must know before it has a lock.
    """
    block = header[-BLOCK_BYTES:]
    if len(block) < BLOCK_BYTES or block[:100].rstrip(b"\0") != name.encode() or block[257:265] != _MAGIC:
        return None
    digits = block[124:135]
    return int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else None


def compute_signature_offset(offset: int) -> int:
    """Where the content of ``bundle.sig`` stands when its header starts at offset ``at``."""
    room = -(offset + BLOCK_BYTES) % ALIGNMENT
    while not _can_hold(room, 0):
        room += ALIGNMENT
    return offset + BLOCK_BYTES + room


def compute_head_size(lock_size: int, sums_size: int, reserve: int) -> int:
    """Bytes for a head whose lock and sums are so large, with ``room`` bytes for what is added in place."""
    needed = lock_size + sums_size + min(reserve, MAX_COMMENT_BYTES - locks.HEAD_ALIGNMENT) + 4 * ALIGNMENT
    return -(-needed // locks.HEAD_ALIGNMENT) * locks.HEAD_ALIGNMENT


def _place_member(draft: Member, content_offset: int | None) -> Member:
    """``draft`` with the offset of its content: the next aligned one with room for its header."""
    records = _make_records(draft)
    at = draft.header_offset
    if draft.link:
        return _move_content(draft, at + len(draft.make_header()))
    if content_offset is None:
        content_offset = -(-(at + BLOCK_BYTES) // ALIGNMENT) * ALIGNMENT
        while not _can_hold(content_offset - at - BLOCK_BYTES, len(records) + len(draft.note)):
            content_offset += ALIGNMENT
    room = content_offset - at - BLOCK_BYTES
    if room > MAX_COMMENT_BYTES + BLOCK_BYTES or not _can_hold(room, len(records) + len(draft.note)):
        raise InvalidValueError(
            f"does not fit this head: {room} bytes are left before the content of {draft.name}", "head_size"
        )
    return _move_content(draft, content_offset)


def _move_content(draft: Member, content_offset: int) -> Member:
    return Member(
        name=draft.name, size=draft.size, mode=draft.mode, mtime=draft.mtime, header_offset=draft.header_offset,
        content_offset=content_offset, artifact=draft.artifact, link=draft.link, note=draft.note,
    )  # fmt: skip


def _can_hold(free_bytes: int, needed_bytes: int) -> bool:
    """Whether ``room`` bytes before the ustar block are just right, or hold a pax header and a comment."""
    if free_bytes == 0:
        return needed_bytes == 0
    return free_bytes >= 2 * BLOCK_BYTES and free_bytes - BLOCK_BYTES - needed_bytes >= _MIN_COMMENT_BYTES + 8


def _make_records(member: Member) -> bytes:
    """The pax records that the ustar fields can't say."""
    records = b""
    if _split_path(member.name) is None or not member.name.isascii():
        records += _make_record(b"path", member.name.encode())
    if member.link and (len(member.link.name.encode()) > 100 or not member.link.name.isascii()):
        records += _make_record(b"linkpath", member.link.name.encode())
    if not member.link and member.size >= _OCTAL_LIMIT:
        records += _make_record(b"size", str(member.size).encode())
    return records


def _make_record(keyword: bytes, value: bytes) -> bytes:
    """``LENGTH KEYWORD=VALUE\\n``, where LENGTH counts itself (POSIX pax, "Extended Header")."""
    bare = len(keyword) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def _make_comment(length: int, note: bytes) -> bytes:
    """A comment record of exactly ``length`` bytes whose value starts with ``note``."""
    value = length - len(str(length)) - len(b" comment=\n")
    return b"%d comment=%s\n" % (length, note.ljust(value, b"."))


def _make_pax_header(records: bytes) -> bytes:
    header = _make_block(PAX_HEADER_NAME, b"", 0o644, len(records), 0, b"x", b"")
    return header + records + bytes(-len(records) % BLOCK_BYTES)


def _make_ustar_header(member: Member) -> bytes:
    prefix, name = _split_path(member.name) or (b"", _truncate_name(member.name.encode()))
    kind, link = (b"1", _truncate_name(member.link.name.encode())) if member.link else (b"0", b"")
    return _make_block(name, prefix, member.mode, 0 if member.link else member.size, member.mtime, kind, link)


def _make_block(name: bytes, prefix: bytes, mode: int, size: int, mtime: int, kind: bytes, link: bytes) -> bytes:
    """One header block (POSIX ustar Interchange Format): owner and group 0, no names."""
    fields = [
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, _encode_number(size), _encode_number(mtime),
        b" " * 8, kind, link.ljust(100, b"\0"), _MAGIC, bytes(32), bytes(32),
        b"%07o\0" % 0, b"%07o\0" % 0, prefix.ljust(155, b"\0"), bytes(12),
    ]  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _encode_number(value: int) -> bytes:
    """Twelve bytes: octal, or from 8 GiB on base-256, which GNU tar, bsdtar and busybox read."""
    return b"%011o\0" % value if value < _OCTAL_LIMIT else b"\x80" + value.to_bytes(11, "big")


def _split_path(path: str) -> tuple[bytes, bytes] | None:
    """``path`` as ustar's prefix and name, or None where it is too long for them."""
    encoded = path.encode()
    if len(encoded) <= 100:
        return b"", encoded
    for at, byte in enumerate(encoded[:156]):
        if byte == ord("/") and len(encoded) - at - 1 <= 100:
            return encoded[:at], encoded[at + 1 :]
    return None


def _truncate_name(name: bytes) -> bytes:
    """At most 100 bytes of ``name``, whole characters: for readers that do not know pax."""
    return name[:100].decode("utf-8", "ignore").encode()

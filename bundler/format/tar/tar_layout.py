"""The byte layout of a bundle: the tar that follows from a lock.

Everything that is not content (headers, padding, the end) is computed here from the lock and the signature. A writer
writes it. A reader computes it too and compares, so it never parses a hostile header. The tar is POSIX.1-2001 (ustar
with pax records).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bundler.format.documents import InvalidValueError
from bundler.format.hashing import compute_sha256
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock

BLOCK_BYTES = 512
ALIGNMENT = 4096
"""Bytes; content starts at a multiple of it, so that a file system can share its blocks."""

MAX_COMMENT_BYTES = 960 << 10
"""Bytes of a padding comment. bsdtar refuses headers of 1 MiB or more."""

MAX_SIGNATURE_BYTES = 1 << 20
END_BLOCKS = bytes(2 * BLOCK_BYTES)

_OCTAL_LIMIT = 8 << 30
_MAGIC = b"ustar\0" + b"00"
PAX_HEADER_NAME = b"././@PaxHeader"
_MIN_COMMENT_BYTES = len(b"12 comment=\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member of the tar. Offsets are bytes from the start of the bundle.

    ``artifact`` is None for members of the head that are not artifacts. A hard link has no content of its own;
    ``link`` is the earlier member with the same content.
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
        """Make the bytes from ``header_offset`` to ``content_offset``."""
        if self.link:
            return (
                _make_pax_header(_make_records(self)) + _make_ustar_header(self)
                if _make_records(self)
                else _make_ustar_header(self)
            )
        free_bytes = self.content_offset - self.header_offset - BLOCK_BYTES
        if not free_bytes:
            return _make_ustar_header(self)
        records = _make_records(self)
        return _make_pax_header(
            records + _make_comment(free_bytes - BLOCK_BYTES - len(records), self.note)
        ) + _make_ustar_header(self)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of a bundle: its members in order."""

    lock: Lock
    signature: bytes | None
    members: tuple[Member, ...]

    @property
    def end_offset(self) -> int:
        """Offset of the end-of-archive blocks."""
        return self.members[-1].end + self.members[-1].padding

    @property
    def size(self) -> int:
        """Size of the bundle in bytes."""
        return self.end_offset + len(END_BLOCKS)

    @cached_property
    def head_bytes(self) -> bytes:
        """Every byte before the content of the installer."""
        parts: list[bytes] = []
        contents = {
            lockfile.LOCK_FILE: self.lock.canonical_bytes,
            lockfile.SIGNATURE_FILE: self.signature or b"",
            lockfile.SUMS_FILE: self.lock.make_sums(),
        }
        for member in self.members:
            parts.append(member.make_header())
            if member.artifact is not None:
                break
            parts += [contents[member.name], bytes(member.padding)]
        return b"".join(parts)

    def iter_artifacts(self) -> Iterator[Member]:
        """Return the members that are artifacts, in order."""
        return (member for member in self.members if member.artifact is not None)


def compute_layout(lock: Lock, signature: bytes | None) -> Layout:
    """Compute the layout of a bundle. Raises InvalidValueError when the head is larger than the lock allows."""
    members: list[Member] = []
    originals: dict[tuple[str, int], Member] = {}
    note = b""

    def add(name: str, size: int, mode: int = 0o644, artifact: Artifact | None = None) -> None:
        nonlocal note
        offset = members[-1].end + members[-1].padding if members else 0
        original = originals.get((artifact.sha256, mode)) if artifact and size else None
        draft = Member(
            name=name, size=size, mode=mode, mtime=lock.source_date_epoch, header_offset=offset, content_offset=offset,
            artifact=artifact, link=original, note=note,
        )  # fmt: skip
        member = _place_member(draft, lock.head_size if name == entries.INSTALLER else None)
        members.append(member)
        if artifact and size and not original:
            originals[artifact.sha256, mode] = member
        note = b""

    add(lockfile.LOCK_FILE, len(lock.canonical_bytes))
    if signature is not None:
        add(lockfile.SIGNATURE_FILE, len(signature))
        note = b"bundle.sig sha256:" + compute_sha256(signature).encode() + b" "
    add(lockfile.SUMS_FILE, len(lock.make_sums()))
    for artifact in lock.artifacts:
        add(artifact.path, artifact.size, artifact.mode, artifact)
    return Layout(lock=lock, signature=signature, members=tuple(members))


def parse_size(header: bytes, name: str) -> int | None:
    """Return the size that a member's header states, or None if it does not end in a ustar block of that name.

    This is the only value that is parsed and not computed: a reader needs it before it has a lock.
    """
    block = header[-BLOCK_BYTES:]
    if len(block) < BLOCK_BYTES or block[:100].rstrip(b"\0") != name.encode() or block[257:265] != _MAGIC:
        return None
    digits = block[124:135]
    return int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else None


def compute_signature_offset(offset: int) -> int:
    """Return the offset of the content of ``bundle.sig`` whose header is at ``offset``."""
    free_bytes = -(offset + BLOCK_BYTES) % ALIGNMENT
    while not _can_hold(free_bytes, 0):
        free_bytes += ALIGNMENT
    return offset + BLOCK_BYTES + free_bytes


def compute_head_size(lock_size: int, sums_size: int, reserve: int) -> int:
    """Return the size of a head for a lock and sums of these sizes, with ``reserve`` bytes for later additions."""
    needed = lock_size + sums_size + min(reserve, MAX_COMMENT_BYTES - lockfile.HEAD_ALIGNMENT) + 4 * ALIGNMENT
    return -(-needed // lockfile.HEAD_ALIGNMENT) * lockfile.HEAD_ALIGNMENT


def _place_member(draft: Member, content_offset: int | None) -> Member:
    """Return ``draft`` with the offset of its content: the next aligned one with space for its header."""
    records = _make_records(draft)
    start = draft.header_offset
    if draft.link:
        return _move_content(draft, start + len(draft.make_header()))
    if content_offset is None:
        content_offset = -(-(start + BLOCK_BYTES) // ALIGNMENT) * ALIGNMENT
        while not _can_hold(content_offset - start - BLOCK_BYTES, len(records) + len(draft.note)):
            content_offset += ALIGNMENT
    free_bytes = content_offset - start - BLOCK_BYTES
    if free_bytes > MAX_COMMENT_BYTES + BLOCK_BYTES or not _can_hold(free_bytes, len(records) + len(draft.note)):
        raise InvalidValueError(
            f"does not match this head: {free_bytes} bytes are left before the content of {draft.name}", "head_size"
        )
    return _move_content(draft, content_offset)


def _move_content(draft: Member, content_offset: int) -> Member:
    return Member(
        name=draft.name, size=draft.size, mode=draft.mode, mtime=draft.mtime, header_offset=draft.header_offset,
        content_offset=content_offset, artifact=draft.artifact, link=draft.link, note=draft.note,
    )  # fmt: skip


def _can_hold(free_bytes: int, needed_bytes: int) -> bool:
    """Return whether bytes before the ustar block can have exactly a pax header and a comment, or are not needed."""
    if free_bytes == 0:
        return needed_bytes == 0
    return free_bytes >= 2 * BLOCK_BYTES and free_bytes - BLOCK_BYTES - needed_bytes >= _MIN_COMMENT_BYTES + 8


def _make_records(member: Member) -> bytes:
    """Make the pax records for values that ustar fields can't represent."""
    records = b""
    if _split_path(member.name) is None or not member.name.isascii():
        records += _make_record(b"path", member.name.encode())
    if member.link and (len(member.link.name.encode()) > 100 or not member.link.name.isascii()):
        records += _make_record(b"linkpath", member.link.name.encode())
    if not member.link and member.size >= _OCTAL_LIMIT:
        records += _make_record(b"size", str(member.size).encode())
    return records


def _make_record(keyword: bytes, value: bytes) -> bytes:
    """Make ``LENGTH KEYWORD=VALUE\\n``, where LENGTH includes itself (POSIX pax, "Extended Header")."""
    bare = len(keyword) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def _make_comment(length: int, note: bytes) -> bytes:
    """Make a comment record of exactly ``length`` bytes whose value starts with ``note``."""
    width = length - len(str(length)) - len(b" comment=\n")
    return b"%d comment=%s\n" % (length, note.ljust(width, b"."))


def _make_pax_header(records: bytes) -> bytes:
    header = _make_block(PAX_HEADER_NAME, b"", 0o644, len(records), 0, b"x", b"")
    return header + records + bytes(-len(records) % BLOCK_BYTES)


def _make_ustar_header(member: Member) -> bytes:
    prefix, name = _split_path(member.name) or (b"", _truncate_name(member.name.encode()))
    kind, link = (b"1", _truncate_name(member.link.name.encode())) if member.link else (b"0", b"")
    return _make_block(name, prefix, member.mode, 0 if member.link else member.size, member.mtime, kind, link)


def _make_block(name: bytes, prefix: bytes, mode: int, size: int, mtime: int, kind: bytes, link: bytes) -> bytes:
    """Make one header block (POSIX ustar Interchange Format) with owner and group 0 and no names."""
    fields = [
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, _encode_number(size), _encode_number(mtime),
        b" " * 8, kind, link.ljust(100, b"\0"), _MAGIC, bytes(32), bytes(32),
        b"%07o\0" % 0, b"%07o\0" % 0, prefix.ljust(155, b"\0"), bytes(12),
    ]  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _encode_number(value: int) -> bytes:
    """Encode a number in twelve bytes: octal, or from 8 GiB on base-256, which GNU tar, bsdtar and busybox read."""
    return b"%011o\0" % value if value < _OCTAL_LIMIT else b"\x80" + value.to_bytes(11, "big")


def _split_path(path: str) -> tuple[bytes, bytes] | None:
    """Split ``path`` into ustar's prefix and name. Returns None if it is too long for them."""
    encoded = path.encode()
    if len(encoded) <= 100:
        return b"", encoded
    for index, byte in enumerate(encoded[:156]):
        if byte == ord("/") and len(encoded) - index - 1 <= 100:
            return encoded[:index], encoded[index + 1 :]
    return None


def _truncate_name(name: bytes) -> bytes:
    """Cut ``name`` to at most 100 bytes at the end of a character, for readers that do not know pax."""
    return name[:100].decode("utf-8", "ignore").encode()

"""The head of a bundle: read with limited memory, and compared with the head that its lock requires."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bundler.errors import IntegrityError
from bundler.format.documents import InvalidValueError
from bundler.format.hashing import compute_sha256
from bundler.format.lock import lockfile
from bundler.format.lock.entries import INSTALLER
from bundler.format.lock.lockfile import Lock
from bundler.format.tar import damage, tar_layout
from bundler.format.tar.damage import CARRY_AGAIN_HINT, Damage, DamagedError, DamageReport
from bundler.format.tar.reader import BundleReader
from bundler.format.tar.tar_layout import ALIGNMENT, BLOCK_BYTES, Layout, Member

_LOCK_START = b'{"'
"""The first bytes of every lock."""

_MAX_EXTRA_BYTES = tar_layout.MAX_SIGNATURE_BYTES + tar_layout.MAX_COMMENT_BYTES + lockfile.HEAD_ALIGNMENT
"""Bytes that a head can have besides its lock and its sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleHead:
    """The layout that follows from a bundle's lock and signature, and where its head differs."""

    layout: Layout
    damages: tuple[Damage, ...]

    def list_members(self) -> list[tuple[Member, list[Damage]]]:
        """List the members that are in the head completely, each with its damages."""
        head_members = [member for member in self.layout.members if member.artifact is None]
        return [(member, self.list_damages(member.name)) for member in head_members]

    def list_damages(self, name: str) -> list[Damage]:
        """List the damages of one member."""
        return [damage for damage in self.damages if damage.member == name]


def read_head(reader: BundleReader, where: str) -> BundleHead:
    """Read the head of a bundle and compare it with what its lock requires.

    Raises:
        IntegrityError: The lock can't be read.
        DamagedError: The rest of the head belongs to another lock.
    """
    head, lock = _read_lock(reader, where)
    sums = lock.make_sums()
    if lock.head_size > len(head) + len(sums) + _MAX_EXTRA_BYTES:
        raise IntegrityError(
            f"the head claims {lock.head_size:,} bytes, more than it can need", where=where, hint=CARRY_AGAIN_HINT
        )
    lock_end = len(head)
    head += reader.read(lock_end, max(0, lock.head_size - lock_end))
    candidates: list[BundleHead] = []
    for signature in _find_signatures(head, lock_end, sums):
        try:
            layout = tar_layout.compute_layout(lock, signature)
        except InvalidValueError as error:
            if signature is not None:  # its size may be damaged
                continue
            raise IntegrityError(
                f"the head does not match the lock: {error}", where=where, hint=CARRY_AGAIN_HINT
            ) from error
        candidates.append(BundleHead(layout=layout, damages=tuple(_find_damages(head, layout))))
        if len(candidates[-1].damages) <= 1:  # no other signature can explain the head better
            break
    best = min(candidates, key=lambda candidate: len(candidate.damages))
    if best.damages:
        for candidate in candidates:
            _require_same_lock(head, candidate.layout, where)
    if len(head) > lock.head_size and not reader.is_seekable:  # a pipe can't give the content again
        require_intact_head(best, reader, where)
    return best


def require_intact_head(head: BundleHead, reader: BundleReader, where: str) -> None:
    """Raise DamagedError if the head differs from what its lock requires."""
    if head.damages:
        installer = head.list_damages(INSTALLER)
        raise DamagedError(damage.make_damage_report(head.layout, reader.size, head.list_members(), installer), where)


def _read_lock(reader: BundleReader, where: str) -> tuple[bytes, Lock]:
    """Read the lock. Returns the bytes up to the end of its last block, and the lock."""
    data = reader.read(0, ALIGNMENT)
    size = tar_layout.parse_size(data, lockfile.LOCK_FILE)
    try:
        if not data:
            hint = "the copy did not start, or its disk was full: carry the bundle across again"
            raise IntegrityError("the bundle is empty: it has 0 bytes", where=where, hint=hint)
        if size is None:
            raise IntegrityError(
                "this is not a bundle: it does not begin with the bundle.json of format 1",
                where=where,
                hint="use the .bundle.tar that 'bundle build' wrote; a tar that was packed again is another file",
            )
        if not 0 < size <= lockfile.MAX_LOCK_BYTES:
            raise IntegrityError(
                f"bundle.json states {size:,} bytes; at most {lockfile.MAX_LOCK_BYTES:,} are allowed",
                where=where,
                hint=CARRY_AGAIN_HINT,
            )
        data += reader.read(len(data), size + -size % BLOCK_BYTES)
        if len(data) < ALIGNMENT + size:
            raise IntegrityError(
                f"the bundle is cut short: it ends at byte {len(data):,}, inside bundle.json, "
                "so nothing else of it can be checked",
                where=where,
                hint=CARRY_AGAIN_HINT,
            )
        return data, lockfile.read_lock(data[ALIGNMENT : ALIGNMENT + size], where)
    except IntegrityError:
        recovered = _recover_lock(reader, data, size)
        if recovered is None:
            raise
        return recovered


def _recover_lock(reader: BundleReader, data_read: bytes, size: int | None) -> tuple[bytes, Lock] | None:
    """Read a lock whose header is damaged: canonical JSON ends at the first line end.

    Returns None if there is no lock, or if it has the size that the header states: that one could not be read.
    """
    head = bytearray(data_read)
    if len(head) < ALIGNMENT + len(_LOCK_START):
        head += reader.read(len(head), lockfile.HEAD_ALIGNMENT - len(head))
    if not head.startswith(_LOCK_START, ALIGNMENT):
        return None
    searched = ALIGNMENT
    while (end := head.find(b"\n", searched)) < 0:
        searched = len(head)
        # up to an alignment boundary: a pipe must not be read past its head
        data = reader.read(searched, lockfile.HEAD_ALIGNMENT - searched % lockfile.HEAD_ALIGNMENT)
        if not data or searched > ALIGNMENT + lockfile.MAX_LOCK_BYTES:
            return None
        head += data
    lock_bytes = bytes(head[ALIGNMENT : end + 1])
    if len(lock_bytes) == size:
        return None
    try:
        return bytes(head), lockfile.read_lock(lock_bytes, "")
    except IntegrityError:
        return None


def _find_signatures(head: bytes, offset: int, sums: bytes) -> list[bytes | None]:
    """List what the signature of this head may be, the most probable first; None stands for no signature."""
    content_offset = tar_layout.compute_signature_offset(offset)
    size = tar_layout.parse_size(head[offset:content_offset], lockfile.SIGNATURE_FILE)
    if size is None and head.find(_SIGNATURE_NOTE, offset) < 0:
        return [None]
    candidates: list[bytes | None] = []
    if size and size <= tar_layout.MAX_SIGNATURE_BYTES:
        candidates.append(head[content_offset : content_offset + size])
    # if its header is damaged, it ends before the header of the next member
    sums_offset = head.find(sums, content_offset)
    end = head.rfind(tar_layout.PAX_HEADER_NAME, content_offset, sums_offset + 1)
    if end > content_offset:
        candidates.append(head[content_offset:end].rstrip(b"\0"))
    return [*candidates, None]


def _find_damages(head: bytes, layout: Layout) -> list[Damage]:
    """List every part of the head that differs from what the lock requires."""
    damages: list[Damage] = []
    signature: Member | None = None
    for member in layout.members:
        header = head[member.header_offset : member.content_offset]
        if signature is not None and (stated := _find_stated_digest(header, member)):
            message = f"content differs: sha256 {compute_sha256(layout.signature or b'')}, expected {stated}"
            damages.append(
                Damage(member=signature.name, start=signature.content_offset, end=signature.end, message=message)
            )
        else:
            message = "its header does not match the lock"
            damages += damage.compare_bytes(member.name, member.header_offset, header, member.make_header(), message)
        if member.artifact is not None:
            break
        signature = member if member.name == lockfile.SIGNATURE_FILE else None
        for start, end, message in (
            (member.content_offset, member.end, "does not match the lock"),
            (member.end, member.end + member.padding, "the bytes after it must be zero"),
        ):
            damages += damage.compare_bytes(member.name, start, head[start:end], layout.head_bytes[start:end], message)
    return damages


def _find_stated_digest(header: bytes, member: Member) -> str:
    """Return the digest that the header after ``bundle.sig`` states, if it is another digest and all else is right.

    Then the signature is damaged. A digest that differs in only a few digits is damaged itself.
    """
    start = header.find(_SIGNATURE_NOTE) + len(_SIGNATURE_NOTE)
    stated, expected = header[start : start + 64], member.note[len(_SIGNATURE_NOTE) - 1 :][:64]
    if start < len(_SIGNATURE_NOTE) or not _is_other_digest(stated, expected):
        return ""
    member_of_stated = dataclasses.replace(member, note=_SIGNATURE_NOTE[1:] + stated + b" ")
    return stated.decode("ascii") if header == member_of_stated.make_header() else ""


def _require_same_lock(head: bytes, layout: Layout, where: str) -> None:
    """Check the lock's digest, with which SHA256SUMS begins.

    Raises DamagedError if it is another digest: the lock can be read, but nothing that follows from it can be trusted.
    """
    sums = next(member for member in layout.members if member.name == lockfile.SUMS_FILE)
    stated = head[sums.content_offset : sums.content_offset + 64]
    if _is_other_digest(stated, layout.lock.digest.encode()):
        first = layout.members[0]
        message = (
            f"content differs: sha256 {layout.lock.digest}, expected {stated.decode('ascii')}; "
            "nothing else can be checked, because everything follows from it"
        )
        lock_damage = Damage(member=first.name, start=first.content_offset, end=first.end, message=message)
        raise DamagedError(DamageReport(damages=(lock_damage,), members=len(layout.members), size=layout.size), where)


def _is_other_digest(stated: bytes, expected: bytes) -> bool:
    """Return whether ``stated`` is the digest of something else: a damaged digest still has most of its digits."""
    if len(stated) < 64 or stated.strip(b"0123456789abcdef"):
        return False
    return sum(a == b for a, b in zip(stated, expected, strict=False)) < 32


_SIGNATURE_NOTE = b"=bundle.sig sha256:"
"""How the note in the header after the signature begins, as the value of its pax record."""

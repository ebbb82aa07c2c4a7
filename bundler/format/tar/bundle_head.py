"""The head of a bundle: read with bounded memory, and compared with what its own lock gives."""

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
"""What every lock begins with: no spaces."""

_MAX_EXTRA_BYTES = tar_layout.MAX_SIGNATURE_BYTES + tar_layout.MAX_COMMENT_BYTES + lockfile.HEAD_ALIGNMENT
"""Bytes that a head can have beyond its lock and its sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleHead:
    """What a bundle's lock and signature give, and where its head is not that."""

    layout: Layout
    damages: tuple[Damage, ...]

    def list_members(self) -> list[tuple[Member, list[Damage]]]:
        """The members that the head holds in full, each with its damages."""
        before = [member for member in self.layout.members if member.artifact is None]
        return [(member, self.list_damages(member.name)) for member in before]

    def list_damages(self, name: str) -> list[Damage]:
        """The damages of one member."""
        return [damage for damage in self.damages if damage.member == name]


def read_head(reader: BundleReader, where: str) -> BundleHead:
    """Read the head of a bundle.

    Its lock is what everything is compared with. Raises IntegrityError when that can't be read, and DamagedError
    when it is not the lock that the rest of the head speaks of.
    """
    found, lock = _read_lock(reader, where)
    sums = lock.make_sums()
    if lock.head_size > len(found) + len(sums) + _MAX_EXTRA_BYTES:
        raise IntegrityError(
            f"the head claims {lock.head_size:,} bytes, more than it can need", where=where, hint=CARRY_AGAIN_HINT
        )
    sums_from = len(found)
    found += reader.read(len(found), max(0, lock.head_size - len(found)))
    tried: list[BundleHead] = []
    for signature in _find_signatures(found, sums_from, sums):
        try:
            layout = tar_layout.compute_layout(lock, signature)
        except InvalidValueError as error:
            if signature is not None:  # such as one of a size that damage made up
                continue
            raise IntegrityError(
                f"the head is not what the lock gives: {error}", where=where, hint=CARRY_AGAIN_HINT
            ) from error
        tried.append(BundleHead(layout=layout, damages=tuple(_find_damages(found, layout))))
        if len(tried[-1].damages) <= 1:  # no other reading of the head can leave less to explain
            break
    best = min(tried, key=lambda one: len(one.damages))
    if best.damages:
        for one in tried:
            _require_same_lock(found, one.layout, where)
    if len(found) > lock.head_size and not reader.is_seekable:  # content was read that can't be read again
        require_intact_head(best, reader, where)
    return best


def require_intact_head(head: BundleHead, reader: BundleReader, where: str) -> None:
    """Raises DamagedError when the head is not what its lock gives."""
    if head.damages:
        installer = head.list_damages(INSTALLER)
        raise DamagedError(damage.make_damage_report(head.layout, reader.size, head.list_members(), installer), where)


def _read_lock(reader: BundleReader, where: str) -> tuple[bytes, Lock]:
    """The bytes up to the end of the lock's last block, and the lock."""
    found = reader.read(0, ALIGNMENT)
    size = tar_layout.parse_size(found, lockfile.LOCK_FILE)
    try:
        if not found:
            hint = "the copy did not begin, or its disk was full: carry the bundle across again"
            raise IntegrityError("the bundle is empty: it has no bytes at all", where=where, hint=hint)
        if size is None:
            raise IntegrityError(
                "this is not a bundle: it does not begin with bundle.json as format 1 writes it",
                where=where,
                hint="give the .bundle.tar that 'bundle build' wrote; one packed again by hand is not the same file",
            )
        if not 0 < size <= lockfile.MAX_LOCK_BYTES:
            raise IntegrityError(
                f"bundle.json claims {size:,} bytes; at most {lockfile.MAX_LOCK_BYTES:,} are read",
                where=where,
                hint=CARRY_AGAIN_HINT,
            )
        found += reader.read(len(found), size + -size % BLOCK_BYTES)
        if len(found) < ALIGNMENT + size:
            raise IntegrityError(
                f"the bundle is cut short: it ends at byte {len(found):,}, inside bundle.json, "
                "and nothing can be told of what it held",
                where=where,
                hint=CARRY_AGAIN_HINT,
            )
        return found, lockfile.read_lock(found[ALIGNMENT : ALIGNMENT + size], where)
    except IntegrityError:
        again = _recover_lock(reader, found, size)
        if again is None:
            raise
        return again


def _recover_lock(reader: BundleReader, data_read: bytes, size: int | None) -> tuple[bytes, Lock] | None:
    """A lock whose header is damaged: canonical JSON ends at the first line end.

    None where there is none, or where it ends where the header says: that one did not read.
    """
    held = bytearray(data_read)
    if len(held) < ALIGNMENT + len(_LOCK_START):
        held += reader.read(len(held), lockfile.HEAD_ALIGNMENT - len(held))
    if not held.startswith(_LOCK_START, ALIGNMENT):
        return None
    seen = ALIGNMENT
    while (end := held.find(b"\n", seen)) < 0:
        seen = len(held)
        more = reader.read(seen, lockfile.HEAD_ALIGNMENT - seen % lockfile.HEAD_ALIGNMENT)  # never beyond a head
        if not more or seen > ALIGNMENT + lockfile.MAX_LOCK_BYTES:
            return None
        held += more
    data = bytes(held[ALIGNMENT : end + 1])
    if len(data) == size:
        return None
    try:
        return bytes(held), lockfile.read_lock(data, "")
    except IntegrityError:
        return None


def _find_signatures(head: bytes, offset: int, sums: bytes) -> list[bytes | None]:
    """What may be the signature of this head, the likeliest first; None: it has none."""
    content_at = tar_layout.compute_signature_offset(offset)
    claimed = tar_layout.parse_size(head[offset:content_at], lockfile.SIGNATURE_FILE)
    if claimed is None and head.find(_SIGNATURE_NOTE, offset) < 0:
        return [None]
    likely: list[bytes | None] = []
    if claimed and claimed <= tar_layout.MAX_SIGNATURE_BYTES:
        likely.append(head[content_at : content_at + claimed])
    next_at = head.rfind(
        tar_layout.PAX_HEADER_NAME, content_at, head.find(sums, content_at) + 1
    )  # its header is damaged
    if next_at > content_at:
        likely.append(head[content_at:next_at].rstrip(b"\0"))
    return [*likely, None]


def _find_damages(head: bytes, layout: Layout) -> list[Damage]:
    """Every part of the head that is not what the lock gives."""
    found: list[Damage] = []
    signature: Member | None = None
    for member in layout.members:
        header = head[member.header_offset : member.content_offset]
        if signature is not None and (stated := _find_stated_digest(header, member)):
            message = f"content differs: sha256 {compute_sha256(layout.signature or b'')}, expected {stated}"
            found.append(
                Damage(member=signature.name, start=signature.content_offset, end=signature.end, message=message)
            )
        else:
            message = "its header is not what the lock gives"
            found += damage.compare_bytes(member.name, member.header_offset, header, member.make_header(), message)
        if member.artifact is not None:
            break
        signature = member if member.name == lockfile.SIGNATURE_FILE else None
        for start, end, message in (
            (member.content_offset, member.end, "is not what the lock gives"),
            (member.end, member.end + member.padding, "what follows it must be zero bytes"),
        ):
            found += damage.compare_bytes(member.name, start, head[start:end], layout.head_bytes[start:end], message)
    return found


def _find_stated_digest(header: bytes, member: Member) -> str:
    """The digest that the header after ``bundle.sig`` states, where that is another's and all else is right.

    Then it is the signature that is not what it was; a digest that differs in a digit or two is damaged itself.
    """
    start = header.find(_SIGNATURE_NOTE) + len(_SIGNATURE_NOTE)
    stated, known = header[start : start + 64], member.note[len(_SIGNATURE_NOTE) - 1 :][:64]
    if start < len(_SIGNATURE_NOTE) or not _is_other_digest(stated, known):
        return ""
    other = dataclasses.replace(member, note=_SIGNATURE_NOTE[1:] + stated + b" ")
    return stated.decode("ascii") if header == other.make_header() else ""


def _require_same_lock(head: bytes, layout: Layout, where: str) -> None:
    """SHA256SUMS begins with the digest of the lock: where that is quite another, the lock is not what it was.

    It reads, and yet nothing that follows from it can be believed.
    """
    sums = next(member for member in layout.members if member.name == lockfile.SUMS_FILE)
    stated = head[sums.content_offset : sums.content_offset + 64]
    if _is_other_digest(stated, layout.lock.digest.encode()):
        first = layout.members[0]
        message = (
            f"content differs: sha256 {layout.lock.digest}, expected {stated.decode('ascii')}; "
            "nothing else of the bundle can be told, since everything follows from it"
        )
        wrong = Damage(member=first.name, start=first.content_offset, end=first.end, message=message)
        raise DamagedError(DamageReport(damages=(wrong,), members=len(layout.members), size=layout.size), where)


def _is_other_digest(stated: bytes, expected: bytes) -> bool:
    """Whether both are digests, and of different things: a damaged one still has most of its digits."""
    if len(stated) < 64 or stated.strip(b"0123456789abcdef"):
        return False
    return sum(a == b for a, b in zip(stated, expected, strict=False)) < 32


_SIGNATURE_NOTE = b"=bundle.sig sha256:"
"""How the note in the header after the signature begins, as the value of its record."""

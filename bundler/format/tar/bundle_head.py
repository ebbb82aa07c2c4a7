"""The head of a bundle: read with bounded memory, and compared with what its own lock gives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bundler.errors import IntegrityError
from bundler.format.documents import Invalid
from bundler.format.hashing import digest_of
from bundler.format.lock import lockfile
from bundler.format.lock.entries import INSTALLER
from bundler.format.lock.lockfile import Lock
from bundler.format.tar import damage, tar_layout
from bundler.format.tar.damage import CARRY_AGAIN, Damage, DamagedError, Survey
from bundler.format.tar.reader import Carrier
from bundler.format.tar.tar_layout import ALIGNMENT, BLOCK, Layout, Member

_FIRST_WORDS = b'{"'
"""What every lock begins with: no spaces."""

_ROOM = tar_layout.LARGEST_SIGNATURE + tar_layout.LARGEST_COMMENT + lockfile.HEAD_UNIT
"""Bytes that a head can have beyond its lock and its sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a bundle's lock and signature give, and where its head is not that."""

    layout: Layout
    damages: tuple[Damage, ...]

    def members(self) -> list[tuple[Member, list[Damage]]]:
        """The members that the head holds in full, each with its damages."""
        before = [member for member in self.layout.members if member.artifact is None]
        return [(member, self.damages_of(member.name)) for member in before]

    def damages_of(self, name: str) -> list[Damage]:
        """The damages of one member."""
        return [damage for damage in self.damages if damage.member == name]


def read(carrier: Carrier, where: str) -> Head:
    """Read the head of a bundle.

    Its lock is what everything is compared with. Raises IntegrityError when that can't be read, and DamagedError
    when it is not the lock that the rest of the head speaks of.
    """
    found, locked = _lock_in(carrier, where)
    sums = locked.sums()
    if locked.head_size > len(found) + len(sums) + _ROOM:
        raise IntegrityError(
            f"the head claims {locked.head_size:,} bytes, more than it can need", where=where, hint=CARRY_AGAIN
        )
    sums_from = len(found)
    found += carrier.read(len(found), max(0, locked.head_size - len(found)))
    tried: list[Head] = []
    for signature in _signatures_in(found, sums_from, sums):
        try:
            plan = tar_layout.layout(locked, signature)
        except Invalid as error:
            if signature is not None:  # such as one of a size that damage made up
                continue
            raise IntegrityError(
                f"the head is not what the lock gives: {error}", where=where, hint=CARRY_AGAIN
            ) from error
        tried.append(Head(layout=plan, damages=tuple(_differences(found, plan))))
        if len(tried[-1].damages) <= 1:  # no other reading of the head can leave less to explain
            break
    best = min(tried, key=lambda one: len(one.damages))
    if best.damages:
        for one in tried:
            _refuse_another_lock(found, one.layout, where)
    if len(found) > locked.head_size and not carrier.seekable:  # content was read that can't be read again
        refuse(best, carrier, where)
    return best


def refuse(head: Head, carrier: Carrier, where: str) -> None:
    """Raises DamagedError when the head is not what its lock gives."""
    if head.damages:
        installer = head.damages_of(INSTALLER)
        raise DamagedError(damage.survey(head.layout, carrier.size, head.members(), installer), where)


def _lock_in(carrier: Carrier, where: str) -> tuple[bytes, Lock]:
    """The bytes up to the end of the lock's last block, and the lock."""
    found = carrier.read(0, ALIGNMENT)
    size = tar_layout.size_in(found, lockfile.LOCK)
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
        if not 0 < size <= lockfile.LARGEST_LOCK:
            raise IntegrityError(
                f"bundle.json claims {size:,} bytes; at most {lockfile.LARGEST_LOCK:,} are read",
                where=where,
                hint=CARRY_AGAIN,
            )
        found += carrier.read(len(found), size + -size % BLOCK)
        if len(found) < ALIGNMENT + size:
            raise IntegrityError(
                f"the bundle is cut short: it ends at byte {len(found):,}, inside bundle.json, "
                "and nothing can be told of what it held",
                where=where,
                hint=CARRY_AGAIN,
            )
        return found, lockfile.read(found[ALIGNMENT : ALIGNMENT + size], where)
    except IntegrityError:
        again = _lock_by_its_end(carrier, found, size)
        if again is None:
            raise
        return again


def _lock_by_its_end(carrier: Carrier, found: bytes, size: int | None) -> tuple[bytes, Lock] | None:
    """A lock whose header is damaged: canonical JSON ends at the first line end.

    None where there is none, or where it ends where the header says: that one did not read.
    """
    held = bytearray(found)
    if len(held) < ALIGNMENT + len(_FIRST_WORDS):
        held += carrier.read(len(held), lockfile.HEAD_UNIT - len(held))
    if not held.startswith(_FIRST_WORDS, ALIGNMENT):
        return None
    seen = ALIGNMENT
    while (end := held.find(b"\n", seen)) < 0:
        seen = len(held)
        more = carrier.read(seen, lockfile.HEAD_UNIT - seen % lockfile.HEAD_UNIT)  # never beyond a head
        if not more or seen > ALIGNMENT + lockfile.LARGEST_LOCK:
            return None
        held += more
    data = bytes(held[ALIGNMENT : end + 1])
    if len(data) == size:
        return None
    try:
        return bytes(held), lockfile.read(data, "")
    except IntegrityError:
        return None


def _signatures_in(head: bytes, at: int, sums: bytes) -> list[bytes | None]:
    """What may be the signature of this head, the likeliest first; None: it has none."""
    content_at = tar_layout.signature_at(at)
    claimed = tar_layout.size_in(head[at:content_at], lockfile.SIGNATURE)
    if claimed is None and head.find(_NOTE, at) < 0:
        return [None]
    likely: list[bytes | None] = []
    if claimed and claimed <= tar_layout.LARGEST_SIGNATURE:
        likely.append(head[content_at : content_at + claimed])
    next_at = head.rfind(tar_layout.PAX_NAME, content_at, head.find(sums, content_at) + 1)  # its header is damaged
    if next_at > content_at:
        likely.append(head[content_at:next_at].rstrip(b"\0"))
    return [*likely, None]


def _differences(head: bytes, plan: Layout) -> list[Damage]:
    """Every part of the head that is not what the lock gives."""
    found: list[Damage] = []
    signature: Member | None = None
    for member in plan.members:
        header = head[member.header_at : member.content_at]
        if signature is not None and (stated := _stated_in(header, member)):
            message = f"content differs: sha256 {digest_of(plan.signature or b'')}, expected {stated}"
            found.append(Damage(member=signature.name, start=signature.content_at, end=signature.end, message=message))
        else:
            message = "its header is not what the lock gives"
            found += damage.between(member.name, member.header_at, header, member.header(), message)
        if member.artifact is not None:
            break
        signature = member if member.name == lockfile.SIGNATURE else None
        for start, end, message in (
            (member.content_at, member.end, "is not what the lock gives"),
            (member.end, member.end + member.padding, "what follows it must be zero bytes"),
        ):
            found += damage.between(member.name, start, head[start:end], plan.head[start:end], message)
    return found


def _stated_in(header: bytes, after: Member) -> str:
    """The digest that the header after ``bundle.sig`` states, where that is another's and all else is right.

    Then it is the signature that is not what it was; a digest that differs in a digit or two is damaged itself.
    """
    start = header.find(_NOTE) + len(_NOTE)
    stated, known = header[start : start + 64], after.note[len(_NOTE) - 1 :][:64]
    if start < len(_NOTE) or not _is_another(stated, known):
        return ""
    other = dataclasses.replace(after, note=_NOTE[1:] + stated + b" ")
    return stated.decode("ascii") if header == other.header() else ""


def _refuse_another_lock(head: bytes, plan: Layout, where: str) -> None:
    """SHA256SUMS begins with the digest of the lock: where that is quite another, the lock is not what it was.

    It reads, and yet nothing that follows from it can be believed.
    """
    sums = next(member for member in plan.members if member.name == lockfile.SUMS)
    stated = head[sums.content_at : sums.content_at + 64]
    if _is_another(stated, plan.lock.digest.encode()):
        first = plan.members[0]
        message = (
            f"content differs: sha256 {plan.lock.digest}, expected {stated.decode('ascii')}; "
            "nothing else of the bundle can be told, since everything follows from it"
        )
        wrong = Damage(member=first.name, start=first.content_at, end=first.end, message=message)
        raise DamagedError(Survey(damages=(wrong,), members=len(plan.members), size=plan.size), where)


def _is_another(stated: bytes, known: bytes) -> bool:
    """Whether both are digests, and of different things: a damaged one still has most of its digits."""
    if len(stated) < 64 or stated.strip(b"0123456789abcdef"):
        return False
    return sum(a == b for a, b in zip(stated, known, strict=False)) < 32


_NOTE = b"=bundle.sig sha256:"
"""How the note in the header after the signature begins, as the value of its record."""

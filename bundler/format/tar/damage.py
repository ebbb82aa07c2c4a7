"""What of a bundle is not what it must be, and what of it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from bundler.errors import IntegrityError
from bundler.format import documents
from bundler.format.tar.tar_layout import Layout, Member
from bundler.progress import pluralize

CARRY_AGAIN_HINT = (
    "the bundle is damaged or was altered: carry it across again and compare its sha256 with the builder's"
)

_MAX_SHOWN = 50
"""Damages that are listed in words; a program gets all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Bytes of a bundle that are not what they must be: ``start`` up to, not including, ``end``.

    Where it was computed what must stand there, these are the bytes from the first that differs to the last; of
    content the lock knows one digest, so that the range is all of it.
    """

    member: str
    start: int
    end: int
    message: str

    def __str__(self) -> str:
        return f"{self.member} (bytes {self.start}-{self.end}): {self.message}"


def compare_bytes(member: str, offset: int, actual: bytes, expected: bytes, message: str) -> list[Damage]:
    """The damage where ``found`` stands at offset ``at`` and ``expected`` must, in a list that is empty for none."""
    if actual == expected:
        return []
    if len(actual) < len(expected):
        return [Damage(member=member, start=offset, end=offset + len(expected), message="the bundle ends before it")]
    # both as numbers: what differs is what is set in their difference
    apart = int.from_bytes(actual, "big") ^ int.from_bytes(expected, "big")
    first = len(expected) - (apart.bit_length() + 7) // 8
    after = len(expected) - ((apart & -apart).bit_length() - 1) // 8
    return [Damage(member=member, start=offset + first, end=offset + after, message=message)]


@dataclass(frozen=True, kw_only=True)
class DamageReport:
    """All that reading a bundle has shown, down to the last byte that could be read.

    ``size`` is the bytes of the whole, ``found`` those that there are where it is cut short, else None. Members are
    ``whole``, damaged, ``missing`` (behind the cut), or ``unread``.
    """

    damages: tuple[Damage, ...]
    members: int
    size: int
    found: int | None = None
    whole: tuple[str, ...] = ()
    whole_bytes: int = 0
    whole_to: int = 0
    last_whole: str = ""
    missing: tuple[str, ...] = ()
    unread: int = 0

    @cached_property
    def text(self) -> str:
        """What is damaged and what is whole, for a person."""
        listed = [f"  {damage}" for damage in self.damages[:_MAX_SHOWN]]
        if len(self.damages) > _MAX_SHOWN:
            listed.append(f"  and {len(self.damages) - _MAX_SHOWN} more, which --json lists")
        count = f"{len(self.damages)} places are" if len(self.damages) > 1 else "one place is"
        lines = [f"the bundle is damaged; {count} not what the lock says:", *listed]
        if self.found is not None:
            lines[0] = f"the bundle is cut short: it has {self.found:,} of {self.size:,} bytes"
        if self.missing:
            others = f" and {len(self.missing) - 1} more" if len(self.missing) > 1 else ""
            lines.append(f"missing behind the cut: {self.missing[0]}{others}")
        if self.last_whole:
            lines.append(f"whole from the start up to byte {self.whole_to:,}, the end of {self.last_whole}")
        if self.whole:
            unread = f"; {self.unread} were not read, as 'bundle verify' does" if self.unread else ""
            lines.append(
                f"whole: {len(self.whole)} of {pluralize(self.members, 'member')}, {self.whole_bytes:,} bytes of content{unread}"
            )
        return "\n".join(lines)


class DamagedError(IntegrityError):
    """A bundle is damaged; ``survey`` says where, and what of it is whole."""

    def __init__(self, damage_report: DamageReport, where: str) -> None:
        hint = CARRY_AGAIN_HINT
        if damage_report.whole:
            hint += "; what is whole need not be carried again (--json lists it, and what must be, by its bytes)"
        super().__init__(damage_report.text, where=where, hint=hint)
        self.damage_report = damage_report

    @property
    def detail(self) -> Mapping[str, object]:
        return dict(documents.encode(self.damage_report))


def make_damage_report(
    layout: Layout,
    size: int | None,
    member_damages: Iterable[tuple[Member, list[Damage]]],
    trailing_damages: list[Damage],
) -> DamageReport:
    """What the members that were read come to. ``size`` is the bytes there are, None where that is not known.

    ``found`` are all members that were read with their damages, ``after`` the damages behind the last.
    """
    cut = size if size is not None and size < layout.size else None
    by_name = {member.name: damages for member, damages in member_damages}
    missing = {m.name for m in layout.members if cut is not None and m.header_offset > cut}
    damages: list[Damage] = []
    for member in layout.members:
        if member.name in missing:
            continue
        if cut is not None and member.end + member.padding > cut:
            message = f"the bundle ends {'inside' if member.header_offset < cut else 'before'} it, at byte {cut}"
            end = member.end + member.padding
            by_name[member.name] = [Damage(member=member.name, start=member.header_offset, end=end, message=message)]
        damages += by_name.get(member.name, [])
    broken = {damage.member for damage in damages} | missing
    whole = [
        m for m in layout.members if m.name in by_name and m.name not in broken and m.content_member.name not in broken
    ]
    unread = {m.name for m in layout.members} - by_name.keys() - missing
    run: list[Member] = []
    names = {member.name for member in whole}
    for member in layout.members:
        if member.name not in names | unread:
            break
        run.append(member)
    run = [member for member in run if member.name in names]
    return DamageReport(
        damages=(*damages, *([] if missing else trailing_damages)),
        members=len(layout.members),
        size=layout.size,
        found=cut,
        whole=tuple(member.name for member in whole),
        whole_bytes=sum(0 if member.link else member.size for member in whole),
        whole_to=run[-1].end + run[-1].padding if run else 0,
        last_whole=run[-1].name if run else "",
        missing=tuple(m.name for m in layout.members if m.name in missing),
        unread=len(unread - broken),
    )

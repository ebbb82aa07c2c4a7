"""Reports of the damaged and the intact members of a bundle."""

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
"""Damages that are shown to a person; ``--json`` has all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Wrong bytes of a bundle, from ``start`` to ``end`` (exclusive).

    For computed bytes the range is from the first wrong byte to the last. Content has only one digest, so the range is
    all of it.
    """

    member: str
    start: int
    end: int
    message: str

    def __str__(self) -> str:
        return f"{self.member} (bytes {self.start}-{self.end}): {self.message}"


def compare_bytes(member: str, offset: int, actual: bytes, expected: bytes, message: str) -> list[Damage]:
    """Compare the bytes at ``offset`` with the expected ones. Returns a list with one damage, or an empty list."""
    if actual == expected:
        return []
    if len(actual) < len(expected):
        return [Damage(member=member, start=offset, end=offset + len(expected), message="the bundle ends before it")]
    # compare as numbers: the set bits of the XOR are those that differ
    difference = int.from_bytes(actual, "big") ^ int.from_bytes(expected, "big")
    first = len(expected) - (difference.bit_length() + 7) // 8
    after = len(expected) - ((difference & -difference).bit_length() - 1) // 8
    return [Damage(member=member, start=offset + first, end=offset + after, message=message)]


@dataclass(frozen=True, kw_only=True)
class DamageReport:
    """The state of a bundle as far as it could be read.

    ``size`` is its full size in bytes, ``found`` the actual size if it is truncated. Members are ``whole`` (intact),
    damaged, ``missing`` (behind the cut) or ``unread``. Everything before the offset ``whole_to``, the end of the
    member ``last_whole``, is intact.
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
        """The damaged and the intact members, for a person."""
        listed = [f"  {damage}" for damage in self.damages[:_MAX_SHOWN]]
        if len(self.damages) > _MAX_SHOWN:
            listed.append(f"  and {len(self.damages) - _MAX_SHOWN} more (--json lists all)")
        count = f"{len(self.damages)} places differ" if len(self.damages) > 1 else "one place differs"
        lines = [f"the bundle is damaged; {count} from what the lock says:", *listed]
        if self.found is not None:
            lines[0] = f"the bundle is cut short: it has {self.found:,} of {self.size:,} bytes"
        if self.missing:
            others = f" and {len(self.missing) - 1} more" if len(self.missing) > 1 else ""
            lines.append(f"missing behind the cut: {self.missing[0]}{others}")
        if self.last_whole:
            lines.append(f"intact from the start to byte {self.whole_to:,}, the end of {self.last_whole}")
        if self.whole:
            unread = f"; {self.unread} were not checked, run 'bundle verify'" if self.unread else ""
            lines.append(
                f"intact: {len(self.whole)} of {pluralize(self.members, 'member')}, {self.whole_bytes:,} bytes of content{unread}"
            )
        return "\n".join(lines)


class DamagedError(IntegrityError):
    """A bundle is damaged. ``damage_report`` says where, and what is intact."""

    def __init__(self, damage_report: DamageReport, where: str) -> None:
        hint = CARRY_AGAIN_HINT
        if damage_report.whole:
            hint += "; intact members need not be carried again (--json lists the intact members and the damaged bytes)"
        super().__init__(damage_report.text, where=where, hint=hint)
        self.damage_report = damage_report

    @property
    def detail(self) -> Mapping[str, object]:
        """The damage report, for ``--json``."""
        return dict(documents.encode(self.damage_report))


def make_damage_report(
    layout: Layout,
    size: int | None,
    member_damages: Iterable[tuple[Member, list[Damage]]],
    trailing_damages: list[Damage],
) -> DamageReport:
    """Make the report of a bundle.

    Args:
        layout: what the bundle must be.
        size: its actual size in bytes, None if unknown.
        member_damages: every member that was read, with its damages.
        trailing_damages: damages after the last member.
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
    intact = [
        m for m in layout.members if m.name in by_name and m.name not in broken and m.content_member.name not in broken
    ]
    unread = {m.name for m in layout.members} - by_name.keys() - missing
    intact_names = {member.name for member in intact}
    intact_start: list[Member] = []
    for member in layout.members:
        if member.name not in intact_names | unread:
            break
        intact_start.append(member)
    intact_start = [member for member in intact_start if member.name in intact_names]
    return DamageReport(
        damages=(*damages, *([] if missing else trailing_damages)),
        members=len(layout.members),
        size=layout.size,
        found=cut,
        whole=tuple(member.name for member in intact),
        whole_bytes=sum(0 if member.link else member.size for member in intact),
        whole_to=intact_start[-1].end + intact_start[-1].padding if intact_start else 0,
        last_whole=intact_start[-1].name if intact_start else "",
        missing=tuple(m.name for m in layout.members if m.name in missing),
        unread=len(unread - broken),
    )

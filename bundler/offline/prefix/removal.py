"""Which releases may go, and what goes with them: the models that no other release holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import UsageError
from bundler.offline.prefix import releases, rollback
from bundler.offline.prefix.releases import Release
from bundler.progress import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What went: releases, model folders, and the bytes that they took (less where the disk shares blocks)."""

    releases: tuple[str, ...]
    models: tuple[str, ...]
    bytes: int


def remove(prefix: Path, name: str, report: Report) -> Removed:
    """Remove a release by its name. Raises UsageError for the live one and for one that is not there."""
    releases.refuse_links(prefix)
    gone = Release(prefix=prefix, name=name)
    known = rollback.installed(prefix)
    now = releases.live(prefix)
    if now is not None and now.name == name:
        hint = "make another live first (bundle rollback --to RELEASE, or install another bundle), then remove this one"
        raise UsageError(f"{name} is the live release", where=str(prefix), hint=hint)
    if name not in known:
        listed = ", ".join(known) or "nothing"
        raise UsageError(f"there is no release {name}", where=str(prefix), hint=f"installed here: {listed}")
    if _way_back(prefix)[1:2] == [name]:
        report.warn(f"{name} is what rollback would go to: after this there is no way back but a bundle")
    return _without(prefix, [gone])


def prune(prefix: Path, keep: int, report: Report) -> Removed:
    """Remove all releases but ``keep``: the live one, then those that rollbacks lead to, then the newest.

    Raises UsageError when none is live. A release whose receipt is damaged stays, and is told of.
    """
    releases.refuse_links(prefix)
    releases.required_live(prefix)
    for damaged in releases.unreadable(prefix):
        report.warn(f"the receipt of {damaged} is damaged, so it stays: bundle remove {damaged}")
    newest = [receipt.release for receipt in reversed(releases.receipts(prefix))]
    wanted = list(dict.fromkeys([*_way_back(prefix), *newest]))[:keep]
    releases.discard_unfinished(prefix)
    return _without(prefix, [Release(prefix=prefix, name=name) for name in newest if name not in wanted])


def _way_back(prefix: Path) -> list[str]:
    """The live release, and those that one rollback after the other would lead to."""
    follows = {receipt.release: receipt.follows for receipt in releases.receipts(prefix)}
    now = releases.live(prefix)
    path = [now.name] if now else []
    while path and (name := follows.get(path[-1], "")) in follows and name not in path:
        path.append(name)
    return path


def _without(prefix: Path, gone: Sequence[Release]) -> Removed:
    freed = sum(_size(release.path) for release in gone)
    for release in gone:
        releases.discard(release)
    unheld = releases.unheld_models(prefix)
    freed += sum(_size(folder) for folder in unheld)
    releases.discard_unheld_models(prefix)
    return Removed(
        releases=tuple(release.name for release in gone), models=tuple(folder.name for folder in unheld), bytes=freed
    )


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(Path(above, name).lstat().st_size for above, _, names in os.walk(folder) for name in names)

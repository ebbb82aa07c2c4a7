"""Which releases may go, and what goes with them: the models that no other release holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import UsageError
from bundler.offline.prefix import releases, rollback
from bundler.offline.prefix.releases import Release
from bundler.progress import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What went: releases, model folders, and the bytes that they took (less where the disk shares blocks)."""

    releases: tuple[str, ...]
    models: tuple[str, ...]
    bytes: int


def remove_release(prefix: Path, name: str, reporter: Reporter) -> Removal:
    """Remove a release by its name. Raises UsageError for the live one and for one that is not there."""
    releases.refuse_linked_folders(prefix)
    gone = Release(prefix=prefix, name=name)
    known = rollback.list_installed(prefix)
    now = releases.find_live(prefix)
    if now is not None and now.name == name:
        hint = "make another live first (bundle rollback --to RELEASE, or install another bundle), then remove this one"
        raise UsageError(f"{name} is the live release", where=str(prefix), hint=hint)
    if name not in known:
        listed = ", ".join(known) or "nothing"
        raise UsageError(f"there is no release {name}", where=str(prefix), hint=f"installed here: {listed}")
    if _list_rollback_path(prefix)[1:2] == [name]:
        reporter.warn(f"{name} is what rollback would go to: after this there is no way back but a bundle")
    return _remove_releases(prefix, [gone])


def prune_releases(prefix: Path, keep: int, reporter: Reporter) -> Removal:
    """Remove all releases but ``keep``: the live one, then those that rollbacks lead to, then the newest.

    Raises UsageError when none is live. A release whose receipt is damaged stays, and is told of.
    """
    releases.refuse_linked_folders(prefix)
    releases.require_live(prefix)
    for damaged in releases.find_damaged_releases(prefix):
        reporter.warn(f"the receipt of {damaged} is damaged, so it stays: bundle remove {damaged}")
    newest = [receipt.release for receipt in reversed(releases.read_receipts(prefix))]
    wanted = list(dict.fromkeys([*_list_rollback_path(prefix), *newest]))[:keep]
    releases.discard_unfinished(prefix)
    return _remove_releases(prefix, [Release(prefix=prefix, name=name) for name in newest if name not in wanted])


def _list_rollback_path(prefix: Path) -> list[str]:
    """The live release, and those that one rollback after the other would lead to."""
    follows = {receipt.release: receipt.follows for receipt in releases.read_receipts(prefix)}
    now = releases.find_live(prefix)
    path = [now.name] if now else []
    while path and (name := follows.get(path[-1], "")) in follows and name not in path:
        path.append(name)
    return path


def _remove_releases(prefix: Path, unwanted: Sequence[Release]) -> Removal:
    freed = sum(_compute_size(release.path) for release in unwanted)
    for release in unwanted:
        releases.discard_release(release)
    unheld = releases.find_unused_models(prefix)
    freed += sum(_compute_size(folder) for folder in unheld)
    releases.discard_unused_models(prefix)
    return Removal(
        releases=tuple(release.name for release in unwanted),
        models=tuple(folder.name for folder in unheld),
        bytes=freed,
    )


def _compute_size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(Path(above, name).lstat().st_size for above, _, names in os.walk(folder) for name in names)

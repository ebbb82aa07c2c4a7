"""Removes releases, and the models that no other release uses."""

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
    """The removed releases and model folders, and their size in bytes (a disk that shares blocks frees less)."""

    releases: tuple[str, ...]
    models: tuple[str, ...]
    bytes: int


def remove_release(prefix: Path, name: str, reporter: Reporter) -> Removal:
    """Remove a release by its name.

    Raises:
        UsageError: It is the live release, or does not exist.
    """
    releases.refuse_linked_folders(prefix)
    installed = rollback.list_installed(prefix)
    live = releases.find_live(prefix)
    if live is not None and live.name == name:
        hint = (
            "make another release live first (bundle rollback --to RELEASE, or install another bundle), then remove it"
        )
        raise UsageError(f"{name} is the live release", where=str(prefix), hint=hint)
    if name not in installed:
        listed = ", ".join(installed) or "nothing"
        raise UsageError(f"there is no release {name}", where=str(prefix), hint=f"installed here: {listed}")
    if _list_rollback_path(prefix)[1:2] == [name]:
        reporter.warn(f"a rollback would have gone to {name}: now only installing its bundle again brings it back")
    return _remove_releases(prefix, [Release(prefix=prefix, name=name)])


def prune_releases(prefix: Path, keep: int, reporter: Reporter) -> Removal:
    """Remove all but ``keep`` releases; the live one is kept, then those that rollbacks lead to, then the newest.

    A release whose receipt is damaged stays; a warning names it.

    Raises:
        UsageError: No release is live.
    """
    releases.refuse_linked_folders(prefix)
    releases.require_live(prefix)
    for damaged in releases.find_damaged_releases(prefix):
        reporter.warn(f"the receipt of {damaged} is damaged, so it stays; to remove it: bundle remove {damaged}")
    newest = [receipt.release for receipt in reversed(releases.read_receipts(prefix))]
    keeping = list(dict.fromkeys([*_list_rollback_path(prefix), *newest]))[:keep]
    releases.discard_unfinished(prefix)
    return _remove_releases(prefix, [Release(prefix=prefix, name=name) for name in newest if name not in keeping])


def _list_rollback_path(prefix: Path) -> list[str]:
    """List the live release, and those that repeated rollbacks would make live."""
    follows = {receipt.release: receipt.follows for receipt in releases.read_receipts(prefix)}
    live = releases.find_live(prefix)
    path = [live.name] if live else []
    while path and (name := follows.get(path[-1], "")) in follows and name not in path:
        path.append(name)
    return path


def _remove_releases(prefix: Path, unwanted: Sequence[Release]) -> Removal:
    freed = sum(_compute_size(release.path) for release in unwanted)
    for release in unwanted:
        releases.discard_release(release)
    unused_models = releases.find_unused_models(prefix)
    freed += sum(_compute_size(folder) for folder in unused_models)
    releases.discard_unused_models(prefix)
    return Removal(
        releases=tuple(release.name for release in unwanted),
        models=tuple(folder.name for folder in unused_models),
        bytes=freed,
    )


def _compute_size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)

"""Makes another installed release live."""

from __future__ import annotations

from pathlib import Path

from bundler.errors import UsageError
from bundler.offline.prefix import releases
from bundler.offline.prefix.releases import Release


def roll_back(prefix: Path) -> tuple[str, str]:
    """Make the release live that was live before the current one was installed.

    Returns:
        The names of the release that was live and of the one that is live now.

    Raises:
        UsageError: There is no such release.
        IntegrityError: The receipt of either release is damaged.
    """
    live = releases.require_live(prefix)
    receipts = {receipt.release: receipt for receipt in releases.read_receipts(prefix)}
    _require_intact_receipt(prefix, live.name)
    previous = receipts[live.name].follows
    _require_intact_receipt(prefix, previous)
    if previous not in receipts:
        hint = f"choose a release: bundle rollback --to RELEASE; {_format_installed(prefix)}"
        raise UsageError(f"no release was live before {live.name} was installed", where=str(prefix), hint=hint)
    releases.switch_live(Release(prefix=prefix, name=previous))
    return live.name, previous


def switch_to(prefix: Path, name: str) -> tuple[str, str]:
    """Make an installed release live, by its name or the beginning of its name.

    The live release may be damaged or missing.

    Returns:
        The names of the release that was live ("" if none) and of the one that is live now.

    Raises:
        UsageError: No release, or more than one, has such a name.
        IntegrityError: The receipt of the release is damaged.
    """
    releases.require_prefix(prefix)
    chosen = Release(prefix=prefix, name=_find_release_name(prefix, name))
    _require_intact_receipt(prefix, chosen.name)
    live = releases.find_live(prefix)
    if live is None or live.name != chosen.name:
        releases.switch_live(chosen)
    return live.name if live else "", chosen.name


def list_installed(prefix: Path) -> list[str]:
    """List the names of the finished releases, the oldest first, then those whose receipt is damaged."""
    return [*(receipt.release for receipt in releases.read_receipts(prefix)), *releases.find_damaged_releases(prefix)]


def _find_release_name(prefix: Path, start: str) -> str:
    names = list_installed(prefix)
    if start in names:
        return start
    matches = [name for name in names if start and name.startswith(start)]
    if len(matches) != 1:
        message = f"more than one release begins with {start!r}" if matches else f"there is no release {start!r}"
        hint = f"give more of the name: {', '.join(matches)}" if matches else _format_installed(prefix)
        raise UsageError(message, where=str(prefix), hint=hint)
    return matches[0]


def _format_installed(prefix: Path) -> str:
    return f"installed here: {', '.join(list_installed(prefix)) or 'nothing'}"


def _require_intact_receipt(prefix: Path, name: str) -> None:
    if error := releases.find_damaged_releases(prefix).get(name):
        raise error

"""The way back, and forth: another installed release goes live."""

from __future__ import annotations

from pathlib import Path

from bundler.errors import UsageError
from bundler.offline.prefix import releases
from bundler.offline.prefix.releases import Release


def roll_back(prefix: Path) -> tuple[str, str]:
    """Make the release live that was live before the live one was installed; gives the names (from, to).

    Raises UsageError where there is none, IntegrityError where the receipt of either is damaged.
    """
    now = releases.require_live(prefix)
    known = {receipt.release: receipt for receipt in releases.read_receipts(prefix)}
    _require_intact_receipt(prefix, now.name)
    before = known[now.name].follows
    _require_intact_receipt(prefix, before)
    if before not in known:
        hint = f"bundle rollback --to RELEASE goes to any other; {_format_installed(prefix)}"
        raise UsageError(f"no release was live before {now.name} was installed", where=str(prefix), hint=hint)
    releases.switch_live(Release(prefix=prefix, name=before))
    return now.name, before


def switch_to(prefix: Path, named: str) -> tuple[str, str]:
    """Make an installed release live, by its name or the beginning of it; gives the names (from, to); from may be ""

    What is live now may be damaged, or gone: this is the way out. Raises UsageError where no release, or more than
    one, is named so, IntegrityError where its receipt is damaged.
    """
    releases.require_prefix(prefix)
    then = Release(prefix=prefix, name=_find_release_name(prefix, named))
    _require_intact_receipt(prefix, then.name)
    now = releases.find_live(prefix)
    if now is None or now.name != then.name:
        releases.switch_live(then)
    return now.name if now else "", then.name


def list_installed(prefix: Path) -> list[str]:
    """The names of the finished releases, the oldest first, then those whose receipt is damaged."""
    return [*(receipt.release for receipt in releases.read_receipts(prefix)), *releases.find_damaged_releases(prefix)]


def _find_release_name(prefix: Path, named: str) -> str:
    names = list_installed(prefix)
    if named in names:
        return named
    found = [name for name in names if named and name.startswith(named)]
    if len(found) != 1:
        what = f"more than one release begins with {named!r}" if found else f"there is no release {named!r}"
        hint = f"begins so: {', '.join(found)}" if found else _format_installed(prefix)
        raise UsageError(what, where=str(prefix), hint=hint)
    return found[0]


def _format_installed(prefix: Path) -> str:
    return f"installed here: {', '.join(list_installed(prefix)) or 'nothing'}"


def _require_intact_receipt(prefix: Path, name: str) -> None:
    if fault := releases.find_damaged_releases(prefix).get(name):
        raise fault

"""What smoke loads measured, in words, and how old that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bundler.output.console import format_size
from bundler.progress import pluralize

if TYPE_CHECKING:  # a verb that shows a lock does not import the installer
    from bundler.format.lock.smoke_result import SmokeResult
    from bundler.offline.prefix.receipts import Receipt

_SHOWN = 5
"""Changes that are named in words; --json has them all."""


def format_smoke_results(results: Sequence[SmokeResult]) -> str:
    """What smoke loads measured, a paragraph for each model."""
    return "\n".join(line for result in results for line in _format_smoke_result(result)) or "no models"


def of_receipt(receipt: Receipt) -> list[str]:
    """The proof of an install, a line each; one that an earlier install made says so first."""
    if not receipt.smoke:
        return ["  not proven: the smoke loads were left out"] if receipt.models else []
    if receipt.proof == "new":
        return [format_smoke_results(receipt.smoke)]
    lines = [f"  OLD PROOF, not of this install: {age(receipt.smoke)}"]
    lines += [f"    changed since: {one}" for one in _changes(receipt.smoke)]
    return [*lines, format_smoke_results(receipt.smoke)]


def age(results: Sequence[SmokeResult]) -> str:
    """When models were proven, and how much was changed since; "not proven" for none."""
    if not results:
        return "not proven"
    known = sorted({result.proven_at for result in results})
    when = f"smoke loads of {known[0]}" if known[0] else "smoke loads of a time that was not noted"
    changed = {one for result in results for one in result.changed_since}
    return f"{when}, {pluralize(len(changed), 'change')} since" if changed else when


def _changes(results: Sequence[SmokeResult]) -> list[str]:
    changed = list(dict.fromkeys(one for result in results for one in result.changed_since))
    more = len(changed) - _SHOWN
    return [*changed[:_SHOWN], *([f"and {more} more, see smoke.json"] if more > 0 else [])]


def _format_smoke_result(result: SmokeResult) -> list[str]:
    if result.loader == "files":
        return [f"  {result.alias}: {'; '.join(result.warnings)}"]
    figures = [f"{result.width} wide" if result.width is not None else ""]
    figures += [f"norm {result.norm:.4f}" if result.norm is not None else ""]
    figures += [f"{result.dtype} on {result.device}", f"by {result.loader}"]
    times = f"load {result.load_seconds:.2f} s, first inference {result.first_seconds:.3f} s, "
    times += f"second {result.second_seconds:.3f} s, peak memory {format_size(result.peak_rss_bytes)}"
    lines = [f"  {result.alias}: {', '.join(filter(None, figures))}", f"    {times}"]
    lines += [f"    network: {result.network.statement}"] if result.network else []
    lines += [
        f"    {one.query!r}: {one.nearer:.3f} to what should be nearer, {one.farther:.3f} to what should not"
        for one in result.closer
    ]
    lines.append("    " + ", ".join(f"{name} {version}" for name, version in result.versions.items()))
    return lines

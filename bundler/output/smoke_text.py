"""What smoke loads measured, and how old their results are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bundler.progress import format_size, pluralize

if TYPE_CHECKING:
    from bundler.format.lock.smoke_result import SmokeResult

_SCORE_WIDTH = 1
"""The width of the output of models that give scores and not vectors: one number for a pair of texts."""


def format_smoke_results(results: Sequence[SmokeResult]) -> str:
    """Format what smoke loads measured, a paragraph for each model."""
    return "\n".join(line for result in results for line in _format_smoke_result(result)) or "no models"


def format_proof_age(results: Sequence[SmokeResult]) -> str:
    """Say when the smoke loads ran and how much has changed since; "not proven" without results."""
    if not results:
        return "not proven"
    times = sorted({result.proven_at for result in results})
    text = f"smoke loads of {times[0]}" if times[0] else "smoke loads of an unknown time"
    changes = {change for result in results for change in result.changed_since}
    return f"{text}, {pluralize(len(changes), 'change')} since" if changes else text


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
    measure = "score" if result.width == _SCORE_WIDTH else "similarity"
    lines += [
        f"    {triple.query!r}: {measure} {triple.nearer:.3f} (related) / {triple.farther:.3f} (unrelated)"
        for triple in result.closer
    ]
    lines.append("    " + ", ".join(f"{name} {version}" for name, version in result.versions.items()))
    return lines

"""Reports of transformers about its loads: which weights it did not find, and which it did not use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..results.failures import MISMATCH_HINT, CheckFailedError, format_list, pluralize


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What transformers reported about one model.

    Names in ``missing`` and ``mismatched`` are those of the model in memory, names in ``unexpected`` those of the
    file.
    """

    model: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    errors: tuple[str, ...]


@contextmanager
def record_loads() -> Iterator[list[LoadReport]]:
    """Collect a report of each ``from_pretrained`` of a model inside this context.

    transformers initializes missing weights at random and only logs it. Its ``output_loading_info`` has the same
    facts as a documented interface, but libraries on top of it do not request it.
    """
    reports: list[LoadReport] = []
    original = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        wants_info = options.pop("output_loading_info", False)
        model, info = original.__func__(cls, *arguments, output_loading_info=True, **options)
        reports.append(_make_report(model, info))
        return (model, info) if wants_info else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    try:
        yield reports
    finally:
        PreTrainedModel.from_pretrained = original


def find_report(module: Any, reports: Sequence[LoadReport]) -> LoadReport | None:
    """Find the report on the transformers model inside a module; an empty report if its load was not recorded.

    Returns None if the module has no transformers model inside.
    """
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    report = next((report for report in reports for model in models if model is report.model), None)
    if report or not models:
        return report
    return LoadReport(model=models[0], missing=(), unexpected=(), mismatched=(), errors=())


def check_reports(reports: Sequence[LoadReport]) -> None:
    """Check that no load reported an error or a weight of another shape."""
    for report in reports:
        if report.errors:
            raise CheckFailedError(
                f"transformers could not load all weights: {format_list(report.errors)}.", MISMATCH_HINT
            )
        if report.mismatched:
            raise CheckFailedError(
                f"The files have {pluralize(report.mismatched)} in another shape than the model: "
                f"{format_list(report.mismatched)}.",
                MISMATCH_HINT,
            )


def _make_report(model: Any, info: dict[str, Any]) -> LoadReport:
    return LoadReport(
        model=model,
        missing=tuple(sorted(info.get("missing_keys", ()))),
        unexpected=tuple(sorted(info.get("unexpected_keys", ()))),
        mismatched=tuple(sorted(str(entry[0]) for entry in info.get("mismatched_keys", ()))),
        errors=tuple(str(message) for message in info.get("error_msgs", ())),
    )

"""Listens to transformers as it loads: which weights it could not find, and which it did not use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..results.failures import MISMATCH_HINT, CheckFailedError, format_list, pluralize


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What transformers said about one model. Names in ``missing`` and ``mismatched`` are those of the model in
    memory, names in ``unexpected`` those of the file."""

    model: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    errors: tuple[str, ...]


@contextmanager
def record_loads() -> Iterator[list[LoadReport]]:
    """While this holds, each ``from_pretrained`` of a model adds what it found to the list.

    transformers fills what it does not find with random numbers and mentions it in a log line; the same facts are
    official in ``output_loading_info``, which the libraries on top of it do not ask for.
    """
    loads: list[LoadReport] = []
    inherited = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        wanted = options.pop("output_loading_info", False)
        model, info = inherited.__func__(cls, *arguments, output_loading_info=True, **options)
        loads.append(_make_report(model, info))
        return (model, info) if wanted else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    try:
        yield loads
    finally:
        PreTrainedModel.from_pretrained = inherited


def find_report(module: Any, reports: Sequence[LoadReport]) -> LoadReport | None:
    """What was heard about the transformers model inside a module; an empty answer about one that was not heard."""
    inside = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    heard_of = next((load for load in reports for part in inside if part is load.model), None)
    if heard_of or not inside:
        return heard_of
    return LoadReport(model=inside[0], missing=(), unexpected=(), mismatched=(), errors=())


def check_reports(reports: Sequence[LoadReport]) -> None:
    """No load reported an error or a weight of another shape."""
    for load in reports:
        if load.errors:
            raise CheckFailedError(
                f"transformers could not load all weights: {format_list(load.errors)}.", MISMATCH_HINT
            )
        if load.mismatched:
            raise CheckFailedError(
                f"The files hold {pluralize(load.mismatched)} in another shape than the model: {format_list(load.mismatched)}.",
                MISMATCH_HINT,
            )


def _make_report(model: Any, info: dict[str, Any]) -> LoadReport:
    return LoadReport(
        model=model,
        missing=tuple(sorted(info.get("missing_keys", ()))),
        unexpected=tuple(sorted(info.get("unexpected_keys", ()))),
        mismatched=tuple(sorted(str(each[0]) for each in info.get("mismatched_keys", ()))),
        errors=tuple(str(each) for each in info.get("error_msgs", ())),
    )

"""What every error of the program can do."""

from __future__ import annotations

from bundler.errors import BundleError, UnhealthyError


def test_context_is_added_and_nothing_is_lost() -> None:
    error: BundleError = UnhealthyError("m does not load", where="m", hint="h", text="all of it", result={"a": 1})
    told = error.add_context("while adding m")
    assert (str(told), told.where, told.hint) == ("while adding m: m does not load", "m", "h")
    assert isinstance(told, UnhealthyError)
    assert (told.text, told.result, told.code) == ("all of it", {"a": 1}, 14)

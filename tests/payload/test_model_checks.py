"""The checks over vectors and weights, on plain lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bundler.payload.checks import model_checks
from bundler.payload.results.failures import CheckFailedError, explain_error

TEXTS = ("one", "two")
GOOD = ([0.6, 0.8, 0.0], [0.0, -0.6, 0.8])
TOKENS = ([1], [2])
NAN, INFINITE = math.nan, math.inf


def test_good_vectors_pass_every_check() -> None:
    model_checks.check_finite(TEXTS, GOOD)
    model_checks.check_not_zero(TEXTS, GOOD)
    model_checks.check_not_constant(TEXTS, GOOD)
    assert model_checks.check_different(TEXTS, GOOD, TOKENS) == []
    model_checks.check_unit_norm(TEXTS, GOOD)
    model_checks.check_width(GOOD, 3, "config.json")
    model_checks.check_repeatable(TEXTS, GOOD, [[number + 9e-6 for number in vector] for vector in GOOD])
    assert model_checks.check_triple(("q", "n", "f"), [1, 0], [1, 1], [0, 1]) == pytest.approx((2**-0.5, 0))
    model_checks.check_memory(10, 0)
    model_checks.check_memory(10, 10)
    assert model_checks.check_weights([("matrix", [[1.0, 2.0], [3.0, 4.0]]), ("bias", [0.0, 0.0]), ("none", [])]) == []


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda: model_checks.check_finite(TEXTS, ([1.0], [NAN])), "“two” is not made of numbers: 1 of 1"),
        (
            lambda: model_checks.check_finite(TEXTS, ([-INFINITE, 1.0], [1.0, 1.0])),
            "“one” is not made of numbers: 1 of 2",
        ),
        (lambda: model_checks.check_not_zero(TEXTS, ([1.0], [0.0])), "“two” is all zero"),
        (lambda: model_checks.check_not_zero(TEXTS, ([1.0], [])), "all zero (0 components)"),
        (lambda: model_checks.check_not_constant(TEXTS, (GOOD[0], [0.1, 0.1, 0.1])), "“two” is constant"),
        (lambda: model_checks.check_not_constant(TEXTS, (GOOD[0], [0.1, 0.1 + 1e-9, 0.1])), "“two” is constant"),
        (lambda: model_checks.check_different(TEXTS, (GOOD[0], GOOD[0]), TOKENS), "get the same vector"),
        (lambda: model_checks.check_different(("one", "one"), GOOD, TOKENS), "No two of the texts differ"),
        (lambda: model_checks.check_different(("One", "one"), GOOD, ([1], [1])), "No two of the texts differ"),
        (
            lambda: model_checks.check_unit_norm(TEXTS, (GOOD[0], [0.6, 0.9])),
            "declares vectors of length 1, but that of “two”",
        ),
        (lambda: model_checks.check_unit_norm(TEXTS, ([5.3, 0.0], GOOD[1])), "length 5.3000"),
        (
            lambda: model_checks.check_width(GOOD, 4, "config.json"),
            "config.json declares vectors 4 wide, but they are 3 wide",
        ),
        (
            lambda: model_checks.check_repeatable(TEXTS, GOOD, (GOOD[0], [0.0, -0.6, 0.80002])),
            "“two” got two different vectors",
        ),
        (
            lambda: model_checks.check_triple(("q", "n", "f"), [1, 0], [0, 1], [1, 1]),
            "“q” should be closer to “n” (cosine 0.0000)",
        ),
        (lambda: model_checks.check_triple(("q", "n", "f"), [1, 0], [1, 0], [1, 0]), "but is not"),
        (lambda: model_checks.check_memory(3 * 2**20, 2**20), "took 3.0 MiB (3145728 bytes) of memory at its peak"),
        (lambda: model_checks.check_weights([("m", [[0.0, 0.0], [0.0, 0.0]])]), "matrix m is all zero"),
        (lambda: model_checks.check_weights([("m", [[2.5, 2.5]])]), "matrix m is one constant, 2.5"),
        (lambda: model_checks.check_weights([("b", [1.0, NAN])]), "weight b holds NaN or infinite"),
        (lambda: model_checks.check_weights([("b", [[1.0, INFINITE]])]), "weight b holds NaN or infinite"),
        (
            lambda: model_checks.check_on_device([("w", SimpleNamespace(is_meta=True))]),
            "left 1 weight on the meta device",
        ),
    ],
)
def test_each_check_fails_for_its_reason(check: Callable[[], object], says: str) -> None:
    with pytest.raises(CheckFailedError) as failure:
        check()
    assert says in str(failure.value)
    assert failure.value.hint.endswith(".")


def test_texts_that_differ_only_for_the_eye_may_share_a_vector() -> None:
    found = model_checks.check_different(("One", "one", "two"), (GOOD[0], GOOD[0], GOOD[1]), ([1], [1], [2]))
    assert found == ["“One” and “one” are the same for this model's tokenizer."]


def test_whether_vectors_moved() -> None:
    assert not model_checks.has_changed(GOOD, GOOD)
    assert not model_checks.has_changed([[100.0]], [[100.0005]])
    assert model_checks.has_changed([[1.0]], [[1.0001]])
    assert model_checks.has_changed([[1.0, 2.0]], [[1.0, NAN]])


def test_only_token_types_may_be_zero() -> None:
    table = "embeddings.token_type_embeddings.weight"
    assert model_checks.check_weights([(table, [[0.0, 0.0], [0.0, 0.0]])]) == [table]
    with pytest.raises(CheckFailedError):
        model_checks.check_weights([(table, [[1.0, 1.0], [1.0, 1.0]])])


@pytest.mark.parametrize(
    ("error", "sentence", "hint"),
    [
        (
            ImportError("\n cannot import name 'x'\nsecond line"),
            "The load stopped with ImportError: cannot import name 'x'",
            "do not fit",
        ),
        (ModuleNotFoundError("No module named 'torch'"), "No module named 'torch'", "python: requirements"),
        (ModuleNotFoundError("No module named 'a.b'", name="a.b"), "No module named 'a.b'", "do not fit"),
        (ValueError("set the option trust_remote_code=True"), "has Python code of its own", "own code"),
        (RuntimeError(""), "RuntimeError: no message", "--debug"),
        (OSError("the network is not cut: beside lo, eth0"), "the network is not cut", "BUNDLE_NETCUT=guard"),
        (CheckFailedError("This.", "That."), "This.", "That."),
    ],
)
def test_errors_of_libraries_become_one_sentence(error: Exception, sentence: str, hint: str) -> None:
    found = explain_error(error)
    assert sentence in found.sentence
    assert hint in found.hint
    assert "second line" not in found.sentence


def test_a_long_message_is_cut() -> None:
    assert len(explain_error(ValueError("x" * 5000)).sentence) < 500

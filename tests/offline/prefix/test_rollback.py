"""Any installed release goes live by its name; a folder that is no prefix is an error for every verb."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand

from bundler.errors import IntegrityError, UsageError
from bundler.offline.prefix import releases, rollback
from bundler.verbs.operate import complete_release
from tests.support.programs import Run
from tests.support.releases import install_release


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    for number, name in enumerate(("1.0-aaaaaaaa", "1.1-bbbbbbbb", "2-cccccccc"), start=1):
        install_release(tmp_path, name, number)
    return tmp_path


def test_any_release_goes_live_older_or_newer(prefix: Path) -> None:
    assert rollback.switch_to(prefix, "1.0-aaaaaaaa") == ("2-cccccccc", "1.0-aaaaaaaa")
    assert rollback.switch_to(prefix, "2") == ("1.0-aaaaaaaa", "2-cccccccc"), "forth again"
    assert rollback.switch_to(prefix, "2-cccccccc") == ("2-cccccccc", "2-cccccccc"), "nothing to do"
    assert releases.require_live(prefix).name == "2-cccccccc"


@pytest.mark.parametrize(
    ("named", "said", "hint"),
    [
        ("1", "more than one release begins with '1'", "give more of the name: 1.0-aaaaaaaa, 1.1-bbbbbbbb"),
        ("9", "there is no release '9'", "installed here: 1.0-aaaaaaaa, 1.1-bbbbbbbb, 2-cccccccc"),
        ("", "there is no release ''", "installed here: 1.0-aaaaaaaa"),
        ("../releases/1.0-aaaaaaaa", "there is no release", "installed here"),
    ],
)
def test_a_name_that_is_none_or_more_than_one(prefix: Path, named: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        rollback.switch_to(prefix, named)
    assert hint in caught.value.hint
    assert releases.require_live(prefix).name == "2-cccccccc"


def test_a_damaged_release_does_not_go_live_and_keeps_nobody_from_leaving_it(prefix: Path) -> None:
    (prefix / "releases" / "1.0-aaaaaaaa" / "receipt.json").write_text("{}")
    with pytest.raises(IntegrityError, match="digest: is required"):
        rollback.switch_to(prefix, "1.0")
    (prefix / "current" / "receipt.json").unlink()
    assert rollback.switch_to(prefix, "1.1") == ("2-cccccccc", "1.1-bbbbbbbb")
    (prefix / "current").unlink()
    assert rollback.switch_to(prefix, "1.1") == ("", "1.1-bbbbbbbb")


def test_the_verb_and_its_completion(prefix: Path, run: Run) -> None:
    assert run("rollback", "--prefix", prefix, "--to", "1.0")[1]["result"] == {
        "from": "2-cccccccc",
        "to": "1.0-aaaaaaaa",
    }
    code, told = run("rollback", "--prefix", prefix)
    assert (code, "bundle rollback --to RELEASE" in told["error"]["hint"]) == (2, True), "the way forth is named"
    context = typer.Context(TyperCommand("rollback"))
    assert complete_release(context, "") == []
    context.params["prefix"] = prefix
    assert complete_release(context, "1") == ["1.0-aaaaaaaa", "1.1-bbbbbbbb"]


@pytest.mark.parametrize(
    "verb", [("list",), ("trust",), ("trust", "--forget"), ("trust", "--remove", "0" * 64), ("rollback",), ("rollback", "--to", "1"),
             ("remove", "1"), ("prune",), ("smoke",)],
)  # fmt: skip
def test_a_folder_that_is_no_prefix_is_an_error(tmp_path: Path, run: Run, verb: tuple[str, ...]) -> None:
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "kept").touch()
    for prefix in (tmp_path / "typo", tmp_path / "somebody"):
        before = [*tmp_path.rglob("*")]
        code, told = run(*verb, "--prefix", prefix)
        assert (code, told["error"]["where"], bool(told["error"]["hint"])) == (2, str(prefix), True)
        assert [*tmp_path.rglob("*")] == before, "nothing is made there"
    assert run("doctor", "--prefix", tmp_path / "typo")[0] == 14


def test_a_prefix_that_nothing_is_live_in_is_one(tmp_path: Path, run: Run) -> None:
    (tmp_path / "releases").mkdir()
    assert run("list", "--prefix", tmp_path)[1]["result"] == {"releases": []}
    assert run("trust", "--prefix", tmp_path)[1]["result"]["keys"] == []

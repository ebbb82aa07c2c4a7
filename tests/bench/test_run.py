"""The benchmark by itself: what is measured is kept, whatever else fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import parts, run
from bench.measures import run_program
from bench.parts import Part, Tool, Workplace
from bench.results import FAILED, MISSED, REACHED, Row
from bundler.errors import INTERRUPTED

TINY = (
    "name: bench\nversion: '1'\n"
    "target: {python: '3.11', platform: linux-x86_64, libc: glibc-2.28, accelerator: cpu}\n"
    "models: [{path: model, alias: big, loader: files}]\n"
)
GOOD = Row("one / other", 1.5, "×", "≥ 1", reached=True, detail="3.00 s and 2.00 s")


def good(_: Workplace, folder: Path) -> Iterator[Row]:
    assert folder.is_dir()
    yield GOOD


def broken(*_: object) -> Iterator[Row]:
    yield replace(GOOD, what="before it breaks")
    run_program("sh", "-c", "echo 'no such | disk' >&2; exit 7")


def part(name: str, measure: Any = good, **more: Any) -> Part:
    return Part(name=name, about=f"what {name} measures", measure=measure, **more)


def kept(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_a_part_that_fails_costs_no_row_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [part("first"), part("second", broken), part("third")]
    assert run.main(["--json", str(tmp_path / "rows.json"), "--folder", str(tmp_path)], known) == FAILED
    said = capsys.readouterr().out
    found = kept(tmp_path / "rows.json")
    assert [(row["part"], row["what"]) for row in found["rows"]] == [
        ("first", "one / other"),
        ("second", "before it breaks"),
        ("third", "one / other"),
    ]
    assert list(found["failed"]) == ["second"]
    assert "sh ended with 7: " in found["failed"]["second"]
    assert "| second | failed |  | sh ended with 7: no such / disk |" in said, "a bar would end the cell"
    assert "not measured: second" in said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"], "nothing is left where it worked"


def test_a_fault_of_the_benchmark_itself_is_a_row_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def faulty(*_: object) -> list[Row]:
        raise ZeroDivisionError("no seconds")

    path = tmp_path / "rows.json"
    assert run.main(["--json", str(path)], [part("faulty", faulty), part("good")]) == FAILED
    assert kept(path)["failed"] == {"faulty": "ZeroDivisionError: no seconds"}
    assert len(kept(path)["rows"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_part_without_its_tool_is_left_out_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = Tool(name="mkfs.xfs", install="apt-get install xfsprogs")
    known = [part("good"), part("share", broken, checks=(tool.find_missing,))]
    path = tmp_path / "rows.json"
    assert run.main(["--json", str(path)], known) == REACHED
    said = capsys.readouterr().out
    assert kept(path)["left_out"] == {"share": "mkfs.xfs is missing: apt-get install xfsprogs"}
    assert said.index("| share | left out") < said.index("| one / other |")
    assert "left out: share" in said
    assert run.main(["--json", str(path), "--only", "share"], known) == FAILED, "this part was asked for"


def test_every_missing_tool_of_a_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    share = next(each for each in parts.PARTS if each.name == "share")
    assert "apt-get install xfsprogs; mount is missing: apt-get install mount" in share.find_missing()


def test_parts_are_listed_and_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if not line.startswith(" ")] == [
        "resolve", "hub", "pack", "place", "install", "share",
    ]  # fmt: skip
    known = [part("a"), part("b"), part("c")]
    path = tmp_path / "rows.json"
    assert run.main(["--json", str(path), "--only", "c", "--only", "a"], known) == REACHED
    assert [row["part"] for row in kept(path)["rows"]] == ["a", "c"]
    with pytest.raises(SystemExit, match="2"):
        run.main(["--only", "nothing"], known)


def test_a_bound_that_is_missed_and_an_interruption_have_codes_of_their_own(tmp_path: Path) -> None:
    def interrupted(*_: object) -> Iterator[Row]:
        yield GOOD
        raise KeyboardInterrupt

    path = tmp_path / "rows.json"
    slow = part("slow", lambda *_: [replace(GOOD, reached=False)])
    assert run.main(["--json", str(path)], [slow]) == MISSED
    assert run.main(["--json", str(path)], [part("a", interrupted), part("b")]) == INTERRUPTED
    assert [row["part"] for row in kept(path)["rows"]] == ["a"]


def test_runs_are_kept_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main([], [part("a")]) == REACHED
    (path,) = (tmp_path / "build" / "bench").iterdir()
    assert kept(path)["gib"] == 2


def test_a_file_that_can_t_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    path.mkdir()
    assert run.main(["--json", str(path)], [part("broken", broken)]) == run.UNUSABLE
    assert f"{path} can't be written" in capsys.readouterr().err


def test_a_bundle_that_can_t_be_built_is_not_built_again_for_the_next_part(tmp_path: Path) -> None:
    known = [each for each in parts.PARTS if each.name in ("pack", "place")]
    path = tmp_path / "rows.json"
    assert run.main(["--json", str(path), "--gib", "0.001"], known, "name: bench\n") == FAILED
    failed = kept(path)["failed"]
    assert "version" in failed["pack"]
    assert failed["place"] == f"its bundle could not be built: {failed['pack']}"


def test_packing_and_placing_are_measured_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE_CACHE", str(tmp_path / "shelf"))
    path = tmp_path / "rows.json"
    arguments = ["--json", str(path), "--gib", "0.01", "--rounds", "1", "--only", "pack", "--only", "place"]
    assert run.main(arguments, text=TINY) in (REACHED, MISSED), "a machine that is busy may miss a bound"
    found = kept(path)
    assert [row["part"] for row in found["rows"]] == ["pack", "pack", "place", "place"]
    assert all(row["value"] > 0 for row in found["rows"][:3])
    assert not found["failed"]

"""What is stored of an install is read as what it is, and an old proof is never shown as a new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.format import documents, json_files
from bundler.format.lock.smoke_result import Closeness, LoadReport, SmokeResult
from bundler.offline import install
from bundler.offline.doctor import examination
from bundler.offline.install import InstallOptions
from bundler.output import host_text, smoke_text
from bundler.payload.results import load_result
from bundler.progress import RecordingReporter
from tests.support.bundles import PackedBundle
from tests.support.interrupting import Interrupting
from tests.support.programs import Run
from tests.support.smoke_results import make_smoke_result

Pack = Callable[..., PackedBundle]
AGAIN = InstallOptions(with_smoke=False)

SMOKE_DAMAGES = {
    "missing keys": (b'[{"alias":"m"}]', "[0].loader: is required"),
    "wrong type": (b"7", "must be a list"),
    "no objects": (b"[7]", "[0]: must be a mapping"),
    "no JSON": (b"[{", "it is not JSON"),
    "empty": (b"", "it is empty"),
    "other text": (b"\xff\xfe[]", "it is not UTF-8 text"),
    "deep": (b"[" * 100_000, "it is nested too deeply"),
    "digits": (b"[" + b"1" * 5000 + b"]", "more than 20 digits"),
    "no number": (b"[NaN]", "NaN is not a JSON number"),
}


@pytest.fixture
def prefix(pack: Pack, tmp_path: Path) -> Path:
    """A prefix where a small bundle was installed, and proven."""
    install.install_bundle(pack().path, tmp_path / "opt", InstallOptions(), RecordingReporter())
    return tmp_path / "opt"


def read_stored(prefix: Path) -> list[dict[str, Any]]:
    return list(json.loads((prefix / "current" / "smoke.json").read_bytes()))


def test_a_proof_has_its_time(prefix: Path) -> None:
    (result,) = read_stored(prefix)
    assert (len(result["proven_at"]), result["proven_at"][-1], result["changed_since"]) == (20, "Z", [])
    receipt = json.loads((prefix / "current" / "receipt.json").read_bytes())
    assert (receipt["proof"], receipt["smoke"]) == ("new", [result])


@pytest.mark.parametrize(("damage", "said"), SMOKE_DAMAGES.values(), ids=SMOKE_DAMAGES)
def test_damage_is_named(damage: bytes, said: str) -> None:
    with pytest.raises(documents.DocumentError) as caught:
        json_files.parse(tuple[SmokeResult, ...], damage)
    assert said in json_files.format_problems(caught.value)


def test_a_damaged_proof_is_named_and_dropped_before_the_release_goes_live(prefix: Path, tmp_path: Path) -> None:
    for name in ("missing keys", "other text"):
        damage, said = SMOKE_DAMAGES[name]
        (prefix / "current" / "smoke.json").write_bytes(damage)
        (found,) = [
            one
            for one in examination.examine_release(prefix, "plain", RecordingReporter()).findings
            if one.check == "proof"
        ]
        assert (found.level, said in found.message, found.where.endswith("smoke.json")) == ("warning", True, True)
        report = RecordingReporter()
        receipt = install.install_bundle(tmp_path / "test.bundle.tar", prefix, AGAIN, report)
        assert (receipt.proof, receipt.smoke, read_stored(prefix)) == ("none", (), [])
        assert any("smoke.json" in warning and said in warning for warning in report.warnings)
        assert any("nothing has shown that these models load" in warning for warning in report.warnings)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(json_files.MAX_BYTES + 2)
    with pytest.raises(ValueError, match="more than 67,108,864 bytes"):
        json_files.read(tuple[SmokeResult, ...], path)


def test_what_a_newer_version_wrote_besides_is_passed_over(prefix: Path, tmp_path: Path) -> None:
    for name in ("smoke.json", "receipt.json"):
        path = prefix / "current" / name
        document = json.loads(path.read_bytes())
        for one in document if name == "smoke.json" else [document]:
            one["of a newer version"] = {"x": [1.5]}
        path.write_text(json.dumps(document))
    receipt = install.install_bundle(tmp_path / "test.bundle.tar", prefix, AGAIN, RecordingReporter())
    assert receipt.proof == "old"


def test_one_of_an_older_version_is_shown_without_a_time(prefix: Path, tmp_path: Path) -> None:
    results = read_stored(prefix)
    for one in results:
        del one["proven_at"], one["changed_since"]
    (prefix / "current" / "smoke.json").write_text(json.dumps(results))
    receipt = install.install_bundle(tmp_path / "test.bundle.tar", prefix, AGAIN, RecordingReporter())
    assert "OLD PROOF, not of this install: smoke loads of an unknown time" in host_text.format_proof(receipt)[0]


def test_an_old_proof_is_said_to_be_old_with_all_that_was_changed_since(prefix: Path, tmp_path: Path, run: Run) -> None:
    bundle, (proven,) = tmp_path / "test.bundle.tar", read_stored(prefix)
    weights = next((prefix / "models").glob("m-*")) / "w.bin"
    inside = weights.relative_to(prefix).as_posix()
    weights.unlink()
    report = RecordingReporter()
    receipt = install.install_bundle(bundle, prefix, AGAIN, report)
    assert any("from an earlier install, and files have changed since" in warning for warning in report.warnings)
    lines = host_text.format_proof(receipt)
    assert lines[0] == f"  OLD PROOF, not of this install: smoke loads of {proven['proven_at']}, 1 change since"
    assert lines[1] == f"    changed since: {inside}"
    (prefix / "current" / "venv" / "bin" / "python").unlink()
    code, said = run("install", bundle, "--prefix", prefix, "--no-smoke")
    assert (code, said["result"]["proof"]) == (0, "old")
    (result,) = said["result"]["smoke"]
    assert (result["proven_at"], result["changed_since"][0]) == (proven["proven_at"], inside), "it adds up"
    assert result["changed_since"][1].endswith("venv/bin/python")
    (row,) = run("list", "--prefix", prefix)[1]["result"]["releases"]
    assert (row["proof"], row["smoke"]) == ("old", [result])
    (found,) = [
        one
        for one in examination.examine_release(prefix, "plain", RecordingReporter()).findings
        if one.check == "proof"
    ]
    assert (
        found.level,
        found.message.startswith("2 changes since the smoke loads ran at ")
        and found.message.endswith(f", such as {inside}"),
    ) == ("warning", True)
    again = install.install_bundle(bundle, prefix, InstallOptions(), RecordingReporter())
    assert (again.proof, again.smoke[0].changed_since) == ("new", ())


@pytest.mark.parametrize("options", [InstallOptions(), AGAIN])
def test_a_proof_claims_nothing_of_what_a_run_changed_that_did_not_end(
    prefix: Path, tmp_path: Path, run: Run, options: InstallOptions
) -> None:
    weights = next((prefix / "models").glob("m-*")) / "w.bin"
    weights.unlink()
    with pytest.raises(KeyboardInterrupt):
        install.install_bundle(tmp_path / "test.bundle.tar", prefix, options, Interrupting("environment", begins=False))
    assert weights.exists()
    changed = [weights.relative_to(prefix).as_posix()]
    assert [one["changed_since"] for one in read_stored(prefix)] == [changed]
    (row,) = run("list", "--prefix", prefix)[1]["result"]["releases"]
    assert (row["proof"], row["smoke"][0]["changed_since"]) == ("old", changed)
    receipt = install.install_bundle(tmp_path / "test.bundle.tar", prefix, AGAIN, RecordingReporter())
    assert [*receipt.smoke[0].changed_since] == changed


def test_a_release_that_was_never_proven_says_so(pack: Pack, tmp_path: Path) -> None:
    receipt = install.install_bundle(pack().path, tmp_path / "opt", AGAIN, RecordingReporter())
    assert (receipt.proof, host_text.format_proof(receipt)) == (
        "none",
        ["  not proven: the smoke loads were skipped"],
    )
    (found,) = [
        one
        for one in examination.examine_release(tmp_path / "opt", "plain", RecordingReporter()).findings
        if one.check == "proof"
    ]
    assert found.level == "warning"


def test_what_a_load_writes_is_what_the_installer_reads(tmp_path: Path) -> None:
    """Also where the vector is not made of numbers: JSON has none for that, and the fault must come through."""
    written = load_result.LoadResult(alias="m", loader="sentence-transformers", fault="NaN", norm=float("nan"))
    written.closer.append(load_result.TripleResult(query="q", nearer=1, farther=0.5))
    written.write(tmp_path / "result.json")
    report = json_files.read(LoadReport, tmp_path / "result.json")
    assert (report.fault, report.norm, report.network, report.closer[0].nearer) == ("NaN", None, None, 1.0)
    assert documents.encode(report).keys() == json.loads((tmp_path / "result.json").read_bytes()).keys()


@pytest.mark.parametrize(("width", "measure"), [(1, "score"), (384, "similarity")])
def test_a_triple_shows_scores_where_the_model_gives_one_number(width: int, measure: str) -> None:
    closer = (Closeness(query="q", nearer=2.5, farther=-1.0),)
    text = smoke_text.format_smoke_results([make_smoke_result(loader="new-loader", width=width, closer=closer)])
    assert f"'q': {measure} 2.500 (related) / -1.000 (unrelated)" in text


def test_many_changes_are_counted_in_words() -> None:
    result = make_smoke_result(proven_at="2026-01-02T03:04:05Z", changed_since=tuple(f"f{n}" for n in range(9)))
    assert smoke_text.format_proof_age([result]) == "smoke loads of 2026-01-02T03:04:05Z, 9 changes since"


RECEIPT_DAMAGES = [
    ({"digest": "x"}, "digest: must be 64 lower-case hexadecimal digits"),
    ({"ordinal": "1"}, "ordinal: must be an integer"),
    ({"homes": ["a"]}, "homes: must be a mapping"),
    ({"smoke": [{"alias": "m"}]}, "smoke[0].loader: is required"),
    ({"release": "9-eeeeeeee"}, "release: must be 1-"),
]


def test_a_damaged_receipt_names_its_field(prefix: Path, tmp_path: Path, run: Run) -> None:
    path = prefix / "current" / "receipt.json"
    right = json.loads(path.read_bytes())
    for changes, said in RECEIPT_DAMAGES:
        path.write_text(json.dumps(right | changes))
        assert said in run("list", "--prefix", prefix)[1]["warnings"][0]
        code, told = run("rollback", "--prefix", prefix)
        assert (code, said in told["error"]["message"], told["error"]["where"]) == (6, True, str(path.resolve()))
    code, told = run("doctor", "--prefix", prefix)
    assert (code, any(said in one["message"] for one in told["result"]["findings"])) == (14, True)
    assert run("install", tmp_path / "test.bundle.tar", "--prefix", prefix, "--no-smoke")[0] == 0, "it is made anew"
    assert run("doctor", "--prefix", prefix)[0] == 0


@pytest.mark.parametrize("name", ["trust.json", "sequences.json"])
def test_a_damaged_memory_of_a_prefix_is_an_error_that_names_it(
    pack: Pack, tmp_path: Path, run: Run, name: str
) -> None:
    bundle, prefix = pack().path, tmp_path / "opt"
    prefix.mkdir()
    for damage in (b"\xff", b"", b"[" * 100_000, b'{"format":1}', b'{"format":2}', b"[NaN]"):
        (prefix / name).write_bytes(damage)
        code, told = run("install", bundle, "--prefix", prefix)
        assert (code, told["error"]["where"], bool(told["error"]["hint"])) == (7, str(prefix / name), True)

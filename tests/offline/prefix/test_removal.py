"""What remove and prune take away, and what they never do."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.errors import UnsafeError, UsageError
from bundler.offline.prefix import ownership_markers, releases, removal, rollback
from bundler.progress import RecordingReporter
from tests.support.releases import install_release


def list_releases(prefix: Path) -> list[str]:
    return sorted(path.name for path in (prefix / "releases").iterdir())


def list_models(prefix: Path) -> list[str]:
    return sorted(path.name for path in (prefix / "models").iterdir())


def test_a_model_goes_with_the_last_release_that_holds_it(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1, models=("m", "n"))
    install_release(tmp_path, "2-bbbbbbbb", 2, models=("m",))
    install_release(tmp_path, "3-cccccccc", 3)
    gone = removal.remove_release(tmp_path, "1-aaaaaaaa", RecordingReporter())
    assert (gone.releases, gone.models, gone.bytes > 100) == (("1-aaaaaaaa",), (f"n-{'1' * 12}",), True)
    assert (list_releases(tmp_path), list_models(tmp_path)) == (["2-bbbbbbbb", "3-cccccccc"], ["m-111111111111"])
    assert removal.remove_release(tmp_path, "2-bbbbbbbb", RecordingReporter()).models == ("m-111111111111",)
    assert (list_releases(tmp_path), list_models(tmp_path)) == (["3-cccccccc"], [])


def test_the_live_release_can_not_be_removed(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1)
    with pytest.raises(UsageError, match="1-aaaaaaaa is the live release") as caught:
        removal.remove_release(tmp_path, "1-aaaaaaaa", RecordingReporter())
    assert "make another release live first" in caught.value.hint
    (tmp_path / "current" / "receipt.json").write_text("{")
    with pytest.raises(UsageError, match="1-aaaaaaaa is the live release"):
        removal.remove_release(tmp_path, "1-aaaaaaaa", RecordingReporter())
    assert list_releases(tmp_path) == ["1-aaaaaaaa"]


@pytest.mark.parametrize("name", ["9-eeeeeeee", "..", "../releases/1-aaaaaaaa", "", "."])
def test_a_release_that_is_not_there(tmp_path: Path, name: str) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1)
    install_release(tmp_path, "2-bbbbbbbb", 2)
    with pytest.raises(UsageError, match="there is no release") as caught:
        removal.remove_release(tmp_path, name, RecordingReporter())
    assert "installed here: 1-aaaaaaaa, 2-bbbbbbbb" in caught.value.hint
    assert list_releases(tmp_path) == ["1-aaaaaaaa", "2-bbbbbbbb"]


def test_removing_the_way_back_is_said(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1)
    install_release(tmp_path, "2-bbbbbbbb", 2)
    report = RecordingReporter()
    removal.remove_release(tmp_path, "1-aaaaaaaa", report)
    assert "a rollback would have gone to 1-aaaaaaaa" in report.warnings[0]
    with pytest.raises(UsageError, match="no release was live before"):
        rollback.roll_back(tmp_path)


def test_prune_keeps_the_live_one_then_the_ways_back_then_the_newest(tmp_path: Path) -> None:
    for number, name in enumerate(("1-aaaaaaaa", "2-bbbbbbbb", "3-cccccccc", "4-dddddddd"), start=1):
        install_release(tmp_path, name, number)
    rollback.roll_back(tmp_path)
    rollback.roll_back(tmp_path)  # 2-bbbbbbbb is live, 1-aaaaaaaa the way back, 4-dddddddd the newest
    assert removal.prune_releases(tmp_path, 3, RecordingReporter()).releases == ("3-cccccccc",)
    assert removal.prune_releases(tmp_path, 2, RecordingReporter()).releases == ("4-dddddddd",)
    assert list_releases(tmp_path) == ["1-aaaaaaaa", "2-bbbbbbbb"]
    assert removal.prune_releases(tmp_path, 1, RecordingReporter()).releases == ("1-aaaaaaaa",)
    assert removal.prune_releases(tmp_path, 1, RecordingReporter()).releases == ()
    assert releases.require_live(tmp_path).name == "2-bbbbbbbb"


def test_prune_clears_what_killed_runs_left_and_leaves_what_it_does_not_know(tmp_path: Path) -> None:
    for number, name in enumerate(("1-aaaaaaaa", "2-bbbbbbbb", "3-cccccccc"), start=1):
        install_release(tmp_path, name, number, models=("m",) if name == "1-aaaaaaaa" else ())
    (tmp_path / "releases" / "1-aaaaaaaa" / "receipt.json").write_text("{")
    (tmp_path / "releases" / "1-aaaaaaaa" / "models" / "m").unlink()
    for left in ("releases/9-eeeeeeee", "models/m-999999999999", "models/m-222222222222"):
        ownership_markers.add_marker(tmp_path / left)
    for left in ("releases/9-eeeeeeee/venv", "models/.m-999999999999.partial"):
        (tmp_path / left).mkdir(parents=True)
    (tmp_path / "models" / "m-111111111111").replace(
        tmp_path / "models" / "m-222222222222"
    )  # neither links nor receipts speak of this one
    report = RecordingReporter()
    assert removal.prune_releases(tmp_path, 1, report).releases == ("2-bbbbbbbb",)
    assert "the receipt of 1-aaaaaaaa is damaged, so it stays" in report.warnings[0]
    assert (list_releases(tmp_path), list_models(tmp_path)) == (["1-aaaaaaaa", "3-cccccccc"], [])
    assert removal.remove_release(tmp_path, "1-aaaaaaaa", RecordingReporter()).releases == ("1-aaaaaaaa",)


def test_a_link_in_the_prefix_is_not_followed(tmp_path: Path) -> None:
    install_release(tmp_path / "opt", "1-aaaaaaaa", 1)
    install_release(tmp_path / "opt", "2-bbbbbbbb", 2)
    (tmp_path / "opt" / "models").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    with pytest.raises(UnsafeError, match="this is a link"):
        removal.remove_release(tmp_path / "opt", "1-aaaaaaaa", RecordingReporter())
    with pytest.raises(UnsafeError, match="this is a link"):
        removal.prune_releases(tmp_path / "opt", 1, RecordingReporter())
    assert (tmp_path / "elsewhere" / "mine").exists()
    assert list_releases(tmp_path / "opt") == ["1-aaaaaaaa", "2-bbbbbbbb"]

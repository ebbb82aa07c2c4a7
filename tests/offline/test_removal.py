"""What remove and prune take away, and what they never do."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.errors import UnsafeError, UsageError
from bundler.offline import releases, removal
from bundler.progress import Collected
from tests.offline.test_releases import install


def there(prefix: Path) -> list[str]:
    return sorted(path.name for path in (prefix / "releases").iterdir())


def models(prefix: Path) -> list[str]:
    return sorted(path.name for path in (prefix / "models").iterdir())


def test_a_model_goes_with_the_last_release_that_holds_it(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1, models=("m", "n"))
    install(tmp_path, "2-b", 2, models=("m",))
    install(tmp_path, "3-c", 3)
    gone = removal.remove(tmp_path, "1-a", Collected())
    assert (gone.releases, gone.models, gone.bytes > 100) == (("1-a",), ("n-1",), True)
    assert (there(tmp_path), models(tmp_path)) == (["2-b", "3-c"], ["m-1"])
    assert removal.remove(tmp_path, "2-b", Collected()).models == ("m-1",)
    assert (there(tmp_path), models(tmp_path)) == (["3-c"], [])


def test_the_live_release_can_not_be_removed(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    with pytest.raises(UsageError, match="1-a is the live release") as caught:
        removal.remove(tmp_path, "1-a", Collected())
    assert "make another live first" in caught.value.hint
    (tmp_path / "current" / "receipt.json").write_text("{")
    with pytest.raises(UsageError, match="1-a is the live release"):
        removal.remove(tmp_path, "1-a", Collected())
    assert there(tmp_path) == ["1-a"]


@pytest.mark.parametrize("name", ["9-z", "..", "../releases/1-a", "", "."])
def test_a_release_that_is_not_there(tmp_path: Path, name: str) -> None:
    install(tmp_path, "1-a", 1)
    install(tmp_path, "2-b", 2)
    with pytest.raises(UsageError, match="there is no release") as caught:
        removal.remove(tmp_path, name, Collected())
    assert "installed here: 1-a, 2-b" in caught.value.hint
    assert there(tmp_path) == ["1-a", "2-b"]


def test_removing_the_way_back_is_said(tmp_path: Path) -> None:
    install(tmp_path, "1-a", 1)
    install(tmp_path, "2-b", 2)
    report = Collected()
    removal.remove(tmp_path, "1-a", report)
    assert "1-a is what rollback would go to" in report.warnings[0]
    with pytest.raises(UsageError, match="no release was live before"):
        releases.rollback(tmp_path)


def test_prune_keeps_the_live_one_then_the_ways_back_then_the_newest(tmp_path: Path) -> None:
    for number, name in enumerate(("1-a", "2-b", "3-c", "4-d"), start=1):
        install(tmp_path, name, number)
    releases.rollback(tmp_path)
    releases.rollback(tmp_path)  # 2-b is live, 1-a the way back, 4-d the newest
    assert removal.prune(tmp_path, 3, Collected()).releases == ("3-c",)
    assert removal.prune(tmp_path, 2, Collected()).releases == ("4-d",)
    assert there(tmp_path) == ["1-a", "2-b"]
    assert removal.prune(tmp_path, 1, Collected()).releases == ("1-a",)
    assert removal.prune(tmp_path, 1, Collected()).releases == ()
    assert releases.required_live(tmp_path).name == "2-b"


def test_prune_clears_what_killed_runs_left_and_leaves_what_it_does_not_know(tmp_path: Path) -> None:
    for number, name in enumerate(("1-a", "2-b", "3-c"), start=1):
        install(tmp_path, name, number, models=("m",) if name == "1-a" else ())
    (tmp_path / "releases" / "1-a" / "receipt.json").write_text("{")
    (tmp_path / "releases" / "1-a" / "models" / "m").unlink()
    for left in ("releases/9-z/venv", "models/.m-9.partial"):
        (tmp_path / left).mkdir(parents=True)
    (tmp_path / "models" / "m-1").replace(tmp_path / "models" / "m-2")  # neither links nor receipts speak of this one
    report = Collected()
    assert removal.prune(tmp_path, 1, report).releases == ("2-b",)
    assert "the receipt of 1-a is damaged, so it stays" in report.warnings[0]
    assert (there(tmp_path), models(tmp_path)) == (["1-a", "3-c"], [])
    assert removal.remove(tmp_path, "1-a", Collected()).releases == ("1-a",)


def test_a_link_in_the_prefix_is_not_followed(tmp_path: Path) -> None:
    install(tmp_path / "opt", "1-a", 1)
    install(tmp_path / "opt", "2-b", 2)
    (tmp_path / "opt" / "models").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    with pytest.raises(UnsafeError, match="this is a link"):
        removal.remove(tmp_path / "opt", "1-a", Collected())
    with pytest.raises(UnsafeError, match="this is a link"):
        removal.prune(tmp_path / "opt", 1, Collected())
    assert (tmp_path / "elsewhere" / "mine").exists()
    assert there(tmp_path / "opt") == ["1-a", "2-b"]

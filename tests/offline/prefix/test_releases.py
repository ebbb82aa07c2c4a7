"""Which release is live: the switch, the lock, the way back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bundler.errors import BusyError, HostError, IntegrityError, UnsafeError, UsageError
from bundler.offline.prefix import ownership_markers, releases, removal, rollback
from bundler.progress import RecordingReporter
from tests.support.releases import DIGEST, THEIRS, finish_release, install_release


def test_a_release_is_live_once_its_block_is_left(tmp_path: Path) -> None:
    with releases.begin_release(tmp_path, "1-aaaaaaaa", DIGEST) as release:
        assert releases.find_live(tmp_path) is None
        finish_release(release, 1)
    assert (tmp_path / "current").readlink() == Path("releases/1-aaaaaaaa")
    assert releases.require_live(tmp_path).name == "1-aaaaaaaa"


def test_a_release_that_fails_leaves_the_live_one_and_nothing_of_itself(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1)
    held = tmp_path / "models" / "m-111111111111"
    held.mkdir(parents=True)
    (tmp_path / "releases" / "1-aaaaaaaa" / "models").mkdir()
    (tmp_path / "releases" / "1-aaaaaaaa" / "models" / "m").symlink_to("../../../models/m-111111111111")
    unfinished = tmp_path / "models" / ".m-222222222222.partial"
    unheld = tmp_path / "models" / "m-333333333333"

    def fail() -> None:
        with releases.begin_release(tmp_path, "2-bbbbbbbb", DIGEST) as release:
            (release.path / "x").write_text("half")
            ownership_markers.add_marker(unfinished.with_name("m-222222222222"))
            unfinished.mkdir()
            ownership_markers.add_marker(unheld)
            unheld.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert releases.require_live(tmp_path).name == "1-aaaaaaaa"
    assert not (tmp_path / "releases" / "2-bbbbbbbb").exists()
    assert list((tmp_path / "models").iterdir()) == [held]


def test_what_was_never_of_this_program_is_left_alone(tmp_path: Path) -> None:
    """The prefix may have been somebody's folder before, whatever names that gave."""
    theirs = [tmp_path / name for name in THEIRS]
    for folder in theirs:
        (folder / "venv").mkdir(parents=True)
        (folder / "kept").write_text("x")

    def fail() -> None:
        with releases.begin_release(tmp_path, "1-aaaaaaaa", DIGEST):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    install_release(tmp_path, "1-aaaaaaaa", 1, models=("m",))
    install_release(tmp_path, "2-bbbbbbbb", 2)
    removal.prune_releases(tmp_path, 1, RecordingReporter())
    assert releases.find_unknown_files(tmp_path) == sorted(theirs)
    assert [
        *releases.find_partial_models(tmp_path),
        *releases.find_unused_models(tmp_path),
        *releases.find_unfinished(tmp_path),
    ] == []
    assert all((folder / "kept").read_text() == "x" for folder in theirs)


@pytest.mark.parametrize("begins", ["a release", "a part"])
def test_a_release_is_not_made_in_a_folder_of_somebody_else(tmp_path: Path, begins: str) -> None:
    theirs = tmp_path / "releases" / "1-aaaaaaaa"
    theirs.mkdir(parents=True)
    (theirs / "kept").write_text("x")
    release = releases.Release(prefix=tmp_path, name="1-aaaaaaaa")
    making = {
        "a release": releases.begin_release(tmp_path, release.name, DIGEST),
        "a part": releases.begin_part(release, DIGEST, "app", release.application_folder),
    }
    with pytest.raises(UnsafeError, match="was not made by this program") as caught, making[begins]:
        pass
    assert (caught.value.where, bool(caught.value.hint)) == (str(theirs), True)
    assert (theirs / "kept").read_text() == "x"


def test_a_mark_stands_until_a_receipt_speaks_and_from_before_it_goes(tmp_path: Path) -> None:
    with releases.begin_release(tmp_path, "1-aaaaaaaa", DIGEST) as release:
        assert ownership_markers.has_marker(release.path)
        (tmp_path / "models").mkdir()
        finish_release(release, 1)
        assert ownership_markers.has_marker(release.path)
    assert not ownership_markers.has_marker(release.path)
    install_release(tmp_path, "2-bbbbbbbb", 2, models=("m",))
    assert [
        *ownership_markers.iter_marked(tmp_path / "models"),
        *ownership_markers.iter_marked(tmp_path / "releases"),
    ] == []
    install_release(tmp_path, "3-cccccccc", 3)
    releases.discard_release(releases.Release(prefix=tmp_path, name="2-bbbbbbbb"))
    assert [path.name for path in ownership_markers.iter_marked(tmp_path / "models")] == ["m-111111111111"]
    assert releases.find_unused_models(tmp_path) == [tmp_path / "models" / "m-111111111111"]
    releases.discard_unused_models(tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_what_an_older_version_was_killed_at_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    for inside in (".work", ".parts", "bundle.json"):
        (tmp_path / "releases" / f"9-{inside.strip('.')[:4]}" / inside).mkdir(parents=True)
    assert len(releases.find_unfinished(tmp_path)) == 3
    releases.discard_unfinished(tmp_path)
    assert list((tmp_path / "releases").iterdir()) == []


def test_marks_of_what_is_gone_or_finished_go(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1, models=("m",))
    for name in ("releases/1-aaaaaaaa", "releases/9-eeeeeeee", "models/m-111111111111", "models/m-999999999999"):
        ownership_markers.add_marker(tmp_path / name)
    releases.discard_unfinished(tmp_path)
    releases.discard_unused_models(tmp_path)
    assert [path.name for path in (tmp_path / "releases").iterdir()] == ["1-aaaaaaaa"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m-111111111111"]


def test_what_a_killed_run_left_beside_parts_stops_no_next_one(tmp_path: Path) -> None:
    """Killed while it finished a release whose environment was placed ahead; then the same again."""
    release = releases.Release(prefix=tmp_path, name="1-aaaaaaaa")
    with releases.begin_part(release, DIGEST, "environment", release.venv):
        release.venv.mkdir(parents=True)
    release.work_folder.mkdir()
    (release.work_folder / "half.whl").write_text("half")
    with releases.begin_release(tmp_path, release.name, DIGEST):
        assert list(release.work_folder.iterdir()) == []
        assert release.venv.is_dir()
        releases.clear_work(release)
        finish_release(release, 1)
    assert releases.require_live(tmp_path).name == release.name
    assert not ownership_markers.has_marker(release.path)


def test_nobody_else_can_hold_a_prefix(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch(mode=0o644)
    with releases.lock_prefix(tmp_path):
        assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    for left in ("releases/1-aaaaaaaa", "releases/9-eeeeeeee", "models/m-999999999999"):
        ownership_markers.add_marker(tmp_path / left)
        (tmp_path / left / "venv").mkdir(parents=True)
    with releases.begin_release(tmp_path, "1-aaaaaaaa", DIGEST) as release:
        assert not (release.path / "venv").exists()
        finish_release(release, 1)
    assert [path.name for path in (tmp_path / "releases").iterdir()] == ["1-aaaaaaaa"]
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize("text", ["", "{"])
def test_a_live_release_without_a_receipt_stays_where_it_is_whatever_happens(tmp_path: Path, text: str) -> None:
    """Its receipt was there before the switch, so that it was lost or damaged since; services go on using the rest."""
    install_release(tmp_path, "1-aaaaaaaa", 1)
    kept = tmp_path / "current" / "kept"
    kept.write_text("venv")
    (tmp_path / "current" / "receipt.json").unlink()
    if text:
        (tmp_path / "current" / "receipt.json").write_text(text)
    (fault,) = releases.find_damaged_releases(tmp_path).values()
    assert f"is {'damaged' if text else 'missing'}" in str(fault)

    def fail(name: str) -> None:
        with releases.begin_release(tmp_path, name, DIGEST) as release:
            assert kept.read_text() == "venv"
            assert release.is_finished == (name == "1-aaaaaaaa")
            raise RuntimeError

    for name in ("1-aaaaaaaa", "2-bbbbbbbb"):
        with pytest.raises(RuntimeError):
            fail(name)
        assert kept.read_text() == "venv"
    install_release(tmp_path, "1-aaaaaaaa", 1)
    assert (kept.read_text(), releases.read_receipts(tmp_path)[0].release) == ("venv", "1-aaaaaaaa")


def test_another_bundle_of_the_same_name_is_refused(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1)
    with (
        pytest.raises(UnsafeError, match="another bundle is installed under the name 1-aaaaaaaa"),
        releases.begin_release(tmp_path, "1-aaaaaaaa", "e" * 64),
    ):
        pass


@pytest.mark.parametrize("name", ["models", "releases", "var"])
def test_a_link_in_the_prefix_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / name).symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(UnsafeError, match="this is a link"),
        releases.begin_release(tmp_path / "opt", "1-aaaaaaaa", DIGEST),
    ):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


DAMAGES = [b"{", b"[]", b"null", b"\xff", b"{}", b"[" * 100_000, b'{"release": "9-eeeeeeee"}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_receipt_stops_only_what_needs_it(tmp_path: Path, damage: bytes) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1, models=("m",))
    install_release(tmp_path, "2-bbbbbbbb", 2)
    (tmp_path / "releases" / "1-aaaaaaaa" / "receipt.json").write_bytes(damage)
    assert [receipt.release for receipt in releases.read_receipts(tmp_path)] == ["2-bbbbbbbb"]
    assert [*releases.find_damaged_releases(tmp_path)] == ["1-aaaaaaaa"]
    with pytest.raises(IntegrityError, match="the receipt of a release is damaged") as caught:
        rollback.roll_back(tmp_path)
    assert "install its bundle again" in caught.value.hint
    install_release(tmp_path, "3-cccccccc", 3)
    assert (tmp_path / "releases" / "1-aaaaaaaa" / "models" / "m" / "w").exists(), "nothing of it is touched"
    assert rollback.roll_back(tmp_path)[1] == "2-bbbbbbbb"
    install_release(tmp_path, "1-aaaaaaaa", 4, models=("m",))
    assert not releases.find_damaged_releases(tmp_path)


def test_a_receipt_of_another_release_is_none(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1)
    install_release(tmp_path, "2-bbbbbbbb", 2)
    there = tmp_path / "releases"
    (there / "1-aaaaaaaa" / "receipt.json").write_bytes((there / "2-bbbbbbbb" / "receipt.json").read_bytes())
    assert [*releases.find_damaged_releases(tmp_path)] == ["1-aaaaaaaa"]


def test_a_model_whose_link_was_lost_is_still_held(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1, models=("m",))
    (tmp_path / "releases" / "1-aaaaaaaa" / "models" / "m").unlink()
    install_release(tmp_path, "2-bbbbbbbb", 2)
    assert (tmp_path / "models" / "m-111111111111" / "w").exists()


def test_rollback_goes_to_what_was_live_before(tmp_path: Path) -> None:
    install_release(tmp_path, "1-aaaaaaaa", 1)
    install_release(tmp_path, "2-bbbbbbbb", 2)
    now, then = rollback.roll_back(tmp_path)
    assert (now, then, releases.require_live(tmp_path).name) == ("2-bbbbbbbb", "1-aaaaaaaa", "1-aaaaaaaa")
    with pytest.raises(UsageError, match="no release was live before 1-aaaaaaaa was installed"):
        rollback.roll_back(tmp_path)
    install_release(tmp_path, "3-cccccccc", 3)
    assert rollback.roll_back(tmp_path)[1] == "1-aaaaaaaa", "not the one that was abandoned"


def test_nothing_installed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is installed here"):
        releases.require_live(tmp_path)


def test_two_runs_do_not_share_a_prefix(tmp_path: Path) -> None:
    with (
        releases.lock_prefix(tmp_path),
        pytest.raises(BusyError, match="another run is working"),
        releases.lock_prefix(tmp_path),
    ):
        pass
    with releases.lock_prefix(tmp_path):
        pass


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from bundler.offline.prefix import releases\n"
        "with releases.lock_prefix(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == -9
    with releases.lock_prefix(tmp_path):
        pass


def test_a_prefix_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(HostError, match="the prefix can't be written"),
        releases.lock_prefix(tmp_path / "file" / "prefix"),
    ):
        pass

"""A prefix that others can write to, and what they may have planted there: nothing is written elsewhere."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from bundler.errors import UnsafeError
from bundler.format import disk
from bundler.offline.prefix import permissions
from tests.support.forging import GOOD
from tests.support.programs import Run, run_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle and a prefix that it was installed into, by a user without any umask."""
    folder = tmp_path_factory.mktemp("made")
    path, prefix = folder / "good.tar", folder / "opt"
    path.write_bytes(GOOD)
    done = run_bundle("install", path, "--prefix", prefix, "--quiet", umask=0)
    assert done.returncode == 0, done.stderr
    return path, prefix


@pytest.fixture
def again(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """The bundle, a copy of the prefix to be spoiled, and a folder that nothing may be written to."""
    prefix, victim = tmp_path / "opt", tmp_path / "victim"
    shutil.copytree(made[1], prefix, symlinks=True)
    victim.mkdir()
    return made[0], prefix, victim


def check_refused(run: Run, path: Path, prefix: Path, message: str) -> None:
    code, told = run("install", path, "--prefix", prefix)
    assert (code, message in told["error"]["message"]) == (8, True), told
    assert told["error"]["hint"]


def test_no_folder_of_a_prefix_can_be_written_by_others(made: tuple[Path, Path]) -> None:
    """What nobody else may write to, nobody can plant a link in between two of our steps."""
    folders = [path for path in [made[1], *made[1].rglob("*")] if path.is_dir() and not path.is_symlink()]
    assert len(folders) > 10
    assert [str(path) for path in folders if path.stat().st_mode & 0o022] == []


@pytest.mark.parametrize("name", [".", "models", "releases"])
@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=["open to all", "sticky"])
def test_a_prefix_that_anybody_may_write_to(run: Run, again: tuple[Path, Path, Path], name: str, mode: int) -> None:
    path, prefix, _ = again
    (prefix / name).chmod(mode)
    check_refused(run, path, prefix, "another user could change what is installed here: anybody may write to it")


def test_a_prefix_that_a_group_may_write_to(
    run: Run, again: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, prefix, _ = again
    prefix.chmod(0o775)
    monkeypatch.setattr(permissions, "_is_private_group", lambda group, owner: False)
    check_refused(run, path, prefix, "its group, number")


def test_a_group_of_one_s_own_is_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt").chmod(0o775)
    permissions.require_exclusive_access(tmp_path / "opt")


def test_a_prefix_that_belongs_to_another(
    run: Run, again: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, prefix, _ = again
    if os.getuid() == 0:
        os.chown(prefix, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    check_refused(run, path, prefix, "another user could change what is installed here: it belongs to ")


def test_a_folder_above_from_which_the_prefix_can_be_taken(run: Run, again: tuple[Path, Path, Path]) -> None:
    path, prefix, _ = again
    prefix.parent.chmod(0o777)
    try:
        check_refused(run, path, prefix, "anybody may write to this folder, and replace the prefix with another folder")
        prefix.parent.chmod(0o1777)  # as /tmp is
        permissions.require_exclusive_access(prefix)
    finally:
        prefix.parent.chmod(0o700)


def test_a_link_on_the_way_is_looked_behind(run: Run, again: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path, _, victim = again
    way = tmp_path / "way"
    way.symlink_to(victim)
    (victim / "opt").mkdir()
    victim.chmod(0o777)
    check_refused(
        run, path, way / "opt", "anybody may write to this folder, and replace the prefix with another folder"
    )
    victim.chmod(0o755)
    permissions.require_exclusive_access(way / "opt")
    if os.getuid() == 0:
        os.chown(way, 65534, 65534, follow_symlinks=False)
        check_refused(run, path, way / "opt", "this is a link of ")


OTHER = 65534
"""Another user, without rights."""
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can make what belongs to another")


@AS_ROOT
def test_a_link_of_one_s_own_that_leads_through_another_s(run: Run, again: tuple[Path, Path, Path]) -> None:
    path, prefix, victim = again
    theirs, way = victim / "theirs", prefix.parent / "way"
    theirs.symlink_to(prefix.parent)
    way.symlink_to(theirs)
    permissions.require_exclusive_access(way / "opt")
    os.chown(theirs, OTHER, OTHER, follow_symlinks=False)
    check_refused(run, path, way / "opt", "this is a link of ")


@AS_ROOT
@pytest.mark.parametrize(("owner", "allowed"), [(0, True), (OTHER, True), (OTHER - 1, False)])
def test_a_user_without_rights_trusts_root_and_itself_alone(owner: int, allowed: bool) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "mine").mkdir()
        (folder / "way").symlink_to("theirs")
        (folder / "theirs").symlink_to("mine")
        for name, user in (("mine", OTHER), ("way", OTHER), ("theirs", owner)):
            os.chown(folder / name, user, user, follow_symlinks=False)
        os.seteuid(OTHER)
        try:
            with nullcontext() if allowed else pytest.raises(UnsafeError, match="this is a link of "):
                permissions.require_exclusive_access(folder / "way" / "opt")
        finally:
            os.seteuid(0)


@AS_ROOT
def test_a_link_of_one_s_own_that_leads_through_a_folder_of_another(run: Run, again: tuple[Path, Path, Path]) -> None:
    path, prefix, victim = again
    (victim / "through").symlink_to(prefix.parent)
    (prefix.parent / "way").symlink_to(victim / "through")
    permissions.require_exclusive_access(prefix.parent / "way" / "opt")
    os.chown(victim, OTHER, OTHER)
    check_refused(run, path, prefix.parent / "way" / "opt", "a link leads through this folder of ")
    permissions.require_exclusive_access(prefix)


def test_links_that_lead_round(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnsafeError, match="lead to no folder"):
        permissions.require_exclusive_access(tmp_path / "a" / "opt")


def test_links_are_followed_as_the_system_does(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "at").symlink_to("real/sub")
    (tmp_path / "up").symlink_to("at/../../real")
    (tmp_path / "real").chmod(0o777)
    with pytest.raises(UnsafeError, match="anybody may write to this folder") as caught:
        permissions.require_exclusive_access(tmp_path / "up" / "sub")
    assert caught.value.where == str(tmp_path / "real")
    (tmp_path / "real").chmod(0o755)
    permissions.require_exclusive_access(tmp_path / "up" / "sub" / "opt")


def test_what_a_service_writes_may_be_its_own(again: tuple[Path, Path, Path]) -> None:
    (again[1] / "var").chmod(0o777)
    permissions.require_exclusive_access(again[1])


def release(prefix: Path) -> Path:
    return next((prefix / "releases").iterdir())


def link_release(prefix: Path, victim: Path) -> None:
    shutil.copytree(release(prefix), victim / "release", symlinks=True)
    there = release(prefix)
    shutil.rmtree(there)
    there.symlink_to(victim / "release")


def replaced(name: str) -> Callable[[Path, Path], None]:
    def plant(prefix: Path, victim: Path) -> None:
        place = prefix / name if not name.startswith("release/") else release(prefix) / name.removeprefix("release/")
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.symlink_to(victim, target_is_directory=True)

    return plant


def in_shared_model(prefix: Path, victim: Path) -> None:
    (next((prefix / "models").iterdir()) / "sub").symlink_to(victim)


def not_a_link(prefix: Path, _victim: Path) -> None:
    (prefix / "current").unlink()
    (prefix / "current").mkdir()


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (replaced("models"), "is a link"),
        (replaced("releases"), "is a link"),
        (replaced("var"), "is a link"),
        (link_release, "this is a link: files would be written where it leads"),
        (replaced("release/assets"), "this is a link: files would be written where it leads"),
        (replaced("release/hub"), "this is a link: files would be written where it leads"),
        (replaced("release/payload"), "this is a link: files would be written where it leads"),
        (replaced("release/.work"), "this is a link: files would be written where it leads"),
        (replaced("release/venv/bin"), "this is a link: files would be written where it leads"),
        (replaced("models/.m-0.partial"), "this is a link: files would be written where it leads"),
        (in_shared_model, "must be a folder, but is a link or a file"),
        (not_a_link, "this must be a link, but is not"),
    ],
    ids=[
        "models", "releases", "var", "a release", "assets", "hub", "payload", ".work", "venv/bin", ".partial",
        "in a shared model", "current",
    ],
)  # fmt: skip
def test_a_planted_link_is_refused_and_nothing_follows_it(
    run: Run, again: tuple[Path, Path, Path], plant: Callable[[Path, Path], None], message: str
) -> None:
    path, prefix, victim = again
    plant(prefix, victim)
    before = {str(one): one.lstat().st_mtime_ns for one in victim.rglob("*")}
    check_refused(run, path, prefix, message)
    assert {str(one): one.lstat().st_mtime_ns for one in victim.rglob("*")} == before


def test_a_lock_file_that_is_a_link_is_not_followed(run: Run, again: tuple[Path, Path, Path]) -> None:
    path, prefix, victim = again
    (prefix / ".lock").unlink(missing_ok=True)
    (prefix / ".lock").symlink_to(victim / "made")
    code, told = run("install", path, "--prefix", prefix)
    assert (code, told["error"]["where"]) == (9, str(prefix))
    assert list(victim.iterdir()) == []


def test_a_file_that_is_a_link_is_replaced_and_not_written_through(run: Run, again: tuple[Path, Path, Path]) -> None:
    path, prefix, victim = again
    (victim / "kept").write_text("mine")
    planted = [next((prefix / "models").iterdir()) / "w.bin", release(prefix) / ".env.offline", prefix / ".current.new"]
    for place in planted:
        place.unlink(missing_ok=True)
        place.symlink_to(victim / "kept")
    code, told = run("install", path, "--prefix", prefix)
    assert code == 0, told
    assert (victim / "kept").read_text() == "mine"
    assert [path.name for path in victim.iterdir()] == ["kept"]
    assert not any(place.is_symlink() for place in planted)


def test_a_pipe_under_the_name_of_a_leftover_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".x.abc.partial")
    disk.write_atomically(tmp_path / "x", b"data")
    assert (tmp_path / "x").read_bytes() == b"data"
    assert stat.S_ISREG((tmp_path / "x").stat().st_mode)


def test_a_link_under_the_name_of_a_leftover_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / ".x.abc.partial").symlink_to(tmp_path / "mine")
    disk.write_atomically(tmp_path / "x", b"data")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_what_is_refused_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt").chmod(0o777)
    with pytest.raises(UnsafeError) as caught:
        permissions.require_exclusive_access(tmp_path / "opt")
    assert "chmod go-w" in caught.value.hint

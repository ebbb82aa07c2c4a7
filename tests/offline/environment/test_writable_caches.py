"""Where libraries write: a folder that this user can write to, and that nobody else can put anything into."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from bundler.format import hashing
from bundler.format.lock import lockfile
from bundler.format.lock.entries import Artifact, Package, PythonEnvironment
from bundler.offline import findings, smoke
from bundler.offline.doctor import release_checks
from bundler.offline.environment import guard
from bundler.offline.prefix.releases import Release
from bundler.offline.rendering import env_file
from tests.support.bundles import make_lock
from tests.support.programs import find_public_python, grant_read_access, make_nobody_command, require_tool

LOCK = make_lock({"bundle.pyz": b"x"})
NOBODY = 65534
TELL = "import json, os; print(json.dumps(dict(os.environ)))"
root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user, and mount a folder")


def with_torch() -> lockfile.Lock:
    path = "wheels/torch-2.13.0-py3-none-any.whl"
    wheel = Artifact(path=path, kind="wheel", size=0, sha256=hashing.compute_sha256(b""), origin="a test")
    package = Package(name="torch", version="2.13.0", wheel=path)
    return lockfile.replace_fields(
        LOCK, python=PythonEnvironment(packages=(package,)), artifacts=(*LOCK.artifacts[:1], wheel)
    )


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """An environment that this user made, and that every other user may only read."""
    release = Release(prefix=tmp_path_factory.mktemp("opt 데모"), name=LOCK.release_name)
    release.path.mkdir(parents=True)
    release.writable_folder.mkdir()
    release.live_path.symlink_to(release.path)
    subprocess.run([find_public_python(), "-I", "-m", "venv", "--without-pip", release.path / "venv"], check=True)
    smoke.write_payload(release)
    guard.write_files(release, LOCK)
    grant_read_access(*release.prefix.rglob("*"))
    return release


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of the user ``nobody`` where root runs this, else of this user."""
    folder = tmp_path / "home"
    folder.mkdir()
    grant_read_access(folder)
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    return folder


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A folder for temporary files that all share, as /tmp is."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    grant_read_access(folder)
    folder.chmod(0o1777)
    return folder


def read_caches(release: Release, variables: Mapping[str, object], *before: object, code: str = TELL) -> dict[str, str]:
    """The variables that a start of Python by another user has."""
    command = [*map(str, before), *make_nobody_command(), str(release.python), "-c", code]
    told = {"PATH": os.environ["PATH"], **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=told, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def get_cache_folder(told: Mapping[str, str]) -> Path:
    """The one folder that all variables lead below."""
    folder = Path(told["HF_HOME"]).parent
    assert env_file.make_cache_variables(folder) == {name: told[name] for name in env_file.CACHES}
    return folder


@root_only
def test_a_user_who_may_only_read_has_a_folder_of_their_own(release: Release, home: Path, tmp_path: Path) -> None:
    assert get_cache_folder(read_caches(release, {"HOME": home})) == home / ".cache" / "airgap-guard"
    assert not list(home.iterdir()), "a start alone writes nothing"
    other = tmp_path / "caches"
    other.mkdir()
    os.chown(other, NOBODY, NOBODY)
    told = read_caches(release, {"HOME": home, "XDG_CACHE_HOME": other})
    assert (get_cache_folder(told), told["XDG_CACHE_HOME"]) == (other / "airgap-guard", str(other))


@root_only
def test_a_volume_of_root_is_used_where_the_user_names_it_and_that_of_another_user_is_not(
    release: Release, temporary: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    told = {"XDG_CACHE_HOME": f"{volume}/", "TMPDIR": temporary}
    assert get_cache_folder(read_caches(release, told)) == volume / "airgap-guard"
    os.chown(volume, 1234, 1234)
    assert get_cache_folder(read_caches(release, told)).parent == temporary
    os.chown(volume, 0, 0)
    (volume / "airgap-guard").mkdir()  # of another user, whose files would be run
    (volume / "airgap-guard").chmod(0o777)
    assert get_cache_folder(read_caches(release, told)).parent == temporary


def test_values_that_the_user_set_win_each_for_itself(release: Release, home: Path) -> None:
    told = read_caches(release, {"HOME": home, "HF_HOME": "/data/hf", "TRITON_CACHE_DIR": "/data/triton"})
    assert (told["HF_HOME"], told["TRITON_CACHE_DIR"]) == ("/data/hf", "/data/triton")
    assert "/data" not in told["TORCH_HOME"]
    assert "HF_MODULES_CACHE" not in told, "libraries look for it below HF_HOME"


@root_only
def test_var_is_for_the_user_that_it_belongs_to_and_for_nobody_else(release: Release, home: Path) -> None:
    os.chown(release.writable_folder, NOBODY, NOBODY)
    try:
        assert get_cache_folder(read_caches(release, {"HOME": home})) == release.writable_folder
        torch = release.writable_folder / "torch"
        torch.mkdir()  # root ran it before the folder was given away
        assert get_cache_folder(read_caches(release, {"HOME": home})) == home / ".cache" / "airgap-guard"
        torch.rmdir()
        release.writable_folder.chmod(0o777)
        assert get_cache_folder(read_caches(release, {"HOME": home})) == home / ".cache" / "airgap-guard"
        told = subprocess.run([release.python, "-c", TELL], check=True, capture_output=True, text=True, env={}).stdout
        assert get_cache_folder(json.loads(told)) != release.writable_folder, (
            "root would run code that another user put there"
        )
    finally:
        os.chown(release.writable_folder, 0, 0)
        release.writable_folder.chmod(0o755)


@root_only
@pytest.mark.parametrize("variables", [{}, {"HOME": "/nonexistent"}, {"HOME": "/root"}, {"HOME": "/"}])
def test_without_a_home_it_is_a_private_folder_and_the_same_one_again(
    release: Release, temporary: Path, variables: dict[str, str]
) -> None:
    first = get_cache_folder(told := read_caches(release, {"TMPDIR": temporary, **variables}))
    assert first.parent == temporary
    assert (first.stat().st_uid, first.stat().st_mode & 0o777) == (NOBODY, 0o700)
    assert told["XDG_CACHE_HOME"] == str(first), "other libraries have a place for their caches too"
    assert get_cache_folder(read_caches(release, {"TMPDIR": temporary, **variables})) == first
    assert list(temporary.iterdir()) == [first]


@root_only
def test_what_others_planted_is_not_used(release: Release, temporary: Path, home: Path) -> None:
    mine = temporary / f"airgap-guard-{NOBODY}-1"
    for name, owner, mode in (("0", 1234, 0o777), ("1", NOBODY, 0o755), ("3", NOBODY, 0o700)):
        folder = temporary / f"airgap-guard-{NOBODY}-{name}"
        folder.mkdir()
        folder.chmod(mode)
        os.chown(folder, owner, owner)
    (temporary / f"airgap-guard-{NOBODY}-2").symlink_to(home)
    assert get_cache_folder(read_caches(release, {"TMPDIR": temporary})) == mine.with_name(f"airgap-guard-{NOBODY}-3")
    mine.with_name(f"airgap-guard-{NOBODY}-3").rmdir()
    made = get_cache_folder(read_caches(release, {"TMPDIR": temporary}))
    assert len(made.name) > len(mine.name) + 10, "nobody can foresee it"
    planted = home / ".cache" / "airgap-guard"
    planted.mkdir(parents=True)  # root's, in the home of another
    assert get_cache_folder(read_caches(release, {"HOME": home, "TMPDIR": temporary})) == made
    shared = temporary / "not sticky"
    shared.mkdir()
    shared.chmod(0o777)
    told = get_cache_folder(read_caches(release, {"TMPDIR": shared, "TEMP": temporary}))
    assert told == made, "in the other, others could put one of theirs in its place"


@root_only
def test_a_child_of_another_user_has_a_folder_of_its_own(release: Release, home: Path, temporary: Path) -> None:
    """A service that root starts, and whose workers are another user's."""
    code = (
        "import os, subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', "
        f"{TELL!r}], user={NOBODY}, group={NOBODY}, extra_groups=[]).returncode)"
    )
    told = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(temporary), "HF_HOME": "/data/hf"}
    done = subprocess.run([release.python, "-c", code], check=True, capture_output=True, text=True, env=told)
    variables = json.loads(done.stdout)
    assert variables["TORCH_HOME"] == str(home / ".cache" / "airgap-guard" / "torch")
    assert variables["HF_HOME"] == "/data/hf"


def read_only_but(folder: Path) -> tuple[object, ...]:
    """What goes before a command to run it on a host where one folder alone can be written to."""
    mounted = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind / && for one in /tmp /var/tmp; do '
        'mount --rbind $one $one && mount -o remount,ro,bind $one || exit 9; done; shift; exec "$@"'
    )
    return (require_tool("unshare"), "-m", "sh", "-c", mounted, "sh", folder)


@root_only
def test_a_volume_for_tmp_that_is_not_sticky_is_better_than_none(release: Release, temporary: Path) -> None:
    """As Kubernetes mounts an emptyDir, with a read-only root file system."""
    temporary.chmod(0o777)
    told = read_caches(release, {"TMPDIR": temporary}, *read_only_but(temporary))
    assert get_cache_folder(told).parent == temporary


@root_only
def test_who_can_write_nowhere_can_import_torch_all_the_same(release: Release, tmp_path: Path) -> None:
    """torch makes its folder when it is imported; one that is there already need not be made."""
    code = f"{TELL}; os.makedirs(os.environ['TORCHINDUCTOR_CACHE_DIR'], exist_ok=True)"
    told = read_caches(release, {}, *read_only_but(tmp_path), code=code)
    assert {told[name] for name in env_file.CACHES} == {str(release.writable_folder)}


@root_only
def test_doctor_says_critical_where_torch_could_not_be_imported(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = with_torch()
    assert [one.level for one in release_checks.check_guard(release, locked)] == ["healthy"]
    values = guard.get_site_packages(release, LOCK) / "_airgap_guard.env"
    whole = values.read_text()
    values.write_text(whole.replace("{cache}", str(release.writable_folder)))  # as versions before this one did
    try:
        (told,) = release_checks.check_guard(release, locked)
        assert release_checks.check_guard(release, LOCK)[0].level == "warning", "without torch nothing fails"
    finally:
        values.write_text(whole)
    assert (told.level, told.hint) == ("critical", findings.REINSTALL_HINT)
    assert "a user with read access alone can't write to the folders of HF_HOME, " in told.message
    assert f"torch can't be imported: it creates {release.writable_folder}/torch/inductor" in told.message
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/dev/null/none")
    (told,) = release_checks.check_guard(release, locked)
    assert (told.level, "this user can't write to the folders of TORCHINDUCTOR_CACHE_DIR" in told.message) == (
        "critical",
        True,
    )
    assert told.hint.startswith("unset them")


def test_doctor_tells_of_a_python_that_other_users_can_not_start(tmp_path: Path) -> None:
    """As pyenv puts it below the home of root, which is closed."""
    release = Release(prefix=tmp_path / "opt", name="1-a")
    interpreter = tmp_path / "home" / "bin" / "python3.11"
    for folder in (release.python.parent, interpreter.parent):
        folder.mkdir(parents=True)
    interpreter.touch()
    interpreter.chmod(0o755)
    release.python.symlink_to(interpreter)
    grant_read_access(interpreter)
    assert release_checks._check_interpreter_access(release) == []
    (tmp_path / "home").chmod(0o700)
    (told,) = release_checks._check_interpreter_access(release)
    assert (told.level, told.where) == ("warning", str(tmp_path / "home"))
    assert told.message == f"other users can't start {interpreter}: they can't read {tmp_path}/home"

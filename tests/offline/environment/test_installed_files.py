"""What RECORDs say is installed, and every way for it not to be so."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from bundler.format.hashing import compute_sha256
from bundler.format.lock import entries, lockfile
from bundler.format.lock.lockfile import Lock
from bundler.offline.environment import installed_files
from bundler.offline.prefix.releases import Release
from bundler.progress import RecordingReporter
from tests.support.bundles import SMALL, make_lock

SITE = "releases/1-a/venv/lib/python3.11/site-packages"


def row(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"


def make_packages_lock(*names: str) -> Lock:
    wheels = {f"wheels/{name}-1-py3-none-any.whl": name.encode() for name in names}
    made = tuple(
        entries.Artifact(path=path, kind="wheel", size=len(data), sha256=compute_sha256(data), origin="a test")
        for path, data in wheels.items()
    )
    of = tuple(entries.Package(name=name, version="1", wheel=path) for name, path in zip(names, wheels, strict=True))
    first = make_lock(SMALL)
    return lockfile.replace_fields(
        first,
        python=entries.PythonEnvironment(packages=of),
        artifacts=(*first.artifacts[:1], *made, *first.artifacts[1:]),
    )


def put(prefix: Path, package: str, files: dict[str, bytes], record: str | None = None) -> Release:
    home = prefix / SITE
    for name, data in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)
    rows = "".join(row(name, data) for name, data in files.items()) if record is None else record
    info = home / f"{package}-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "RECORD").write_text(rows + f"{info.name}/RECORD,,\n" if record is None else record)
    return Release(prefix=prefix, name="1-a")


def list_differences(release: Release, of: Lock) -> list[tuple[str, str]]:
    files, found = installed_files.read_installed_files(release, of)
    found += installed_files.find_altered(files, RecordingReporter())
    return [(fault.path.name, fault.message) for fault in found]


def test_what_is_as_it_was_installed(tmp_path: Path) -> None:
    release = put(tmp_path, "alpha", {"alpha/x.py": b"x", "../../../bin/alpha": b"#!", "alpha/empty.py": b""})
    assert list_differences(release, make_packages_lock("alpha")) == []
    files, _ = installed_files.read_installed_files(release, make_packages_lock("alpha"))
    assert installed_files.find_missing(files) == []
    assert installed_files.find_unknown_files(release, make_packages_lock("alpha"), files) == []
    assert tmp_path / "releases/1-a/venv/bin/alpha" in {file.path for file in files}


def test_each_fault_is_named(tmp_path: Path) -> None:
    release = put(tmp_path, "alpha", {"alpha/a.py": b"aa", "alpha/b.py": b"bb", "alpha/c.py": b"cc"})
    home = tmp_path / SITE / "alpha"
    (home / "a.py").write_bytes(b"aX")
    (home / "b.py").unlink()
    (home / "c.py").write_bytes(b"ccc")
    assert list_differences(release, make_packages_lock("alpha")) == [
        ("a.py", "its content is not what was installed"),
        ("b.py", "is missing"),
        ("c.py", "has 3 bytes and must have 2"),
    ]
    files, _ = installed_files.read_installed_files(release, make_packages_lock("alpha"))
    assert [fault.path.name for fault in installed_files.find_missing(files)] == ["b.py", "c.py"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "can't be read: it is empty"),
        ("../../../../x,,\n", "is outside the environment"),
        ("/etc/passwd,,\n", "is outside the environment"),
        ("alpha/x.py,sha256=AA\n", "is not a row of path, digest and size"),
        ("alpha/x.py,sha256=A,1\n", "can't be read"),
        ("alpha/x.py,,many\n", "is not a row of path, digest and size"),
        ("\0\n", "can't be read"),
    ],
)
def test_a_broken_record(tmp_path: Path, record: str, message: str) -> None:
    release = put(tmp_path, "alpha", {"alpha/x.py": b"x"}, record)
    (name, told), *rest = list_differences(release, make_packages_lock("alpha"))
    assert (name, message in told, rest) == ("RECORD", True, []), told


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    release = put(tmp_path, "alpha", {"alpha/x.py": b"x"})
    assert list_differences(release, make_packages_lock("alpha", "beta")) == [("RECORD", "is missing")]


def test_a_file_that_two_packages_bring_is_right_in_either_form(tmp_path: Path) -> None:
    put(tmp_path, "alpha", {"tests/__init__.py": b"alpha"})
    release = put(tmp_path, "beta", {"tests/__init__.py": b"beta"})
    both = make_packages_lock("alpha", "beta")
    assert list_differences(release, both) == []
    (tmp_path / SITE / "tests" / "__init__.py").write_bytes(b"gamma")
    files, _ = installed_files.read_installed_files(release, both)
    assert [fault.packages for fault in installed_files.find_altered(files, RecordingReporter())] == [("alpha", "beta")]


def test_strangers_are_what_python_could_import(tmp_path: Path) -> None:
    release = put(tmp_path, "alpha", {"alpha/x.py": b"x"})
    for name in ("alpha/__pycache__/x.cpython-311.pyc", "evil.pth", "alpha/y.py"):
        (tmp_path / SITE / name).parent.mkdir(exist_ok=True)
        (tmp_path / SITE / name).write_bytes(b"")
    files, _ = installed_files.read_installed_files(release, make_packages_lock("alpha"))
    assert [path.name for path in installed_files.find_unknown_files(release, make_packages_lock("alpha"), files)] == [
        "y.py",
        "evil.pth",
    ]

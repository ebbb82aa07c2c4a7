"""A built wheel in its one form, and what is no wheel that may travel."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from bundler.errors import UnsafeError
from bundler.online.packages import wheel_rewrite
from tests.support.wheelmaking import make_wheel

NAME = "one-1.0-py3-none-any.whl"


def pack_wheel(folder: Path, members: dict[str, bytes], modes: dict[str, int] | None = None, name: str = NAME) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for member, data in members.items():
            info = zipfile.ZipInfo(member)
            info.external_attr = (modes or {}).get(member, stat.S_IFREG | 0o600) << 16
            made.writestr(info, data)
    return path


def rewrite_wheel(path: Path, tmp_path: Path, platform: str = "") -> zipfile.ZipFile:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return zipfile.ZipFile(wheel_rewrite.rewrite_wheel(path, out, platform))


def test_order_time_and_umask_leave_no_trace(tmp_path: Path) -> None:
    info = "one-1.0.dist-info"
    members = {
        f"{info}/WHEEL": b"Wheel-Version: 1.0\n",
        "one.py": b"",
        f"{info}/METADATA": b"",
        "one-1.0.data/scripts/x": b"",
    }
    program = {"one-1.0.data/scripts/x": stat.S_IFREG | 0o700}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = wheel_rewrite.rewrite_wheel(pack_wheel(tmp_path, members, program), tmp_path / "a")
    other = dict(reversed(members.items()))
    assert (
        wheel_rewrite.rewrite_wheel(pack_wheel(tmp_path, other, program), tmp_path / "b").read_bytes()
        == first.read_bytes()
    )
    with zipfile.ZipFile(first) as made:
        assert {one.filename: one.external_attr >> 16 & 0o777 for one in made.infolist()} == {
            "one-1.0.data/scripts/x": 0o755,
            "one.py": 0o644,
            f"{info}/METADATA": 0o644,
            f"{info}/WHEEL": 0o644,
            f"{info}/RECORD": 0o644,
        }
        assert made.read(f"{info}/RECORD").decode().splitlines()[-1] == f"{info}/RECORD,,"


def test_a_name_and_its_tags_say_the_same(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "one", "1.0", tag="cp311-cp311-linux_x86_64")
    with rewrite_wheel(path, tmp_path, "manylinux_2_17_x86_64") as made:
        text = made.read("one-1.0.dist-info/WHEEL").decode()
        assert Path(str(made.filename)).name == "one-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
    assert [line for line in text.splitlines() if line.startswith("Tag:")] == ["Tag: cp311-cp311-manylinux_2_17_x86_64"]


def test_what_is_no_zip_file(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no")
    with pytest.raises(UnsafeError, match="the built wheel can't be read as a zip file"):
        rewrite_wheel(tmp_path / NAME, tmp_path)


def test_what_has_no_name_of_a_wheel(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match=r"'one\.whl' is not a valid wheel name"):
        rewrite_wheel(pack_wheel(tmp_path, {}, name="one.whl"), tmp_path)


def test_what_has_no_folder_that_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match=r"no \.dist-info/WHEEL, or several"):
        rewrite_wheel(pack_wheel(tmp_path, {"one.py": b""}), tmp_path)


def test_a_member_that_climbs(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match=r"'\.\./one\.py' in the wheel"):
        rewrite_wheel(pack_wheel(tmp_path, {"../one.py": b""}), tmp_path)


def test_a_member_that_is_a_link(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match=r"'one\.py' in the wheel is a link"):
        rewrite_wheel(pack_wheel(tmp_path, {"one.py": b"/etc/passwd"}, {"one.py": stat.S_IFLNK | 0o777}), tmp_path)

"""Wheels that lie, one lie at a time; and real ones, none of which is refused."""

from __future__ import annotations

import os
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bundler.errors import UnsafeError
from bundler.format.scan import strict_zip, wheel_check
from bundler.format.scan.wheel_check import WheelFile
from bundler.progress import RecordingReporter
from tests.conftest import Installed
from tests.wheelmaking import make_wheel

Members = dict[str, bytes]
INFO = "alpha-1.0.dist-info"


def members(folder: Path, files: Mapping[str, bytes] | None = None) -> Members:
    """The files of a good wheel of alpha 1.0, to be spoiled."""
    with zipfile.ZipFile(make_wheel(folder, "alpha", "1.0", files=files)) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def packed(folder: Path, files: Members, name: str = "alpha-1.0-py3-none-any.whl", method: int = 8) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", method) as wheel:
        for member, data in files.items():
            wheel.writestr(zipfile.ZipInfo(member), data, method)
    return path


def told(*paths: Path, package: str = "alpha", contents: bool = True) -> tuple[str, list[str]]:
    """What is said of these wheels: the refusal, or "", and the warnings."""
    report = RecordingReporter()
    wheels = [WheelFile(path=path, name=f"wheels/{path.name}", package=package, version="1.0") for path in paths]
    try:
        wheel_check.check_wheels(wheels, report, compare_contents=contents)
    except UnsafeError as error:
        return f"{error}\n{error.hint}", report.warnings
    return "", report.warnings


def renamed(data: Members, old: str, new: str) -> Members:
    return {new if name == old else name: text for name, text in data.items()}


def test_a_good_wheel_passes(tmp_path: Path) -> None:
    files = {
        "alpha-1.0.data/scripts/alpha": b"#!python\n",
        "alpha-1.0.data/data/share/x": b"x",
        "alpha-1.0.data/headers/a.h": b"",
        "alpha-1.0.data/purelib/alpha_too.py": b"",
        f"{INFO}/entry_points.txt": b"\n    [console_scripts]\n    alpha-run = alpha:main [more]\n\n[others]\na/b\t= alpha:x..y\n",
    }
    assert told(packed(tmp_path, members(tmp_path, files))) == ("", [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../evil.py", "leads out of its folder"),
        ("alpha/../../evil.py", "leads out of its folder"),
        ("/etc/cron.d/evil", "is absolute"),
        ("C:/evil.py", "is absolute"),
        ("alpha\\..\\evil.py", "contains a backslash"),
        ("alpha//evil.py", "has an empty part"),
        ("alpha/\x1b[2Jevil.py", "contains an unprintable character"),
        ("alpha-1.0.data/scripts/../../evil", "leads out of its folder"),
        ("alpha-1.0.data/elsewhere/evil", "does not belong to an environment"),
        ("beta-1.0.data/scripts/evil", "does not belong to an environment"),
        ("alpha-1.0.data/scripts/python3", "would replace bin/python3"),
        ("alpha-1.0.data/data/bin/activate", "would replace bin/activate"),
        ("alpha-1.0.data/data/pyvenv.cfg", "would replace pyvenv.cfg"),
        ("ALPHA/__init__.py", "differs from"),
        ("alpha/caf\u00e9.py", ""),
        ("beta-2.0.dist-info/METADATA", "it has 2 .dist-info folders"),
    ],
)
@pytest.mark.parametrize("contents", [False, True], ids=["far side", "build"])
def test_names_that_would_be_written_elsewhere(tmp_path: Path, name: str, message: str, contents: bool) -> None:
    said, _ = told(packed(tmp_path, members(tmp_path, {name: b"evil"})), contents=contents)
    assert message in said
    assert bool(message) == bool(said)


def test_names_that_differ_only_by_case_are_two_files_on_linux(tmp_path: Path) -> None:
    name, tag = "alpha-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "cp311-cp311-manylinux_2_17_x86_64"
    with zipfile.ZipFile(make_wheel(tmp_path, "alpha", "1.0", tag=tag, files={"ALPHA/__init__.py": b""})) as wheel:
        files = {one: wheel.read(one) for one in wheel.namelist()}
    assert told(packed(tmp_path, files, name)) == ("", [])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.pop(f"{INFO}/RECORD"), "it has no RECORD"),
        (lambda m: m.pop(f"{INFO}/METADATA"), "it has no METADATA"),
        (lambda m: m.update({"extra.py": b""}), "RECORD does not list 'extra.py'"),
        (lambda m: m.pop("alpha/__init__.py"), "RECORD lists 'alpha/__init__.py', which the wheel does not have"),
        (lambda m: m.update({"alpha/__init__.py": b"other"}), "bytes for 'alpha/__init__.py', which has 5"),
        (lambda m: m.update({f"{INFO}/RECORD": b"\xff"}), "RECORD can't be read"),
        (lambda m: m.update({f"{INFO}/RECORD": m[f"{INFO}/RECORD"] * 2}), "RECORD lists a file twice"),
        (
            lambda m: m.update({f"{INFO}/RECORD": m[f"{INFO}/RECORD"].replace(b"sha256=", b"md5=")}),
            "no secure digest of 'alpha-1.0.dist-info/METADATA'",
        ),
        (
            lambda m: m.update({f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: beta\nVersion: 1.0\n"}),
            "METADATA says 'beta' '1.0', its file name alpha 1.0",
        ),
        (
            lambda m: m.update({f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: alpha\nVersion: 2\n"}),
            "METADATA says 'alpha' '2', its file name alpha 1.0",
        ),
        (lambda m: m.update({f"{INFO}/WHEEL": b"Wheel-Version: 9.0\n"}), "WHEEL has an unknown version: '9.0'"),
        (
            lambda m: m.update({f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nTag: cp39-cp39-win_amd64\n"}),
            "WHEEL says cp39-cp39-win_amd64, its file name does not",
        ),
    ],
)
def test_what_a_wheel_says_of_itself(tmp_path: Path, spoil: Callable[[Members], object], message: str) -> None:
    files = members(tmp_path)
    spoil(files)
    said, _ = told(packed(tmp_path, files), contents=False)
    assert message in said


def test_another_package_than_the_lock_s(tmp_path: Path) -> None:
    said, _ = told(packed(tmp_path, members(tmp_path)), package="beta", contents=False)
    assert "the lock says 'beta' '1.0', its file name alpha 1.0" in said


@pytest.mark.parametrize("name", ["../evil", "bin/evil", "python3.11", "a\\b", ""])
def test_entry_points_that_leave_bin(tmp_path: Path, name: str) -> None:
    text = f"[console_scripts]\n{name} = alpha:main\n".encode()
    said, _ = told(packed(tmp_path, members(tmp_path, {f"{INFO}/entry_points.txt": text})), contents=False)
    assert "its entry point" in said


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r", "\ufeff"])
def test_entry_points_whose_lines_end_for_some_readers_alone(tmp_path: Path, end: str) -> None:
    """Where it ends a line, the next group begins there; where it does not, the name below is a program's."""
    text = f"[console_scripts]\nx = alpha:main{end}[others]\npython3 = alpha:main\n".encode()
    said, _ = told(packed(tmp_path, members(tmp_path, {f"{INFO}/entry_points.txt": text})), contents=False)
    assert "a character that some readers take for a line end" in said


@pytest.mark.parametrize(
    "text",
    [
        "[console_scripts]\nx = alpha:main\n  [others]\npython3 = alpha:main\n",
        "[Console_Scripts]\npython3 = alpha:main\n",
        "[DEFAULT]\npython3 = alpha:main\n",
        "[gui_scripts]\r\nbin/x = alpha:main\r\n",
        "[others]\n../../bin/x = alpha:main\n",
        "[others]\nx = ../../alpha:main\n",
        "[others]\nx = alpha:..\\main\n",
    ],
)
def test_entry_points_of_any_group(tmp_path: Path, text: str) -> None:
    files = {f"{INFO}/entry_points.txt": text.encode()}
    said, _ = told(packed(tmp_path, members(tmp_path, files)), contents=False)
    assert "its entry point" in said


def test_entry_points_that_are_no_text(tmp_path: Path) -> None:
    files = {f"{INFO}/entry_points.txt": b"[console_scripts]\nx\xff = alpha:main\n"}
    said, _ = told(packed(tmp_path, members(tmp_path, files)), contents=False)
    assert "its entry points are not UTF-8" in said


@pytest.mark.parametrize("line", ["[x = a:b", "a:/../../evil = alpha:main", "; ../evil = alpha:main"])
def test_entry_points_that_installers_read_in_more_than_one_way(tmp_path: Path, line: str) -> None:
    text = f"[console_scripts]\n{line}\n../../../evil = alpha:main\n".encode()
    said, _ = told(packed(tmp_path, members(tmp_path, {f"{INFO}/entry_points.txt": text})), contents=False)
    assert "its entry point" in said
    plain = f"[console_scripts]\n{line}\n".encode()
    said, _ = told(packed(tmp_path, members(tmp_path, {f"{INFO}/entry_points.txt": plain})), contents=False)
    assert "its entry point" in said


def test_content_that_record_does_not_speak_of_is_seen_where_it_is_built(tmp_path: Path) -> None:
    files = members(tmp_path)
    files["alpha/__init__.py"] = files["alpha/__init__.py"].replace(b"1", b"9")
    path = packed(tmp_path, files)
    assert "'alpha/__init__.py' differs from RECORD" in told(path)[0]


def test_code_that_runs_at_each_start_is_told_and_not_refused(tmp_path: Path) -> None:
    files = {"alpha-hook.pth": b"import os; os.environ\n", "paths.pth": b"alpha/sub\n", "sitecustomize.py": b""}
    said, warned = told(packed(tmp_path, members(tmp_path, files)))
    assert said == ""
    assert len(warned) == 1
    assert "runs code whenever this environment's Python starts: alpha-hook.pth, sitecustomize.py" in warned[0]


def test_the_line_that_each_setuptools_runs_at_start_is_a_note(tmp_path: Path) -> None:
    usual = (
        b"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
        b"enabled and __import__('_distutils_hack').add_shim(); \n"
    )
    for name, line, warned in (
        ("setuptools", usual, False),
        ("setuptools", usual + b"import socket\n", True),
        ("otherpackage", usual, True),
    ):
        wheel = make_wheel(tmp_path, name, "84.0", files={"distutils-precedence.pth": line})
        report = RecordingReporter()
        wheel_check.check_wheels([WheelFile(path=wheel, name=wheel.name)], report, compare_contents=True)
        assert bool(report.warnings) == warned
        assert bool(report.notes) != warned
        assert "distutils-precedence.pth" in [*report.warnings, *report.notes][0]


def test_files_that_two_wheels_write_differently_are_told(tmp_path: Path) -> None:
    first = packed(tmp_path, members(tmp_path, {"tests/__init__.py": b"a", "same.py": b""}))
    second = make_wheel(tmp_path, "beta", "1.0", files={"tests/__init__.py": b"b", "same.py": b""})
    report = RecordingReporter()
    wheel_check.check_wheels([WheelFile(path=p, name=p.name) for p in (first, second)], report, compare_contents=True)
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("1 file with different content in several wheels")
    assert "site-packages/tests/__init__.py in alpha-1.0-py3-none-any.whl and beta-1.0" in report.warnings[0]


def test_all_faults_of_all_wheels_are_named_at_once(tmp_path: Path) -> None:
    first = packed(tmp_path, members(tmp_path, {"../a": b"", "/b": b""}))
    second = tmp_path / "beta-1.0-py3-none-any.whl"
    second.write_bytes(b"no zip")
    said, _ = told(first, second)
    assert all(
        word in said for word in ("'../a' leads out", "'/b' is absolute", "beta-1.0-py3-none-any.whl: it does not")
    )


# The zip itself.


def found(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def local(data: bytes, name: bytes = b"alpha/__init__.py") -> int:
    return data.index(name) - 30


def central(data: bytes, name: bytes = b"alpha/__init__.py") -> int:
    return data.rindex(name) - 46


def moved(data: bytes, by: int) -> bytes:
    """The table of contents said to stand elsewhere."""
    at = len(data) - 6
    return found(data, at, struct.pack("<L", struct.unpack_from("<L", data, at)[0] + by))


def with_link(data: bytes) -> bytes:
    return found(data, central(data) + 38, struct.pack("<L", (stat.S_IFLNK | 0o777) << 16))


def overlapping(data: bytes) -> bytes:
    """Two names for one content, as a zip bomb has them."""
    at = central(data, b"alpha-1.0.dist-info/WHEEL") + 42
    return found(data, at, data[central(data) + 42 : central(data) + 46])


def second_table(data: bytes) -> bytes:
    start = data.index(b"PK\1\2")
    return data + data[start:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: b"", "does not end with the record that ends a zip"),
        (lambda d: d[:-1], "does not end with the record that ends a zip"),
        (lambda d: d + b"\0", "does not end with the record that ends a zip"),
        (second_table, "its central directory is not where its end record says"),
        (lambda d: b"#!/bin/sh\n" + d, "its central directory is not where its end record says"),
        (lambda d: moved(d, 7), "its central directory is not where its end record says"),
        (lambda d: d[:-2] + b"\1\0x", "does not end with the record that ends a zip"),
        (with_link, "is a link, a device"),
        (overlapping, "does not begin where the file before it ends"),
        (lambda d: found(d, local(d) + 30, b"ALPHA"), "is 'ALPHA/__init__.py' in its local header"),
        (lambda d: found(d, local(d) + 8, b"\0"), "has another compression in its local header"),
        (lambda d: found(d, local(d) + 22, b"\xff\xff"), "has other sizes in its local header"),
        (lambda d: found(d, local(d) + 14, b"\0\0\0\0"), "has other sizes in its local header"),
        (
            lambda d: found(found(d, local(d) + 6, b"\1"), central(d) + 8, b"\1"),
            "is encrypted",
        ),
        (
            lambda d: found(found(d, local(d) + 8, b"\x0e"), central(d) + 10, b"\x0e"),
            "uses compression method 14",
        ),
        (lambda d: found(d, len(d) - 10, struct.pack("<L", 1 << 30)), "states 1,073,741,824 bytes"),
        (lambda d: found(d, central(d), b"PKxx"), "its central directory can't be read"),
        (lambda d: found(d, local(d), b"PKxx"), "has no local header"),
        (lambda d: found(found(d, local(d) + 30, b"\0"), central(d) + 46, b"\0"), "has no name"),
    ],
)
def test_a_zip_that_could_be_read_in_two_ways(tmp_path: Path, spoil: Callable[[bytes], bytes], message: str) -> None:
    path = packed(tmp_path, members(tmp_path))
    path.write_bytes(spoil(path.read_bytes()))
    said, _ = told(path, contents=False)
    assert message in said


@pytest.mark.parametrize(
    ("stated", "message"), [(10, "unpacks to more than its stated size"), (10**6, "unpacks to less")]
)
def test_a_file_that_unpacks_to_another_size_than_it_states(tmp_path: Path, stated: int, message: str) -> None:
    path = packed(tmp_path, {"a": bytes(100_000)}, "a.zip")
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 100_000), struct.pack("<L", stated)))
    (entry,) = strict_zip.read_entries(path)
    with pytest.raises(strict_zip.MalformedZipError, match=message):
        strict_zip.read_small(path, entry)


def test_what_stands_behind_packed_content_is_seen(tmp_path: Path) -> None:
    plain = b"x" * 1000
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw = pack.compress(plain) + pack.flush() + b"hidden"
    path = tmp_path / "a"
    path.write_bytes(raw)
    entry = strict_zip.ZipEntry(
        name="a", size=len(plain), compressed_size=len(raw), crc=zlib.crc32(plain), is_deflated=True, content_offset=0
    )
    with pytest.raises(strict_zip.MalformedZipError, match="bytes after its content"):
        strict_zip.read_small(path, entry)


def test_a_wheel_that_claims_to_unpack_to_far_more_than_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_check, "_UNPACK_ALLOWANCE", 1 << 20)
    said, _ = told(packed(tmp_path, members(tmp_path, {"alpha/zeros": bytes(4 << 20)})), contents=False)
    assert "it would unpack to 4,194," in said


def test_no_real_wheel_is_refused(demo: Installed, tmp_path: Path) -> None:
    """Those of the demo, torch among them, and those that CPython brings."""
    import subprocess

    from tests.conftest import tool

    listed = subprocess.run([tool("tar"), "tf", demo.bundle], check=True, capture_output=True, text=True).stdout
    names = [name for name in listed.splitlines() if name.endswith(".whl")]
    subprocess.run([tool("tar"), "xf", demo.bundle, "-C", tmp_path, *names], check=True)
    places = [tmp_path, Path(sys.base_prefix), Path("/usr/share/python-wheels")]
    wheels = sorted(path for place in places if place.is_dir() for path in place.rglob("*.whl"))
    assert len(wheels) >= 45
    for path in wheels:
        if os.access(path, os.R_OK):
            wheel_check.check_wheels([WheelFile(path=path, name=path.name)], RecordingReporter(), compare_contents=True)

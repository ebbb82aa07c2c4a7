"""The table of platforms: each row is complete, and no other module knows a platform."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

import bundler
from bundler.errors import ResolveError
from bundler.format.documents import InvalidValueError
from bundler.format.lock.platforms import PLATFORMS, OperatingSystem, Platform
from bundler.format.lock.target import Target, rank_wheel_tags
from bundler.online.packages import uv_compile
from bundler.online.packages.requirements_txt import get_marker_environment

OWN_WORDS = re.compile(r"win_amd64|apple-darwin|windows-msvc|unknown-linux|manylinux_2_\{|linux/amd64|[\"'/]Scripts\b")


def make_target(name: str, libc: str = "") -> Target:
    return Target(python="3.11", platform=name, libc=libc, accelerator="cpu")


@pytest.mark.parametrize("name", ["amiga-m68k", "linux", ""])
def test_a_platform_without_a_row_is_an_error(name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"must be one of linux-x86_64, .*, not '{name}'"):
        make_target(name)


@pytest.mark.parametrize("kind", [Platform, OperatingSystem])
def test_a_row_can_not_leave_out_a_property(kind: type[Platform | OperatingSystem]) -> None:
    assert {
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(kind)
    } == {True}


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_question_about_a_platform_has_an_answer(name: str) -> None:
    row = PLATFORMS[name]
    libcs = [library and f"{library}-{'2.28' if library == 'glibc' else '1.2'}" for library in row.uv_names]
    assert bool(row.system.default_libc) == all(libcs)
    for libc in libcs:
        target = make_target(name, libc)
        assert rank_wheel_tags(target)
        assert "{" not in uv_compile.get_uv_platform(target)
        assert all(get_marker_environment(target)[key] for key in ("sys_platform", "platform_machine", "os_name"))


@pytest.fixture(scope="module")
def uv_platforms() -> set[str]:
    """The names of platforms that uv lists in its error for an unknown one."""
    command = [uv_compile.find_uv(), "pip", "compile", "--color", "never", "--python-platform", "unknown", "-"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = re.search(r"\[possible values: ([^]]+)\]", result.stderr)
    assert found, f"uv lists no platforms: {result.stderr}"
    return set(found[1].split(", "))


@pytest.mark.parametrize("name", PLATFORMS)
def test_uv_knows_the_platform(name: str, uv_platforms: set[str]) -> None:
    versions = {"glibc": [f"2.{minor}" for minor in uv_compile._GLIBC_MINORS], "musl": ["1.2"], "": [""]}
    libraries = PLATFORMS[name].uv_names
    libcs = [library and f"{library}-{version}" for library in libraries for version in versions[library]]
    names = {uv_compile.get_uv_platform(make_target(name, libc)) for libc in libcs}
    assert names <= uv_platforms, f"uv does not know {', '.join(sorted(names - uv_platforms))}"


def test_a_c_library_for_which_uv_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    row = PLATFORMS["linux-x86_64"]
    glibc_alone = dataclasses.replace(row, uv_names={"glibc": row.uv_names["glibc"]})
    monkeypatch.setattr(Target, "platform_info", glibc_alone)
    with pytest.raises(ResolveError, match=r"for linux-x86_64 with musl-1\.2: uv does not know") as caught:
        uv_compile.get_uv_platform(make_target("linux-x86_64", "musl-1.2"))
    assert caught.value.hint == "set target.libc to a version of glibc"


def test_machines_of_one_system_have_different_names() -> None:
    names = [(row.system.name, machine) for row in PLATFORMS.values() for machine in row.machine_names]
    assert len(set(names)) == len(names)


def test_no_other_module_knows_a_platform() -> None:
    package = Path(bundler.__file__).parent
    table = package / "format" / "lock" / "platforms.py"
    assert OWN_WORDS.search(table.read_text(encoding="utf-8"))
    others = [path for path in package.rglob("*.py") if path != table]
    assert [path for path in others if OWN_WORDS.search(path.read_text(encoding="utf-8"))] == []

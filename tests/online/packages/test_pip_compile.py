"""pip-tools as the resolver: the lock that uv would make, for this machine alone; real pip-compile each time."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib

from bundler.errors import ProgramError
from bundler.format.hashing import compute_file_sha256
from bundler.format.lock.target import detect_target
from bundler.online.packages.resolution import ResolvedWheel
from tests.support.paths import ROOT
from tests.support.resolving import ON_LINUX, Bench, sdist
from tests.support.servers import loopback
from tests.support.wheelmaking import make_wheel

HERE = detect_target()


def both(bench: Bench, *requirements: str, **wanted: Any) -> dict[str, ResolvedWheel]:
    """What uv and pip-tools resolve alike."""
    by_uv = bench.resolve(*requirements, target=HERE, **wanted)
    by_pip = bench.resolve(*requirements, target=HERE, resolver="pip-tools", **wanted)
    assert by_pip == by_uv
    return by_pip


def versions(found: dict[str, ResolvedWheel]) -> dict[str, str]:
    return {name: one.version for name, one in found.items()}


def test_a_set_like_a_real_one(bench: Bench, tmp_path: Path) -> None:
    """Extras, markers, constraints, digests, find-links, several indexes, builds and pre-releases in one request."""
    bench.wheel("app", "1.0", requires=["lib[fast]>=1", "winonly; sys_platform == 'win32'", "setuptools", "pip"])
    bench.wheel("lib", "1.0", requires=["base", "speedup>=1; extra == 'fast'", "slow; extra == 'slow'"])
    for version in ("1.0", "2.0", "3.0"):
        bench.wheel("base", version)
    bench.wheel("speedup", "1.0", tag="py3-none-any")
    bench.wheel("speedup", "1.0", tag=ON_LINUX)
    bench.wheel("winonly", "1.0", tag="cp311-cp311-win_amd64")
    bench.wheel("setuptools", "90.0")
    bench.wheel("pip", "90.0")
    house = bench.link("house", "2.0", requires=["early>=2.0a1"])
    bench.wheel("house", "1.0")
    for version in ("1.0", "2.0a1", "2.0"):
        bench.wheel("early", version)
    bench.wheel("early", "2.1rc1")
    bench.wheel("asked-early", "1.0")
    bench.wheel("asked-early", "2.0b1")
    bench.wheel("only-early", "1.0a1")
    bench.index.offer(make_wheel(bench.made, "other", "1.0"), "/extra")
    bench.config = dataclasses.replace(bench.config, extra_index_urls=(f"{bench.index.url}/extra",))
    (tmp_path / "c.txt").write_text("base<3\n")
    (tmp_path / "r.txt").write_text(
        f"house==2.0 --hash=sha256:{compute_file_sha256(house)[1]}\nother; python_version >= '3.0'\n"
    )
    found = both(
        bench,
        *("app", "asked-early>=2.0b1", "only-early", "gone; sys_platform == 'win32'"),
        requirements_files=(tmp_path / "r.txt",),
        constraints=(tmp_path / "c.txt",),
    )
    assert versions(found) == {
        "app": "1.0",
        "asked-early": "2.0b1",
        "base": "2.0",
        "early": "2.0",
        "house": "2.0",
        "lib": "1.0",
        "only-early": "1.0a1",
        "other": "1.0",
        "pip": "90.0",
        "setuptools": "90.0",
        "speedup": "1.0",
    }
    assert found["speedup"].filename.endswith(f"{ON_LINUX}.whl")
    assert found["house"].publisher == "find-links"
    assert bench.report.notes[-1].startswith("resolved by pip-tools 7.")
    assert bench.report.notes[-1].endswith(": 11 packages")
    assert "resolved by uv 0." in " ".join(bench.report.notes)


def test_a_version_that_an_index_and_find_links_have(bench: Bench) -> None:
    """uv takes the one of the house and pip may look at the other: the lock has what the one that travels needs."""
    bench.wheel("one", "1.0", requires=["of-the-index"])
    bench.link("one", "1.0", requires=["of-the-house"])
    for name in ("of-the-index", "of-the-house"):
        bench.wheel(name, "1.0")
    found = both(bench, "one")
    assert list(found) == ["of-the-house", "one"]
    assert found["one"].publisher == "find-links"


def test_all_pre_releases_where_pip_is_told_so(bench: Bench) -> None:
    for version in ("1.0", "2.0b1"):
        bench.wheel("one", version, requires=["two"])
        bench.wheel("two", version)
    bench.config = dataclasses.replace(bench.config, pre=True)
    assert versions(both(bench, "one")) == {"one": "2.0b1", "two": "2.0b1"}


def test_a_constraint_may_ask_for_a_pre_release(bench: Bench, tmp_path: Path) -> None:
    bench.wheel("one", "1.0", requires=["two"])
    for version in ("1.0", "2.0b1"):
        bench.wheel("two", version)
    (tmp_path / "c.txt").write_text("two>=2.0b1\n")
    assert versions(both(bench, "one", constraints=(tmp_path / "c.txt",)))["two"] == "2.0b1"


def test_what_any_host_of_the_target_needs(bench: Bench) -> None:
    """The target names a minor version of Python alone: a host may have the first patch of it, this one a later."""
    bench.wheel("one", "1.0", requires=[f"backport; python_full_version < '{HERE.python}.1'"])
    bench.wheel("backport", "1.0")
    assert versions(both(bench, "one")) == {"one": "1.0", "backport": "1.0"}


def test_a_wheel_by_its_address(bench: Bench) -> None:
    wheel = make_wheel(bench.made, "one", "1.0", requires=["two"])
    bench.index.files[f"/{wheel.name}"] = wheel.read_bytes()
    bench.wheel("two", "1.0")
    found = both(bench, f"one @ {bench.index.url}/{wheel.name}#sha256={compute_file_sha256(wheel)[1]}")
    assert (found["one"].publisher, list(found)) == ("manifest", ["one", "two"])


def test_builds_of_the_accelerator_come_from_their_index(bench: Bench) -> None:
    bench.wheel("torch", "9.0", tag=ON_LINUX, requires=["cuda-things"])
    bench.wheel("torch", "2.0", tag=ON_LINUX, requires=["cuda-things"])
    bench.wheel("top", "1.0", requires=["torch", "base"])
    bench.wheel("base", "1.0")
    bench.build("torch", "2.0", requires=["base"])
    bench.build("base", "7.0")
    found = both(bench, "top")
    assert versions(found) == {"base": "1.0", "top": "1.0", "torch": "2.0+cpu"}
    assert found["torch"].publisher == bench.pytorch.host


def test_builds_that_pips_configuration_offers(bench: Bench) -> None:
    bench.wheel("torch", "9.0", tag=ON_LINUX)
    bench.link("torch", "2.0+cpu", tag=ON_LINUX)
    bench.link("torch", "2.1+cu126", tag=ON_LINUX)
    assert versions(both(bench, "torch")) == {"torch": "2.0+cpu"}


def test_the_manifests_own_index_with_a_password(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    popen = subprocess.Popen

    def watched(command: list[str], **options: Any) -> Any:
        lines.extend(command)
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    bench.index.logins["/own"] = "user:secret"
    bench.index.offer(make_wheel(bench.made, "mine", "1.0"), "/own")
    bench.wheel("mine", "9.0")
    found = both(bench, "mine", index_assignments=((f"{bench.index.with_login('user:secret')}/own", ("mine",)),))
    assert versions(found) == {"mine": "1.0"}
    assert lines
    assert "secret" not in " ".join([*lines, str(found), str(bench.report)])


def test_an_index_with_a_password(bench: Bench) -> None:
    bench.wheel("one", "1.0")
    bench.index.logins["/simple"] = "user:p@ss"
    error = bench.refused("one", target=HERE, resolver="pip-tools")
    assert "one can't be looked up: the index answers 401" in str(error)
    bench.config = dataclasses.replace(bench.config, index_url=f"{bench.index.with_login('user:p%40ss')}/simple")
    assert versions(both(bench, "one")) == {"one": "1.0"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": "3.9"}, f"the target's Python is 3.9, the builder's is {HERE.python}"),
        (
            {"platform": "windows-x86_64", "libc": ""},
            f"the target's platform is windows-x86_64, the builder's is {HERE.platform}",
        ),
        ({"libc": "glibc-2.17"}, f"the target's C library is glibc-2.17, the builder's is {HERE.libc}"),
    ],
)
def test_another_machine_than_this(bench: Bench, change: dict[str, str], words: str) -> None:
    error = bench.refused("one", target=dataclasses.replace(HERE, **change), resolver="pip-tools")
    assert f"pip-tools resolves only for the machine that it runs on: {words}" in str(error)
    assert error.where == "python.resolver"
    assert "uv resolves for any target" in error.hint
    assert bench.index.seen == []


def test_an_accelerator_that_pip_was_not_told_of(bench: Bench) -> None:
    bench.build("torch", "2.0", "cu126")
    gpu = dataclasses.replace(HERE, accelerator="cu126")
    error = bench.refused("torch", target=gpu, resolver="pip-tools")
    assert "the target's accelerator is cu126, the builder's is cpu" in str(error)
    assert "no index that has torch for cu126" in str(error)
    assert "remove python.resolver" in error.hint
    bench.config = dataclasses.replace(bench.config, extra_index_urls=(f"{bench.pytorch.url}/whl/cu126",))
    assert bench.versions("torch", target=gpu, resolver="pip-tools") == {"torch": "2.0+cu126"}


def test_pip_tools_that_is_not_installed(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(ProgramError, match="pip-tools is not installed") as caught:
        bench.resolve("one", target=HERE, resolver="pip-tools")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["pip-tools"]
    assert f"pip install {shlex.join(extra)}" in caught.value.hint


def test_source_code_alone_is_refused_as_by_uv(bench: Bench) -> None:
    bench.wheel("top", "1.0", requires=["sourced"])
    bench.index.offer(sdist(bench.made, "sourced", "1.0"))
    by_uv = bench.refused("top", target=HERE)
    error = bench.refused("top", target=HERE, resolver="pip-tools")
    assert "there is no wheel of sourced" in str(error)
    assert (str(error), error.hint, error.where) == (str(by_uv), by_uv.hint, by_uv.where)


def test_a_conflict(bench: Bench) -> None:
    bench.wheel("one", "1.0", requires=["base<2"])
    bench.wheel("two", "1.0", requires=["base>=2"])
    for version in ("1.0", "2.0"):
        bench.wheel("base", version)
    assert "no versions fit together" in str(bench.refused("one", "two", target=HERE, resolver="pip-tools"))


def test_an_index_that_fails_for_pip_alone(bench: Bench) -> None:
    """The words are pip's, and the way out is the other resolver."""
    bench.wheel("one", "1.0")
    bench.index.faults["/simple/one/"] = [loopback.status(404)]
    error = bench.refused("one", target=HERE, resolver="pip-tools")
    assert "pip-tools finds no versions that fit together" in str(error)
    assert "No matching distribution found for one" in str(error)
    assert "Traceback" not in str(error)
    assert "uv finds a solution" in error.hint

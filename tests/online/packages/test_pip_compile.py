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
from tests.support.resolving import ON_LINUX, ResolverHarness, make_sdist
from tests.support.servers import loopback
from tests.support.wheelmaking import make_wheel

HERE = detect_target()


def resolve_by_both(bench: ResolverHarness, *requirements: str, **wanted: Any) -> dict[str, ResolvedWheel]:
    """What uv and pip-tools resolve alike."""
    by_uv = bench.resolve(*requirements, target=HERE, **wanted)
    by_pip = bench.resolve(*requirements, target=HERE, resolver="pip-tools", **wanted)
    assert by_pip == by_uv
    return by_pip


def versions(found: dict[str, ResolvedWheel]) -> dict[str, str]:
    return {name: one.version for name, one in found.items()}


def test_a_set_like_a_real_one(harness: ResolverHarness, tmp_path: Path) -> None:
    """Extras, markers, constraints, digests, find-links, several indexes, builds and pre-releases in one request."""
    harness.add_to_index(
        "app", "1.0", requires=["lib[fast]>=1", "winonly; sys_platform == 'win32'", "setuptools", "pip"]
    )
    harness.add_to_index("lib", "1.0", requires=["base", "speedup>=1; extra == 'fast'", "slow; extra == 'slow'"])
    for version in ("1.0", "2.0", "3.0"):
        harness.add_to_index("base", version)
    harness.add_to_index("speedup", "1.0", tag="py3-none-any")
    harness.add_to_index("speedup", "1.0", tag=ON_LINUX)
    harness.add_to_index("winonly", "1.0", tag="cp311-cp311-win_amd64")
    harness.add_to_index("setuptools", "90.0")
    harness.add_to_index("pip", "90.0")
    house = harness.add_to_find_links("house", "2.0", requires=["early>=2.0a1"])
    harness.add_to_index("house", "1.0")
    for version in ("1.0", "2.0a1", "2.0"):
        harness.add_to_index("early", version)
    harness.add_to_index("early", "2.1rc1")
    harness.add_to_index("asked-early", "1.0")
    harness.add_to_index("asked-early", "2.0b1")
    harness.add_to_index("only-early", "1.0a1")
    harness.index.offer(make_wheel(harness.wheel_folder, "other", "1.0"), "/extra")
    harness.config = dataclasses.replace(harness.config, extra_index_urls=(f"{harness.index.url}/extra",))
    (tmp_path / "c.txt").write_text("base<3\n")
    (tmp_path / "r.txt").write_text(
        f"house==2.0 --hash=sha256:{compute_file_sha256(house)[1]}\nother; python_version >= '3.0'\n"
    )
    found = resolve_by_both(
        harness,
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
    assert harness.reporter.notes[-1].startswith("resolved by pip-tools 7.")
    assert harness.reporter.notes[-1].endswith(": 11 packages")
    assert "resolved by uv 0." in " ".join(harness.reporter.notes)


def test_a_version_that_an_index_and_find_links_have(harness: ResolverHarness) -> None:
    """uv takes the one of the house and pip may look at the other: the lock has what the one that travels needs."""
    harness.add_to_index("one", "1.0", requires=["of-the-index"])
    harness.add_to_find_links("one", "1.0", requires=["of-the-house"])
    for name in ("of-the-index", "of-the-house"):
        harness.add_to_index(name, "1.0")
    found = resolve_by_both(harness, "one")
    assert list(found) == ["of-the-house", "one"]
    assert found["one"].publisher == "find-links"


def test_all_pre_releases_where_pip_is_told_so(harness: ResolverHarness) -> None:
    for version in ("1.0", "2.0b1"):
        harness.add_to_index("one", version, requires=["two"])
        harness.add_to_index("two", version)
    harness.config = dataclasses.replace(harness.config, pre=True)
    assert versions(resolve_by_both(harness, "one")) == {"one": "2.0b1", "two": "2.0b1"}


def test_a_constraint_may_ask_for_a_pre_release(harness: ResolverHarness, tmp_path: Path) -> None:
    harness.add_to_index("one", "1.0", requires=["two"])
    for version in ("1.0", "2.0b1"):
        harness.add_to_index("two", version)
    (tmp_path / "c.txt").write_text("two>=2.0b1\n")
    assert versions(resolve_by_both(harness, "one", constraints=(tmp_path / "c.txt",)))["two"] == "2.0b1"


def test_what_any_host_of_the_target_needs(harness: ResolverHarness) -> None:
    """The target names a minor version of Python alone: a host may have the first patch of it, this one a later."""
    harness.add_to_index("one", "1.0", requires=[f"backport; python_full_version < '{HERE.python}.1'"])
    harness.add_to_index("backport", "1.0")
    assert versions(resolve_by_both(harness, "one")) == {"one": "1.0", "backport": "1.0"}


def test_a_wheel_by_its_address(harness: ResolverHarness) -> None:
    wheel = make_wheel(harness.wheel_folder, "one", "1.0", requires=["two"])
    harness.index.files[f"/{wheel.name}"] = wheel.read_bytes()
    harness.add_to_index("two", "1.0")
    found = resolve_by_both(harness, f"one @ {harness.index.url}/{wheel.name}#sha256={compute_file_sha256(wheel)[1]}")
    assert (found["one"].publisher, list(found)) == ("manifest", ["one", "two"])


def test_builds_of_the_accelerator_come_from_their_index(harness: ResolverHarness) -> None:
    harness.add_to_index("torch", "9.0", tag=ON_LINUX, requires=["cuda-things"])
    harness.add_to_index("torch", "2.0", tag=ON_LINUX, requires=["cuda-things"])
    harness.add_to_index("top", "1.0", requires=["torch", "base"])
    harness.add_to_index("base", "1.0")
    harness.add_pytorch_build("torch", "2.0", requires=["base"])
    harness.add_pytorch_build("base", "7.0")
    found = resolve_by_both(harness, "top")
    assert versions(found) == {"base": "1.0", "top": "1.0", "torch": "2.0+cpu"}
    assert found["torch"].publisher == harness.pytorch.host


def test_builds_that_pips_configuration_offers(harness: ResolverHarness) -> None:
    harness.add_to_index("torch", "9.0", tag=ON_LINUX)
    harness.add_to_find_links("torch", "2.0+cpu", tag=ON_LINUX)
    harness.add_to_find_links("torch", "2.1+cu126", tag=ON_LINUX)
    assert versions(resolve_by_both(harness, "torch")) == {"torch": "2.0+cpu"}


def test_the_manifests_own_index_with_a_password(harness: ResolverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    popen = subprocess.Popen

    def watched(command: list[str], **options: Any) -> Any:
        lines.extend(command)
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    harness.index.logins["/own"] = "user:secret"
    harness.index.offer(make_wheel(harness.wheel_folder, "mine", "1.0"), "/own")
    harness.add_to_index("mine", "9.0")
    found = resolve_by_both(
        harness, "mine", index_assignments=((f"{harness.index.with_login('user:secret')}/own", ("mine",)),)
    )
    assert versions(found) == {"mine": "1.0"}
    assert lines
    assert "secret" not in " ".join([*lines, str(found), str(harness.reporter)])


def test_an_index_with_a_password(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0")
    harness.index.logins["/simple"] = "user:p@ss"
    error = harness.get_resolve_error("one", target=HERE, resolver="pip-tools")
    assert "one can't be looked up: the index answers 401" in str(error)
    harness.config = dataclasses.replace(harness.config, index_url=f"{harness.index.with_login('user:p%40ss')}/simple")
    assert versions(resolve_by_both(harness, "one")) == {"one": "1.0"}


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
def test_another_machine_than_this(harness: ResolverHarness, change: dict[str, str], words: str) -> None:
    error = harness.get_resolve_error("one", target=dataclasses.replace(HERE, **change), resolver="pip-tools")
    assert f"pip-tools resolves only for the machine that it runs on: {words}" in str(error)
    assert error.where == "python.resolver"
    assert "uv resolves for any target" in error.hint
    assert harness.index.seen == []


def test_an_accelerator_that_pip_was_not_told_of(harness: ResolverHarness) -> None:
    harness.add_pytorch_build("torch", "2.0", "cu126")
    gpu = dataclasses.replace(HERE, accelerator="cu126")
    error = harness.get_resolve_error("torch", target=gpu, resolver="pip-tools")
    assert "the target's accelerator is cu126, the builder's is cpu" in str(error)
    assert "no index that has torch for cu126" in str(error)
    assert "remove python.resolver" in error.hint
    harness.config = dataclasses.replace(harness.config, extra_index_urls=(f"{harness.pytorch.url}/whl/cu126",))
    assert harness.resolve_versions("torch", target=gpu, resolver="pip-tools") == {"torch": "2.0+cu126"}


def test_pip_tools_that_is_not_installed(
    harness: ResolverHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(ProgramError, match="pip-tools is not installed") as caught:
        harness.resolve("one", target=HERE, resolver="pip-tools")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["pip-tools"]
    assert f"pip install {shlex.join(extra)}" in caught.value.hint


def test_source_code_alone_is_refused_as_by_uv(harness: ResolverHarness) -> None:
    harness.add_to_index("top", "1.0", requires=["sourced"])
    harness.index.offer(make_sdist(harness.wheel_folder, "sourced", "1.0"))
    by_uv = harness.get_resolve_error("top", target=HERE)
    error = harness.get_resolve_error("top", target=HERE, resolver="pip-tools")
    assert "there is no wheel of sourced" in str(error)
    assert (str(error), error.hint, error.where) == (str(by_uv), by_uv.hint, by_uv.where)


def test_a_conflict(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0", requires=["base<2"])
    harness.add_to_index("two", "1.0", requires=["base>=2"])
    for version in ("1.0", "2.0"):
        harness.add_to_index("base", version)
    assert "no versions fit together" in str(harness.get_resolve_error("one", "two", target=HERE, resolver="pip-tools"))


def test_an_index_that_fails_for_pip_alone(harness: ResolverHarness) -> None:
    """The words are pip's, and the way out is the other resolver."""
    harness.add_to_index("one", "1.0")
    harness.index.faults["/simple/one/"] = [loopback.status(404)]
    error = harness.get_resolve_error("one", target=HERE, resolver="pip-tools")
    assert "pip-tools finds no versions that fit together" in str(error)
    assert "No matching distribution found for one" in str(error)
    assert "Traceback" not in str(error)
    assert "uv finds a solution" in error.hint

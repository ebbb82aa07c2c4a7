"""The right wheels for a machine that is not this one, from real uv and indexes on this machine alone."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler import process
from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.format.hashing import compute_file_sha256
from bundler.format.lock.target import Target
from bundler.online.packages import resolution, simple_index, uv_compile
from bundler.online.packages.resolution import ResolvedWheel
from tests.support.resolving import LINUX, MACOS, ON_LINUX, WINDOWS, ResolverHarness, make_sdist
from tests.support.wheelmaking import make_wheel


def test_a_package_and_what_it_needs(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0", requires=["two>=2"])
    wheel = harness.add_to_index("two", "2.0")
    harness.add_to_index("two", "1.0")
    found = harness.resolve("one")
    assert {name: one.version for name, one in found.items()} == {"one": "1.0", "two": "2.0"}
    size, sha256 = compute_file_sha256(wheel)
    assert found["two"] == ResolvedWheel(
        name="two",
        version="2.0",
        filename=wheel.name,
        origin=f"{harness.index.url}/simple/files/{wheel.name}",
        size=size,
        sha256=sha256,
        publisher=harness.index.host,
        is_digest_published=True,
    )
    assert harness.pytorch.seen == []


def test_nothing_asked_is_nothing_found(harness: ResolverHarness) -> None:
    assert harness.resolve() == {}
    assert harness.index.seen == []


def test_files_and_constraints(harness: ResolverHarness, tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        harness.add_to_index("one", version, requires=["two"])
        harness.add_to_index("two", version)
    (tmp_path / "r.txt").write_text("one<3\n")
    (tmp_path / "c.txt").write_text("two<2\n")
    found = harness.resolve_versions(requirements_files=(tmp_path / "r.txt",), constraints=(tmp_path / "c.txt",))
    assert found == {"one": "2.0", "two": "1.0"}


def test_constraints_of_pips_configuration_count(harness: ResolverHarness, tmp_path: Path) -> None:
    harness.add_to_index("one", "1.0")
    harness.add_to_index("one", "2.0")
    (tmp_path / "c.txt").write_text("one<2\n")
    harness.config = dataclasses.replace(harness.config, constraints=((tmp_path / "c.txt").as_uri(),))
    assert harness.resolve_versions("one") == {"one": "1.0"}


def test_markers_are_evaluated_on_the_target(harness: ResolverHarness) -> None:
    harness.add_to_index("top", "1.0", requires=["winonly; sys_platform == 'win32'", "new; python_version >= '3.12'"])
    harness.add_to_index("winonly", "1.0", tag="cp311-cp311-win_amd64")
    harness.add_to_index("new", "1.0")
    assert harness.resolve_versions("top") == {"top": "1.0"}
    assert harness.resolve_versions("top", target=WINDOWS) == {"top": "1.0", "winonly": "1.0"}
    assert harness.resolve_versions("top", target=dataclasses.replace(LINUX, python="3.12")) == {
        "top": "1.0",
        "new": "1.0",
    }


def test_the_best_wheel_is_taken(harness: ResolverHarness) -> None:
    for tag in ("py3-none-any", "cp311-cp311-manylinux_2_17_x86_64", ON_LINUX, "cp311-cp311-manylinux_2_39_x86_64"):
        harness.add_to_index("one", "1.0", tag=tag)
    harness.add_to_index("one", "1.0", tag="cp311-cp311-macosx_14_0_arm64")
    harness.add_to_index("one", "1.0", tag="cp311-cp311-win_amd64")
    assert harness.resolve("one")["one"].filename.endswith(f"{ON_LINUX}.whl")
    for target, tag in ((MACOS, "macosx_14_0_arm64"), (WINDOWS, "win_amd64")):
        assert harness.resolve("one", target=target)["one"].filename.endswith(f"{tag}.whl")
    musl = dataclasses.replace(LINUX, libc="musl-1.2")
    assert harness.resolve("one", target=musl)["one"].filename.endswith("none-any.whl")


def test_of_equal_wheels_the_later_build(harness: ResolverHarness) -> None:
    for build in ("1", "2", "10"):
        harness.index.offer(make_wheel(harness.wheel_folder, "one", "1.0", tag=f"{build}-{ON_LINUX}"))
    assert harness.resolve("one")["one"].filename.startswith("one-1.0-10-")


@pytest.mark.parametrize(
    ("platform", "libc", "name"),
    [
        ("linux-x86_64", "glibc-2.17", "x86_64-manylinux_2_17"),
        ("linux-x86_64", "glibc-2.30", "x86_64-manylinux_2_28"),
        ("linux-aarch64", "glibc-2.31", "aarch64-manylinux_2_31"),
        ("linux-x86_64", "glibc-2.99", "x86_64-manylinux_2_40"),
        ("linux-aarch64", "musl-1.2", "aarch64-unknown-linux-musl"),
        ("macos-x86_64", "", "x86_64-apple-darwin"),
        ("macos-arm64", "", "aarch64-apple-darwin"),
        ("windows-x86_64", "", "x86_64-pc-windows-msvc"),
    ],
)
def test_what_uv_calls_a_platform(platform: str, libc: str, name: str) -> None:
    assert uv_compile.get_uv_platform(Target(python="3.11", platform=platform, libc=libc, accelerator="cpu")) == name


def test_a_c_library_that_is_too_old(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0")
    error = harness.get_resolve_error("one", target=dataclasses.replace(LINUX, libc="glibc-2.12"))
    assert "can't be resolved for glibc-2.12" in str(error)
    assert "2.17" in error.hint


def test_find_links_with_a_space_and_a_comma(harness: ResolverHarness) -> None:
    wheel = harness.add_to_find_links("one", "1.0")
    harness.config = dataclasses.replace(harness.config, no_index=True)
    found = harness.resolve("one")["one"]
    assert (found.publisher, found.is_digest_published) == ("find-links", False)
    assert (found.size, found.sha256) == compute_file_sha256(wheel)
    assert harness.index.seen == []


def test_find_links_pages(harness: ResolverHarness, tmp_path: Path) -> None:
    one, two = (make_wheel(tmp_path / "pages", name, "1.0") for name in ("one", "two"))
    (tmp_path / "pages" / "links.html").write_text(f'<a href="{one.name}">{one.name}</a>')
    harness.index.files["/links/"] = f'<a href="/{two.name}#sha256={compute_file_sha256(two)[1]}">two</a>'.encode()
    harness.index.files[f"/{two.name}"] = two.read_bytes()
    links = ((tmp_path / "pages" / "links.html").as_uri(), f"{harness.index.url}/links/")
    harness.config = dataclasses.replace(harness.config, find_links=links)
    found = harness.resolve("one", "two")
    assert (found["one"].publisher, found["one"].is_digest_published) == ("find-links", False)
    assert (found["two"].publisher, found["two"].is_digest_published) == (harness.index.host, True)


def test_a_folder_laid_out_as_an_index(harness: ResolverHarness, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "files", "one", "1.0")
    page = tmp_path / "simple" / "one" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../files/{wheel.name}#sha256={compute_file_sha256(wheel)[1]}">{wheel.name}</a>')
    harness.config = dataclasses.replace(harness.config, extra_index_urls=((tmp_path / "simple").as_uri(),))
    found = harness.resolve("one")["one"]
    assert (found.publisher, found.is_digest_published, found.origin) == ("local index", True, wheel.as_uri())


def test_a_files_name_has_no_folders_in_it() -> None:
    assert (
        simple_index.get_filename("https://host.test/a/..%2F..%2Fone-1.0%2Bcpu-py3-none-any.whl?x#y")
        == "one-1.0+cpu-py3-none-any.whl"
    )


def test_the_newest_of_all_indexes(harness: ResolverHarness) -> None:
    harness.index.offer(make_wheel(harness.wheel_folder, "one", "1.0"), "/extra")
    harness.config = dataclasses.replace(harness.config, extra_index_urls=(f"{harness.index.url}/extra",))
    harness.add_to_index("one", "2.0")
    assert harness.resolve_versions("one") == {"one": "2.0"}


def test_a_version_whose_wheels_are_on_several_indexes(harness: ResolverHarness) -> None:
    harness.index.offer(make_wheel(harness.wheel_folder, "one", "1.0", tag="cp311-cp311-win_amd64"), "/extra")
    harness.config = dataclasses.replace(harness.config, extra_index_urls=(f"{harness.index.url}/extra",))
    harness.add_to_index("one", "1.0", tag=ON_LINUX)
    assert harness.resolve("one")["one"].filename.endswith(f"{ON_LINUX}.whl")


def test_a_version_that_is_source_code_on_every_index(harness: ResolverHarness) -> None:
    harness.index.offer(make_sdist(harness.wheel_folder, "one", "2.0"))
    harness.index.offer(make_wheel(harness.wheel_folder, "one", "1.0"), "/extra")
    harness.config = dataclasses.replace(harness.config, extra_index_urls=(f"{harness.index.url}/extra",))
    assert "there is no wheel of one" in str(harness.get_resolve_error("one==2.0"))


def test_what_has_no_digest_is_hashed_here(harness: ResolverHarness) -> None:
    wheel = make_wheel(harness.wheel_folder, "one", "1.0")
    harness.index.offer(wheel, digest="")
    found = harness.resolve("one")["one"]
    assert ((found.size, found.sha256), found.is_digest_published) == (compute_file_sha256(wheel), False)


def test_another_digest_than_sha256_is_not_enough(harness: ResolverHarness) -> None:
    wheel = make_wheel(harness.wheel_folder, "one", "1.0")
    harness.index.offer(wheel, digest="sha512")
    page = "/simple/one/"
    harness.index.files[page] = harness.index.files[page].replace(compute_file_sha256(wheel)[1].encode(), b"0" * 128)
    found = harness.resolve("one")["one"]
    assert ((found.size, found.sha256), found.is_digest_published) == (compute_file_sha256(wheel), False)


def test_a_digest_that_is_demanded(harness: ResolverHarness, tmp_path: Path) -> None:
    wheel = harness.add_to_index("one", "1.0")
    path = tmp_path / "r.txt"
    path.write_text(f"one==1.0 --hash=sha256:{compute_file_sha256(wheel)[1]}\n")
    assert harness.resolve_versions(requirements_files=(path,)) == {"one": "1.0"}
    path.write_text(f"one==1.0 --hash=sha256:{'0' * 64}\n")
    assert "no wheel of one 1.0 has an allowed digest" in str(harness.get_resolve_error(requirements_files=(path,)))


def test_a_wheel_by_its_address(harness: ResolverHarness) -> None:
    wheel = make_wheel(harness.wheel_folder, "one", "1.0", requires=["two"])
    harness.index.files[f"/{wheel.name}"] = wheel.read_bytes()
    harness.add_to_index("two", "1.0")
    found = harness.resolve(f"one @ {harness.index.url}/{wheel.name}#sha256={compute_file_sha256(wheel)[1]}")
    assert list(found) == ["one", "two"]
    assert (found["one"].publisher, found["one"].is_digest_published) == ("manifest", True)
    assert not harness.resolve(f"one @ {harness.index.url}/{wheel.name}")["one"].is_digest_published
    local = harness.resolve(str(wheel))["one"]
    assert (local.origin, local.sha256, local.is_digest_published) == (
        wheel.as_uri(),
        compute_file_sha256(wheel)[1],
        False,
    )


def test_a_wheel_by_its_address_must_fit_too(harness: ResolverHarness) -> None:
    wheel = make_wheel(harness.wheel_folder, "one", "1.0", tag="cp311-cp311-win_amd64")
    assert "there is no wheel of one 1.0 for linux-x86_64-glibc-2.28-py3.11-cpu" in str(
        harness.get_resolve_error(str(wheel))
    )


def test_a_warning_of_uv_is_passed_on(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0")
    assert harness.resolve_versions("one[extra]") == {"one": "1.0"}
    assert "does not have an extra named `extra`" in harness.reporter.warnings[0]


def test_wheels_are_brought_home_once(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0", requires=["two"])
    harness.add_to_find_links("two", "1.0")
    found = list(harness.resolve("one").values())
    resolution.fetch_wheels(found, harness.cache, harness.config, harness.reporter)
    for wheel in found:
        assert compute_file_sha256(harness.cache.require(wheel.sha256)) == (wheel.size, wheel.sha256)
    harness.index.seen.clear()
    resolution.fetch_wheels(found, harness.cache, harness.config, harness.reporter)
    assert harness.index.seen == []


def test_a_wheel_that_changed_meanwhile(harness: ResolverHarness) -> None:
    path = harness.add_to_index("one", "1.0")
    found = harness.resolve("one")["one"]
    harness.index.files[f"/simple/files/{path.name}"] = b"x" * found.size
    with pytest.raises(IntegrityError, match=found.sha256):
        resolution.fetch_wheels([found], harness.cache, harness.config, harness.reporter)


def test_a_wheel_that_is_gone(harness: ResolverHarness) -> None:
    found = harness.add_to_find_links("one", "1.0")
    wheel = harness.resolve("one")["one"]
    found.unlink()
    with pytest.raises(FetchError, match="No such file"):
        resolution.fetch_wheels([wheel], harness.cache, harness.config, harness.reporter)


def test_the_tools_of_the_far_side(harness: ResolverHarness) -> None:
    harness.add_to_index("pip", "26.0")
    harness.add_to_index("uv", "0.13", tag="py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64")
    harness.add_to_index("uv", "0.13", tag="py3-none-win_amd64")
    found = resolution.resolve_without_dependencies(
        ["pip", "uv"], WINDOWS, harness.config, harness.cache, harness.reporter
    )
    assert [wheel.filename for wheel in found] == ["pip-26.0-py3-none-any.whl", "uv-0.13-py3-none-win_amd64.whl"]


def test_a_wheel_that_carries_something(harness: ResolverHarness) -> None:
    harness.add_to_index("carrier", "1.0", requires=["torch"])
    assert (
        resolution.resolve_without_dependencies(["carrier>=1"], LINUX, harness.config, harness.cache, harness.reporter)[
            0
        ].version
        == "1.0"
    )
    with pytest.raises(ResolveError, match="not every requirement applies"):
        resolution.resolve_without_dependencies(
            ["carrier; sys_platform == 'win32'"], LINUX, harness.config, harness.cache, harness.reporter
        )


def test_what_uv_was_told_by_itself_does_not_count(harness: ResolverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.add_to_index("one", "1.0")
    monkeypatch.setenv("UV_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert harness.resolve_versions("one") == {"one": "1.0"}


@pytest.fixture
def installed(harness: ResolverHarness, tmp_path: Path) -> Callable[[list[ResolvedWheel]], str]:
    """Installs wheels from the shelf with real pip and says what it did."""

    def install(found: list[ResolvedWheel]) -> str:
        folder = tmp_path / "carried"
        folder.mkdir()
        for wheel in found:
            os.link(harness.cache.require(wheel.sha256), folder / wheel.filename)
        pip: list[str | Path] = [sys.executable, "-I", "-m", "pip", "install", "--no-index", "--find-links", folder]
        names = [f"{wheel.name}=={wheel.version}" for wheel in found]
        return process.run([*pip, "--target", tmp_path / "site", "--no-cache-dir", *names]).stdout

    return install


def test_pip_installs_what_was_brought(
    harness: ResolverHarness, installed: Callable[[list[ResolvedWheel]], str]
) -> None:
    harness.add_to_index("one", "1.0", requires=["two-parts"])
    harness.add_to_index("two-parts", "1.0")
    found = list(harness.resolve("one").values())
    resolution.fetch_wheels(found, harness.cache, harness.config, harness.reporter)
    assert "Successfully installed one-1.0 two-parts-1.0" in installed(found)

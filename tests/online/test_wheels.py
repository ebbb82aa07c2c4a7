"""The right wheels for a machine that is not this one, from real uv and indexes on this machine alone."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler import process
from bundler.bundle.hashing import digest_of_file
from bundler.bundle.target import Target
from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.online import pages, pipconfig, uvlock, wheels
from bundler.online.answers import Patience
from bundler.online.pages import Offer, Pages
from bundler.online.pipconfig import PipConfig
from bundler.online.store import Store
from bundler.online.wheels import ResolvedWheel, Wanted
from bundler.progress import Collected
from tests.online import loopback
from tests.online.certificates import make_certificates
from tests.online.loopback import Loopback, serving
from tests.wheelmaking import make_wheel

LINUX = Target(python="3.11", platform="linux-x86_64", libc="glibc-2.28", accelerator="cpu")
WINDOWS = Target(python="3.11", platform="windows-x86_64", libc="", accelerator="cpu")
MACOS = Target(python="3.11", platform="macos-arm64", libc="", accelerator="cpu")
ON_LINUX = "cp311-cp311-manylinux_2_28_x86_64"


@dataclasses.dataclass
class Bench:
    """Everything that resolving takes, with an index of each kind."""

    made: Path
    store: Store
    index: Loopback
    pytorch: Loopback
    report: Collected
    config: PipConfig

    @property
    def links(self) -> Path:
        return self.made.parent / "find links, here"

    def wheel(self, name: str, version: str, **options: Any) -> Path:
        """On the index."""
        path = make_wheel(self.made, name, version, **options)
        self.index.offer(path)
        return path

    def link(self, name: str, version: str, **options: Any) -> Path:
        """In the find-links folder."""
        return make_wheel(self.links, name, version, **options)

    def build(self, name: str, version: str, accelerator: str = "cpu", **options: Any) -> None:
        """On PyTorch's index."""
        wheel = make_wheel(self.made / accelerator, name, f"{version}+{accelerator}", **{"tag": ON_LINUX} | options)
        self.pytorch.offer(wheel, f"/whl/{accelerator}")

    def resolve(self, *requirements: str, target: Target = LINUX, **wanted: Any) -> dict[str, ResolvedWheel]:
        found = wheels.resolve(
            Wanted(requirements=requirements, **wanted),
            target,
            self.config,
            self.store,
            self.report,
            pytorch=f"{self.pytorch.url}/whl",
        )
        assert [wheel.name for wheel in found] == sorted(wheel.name for wheel in found)
        return {wheel.name: wheel for wheel in found}

    def versions(self, *requirements: str, target: Target = LINUX, **wanted: Any) -> dict[str, str]:
        return {name: wheel.version for name, wheel in self.resolve(*requirements, target=target, **wanted).items()}

    def refused(self, *requirements: str, target: Target = LINUX, **wanted: Any) -> ResolveError:
        with pytest.raises(ResolveError) as caught:
            self.resolve(*requirements, target=target, **wanted)
        return caught.value


@pytest.fixture
def bench(tmp_path: Path, server: Loopback, other_server: Loopback, store: Store) -> Bench:
    config = PipConfig(
        index_url=f"{server.url}/simple", find_links=((tmp_path / "find links, here").as_uri(),), retries=0, timeout=10
    )
    return Bench(
        made=tmp_path / "made", store=store, index=server, pytorch=other_server, report=Collected(), config=config
    )


def test_a_package_and_what_it_needs(bench: Bench) -> None:
    bench.wheel("one", "1.0", requires=["two>=2"])
    wheel = bench.wheel("two", "2.0")
    bench.wheel("two", "1.0")
    found = bench.resolve("one")
    assert {name: one.version for name, one in found.items()} == {"one": "1.0", "two": "2.0"}
    size, sha256 = digest_of_file(wheel)
    assert found["two"] == ResolvedWheel(
        name="two",
        version="2.0",
        filename=wheel.name,
        origin=f"{bench.index.url}/simple/files/{wheel.name}",
        size=size,
        sha256=sha256,
        publisher=bench.index.host,
        published=True,
    )
    assert bench.pytorch.seen == []


def test_nothing_asked_is_nothing_found(bench: Bench) -> None:
    assert bench.resolve() == {}
    assert bench.index.seen == []


def test_files_and_constraints(bench: Bench, tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        bench.wheel("one", version, requires=["two"])
        bench.wheel("two", version)
    (tmp_path / "r.txt").write_text("one<3\n")
    (tmp_path / "c.txt").write_text("two<2\n")
    found = bench.versions(requirements_files=(tmp_path / "r.txt",), constraints=(tmp_path / "c.txt",))
    assert found == {"one": "2.0", "two": "1.0"}


def test_constraints_of_pips_configuration_count(bench: Bench, tmp_path: Path) -> None:
    bench.wheel("one", "1.0")
    bench.wheel("one", "2.0")
    (tmp_path / "c.txt").write_text("one<2\n")
    bench.config = dataclasses.replace(bench.config, constraints=((tmp_path / "c.txt").as_uri(),))
    assert bench.versions("one") == {"one": "1.0"}


def test_markers_are_evaluated_on_the_target(bench: Bench) -> None:
    bench.wheel("top", "1.0", requires=["winonly; sys_platform == 'win32'", "new; python_version >= '3.12'"])
    bench.wheel("winonly", "1.0", tag="cp311-cp311-win_amd64")
    bench.wheel("new", "1.0")
    assert bench.versions("top") == {"top": "1.0"}
    assert bench.versions("top", target=WINDOWS) == {"top": "1.0", "winonly": "1.0"}
    assert bench.versions("top", target=dataclasses.replace(LINUX, python="3.12")) == {"top": "1.0", "new": "1.0"}


def test_the_best_wheel_is_taken(bench: Bench) -> None:
    for tag in ("py3-none-any", "cp311-cp311-manylinux_2_17_x86_64", ON_LINUX, "cp311-cp311-manylinux_2_39_x86_64"):
        bench.wheel("one", "1.0", tag=tag)
    bench.wheel("one", "1.0", tag="cp311-cp311-macosx_14_0_arm64")
    bench.wheel("one", "1.0", tag="cp311-cp311-win_amd64")
    assert bench.resolve("one")["one"].filename.endswith(f"{ON_LINUX}.whl")
    for target, tag in ((MACOS, "macosx_14_0_arm64"), (WINDOWS, "win_amd64")):
        assert bench.resolve("one", target=target)["one"].filename.endswith(f"{tag}.whl")
    musl = dataclasses.replace(LINUX, libc="musl-1.2")
    assert bench.resolve("one", target=musl)["one"].filename.endswith("none-any.whl")


def test_of_equal_wheels_the_later_build(bench: Bench) -> None:
    for build in ("1", "2", "10"):
        bench.index.offer(make_wheel(bench.made, "one", "1.0", tag=f"{build}-{ON_LINUX}"))
    assert bench.resolve("one")["one"].filename.startswith("one-1.0-10-")


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
    assert uvlock.platform_of(Target(python="3.11", platform=platform, libc=libc, accelerator="cpu")) == name


def test_a_c_library_that_is_too_old(bench: Bench) -> None:
    bench.wheel("one", "1.0")
    error = bench.refused("one", target=dataclasses.replace(LINUX, libc="glibc-2.12"))
    assert "can't be resolved for glibc-2.12" in str(error)
    assert "2.17" in error.hint


def test_find_links_with_a_space_and_a_comma(bench: Bench) -> None:
    wheel = bench.link("one", "1.0")
    bench.config = dataclasses.replace(bench.config, no_index=True)
    found = bench.resolve("one")["one"]
    assert (found.publisher, found.published) == ("find-links", False)
    assert (found.size, found.sha256) == digest_of_file(wheel)
    assert bench.index.seen == []


def test_find_links_pages(bench: Bench, tmp_path: Path) -> None:
    one, two = (make_wheel(tmp_path / "pages", name, "1.0") for name in ("one", "two"))
    (tmp_path / "pages" / "links.html").write_text(f'<a href="{one.name}">{one.name}</a>')
    bench.index.files["/links/"] = f'<a href="/{two.name}#sha256={digest_of_file(two)[1]}">two</a>'.encode()
    bench.index.files[f"/{two.name}"] = two.read_bytes()
    links = ((tmp_path / "pages" / "links.html").as_uri(), f"{bench.index.url}/links/")
    bench.config = dataclasses.replace(bench.config, find_links=links)
    found = bench.resolve("one", "two")
    assert (found["one"].publisher, found["one"].published) == ("find-links", False)
    assert (found["two"].publisher, found["two"].published) == (bench.index.host, True)


def test_a_folder_laid_out_as_an_index(bench: Bench, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "files", "one", "1.0")
    page = tmp_path / "simple" / "one" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../files/{wheel.name}#sha256={digest_of_file(wheel)[1]}">{wheel.name}</a>')
    bench.config = dataclasses.replace(bench.config, extra_index_urls=((tmp_path / "simple").as_uri(),))
    found = bench.resolve("one")["one"]
    assert (found.publisher, found.published, found.origin) == ("local index", True, wheel.as_uri())


def test_a_files_name_has_no_folders_in_it() -> None:
    assert (
        pages.filename_of("https://host.test/a/..%2F..%2Fone-1.0%2Bcpu-py3-none-any.whl?x#y")
        == "one-1.0+cpu-py3-none-any.whl"
    )


def test_the_newest_of_all_indexes(bench: Bench) -> None:
    bench.index.offer(make_wheel(bench.made, "one", "1.0"), "/extra")
    bench.config = dataclasses.replace(bench.config, extra_index_urls=(f"{bench.index.url}/extra",))
    bench.wheel("one", "2.0")
    assert bench.versions("one") == {"one": "2.0"}


def test_a_version_whose_wheels_are_on_several_indexes(bench: Bench) -> None:
    bench.index.offer(make_wheel(bench.made, "one", "1.0", tag="cp311-cp311-win_amd64"), "/extra")
    bench.config = dataclasses.replace(bench.config, extra_index_urls=(f"{bench.index.url}/extra",))
    bench.wheel("one", "1.0", tag=ON_LINUX)
    assert bench.resolve("one")["one"].filename.endswith(f"{ON_LINUX}.whl")


def test_a_version_that_is_source_code_on_every_index(bench: Bench) -> None:
    bench.index.offer(sdist(bench.made, "one", "2.0"))
    bench.index.offer(make_wheel(bench.made, "one", "1.0"), "/extra")
    bench.config = dataclasses.replace(bench.config, extra_index_urls=(f"{bench.index.url}/extra",))
    assert "there is no wheel of one" in str(bench.refused("one==2.0"))


def test_what_has_no_digest_is_hashed_here(bench: Bench) -> None:
    wheel = make_wheel(bench.made, "one", "1.0")
    bench.index.offer(wheel, digest="")
    found = bench.resolve("one")["one"]
    assert ((found.size, found.sha256), found.published) == (digest_of_file(wheel), False)


def test_another_digest_than_sha256_is_not_enough(bench: Bench) -> None:
    wheel = make_wheel(bench.made, "one", "1.0")
    bench.index.offer(wheel, digest="sha512")
    page = "/simple/one/"
    bench.index.files[page] = bench.index.files[page].replace(digest_of_file(wheel)[1].encode(), b"0" * 128)
    found = bench.resolve("one")["one"]
    assert ((found.size, found.sha256), found.published) == (digest_of_file(wheel), False)


def test_a_digest_that_is_demanded(bench: Bench, tmp_path: Path) -> None:
    wheel = bench.wheel("one", "1.0")
    path = tmp_path / "r.txt"
    path.write_text(f"one==1.0 --hash=sha256:{digest_of_file(wheel)[1]}\n")
    assert bench.versions(requirements_files=(path,)) == {"one": "1.0"}
    path.write_text(f"one==1.0 --hash=sha256:{'0' * 64}\n")
    assert "no wheel of one 1.0 has a digest that is allowed" in str(bench.refused(requirements_files=(path,)))


def test_a_wheel_by_its_address(bench: Bench) -> None:
    wheel = make_wheel(bench.made, "one", "1.0", requires=["two"])
    bench.index.files[f"/{wheel.name}"] = wheel.read_bytes()
    bench.wheel("two", "1.0")
    found = bench.resolve(f"one @ {bench.index.url}/{wheel.name}#sha256={digest_of_file(wheel)[1]}")
    assert list(found) == ["one", "two"]
    assert (found["one"].publisher, found["one"].published) == ("manifest", True)
    assert not bench.resolve(f"one @ {bench.index.url}/{wheel.name}")["one"].published
    local = bench.resolve(str(wheel))["one"]
    assert (local.origin, local.sha256, local.published) == (wheel.as_uri(), digest_of_file(wheel)[1], False)


def test_a_wheel_by_its_address_must_fit_too(bench: Bench) -> None:
    wheel = make_wheel(bench.made, "one", "1.0", tag="cp311-cp311-win_amd64")
    assert "there is no wheel of one 1.0 for linux-x86_64-glibc-2.28-py3.11-cpu" in str(bench.refused(str(wheel)))


def test_a_warning_of_uv_is_passed_on(bench: Bench) -> None:
    bench.wheel("one", "1.0")
    assert bench.versions("one[extra]") == {"one": "1.0"}
    assert "does not have an extra named `extra`" in bench.report.warnings[0]


def sdist(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        data = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n".encode()
        entry = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return path


def test_source_code_alone(bench: Bench) -> None:
    bench.wheel("top", "1.0", requires=["sourced"])
    bench.index.offer(sdist(bench.made, "sourced", "1.0"))
    error = bench.refused("top")
    assert "there is no wheel of sourced for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert "top" in str(error)
    assert "--no-build" not in str(error)
    assert error.where == "sourced"
    for way_out in ("older or a newer version", "newer than glibc-2.28", "pip wheel --no-deps sourced", "find-links"):
        assert way_out in error.hint


@pytest.mark.parametrize(
    "tag", ["cp39-cp39-manylinux_2_17_x86_64", "cp311-cp311-win_amd64", "cp311-cp311-manylinux_2_39_x86_64"]
)
def test_no_wheel_that_fits(bench: Bench, tag: str) -> None:
    bench.wheel("one", "1.0", tag=tag)
    error = bench.refused("one")
    assert "there is no wheel of one for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert any(part in str(error) for part in tag.split("-")[1:])


def test_an_unknown_package(bench: Bench) -> None:
    error = bench.refused("misspelt")
    assert "there is no package misspelt on 127.0.0.1" in str(error)
    assert "python.indexes" in error.hint


def test_a_conflict(bench: Bench) -> None:
    bench.wheel("one", "1.0", requires=["base<2"])
    bench.wheel("two", "1.0", requires=["base>=2"])
    for version in ("1.0", "2.0"):
        bench.wheel("base", version)
    error = bench.refused("one", "two")
    assert "no set of packages fits together for linux-x86_64-glibc-2.28-py3.11-cpu" in str(error)
    assert "two" in str(error)
    assert "base<2" in str(error)
    assert "loosen" in error.hint


def test_an_index_that_can_not_be_reached(bench: Bench) -> None:
    bench.config = dataclasses.replace(bench.config, extra_index_urls=("http://user:secret@127.0.0.1:9/simple",))
    bench.wheel("one", "1.0")
    error = bench.refused("one")
    assert "127.0.0.1 can't be reached" in str(error)
    assert error.where == "http://127.0.0.1:9/simple/one/"
    assert "proxy" in error.hint
    assert "secret" not in f"{error} {error.where} {error.hint}"


def test_find_links_that_can_not_be_read(bench: Bench) -> None:
    bench.wheel("one", "1.0")
    bench.config = dataclasses.replace(bench.config, find_links=(f"{bench.index.url}/missing",))
    error = bench.refused("one")
    assert "127.0.0.1 answers 404" in str(error)
    assert error.where == f"{bench.index.url}/missing"


def test_an_index_that_fails(bench: Bench) -> None:
    bench.index.faults["/simple/one/"] = [loopback.status(500)]
    error = bench.refused("one")
    assert "127.0.0.1 answers 500" in str(error)


def test_an_index_that_wants_a_password(bench: Bench) -> None:
    bench.wheel("one", "1.0")
    bench.index.logins["/simple"] = "user:p@ss"
    error = bench.refused("one")
    assert "one can't be looked up: the index answers 401" in str(error)
    assert error.where == f"{bench.index.url}/simple/one/"
    assert "netrc" in error.hint
    bench.config = dataclasses.replace(bench.config, index_url=f"{bench.index.with_login('user:p%40ss')}/simple")
    found = bench.resolve("one")["one"]
    assert (found.publisher, found.origin.count("@")) == (bench.index.host, 0)
    wheels.fetch([found], bench.store, bench.config, bench.report)
    assert bench.store.path_of(found.sha256)


def test_passwords_are_on_no_command_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    run = subprocess.run

    def watched(command: list[str], **options: Any) -> Any:
        lines.extend(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    bench.index.logins["/"] = "user:secret"
    bench.index.offer(make_wheel(bench.made, "mine", "1.0"), "/mine")
    bench.wheel("one", "1.0")
    bench.config = dataclasses.replace(bench.config, index_url=f"{bench.index.with_login('user:secret')}/simple")
    found = bench.resolve("one", "mine", indexes=((f"{bench.index.with_login('user:secret')}/mine", ("mine",)),))
    assert lines
    assert "secret" not in " ".join([*lines, *map(str, found.values())])


def test_a_certificate_of_its_own(bench: Bench, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with serving(certificates.for_a_server()) as secure:
        secure.offer(make_wheel(bench.made, "one", "1.0"))
        bench.config = dataclasses.replace(bench.config, index_url=f"{secure.url}/simple")
        error = bench.refused("one")
        assert "the certificate of 127.0.0.1 is not trusted" in str(error)
        assert "global.cert" in error.hint
        for told in ({"cert": str(certificates.authority)}, {"trusted_hosts": ("127.0.0.1",)}):
            config = dataclasses.replace(bench.config, **told)
            found = wheels.resolve(Wanted(requirements=("one",)), LINUX, config, bench.store, bench.report)
            wheels.fetch(found, bench.store, config, bench.report)
            bench.store.drop(found[0].sha256)


# The build of PyTorch ------------------------------------------------------------------------------------------


def test_builds_that_pips_configuration_offers_are_taken(bench: Bench) -> None:
    bench.wheel("torch", "9.0", tag=ON_LINUX)
    bench.link("torch", "2.0+cpu", tag=ON_LINUX)
    bench.link("torch", "2.1+cpu", tag=ON_LINUX)
    bench.link("torch", "2.2+cu126", tag=ON_LINUX)
    bench.link("torch", "2.3+cpu", tag="cp311-cp311-win_amd64")
    bench.wheel("top", "1.0", requires=["torch>=1.11"])
    bench.build("torch", "2.4")
    for asked in (("top",), ("torch",), ("top", "torch<3")):
        found = bench.resolve(*asked)["torch"]
        assert (found.version, found.publisher, found.published) == ("2.1+cpu", "find-links", False)
    assert bench.versions("torch<2.1") == {"torch": "2.0+cpu"}
    assert bench.pytorch.seen == []
    assert "torch comes from find-links, which pip's configuration names" in bench.report.notes[0]


def test_builds_on_an_index_of_the_house_are_taken(bench: Bench) -> None:
    bench.wheel("torch", "9.0", tag=ON_LINUX)
    wheel = bench.wheel("torch", "2.0+cpu", tag=ON_LINUX, requires=["base"])
    bench.wheel("base", "1.0")
    bench.index.logins["/simple"] = "user:secret"
    bench.config = dataclasses.replace(bench.config, index_url=f"{bench.index.with_login('user:secret')}/simple")
    found = bench.resolve("torch")
    assert list(found) == ["base", "torch"]
    assert (found["torch"].publisher, found["torch"].published) == (bench.index.host, True)
    assert (found["torch"].size, found["torch"].sha256) == digest_of_file(wheel)
    assert "secret" not in f"{found} {bench.report}"
    assert bench.pytorch.seen == []


def test_without_an_index_the_builds_of_find_links_are_taken(bench: Bench) -> None:
    bench.link("torch", "9.0", tag=ON_LINUX)
    bench.link("torch", "2.0+cpu", tag=ON_LINUX)
    bench.link("top", "1.0", requires=["torch"])
    bench.config = dataclasses.replace(bench.config, no_index=True)
    assert bench.versions("top") == {"top": "1.0", "torch": "2.0+cpu"}
    assert bench.index.seen == bench.pytorch.seen == []


@pytest.mark.parametrize("asked", [("torch",), ("top",), ("top", "torch>=2")])
def test_else_pytorchs_own_index_is_asked_for_them_alone(bench: Bench, asked: tuple[str, ...]) -> None:
    bench.wheel("torch", "9.0", tag=ON_LINUX)
    bench.wheel("top", "1.0", requires=["torch", "torchvision", "base"])
    bench.wheel("torchvision", "0.9", tag=ON_LINUX)
    bench.wheel("base", "1.0")
    bench.build("torch", "2.0", requires=["base"])
    bench.build("torchvision", "0.1", requires=["torch==2.0"])
    bench.build("base", "7.0")
    found = bench.resolve(*asked)
    assert (found["torch"].version, found["torch"].publisher) == ("2.0+cpu", bench.pytorch.host)
    assert found["base"].version == "1.0"
    assert found.get("torchvision", found["torch"]).publisher == bench.pytorch.host
    assert not [path for path in bench.pytorch.asked() if "base" in path]
    assert "pip's configuration offers no build for cpu" in bench.report.notes[0]


def test_the_accelerator_picks_the_build(bench: Bench) -> None:
    bench.link("torch", "2.0+cpu", tag=ON_LINUX)
    bench.build("torch", "2.0", "cu126", requires=["nvidia-thing"])
    bench.wheel("nvidia-thing", "1.0")
    target = dataclasses.replace(LINUX, accelerator="cu126")
    assert bench.versions("torch", target=target) == {"torch": "2.0+cu126", "nvidia-thing": "1.0"}


def test_what_a_build_alone_needs_comes_from_there_too(bench: Bench) -> None:
    bench.build("torch", "2.0", "rocm6.4", requires=["pytorch-triton-rocm==3.0"])
    bench.pytorch.offer(make_wheel(bench.made, "pytorch_triton_rocm", "3.0", tag=ON_LINUX), "/whl/rocm6.4")
    target = dataclasses.replace(LINUX, accelerator="rocm6.4")
    assert bench.versions("torch", target=target) == {"torch": "2.0+rocm6.4", "pytorch-triton-rocm": "3.0"}


def test_a_build_that_no_other_index_has_can_be_needed(bench: Bench) -> None:
    bench.wheel("top", "1.0", requires=["torch==2.0"])
    bench.wheel("torch", "1.0", tag=ON_LINUX)
    bench.build("torch", "2.0")
    assert bench.versions("top") == {"top": "1.0", "torch": "2.0+cpu"}


def test_a_build_for_another_platform_is_no_offer(bench: Bench) -> None:
    bench.link("torch", "2.0+cpu", tag="cp311-cp311-win_amd64")
    bench.build("torch", "1.0")
    assert bench.versions("torch") == {"torch": "1.0+cpu"}


def test_pypi_is_not_asked_for_builds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PYPI", "127.0.0.1")
    bench.wheel("torch", "9.0", tag=ON_LINUX)
    bench.build("torch", "1.0")
    assert bench.versions("torch") == {"torch": "1.0+cpu"}
    assert bench.index.asked() == []


def test_what_the_first_round_found_does_not_bind_the_second(bench: Bench) -> None:
    bench.wheel("top", "1.0", requires=["torch", "base"])
    bench.wheel("torch", "9.0", tag=ON_LINUX, requires=["base<2"])
    bench.build("torch", "2.0", requires=["base"])
    for version in ("1.0", "2.0"):
        bench.wheel("base", version)
    assert bench.versions("top") == {"top": "1.0", "torch": "2.0+cpu", "base": "2.0"}


def test_an_index_of_chosen_wheels_says_of_them_what_was_said(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "one", "3.0")
    far = Offer(filename="one-1.0-py3-none-any.whl", url="https://host.test/one-1.0-py3-none-any.whl", publisher="x")
    offers = (
        dataclasses.replace(far, sha256="ab" * 32, requires_python=">=3.8,<4", has_metadata=True),
        dataclasses.replace(far, yanked=True),
        dataclasses.replace(far, filename=path.name, url=path.as_uri(), sha256=digest_of_file(path)[1]),
    )
    unhashed = dataclasses.replace(offers[2], sha256="")
    index = pages.as_index(tmp_path / "index", "one", [*offers[:2], unhashed])
    with pipconfig.session(PipConfig()) as session:
        shelf = Pages(PipConfig(index_url=index), session, Patience())
        assert shelf.offers("one") == tuple(dataclasses.replace(one, publisher="local index") for one in offers)


def test_on_macos_any_build_is_right(bench: Bench) -> None:
    bench.wheel("torch", "9.0", tag="cp311-none-macosx_11_0_arm64")
    bench.link("torch", "2.0+cpu", tag=ON_LINUX)
    assert bench.versions("torch", target=MACOS) == {"torch": "9.0"}
    assert bench.pytorch.seen == []


def test_a_torch_for_another_platform_is_no_torch(bench: Bench) -> None:
    bench.wheel("one", "1.0", requires=["torch; sys_platform == 'darwin'"])
    assert bench.versions("one", "torch; sys_platform == 'darwin'") == {"one": "1.0"}
    assert bench.pytorch.seen == []


def test_the_manifests_own_index_wins(bench: Bench) -> None:
    bench.link("torch", "2.0+cpu", tag=ON_LINUX)
    bench.wheel("top", "1.0", requires=["torch", "Private_Thing"])
    bench.wheel("private-thing", "9.0")
    for name, version in (("torch", "1.5"), ("private_thing", "1.0")):
        bench.index.offer(make_wheel(bench.made, name, version), "/own")
    indexes = ((f"{bench.index.url}/own", ("torch", "private.thing")),)
    found = bench.resolve("top", indexes=indexes)
    assert {name: one.version for name, one in found.items()} == {"private-thing": "1.0", "top": "1.0", "torch": "1.5"}
    assert found["private-thing"].published
    assert bench.pytorch.seen == []


def test_no_build_that_is_asked_for(bench: Bench) -> None:
    bench.link("torch", "2.0+cpu", tag=ON_LINUX)
    error = bench.refused("torch==1.0")
    assert "torch==1.0" in str(error)
    assert "torch comes from find-links, which pip's configuration names and which has builds for cpu" in error.hint


def test_pytorchs_index_that_can_not_be_reached(bench: Bench) -> None:
    bench.wheel("top", "1.0", requires=["torch"])
    bench.wheel("torch", "9.0", tag=ON_LINUX)
    bench.pytorch.url = "http://127.0.0.1:9"
    error = bench.refused("top")
    assert "127.0.0.1 can't be reached" in str(error)
    assert "pip's configuration offers no build for cpu" in error.hint


def test_an_index_that_is_no_index(bench: Bench) -> None:
    bench.index.faults["/simple/torch/"] = [
        lambda handler, _: handler.answer(200, b"{", {"Content-Type": "text/plain"})
    ]
    error = bench.refused("torch")
    assert "is no page of a package index" in str(error)
    assert error.where == f"{bench.index.url}/simple/torch/"


# Home, and tools -----------------------------------------------------------------------------------------------


def test_wheels_are_brought_home_once(bench: Bench) -> None:
    bench.wheel("one", "1.0", requires=["two"])
    bench.link("two", "1.0")
    found = list(bench.resolve("one").values())
    wheels.fetch(found, bench.store, bench.config, bench.report)
    for wheel in found:
        assert digest_of_file(bench.store.required(wheel.sha256)) == (wheel.size, wheel.sha256)
    bench.index.seen.clear()
    wheels.fetch(found, bench.store, bench.config, bench.report)
    assert bench.index.seen == []


def test_a_wheel_that_changed_meanwhile(bench: Bench) -> None:
    path = bench.wheel("one", "1.0")
    found = bench.resolve("one")["one"]
    bench.index.files[f"/simple/files/{path.name}"] = b"x" * found.size
    with pytest.raises(IntegrityError, match=found.sha256):
        wheels.fetch([found], bench.store, bench.config, bench.report)


def test_a_wheel_that_is_gone(bench: Bench) -> None:
    found = bench.link("one", "1.0")
    wheel = bench.resolve("one")["one"]
    found.unlink()
    with pytest.raises(FetchError, match="No such file"):
        wheels.fetch([wheel], bench.store, bench.config, bench.report)


def test_the_tools_of_the_far_side(bench: Bench) -> None:
    bench.wheel("pip", "26.0")
    bench.wheel("uv", "0.13", tag="py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64")
    bench.wheel("uv", "0.13", tag="py3-none-win_amd64")
    found = wheels.alone(["pip", "uv"], WINDOWS, bench.config, bench.store, bench.report)
    assert [wheel.filename for wheel in found] == ["pip-26.0-py3-none-any.whl", "uv-0.13-py3-none-win_amd64.whl"]


def test_a_wheel_that_carries_something(bench: Bench) -> None:
    bench.wheel("carrier", "1.0", requires=["torch"])
    assert wheels.alone(["carrier>=1"], LINUX, bench.config, bench.store, bench.report)[0].version == "1.0"
    with pytest.raises(ResolveError, match="asks for less"):
        wheels.alone(["carrier; sys_platform == 'win32'"], LINUX, bench.config, bench.store, bench.report)


def test_what_uv_was_told_by_itself_does_not_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.wheel("one", "1.0")
    monkeypatch.setenv("UV_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert bench.versions("one") == {"one": "1.0"}


@pytest.fixture
def installed(bench: Bench, tmp_path: Path) -> Callable[[list[ResolvedWheel]], str]:
    """Installs wheels from the shelf with real pip and says what it did."""

    def install(found: list[ResolvedWheel]) -> str:
        folder = tmp_path / "carried"
        folder.mkdir()
        for wheel in found:
            os.link(bench.store.required(wheel.sha256), folder / wheel.filename)
        pip: list[str | Path] = [sys.executable, "-I", "-m", "pip", "install", "--no-index", "--find-links", folder]
        names = [f"{wheel.name}=={wheel.version}" for wheel in found]
        return process.run([*pip, "--target", tmp_path / "site", "--no-cache-dir", *names]).stdout

    return install


def test_pip_installs_what_was_brought(bench: Bench, installed: Callable[[list[ResolvedWheel]], str]) -> None:
    bench.wheel("one", "1.0", requires=["two-parts"])
    bench.wheel("two-parts", "1.0")
    found = list(bench.resolve("one").values())
    wheels.fetch(found, bench.store, bench.config, bench.report)
    assert "Successfully installed one-1.0 two-parts-1.0" in installed(found)

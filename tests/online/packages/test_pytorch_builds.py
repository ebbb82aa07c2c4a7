"""The build of PyTorch that the target needs, from where pip is told to look or else from PyTorch itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bundler.format.hashing import compute_file_sha256
from bundler.online.packages import simple_index
from bundler.online.packages.simple_index import IndexClient, IndexFile
from bundler.online.transfer import http_session
from bundler.online.transfer.http import RetryPolicy
from bundler.online.transfer.pip_config import PipConfig
from tests.support.resolving import LINUX, MACOS, ON_LINUX, ResolverHarness
from tests.support.wheelmaking import make_wheel


def test_builds_that_pips_configuration_offers_are_taken(harness: ResolverHarness) -> None:
    harness.add_to_index("torch", "9.0", tag=ON_LINUX)
    harness.add_to_find_links("torch", "2.0+cpu", tag=ON_LINUX)
    harness.add_to_find_links("torch", "2.1+cpu", tag=ON_LINUX)
    harness.add_to_find_links("torch", "2.2+cu126", tag=ON_LINUX)
    harness.add_to_find_links("torch", "2.3+cpu", tag="cp311-cp311-win_amd64")
    harness.add_to_index("top", "1.0", requires=["torch>=1.11"])
    harness.add_pytorch_build("torch", "2.4")
    for asked in (("top",), ("torch",), ("top", "torch<3")):
        found = harness.resolve(*asked)["torch"]
        assert (found.version, found.publisher, found.is_digest_published) == ("2.1+cpu", "find-links", False)
    assert harness.resolve_versions("torch<2.1") == {"torch": "2.0+cpu"}
    assert harness.pytorch.seen == []
    assert "torch comes from find-links, which pip's configuration names" in harness.reporter.notes[0]


def test_builds_on_an_index_of_the_house_are_taken(harness: ResolverHarness) -> None:
    harness.add_to_index("torch", "9.0", tag=ON_LINUX)
    wheel = harness.add_to_index("torch", "2.0+cpu", tag=ON_LINUX, requires=["base"])
    harness.add_to_index("base", "1.0")
    harness.index.logins["/simple"] = "user:secret"
    harness.config = dataclasses.replace(harness.config, index_url=f"{harness.index.with_login('user:secret')}/simple")
    found = harness.resolve("torch")
    assert list(found) == ["base", "torch"]
    assert (found["torch"].publisher, found["torch"].is_digest_published) == (harness.index.host, True)
    assert (found["torch"].size, found["torch"].sha256) == compute_file_sha256(wheel)
    assert "secret" not in f"{found} {harness.reporter}"
    assert harness.pytorch.seen == []


def test_without_an_index_the_builds_of_find_links_are_taken(harness: ResolverHarness) -> None:
    harness.add_to_find_links("torch", "9.0", tag=ON_LINUX)
    harness.add_to_find_links("torch", "2.0+cpu", tag=ON_LINUX)
    harness.add_to_find_links("top", "1.0", requires=["torch"])
    harness.config = dataclasses.replace(harness.config, no_index=True)
    assert harness.resolve_versions("top") == {"top": "1.0", "torch": "2.0+cpu"}
    assert harness.index.seen == harness.pytorch.seen == []


@pytest.mark.parametrize("asked", [("torch",), ("top",), ("top", "torch>=2")])
def test_else_pytorchs_own_index_is_asked_for_them_alone(harness: ResolverHarness, asked: tuple[str, ...]) -> None:
    harness.add_to_index("torch", "9.0", tag=ON_LINUX)
    harness.add_to_index("top", "1.0", requires=["torch", "torchvision", "base"])
    harness.add_to_index("torchvision", "0.9", tag=ON_LINUX)
    harness.add_to_index("base", "1.0")
    harness.add_pytorch_build("torch", "2.0", requires=["base"])
    harness.add_pytorch_build("torchvision", "0.1", requires=["torch==2.0"])
    harness.add_pytorch_build("base", "7.0")
    found = harness.resolve(*asked)
    assert (found["torch"].version, found["torch"].publisher) == ("2.0+cpu", harness.pytorch.host)
    assert found["base"].version == "1.0"
    assert found.get("torchvision", found["torch"]).publisher == harness.pytorch.host
    assert not [path for path in harness.pytorch.asked() if "base" in path]
    assert "pip's configuration offers no build for cpu" in harness.reporter.notes[0]


def test_the_accelerator_picks_the_build(harness: ResolverHarness) -> None:
    harness.add_to_find_links("torch", "2.0+cpu", tag=ON_LINUX)
    harness.add_pytorch_build("torch", "2.0", "cu126", requires=["nvidia-thing"])
    harness.add_to_index("nvidia-thing", "1.0")
    target = dataclasses.replace(LINUX, accelerator="cu126")
    assert harness.resolve_versions("torch", target=target) == {"torch": "2.0+cu126", "nvidia-thing": "1.0"}


def test_what_a_build_alone_needs_comes_from_there_too(harness: ResolverHarness) -> None:
    harness.add_pytorch_build("torch", "2.0", "rocm6.4", requires=["pytorch-triton-rocm==3.0"])
    harness.pytorch.offer(make_wheel(harness.wheel_folder, "pytorch_triton_rocm", "3.0", tag=ON_LINUX), "/whl/rocm6.4")
    target = dataclasses.replace(LINUX, accelerator="rocm6.4")
    assert harness.resolve_versions("torch", target=target) == {"torch": "2.0+rocm6.4", "pytorch-triton-rocm": "3.0"}


def test_a_build_that_no_other_index_has_can_be_needed(harness: ResolverHarness) -> None:
    harness.add_to_index("top", "1.0", requires=["torch==2.0"])
    harness.add_to_index("torch", "1.0", tag=ON_LINUX)
    harness.add_pytorch_build("torch", "2.0")
    assert harness.resolve_versions("top") == {"top": "1.0", "torch": "2.0+cpu"}


def test_a_build_for_another_platform_is_no_offer(harness: ResolverHarness) -> None:
    harness.add_to_find_links("torch", "2.0+cpu", tag="cp311-cp311-win_amd64")
    harness.add_pytorch_build("torch", "1.0")
    assert harness.resolve_versions("torch") == {"torch": "1.0+cpu"}


def test_pypi_is_not_asked_for_builds(harness: ResolverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simple_index, "PYPI_HOST", "127.0.0.1")
    harness.add_to_index("torch", "9.0", tag=ON_LINUX)
    harness.add_pytorch_build("torch", "1.0")
    assert harness.resolve_versions("torch") == {"torch": "1.0+cpu"}
    assert harness.index.asked() == []


def test_what_the_first_round_found_does_not_bind_the_second(harness: ResolverHarness) -> None:
    harness.add_to_index("top", "1.0", requires=["torch", "base"])
    harness.add_to_index("torch", "9.0", tag=ON_LINUX, requires=["base<2"])
    harness.add_pytorch_build("torch", "2.0", requires=["base"])
    for version in ("1.0", "2.0"):
        harness.add_to_index("base", version)
    assert harness.resolve_versions("top") == {"top": "1.0", "torch": "2.0+cpu", "base": "2.0"}


def test_an_index_of_chosen_wheels_says_of_them_what_was_said(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "one", "3.0")
    far = IndexFile(
        filename="one-1.0-py3-none-any.whl", url="https://host.test/one-1.0-py3-none-any.whl", publisher="x"
    )
    offers = (
        dataclasses.replace(far, sha256="ab" * 32, requires_python=">=3.8,<4", has_metadata=True),
        dataclasses.replace(far, is_yanked=True),
        dataclasses.replace(far, filename=path.name, url=path.as_uri(), sha256=compute_file_sha256(path)[1]),
    )
    unhashed = dataclasses.replace(offers[2], sha256="")
    index = simple_index.write_index(tmp_path / "index", "one", [*offers[:2], unhashed])
    with http_session.open_session(PipConfig()) as session:
        shelf = IndexClient(PipConfig(index_url=index), session, RetryPolicy())
        assert shelf.find_wheels("one") == tuple(dataclasses.replace(one, publisher="local index") for one in offers)


def test_on_macos_any_build_is_right(harness: ResolverHarness) -> None:
    harness.add_to_index("torch", "9.0", tag="cp311-none-macosx_11_0_arm64")
    harness.add_to_find_links("torch", "2.0+cpu", tag=ON_LINUX)
    assert harness.resolve_versions("torch", target=MACOS) == {"torch": "9.0"}
    assert harness.pytorch.seen == []


def test_a_torch_for_another_platform_is_no_torch(harness: ResolverHarness) -> None:
    harness.add_to_index("one", "1.0", requires=["torch; sys_platform == 'darwin'"])
    assert harness.resolve_versions("one", "torch; sys_platform == 'darwin'") == {"one": "1.0"}
    assert harness.pytorch.seen == []


def test_the_manifests_own_index_wins(harness: ResolverHarness) -> None:
    harness.add_to_find_links("torch", "2.0+cpu", tag=ON_LINUX)
    harness.add_to_index("top", "1.0", requires=["torch", "Private_Thing"])
    harness.add_to_index("private-thing", "9.0")
    for name, version in (("torch", "1.5"), ("private_thing", "1.0")):
        harness.index.offer(make_wheel(harness.wheel_folder, name, version), "/own")
    indexes = ((f"{harness.index.url}/own", ("torch", "private.thing")),)
    found = harness.resolve("top", index_assignments=indexes)
    assert {name: one.version for name, one in found.items()} == {"private-thing": "1.0", "top": "1.0", "torch": "1.5"}
    assert found["private-thing"].is_digest_published
    assert harness.pytorch.seen == []


def test_no_build_that_is_asked_for(harness: ResolverHarness) -> None:
    harness.add_to_find_links("torch", "2.0+cpu", tag=ON_LINUX)
    error = harness.get_resolve_error("torch==1.0")
    assert "torch==1.0" in str(error)
    assert "torch comes from find-links, which pip's configuration names and which has builds for cpu" in error.hint


def test_pytorchs_index_that_can_not_be_reached(harness: ResolverHarness) -> None:
    harness.add_to_index("top", "1.0", requires=["torch"])
    harness.add_to_index("torch", "9.0", tag=ON_LINUX)
    harness.pytorch.url = "http://127.0.0.1:9"
    error = harness.get_resolve_error("top")
    assert "127.0.0.1 can't be reached" in str(error)
    assert "pip's configuration offers no build for cpu" in error.hint


def test_an_index_that_is_no_index(harness: ResolverHarness) -> None:
    harness.index.faults["/simple/torch/"] = [
        lambda handler, _: handler.answer(200, b"{", {"Content-Type": "text/plain"})
    ]
    error = harness.get_resolve_error("torch")
    assert "is not a page of a package index" in str(error)
    assert error.where == f"{harness.index.url}/simple/torch/"

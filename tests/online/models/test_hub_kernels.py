"""Kernels of the hub: repositories of compiled code, which newer hubs keep apart from models."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.errors import ResolveError
from bundler.format.documents import InvalidValueError
from tests.support.hub_fetch import Errand

FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "build/torch-cpu/metadata.json": b"{}",
    "build/torch-cpu/flash.safetensors": b"w" * 99,
    "build/torch-cpu/image.png": b"p",
}


def test_a_kernel_comes_pinned_and_whole(errand: Errand) -> None:
    commit = errand.hub.repository("org/flash", FILES, "kernels").refs["main"]
    found = errand.run(kernel="org/flash")
    errand.check(found, FILES)
    assert (found.source, found.commit) == (f"kernel:org/flash@{commit}", commit)
    assert {file.origin.partition("/resolve/")[0] for file in found.files} == {f"{errand.hub.url}/kernels/org/flash"}
    assert all(file.upstream for file in found.files), "the digests that the hub publishes are kept"


def test_a_kernel_comes_from_an_older_hub_as_the_model_that_it_is_there(errand: Errand) -> None:
    commit = errand.hub.repository("org/flash", FILES).refs["main"]
    found = errand.run(kernel="org/flash")
    errand.check(found, FILES)
    assert found.source == f"kernel:org/flash@{commit}"
    errand.check(errand.run(kernel="org/flash", commit=commit), FILES)


def test_a_kernel_that_is_nowhere_is_said_to_be_no_kernel(errand: Errand) -> None:
    with pytest.raises(ResolveError, match="org/flash: the hub knows no such repository") as caught:
        errand.run(kernel="org/flash")
    assert f"{errand.hub.url}/kernels/org/flash" in caught.value.hint
    errand.hub.repository("org/flash", FILES, "kernels")
    errand.hub.seen.clear()
    with pytest.raises(ResolveError, match="org/flash has no revision 'v9'"):
        errand.run(kernel="org/flash", revision="v9")
    assert not any("/api/models/" in one.path for one in errand.hub.seen), "it is a kernel, and known"


@pytest.mark.parametrize("wrong", [{"loader": "transformers"}, {"convert": "safetensors"}])
def test_a_kernel_is_not_loaded_as_a_model(errand: Errand, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=r"a kernel is carried|goes with models"):
        errand.run(kernel="org/flash", **wrong)

"""Kernels of the hub: repositories of compiled code, which newer hubs keep apart from models."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.errors import ResolveError
from bundler.format.documents import InvalidValueError
from tests.support.hub_fetch import HubFetch

FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "build/torch-cpu/metadata.json": b"{}",
    "build/torch-cpu/flash.safetensors": b"w" * 99,
    "build/torch-cpu/image.png": b"p",
}


def test_a_kernel_comes_pinned_and_whole(hub_fetch: HubFetch) -> None:
    commit = hub_fetch.hub.repository("org/flash", FILES, "kernels").refs["main"]
    found = hub_fetch.run(kernel="org/flash")
    hub_fetch.check_files(found, FILES)
    assert (found.source, found.commit) == (f"kernel:org/flash@{commit}", commit)
    assert {file.origin.partition("/resolve/")[0] for file in found.files} == {f"{hub_fetch.hub.url}/kernels/org/flash"}
    assert all(file.upstream for file in found.files), "the digests that the hub publishes are kept"


def test_a_kernel_comes_from_an_older_hub_as_the_model_that_it_is_there(hub_fetch: HubFetch) -> None:
    commit = hub_fetch.hub.repository("org/flash", FILES).refs["main"]
    found = hub_fetch.run(kernel="org/flash")
    hub_fetch.check_files(found, FILES)
    assert found.source == f"kernel:org/flash@{commit}"
    hub_fetch.check_files(hub_fetch.run(kernel="org/flash", commit=commit), FILES)


def test_a_kernel_that_is_nowhere_is_said_to_be_no_kernel(hub_fetch: HubFetch) -> None:
    with pytest.raises(ResolveError, match="org/flash: the hub knows no such repository") as caught:
        hub_fetch.run(kernel="org/flash")
    assert f"{hub_fetch.hub.url}/kernels/org/flash" in caught.value.hint
    hub_fetch.hub.repository("org/flash", FILES, "kernels")
    hub_fetch.hub.seen.clear()
    with pytest.raises(ResolveError, match="org/flash has no revision 'v9'"):
        hub_fetch.run(kernel="org/flash", revision="v9")
    assert not any("/api/models/" in one.path for one in hub_fetch.hub.seen), "it is a kernel, and known"


@pytest.mark.parametrize("wrong", [{"loader": "transformers"}, {"convert": "safetensors"}])
def test_a_kernel_is_not_loaded_as_a_model(hub_fetch: HubFetch, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=r"a kernel is only files|only a model"):
        hub_fetch.run(kernel="org/flash", **wrong)

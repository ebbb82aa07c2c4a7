"""An installed Python to prove models under, tiny models, and ways to ask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import InstalledBundle
from tests.support.models.tensors import Weights
from tests.support.paths import MODELS
from tests.support.programs import run_scripts
from tests.support.shared import Shared
from tests.support.smoke_loads import (
    LOADED_AS,
    Answer,
    Ask,
    Result,
    User,
    load_in_worker,
    make_flag_bundle,
    run_smoke_load,
    serve_user_code,
    start_worker,
)


@pytest.fixture(scope="session")
def flag_models(payload_python: str, offline: dict[str, str], tiny_models: Path, shared: Shared) -> Path:
    """A folder of good tiny models that FlagEmbedding loads; do not change them, take a copy."""
    script = MODELS / "tiny_flag.py"
    return shared.get_or_make(
        "flag models", lambda out: run_scripts(payload_python, offline, (script, out, tiny_models / "words"))
    )


@pytest.fixture(scope="session")
def sources(flag_models: Path, tiny_models: Path) -> dict[str, Path]:
    """The folders that the models of `flagged` were made in."""
    return {name: next(one / name for one in (flag_models, tiny_models) if (one / name).is_dir()) for name in LOADED_AS}


@pytest.fixture(scope="session")
def flagged(sources: dict[str, Path], shared: Shared) -> InstalledBundle:
    """A bundle with a model for each loader, from a hub, and the packages of a manifest to copy from; installed."""
    folder = shared.get_or_make("flag", partial(make_flag_bundle, sources))
    told = json.loads((folder / "told.json").read_bytes())
    return InstalledBundle(folder / "flag.bundle.tar", folder / "bundle.pyz", folder / "prefix", told)


@pytest.fixture
def copy_model(tiny_models: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a tiny model for this test to break."""

    def make(name: str = "good") -> Path:
        return Path(shutil.copytree(tiny_models / name, tmp_path / f"{name}-copy"))

    return make


@pytest.fixture(scope="session")
def minilm(demo: InstalledBundle) -> Path:
    """The folder of the demo's real model, as it was placed."""
    return (demo.current / "models" / "all-MiniLM-L6-v2").resolve()


@pytest.fixture
def linked_minilm(minilm: Path, tmp_path: Path) -> Path:
    """A folder of links to the real model's files, to take some away."""
    for path in minilm.rglob("*"):
        if path.is_file():
            link = tmp_path / "minilm" / path.relative_to(minilm)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return tmp_path / "minilm"


@pytest.fixture
def run(payload_python: str, offline: dict[str, str], tmp_path: Path) -> Callable[..., Answer]:
    """One model through the real command line."""
    return partial(run_smoke_load, payload_python, offline, tmp_path)


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that HF_HUB_CACHE names in `prove`."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def ask_worker(
    payload_python: str, offline: dict[str, str], hub_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ask]:
    """Asks one long-lived process, and returns the text of its result."""
    with start_worker(
        payload_python, offline | {"HF_HUB_CACHE": str(hub_cache)}, tmp_path_factory.mktemp("worker")
    ) as put:
        yield put


@pytest.fixture(scope="session")
def ask_flagged_worker(
    flagged: InstalledBundle, offline: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ask]:
    """The same in an environment that has FlagEmbedding."""
    with start_worker(str(flagged.python), offline, tmp_path_factory.mktemp("worker")) as put:
        yield put


@pytest.fixture(scope="session")
def user(payload_python: str, offline: dict[str, str]) -> Iterator[User]:
    """Plain code of a user in the demo's environment."""
    with serve_user_code([payload_python, "-I"], "sentence_transformers", "transformers", env=offline) as ask:
        yield ask


@pytest.fixture
def smoke_load(ask_worker: Ask, tmp_path: Path) -> Callable[..., Result]:
    """One model through the same code as the command line, without starting a process for it."""
    return partial(load_in_worker, ask_worker, tmp_path)


@pytest.fixture
def case(ask_worker: Callable[[str, str], str]) -> Callable[[str], str]:
    """The fault that a named case of worker.py runs into."""
    return lambda line: ask_worker("case", line)


@pytest.fixture
def edit_weights() -> Callable[..., None]:
    """Changes the one safetensors file of a folder: fill, drop, rename or add a tensor."""

    def change(folder: Path, verb: str, name: str, *details: Any) -> None:
        weights = Weights(folder / "model.safetensors")
        if verb == "add":
            weights.heads[name] = weights.heads[details[0]]
            weights.bytes[name] = weights.bytes[details[0]]
        else:
            getattr(weights, verb)(name, *details)
        weights.write()

    return change


@pytest.fixture
def hub_view(hub_cache: Path) -> Callable[[Path], str]:
    """Makes a folder known to the hub's client under a repository id, by links."""

    def make(folder: Path) -> str:
        name = f"org/model-{len(list(hub_cache.iterdir()))}"
        repo = hub_cache / f"models--{name.replace('/', '--')}"
        commit = "0123456789abcdef0123456789abcdef01234567"
        for path in folder.rglob("*"):
            if path.is_file():
                link = repo / "snapshots" / commit / path.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit, encoding="utf-8")
        return name

    return make

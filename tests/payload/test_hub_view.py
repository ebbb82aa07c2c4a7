"""Plain user code on an installed release that can't be written to, with no network: by name and by folder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.online.inspection import loaders
from tests.support.bundles import InstalledBundle
from tests.support.paths import MODELS
from tests.support.programs import require_tool
from tests.support.smoke_loads import LOADED_AS, User, serve_user_code

pytestmark = pytest.mark.long

WAYS = [
    ("good", "sentences"),
    ("pickled", "sentences"),
    ("encoder", "encoder"),
    ("encoder", "pipe"),
    ("llama", "writer"),
    ("reranker", "cross"),
    ("m3", "m3"),
    ("flag-reranker", "reranker"),
    ("coded", "coded"),
    ("clip", "clip"),
]
START = """
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount --bind "$1/var" "$1/var"
mount -o remount,bind,rw "$1/var"
set -a
. "$1/current/.env.offline"
set +a
for name in $2; do unset "$name"; done
shift 2
exec "$HF_HUB_CACHE/../venv/bin/python" "$@"
"""
"""A release that is mounted read-only, as on a hardened host; only PREFIX/var takes what libraries write."""
SWITCHES = "HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_DATASETS_OFFLINE"


ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def command(flagged: InstalledBundle, unset: str = "") -> list[str]:
    """Starts a Python under nothing but .env.offline."""
    return [
        require_tool("unshare"),
        "-rnm" if os.getuid() else "-nm",
        "sh",
        "-c",
        START,
        "sh",
        str(flagged.prefix),
        unset,
    ]


@pytest.fixture(scope="module")
def user(flagged: InstalledBundle) -> Iterator[User]:
    """What plain code says of a model from each place."""
    libraries = ("FlagEmbedding", "sentence_transformers", "transformers")
    with serve_user_code(command(flagged), *libraries, cwd="/", env=ENVIRONMENT) as ask:
        yield ask


def run(flagged: InstalledBundle, way: str, *places: object, unset: str) -> dict[str, Any]:
    """The same of a process that was started for it."""
    done = subprocess.run(
        [*command(flagged, unset), str(MODELS / "plain_user.py"), way, *map(str, places)],
        check=False, capture_output=True, text=True, cwd="/", env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("told:"))[5:]))


def test_every_loader_has_a_way() -> None:
    assert {name for name, _ in WAYS} == set(LOADED_AS)
    assert {*LOADED_AS.values()} == {*loaders.LOADERS}, "LOADED_AS in tests/support/smoke_loads.py names all loaders"


def test_calls_are_heard(user: User) -> None:
    told = user("caller", "x")
    assert told["code"] == 0
    assert [call.split()[0] for call in told["calls"]] == ["socket.getaddrinfo", "socket.connect"]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_by_name_and_by_folder_with_no_network(
    flagged: InstalledBundle, user: User, sources: dict[str, Path], name: str, way: str
) -> None:
    told = user(way, f"org/{name}", flagged.current / "models" / name, sources[name])
    assert told["code"] == 0
    by_name, by_folder, before = told["found"]
    assert by_name
    assert by_name == by_folder
    for ours, original in zip(by_name, before, strict=True):
        assert ours == pytest.approx(original, rel=1e-4, abs=1e-6)
    assert told["calls"] == []
    assert told["writable"] == {"HF_HUB_CACHE": False, "HF_HOME": True}


def test_local_files_only_is_enough_without_the_switches(flagged: InstalledBundle) -> None:
    """peft, which FlagEmbedding brings, asks for an adapter in spite of it: a marker answers for the hub."""
    told = run(flagged, "careful_encoder", "org/encoder", flagged.current / "models/encoder", unset=SWITCHES)
    assert told["found"][0] == told["found"][1]
    assert told["calls"] == []


def test_a_pipeline_without_a_task_says_so_at_once(flagged: InstalledBundle, user: User) -> None:
    told = user("guessing_pipe", "org/encoder", flagged.current / "models/encoder")
    assert all("infer task automatically" in said and "offline" in said for (said,) in told["found"])
    assert told["calls"] == []


@pytest.mark.parametrize("name", LOADED_AS)
def test_the_hub_view_holds_links_refs_and_the_marker_alone(flagged: InstalledBundle, name: str) -> None:
    repo = flagged.current / "hub" / f"models--org--{name}"
    commit = (repo / "refs" / "main").read_bytes().decode()
    assert len(commit) == 40
    assert sorted(one.name for one in repo.iterdir()) == [".no_exist", "refs", "snapshots"]
    assert [one.relative_to(repo).as_posix() for one in (repo / ".no_exist").rglob("*.json")] == [
        f".no_exist/{commit}/adapter_config.json"
    ]
    files = [one for one in (repo / "snapshots" / commit).rglob("*") if not one.is_dir()]
    assert files
    for one in files:
        assert one.is_symlink()
        assert one.resolve().is_relative_to((flagged.prefix / "models").resolve())

"""Smoke loads of tiny models: by the command line, and by one process that has imported the libraries."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import MODELS, ROOT
from tests.support.programs import run_bundle
from tests.support.servers.hub_server import serve_hub

PAYLOAD = ROOT / "bundler" / "payload"

TEXTS = ("The cat sat on the mat.", "Green rain on a river!", "Music in the train.")

LOADED_AS = {
    "good": "sentence-transformers",
    "pickled": "sentence-transformers",
    "encoder": "transformers",
    "llama": "causal-lm",
    "reranker": "cross-encoder",
    "m3": "flag-embedding-m3",
    "flag-reranker": "flag-reranker",
    "coded": "files",
    "clip": "files",
}
"""The models of `flagged`, each org/NAME on the hub, and their loaders; weights of one are a pickle."""

_TOLD = {
    "flag-reranker": ", loader: flag-reranker",
    "coded": ", loader: files, trust_remote_code: true",
    "clip": ", loader: files",
}
"""What the files do not tell."""

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the command line gave: exit code, result if one was written, and all that was printed."""

    code: int
    result: Result
    printed: str


def make_flag_bundle(sources: dict[str, Path], folder: Path) -> None:
    lines = (ROOT / "manifests" / "ragtrace.yaml").read_text(encoding="utf-8").splitlines()
    packages = next(line for line in lines if "FlagEmbedding==" in line and "requirements:" in line).strip()
    models = ", ".join(f"{{repo: org/{name}{_TOLD.get(name, '')}}}" for name in LOADED_AS)
    manifest, packed = folder / "flag.yaml", folder / "flag.bundle.tar"
    manifest.write_text(
        'name: flag\nversion: "1"\n'
        "target: {python: '3.11', platform: linux-x86_64, libc: glibc-2.28, accelerator: cpu}\n"
        f"python: {{{packages}}}\n"
        f"models: [{models}]\n"
        'smoke: {texts: ["The cat sat on the mat.", "Green rain on a river!"]}\n',
        encoding="utf-8",
    )
    with serve_hub() as hub:
        for name, source in sources.items():
            files = {str(one.relative_to(source)): one.read_bytes() for one in source.rglob("*") if one.is_file()}
            hub.repository(f"org/{name}", files)
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf")}
        built = run_bundle("build", "--no-rehearse", manifest, "-o", packed, "--quiet", env=env)
    assert built.returncode == 0, built.stderr
    done = run_bundle("install", packed, "--prefix", folder / "prefix", "--json")
    assert done.returncode == 0, done.stderr
    (folder / "told.json").write_text(done.stdout, encoding="utf-8")


def make_request(folder: Path, **more: object) -> dict[str, object]:
    """A request for the model in `folder`."""
    defaults = {"alias": "tiny", "loader": "sentence-transformers", "repo_id": "", "device": "cpu", "texts": TEXTS}
    return {**defaults, "path": str(folder), "closer": [], "ram_limit": 0, **more}


def run_smoke_load(
    python: str,
    offline: dict[str, str],
    place: Path,
    folder: Path,
    payload: Path = PAYLOAD,
    mask: int = 0o022,
    **more: object,
) -> Answer:
    """What the real command line says, under `python`, of the model in `folder`; files of its own go to `place`."""
    request, result = place / "request.json", place / "result.json"
    request.write_text(json.dumps(make_request(folder, **more)), encoding="utf-8")
    done = subprocess.run(
        [python, "-I", str(payload), str(request), str(result)],
        env=offline,
        cwd="/",
        umask=mask,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    assert sorted(path.name for path in place.glob("result*")) == (["result.json"] if found else [])
    return Answer(code=done.returncode, result=found, printed=done.stdout + done.stderr)


Ask = Callable[[str, str], str]


@contextmanager
def start_worker(python: str, environment: dict[str, str], folder: Path) -> Iterator[Ask]:
    """A process of ``worker.py``, which imports the libraries once; files of its own go to ``folder``."""
    with (
        (folder / "noise").open("w+", encoding="utf-8") as noise,
        subprocess.Popen(
            [python, "-I", str(MODELS / "worker.py"), str(PAYLOAD)],
            env={**environment, "HF_MODULES_CACHE": str(folder / "modules")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None

        def put(kind: str, what: str) -> str:
            assert worker.stdin is not None
            assert worker.stdout is not None
            result = folder / "result"
            result.unlink(missing_ok=True)
            worker.stdin.write(json.dumps([kind, what, str(result)]) + "\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "done\n", (folder / "noise").read_text(encoding="utf-8")[-3000:]
            return result.read_text(encoding="utf-8")

        yield put
        worker.stdin.close()


User = Callable[..., dict[str, Any]]


@contextmanager
def serve_user_code(command: Sequence[str | Path], *modules: str, **options: Any) -> Iterator[User]:
    """Plain code of a user, each run a fork of one process that has imported ``modules``; ``command`` is its Python.

    What a run gives is what it told, with its exit code.
    """
    with subprocess.Popen(
        [*command, str(MODELS / "plain_user.py"), "serve", *modules],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
    ) as process:  # fmt: skip
        assert process.stdin is not None

        def ask(way: str, *places: object) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([way, *map(str, places)]) + "\n")
            process.stdin.flush()
            told: dict[str, Any] = {}
            for line in process.stdout:
                what, _, value = line.partition(":")
                if what == "told":
                    told = json.loads(value)
                if what == "ended":
                    return told | {"code": int(value)}
            pytest.fail(f"{command} ended")

        yield ask
        process.stdin.close()


def load_in_worker(ask: Ask, place: Path, folder: Path, **more: object) -> Result:
    """What a long-lived process says of the model in ``folder``; the request goes to ``place``."""
    request = place / "asked.json"
    request.write_text(json.dumps(make_request(folder, **more)), encoding="utf-8")
    result: Result = json.loads(ask("load", str(request)))
    return result

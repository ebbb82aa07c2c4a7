"""From a project to a lock with nothing written by hand: its files, a hub and an index."""

from __future__ import annotations

import json
from pathlib import Path

from bundler.format.lock import lockfile
from tests.support.programs import run_bundle
from tests.support.servers.hub_server import make_hub_env, serve_hub

MODULES = b'[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
FILES = {
    "modules.json": MODULES,
    "config.json": b'{"architectures": ["BertModel"], "vocab_size": 9}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"w" * 5000,
}
CODE = 'from sentence_transformers import SentenceTransformer\nmodel = SentenceTransformer("all-tiny-v1")\n'


def test_a_project_is_ready_to_lock(builder_env: dict[str, str], tmp_path: Path) -> None:
    project, kept = tmp_path / "My project", tmp_path / "kept.json"
    (project / "src").mkdir(parents=True)
    (project / "requirements.txt").write_text("alpha==1.0\n")
    (project / "src" / "app.py").write_text(CODE)
    (project / "Dockerfile").write_text("FROM python:3.11-slim\n")
    (project / ".env").write_text("EMBEDDING_MODEL=org/other\nHF_TOKEN=hf_abcdefghijklmnopqrstuvwx\n")
    done = run_bundle("init", project)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "  repo sentence-transformers/all-tiny-v1: src/app.py:2 SentenceTransformer" in lines
    assert "  repo org/other: .env:1 EMBEDDING_MODEL" in lines
    assert lines[-1] == f"next: bundle lock '{project}/bundle.yaml'"
    assert "hf_abc" not in (project / "bundle.yaml").read_text() + done.stdout + done.stderr
    with serve_hub() as hub:
        commits = [
            hub.repository(name, FILES).refs["main"] for name in ("org/other", "sentence-transformers/all-tiny-v1")
        ]
        done = run_bundle("lock", project / "bundle.yaml", "-o", kept, env=make_hub_env(builder_env, hub.url, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    found = lockfile.read_lock(kept.read_bytes(), "the lock")
    assert [model.source for model in found.models] == [
        f"repo:org/other@{commits[0]}",
        f"repo:sentence-transformers/all-tiny-v1@{commits[1]}",
    ]
    assert {model.loader for model in found.models} == {"sentence-transformers"}
    assert (found.target.python, found.target.libc, found.target.accelerator) == ("3.11", "glibc-2.28", "cpu")
    assert [package.name for package in found.python.packages] == ["alpha", "beta"]
    assert dict(found.env) == {"EMBEDDING_MODEL": "{model:other}"}


def test_what_init_tells_a_program_and_that_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CODE)
    told = json.loads(run_bundle("init", "--json", cwd=tmp_path).stdout)["result"]
    assert told["models"] == [
        {
            "alias": "all-tiny-v1",
            "repo": "sentence-transformers/all-tiny-v1",
            "found": ["app.py:2 SentenceTransformer"],
        }
    ]
    again = run_bundle("init", cwd=tmp_path)
    assert (again.returncode, "this file exists already" in again.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    nothing = run_bundle("init", tmp_path / "empty")
    assert (nothing.returncode, "no packages and no models were found" in nothing.stderr) == (3, True)
    assert not list((tmp_path / "empty").iterdir())

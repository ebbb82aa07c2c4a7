"""Code of a model's own runs when the request says so, and not otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.smoke_loads import Result

OWN = """
from pathlib import Path
from transformers import {kind}Config as Config
Path({mark!r}).touch()
"""


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("name", "loader", "kind"),
    [
        ("encoder", "transformers", "Bert"),
        ("llama", "causal-lm", "Llama"),
        ("reranker", "cross-encoder", "Bert"),
        ("good", "sentence-transformers", "Bert"),
    ],
)
def test_code_runs_only_where_it_is_trusted(
    name: str,
    loader: str,
    kind: str,
    trusted: bool,
    copy_model: Callable[[str], Path],
    smoke_load: Callable[..., Result],
    tmp_path: Path,
) -> None:
    folder, mark = copy_model(name), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "own.Config"}}))
    (folder / "own.py").write_text(OWN.format(kind=kind, mark=str(mark)))
    result = smoke_load(folder, loader=loader, trust_remote_code=trusted)
    assert (result["fault"], result["ok"]) == ("", True), result["traceback"]
    assert mark.exists() is trusted

"""Small bundles that ``bundle build`` made, and what the verbs print about them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

MANIFEST = """\
name: small
version: "{version}"
target: {{python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}}
python: {{requirements: [alpha]}}
models: [{{path: vendor, alias: m, repo_id: org/m, loader: files}}]
env: {{MODEL_PATH: "{{model:m}}"}}
sequence: {sequence}
"""


@dataclass(frozen=True, slots=True)
class SmallBundle:
    """A small bundle and everything that it was built from."""

    path: Path
    manifest: Path
    environment: dict[str, str]


def get_live_release(prefix: Path) -> str:
    return (prefix / "current").readlink().name


def read_result(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return dict(json.loads(done.stdout))

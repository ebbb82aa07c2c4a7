"""A prefix as a value: what stands where, to compare one install with another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

_PASSING = ("__pycache__", "uv_cache.json", ".lock", "var")
"""What differs from run to run, or belongs to whoever uses the release: compiled files, uv's note of a time."""

_MEASURED = ("receipt.json", "smoke.json")
"""Files that hold what one run measured."""


def read_tree(root: Path) -> dict[str, str]:
    """Every file, link and folder below ``root``: its mode and its content, less what differs from run to run."""
    return dict(_entries(root))


def _entries(root: Path) -> Iterator[tuple[str, str]]:
    for above, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _PASSING)
        for name in [*folders, *names]:
            path = Path(above, name)
            if name not in _PASSING:
                yield str(path.relative_to(root)), _content(path)


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    mode = f"{path.stat().st_mode:o}"
    if path.is_dir():
        return mode
    if path.name in _MEASURED:
        return f"{mode} {_said(path)}"
    if path.name == "RECORD":
        lines = path.read_text().splitlines()
        return f"{mode} {[line for line in lines if 'uv_cache' not in line]}"
    return f"{mode} {path.read_bytes()!r}"


def _said(path: Path) -> str:
    """A receipt less its measures, whether they are new, and its number, which grows."""
    told = json.loads(path.read_bytes())
    if isinstance(told, list):
        return str(len(told))
    return str({name: value for name, value in told.items() if name not in ("smoke", "proof", "ordinal")})

"""Kernels of the hub: the version that libraries ask for where nobody names one, and the kernels that one needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from packaging.version import Version

from bundler.online.inspection import references
from bundler.online.inspection.references import ReadFile, Reference

_FLASH_ATTN2 = "kernels-community/flash-attn2"
_DEFAULT_VERSIONS = {
    "kernels-community/aiter-flash-attn": 2,
    "kernels-community/flash-attn4": 0,
    "kernels-community/metal-flash-sdpa": 2,
}
"""FLASH_ATTN_KERNEL_VERSIONS of transformers 5; of any other kernel it asks for version 1."""


def get_default_version(repo: str, torch: str) -> str:
    """The branch that transformers asks for where a configuration names none; ``torch`` is a version, "" if unknown."""
    if repo == _FLASH_ATTN2:
        return "v3" if torch and Version(torch).release < (2, 10) else "v4"
    return f"v{_DEFAULT_VERSIONS.get(repo, 1)}"


def find_dependencies(names: Sequence[str], read_file: ReadFile) -> list[Reference]:
    """The kernels that a kernel's builds name; raises UnreadableError."""
    found: list[Reference] = []
    for name in names:
        if PurePosixPath(name).name == "metadata.json":
            found += _read_dependencies(name, read_file)
    return list(dict.fromkeys(found))


def _read_dependencies(name: str, read_file: ReadFile) -> Iterator[Reference]:
    listed = references.read_json_object(name, read_file).get("kernel-depends")
    for one in listed if isinstance(listed, list) else ():
        repo = one.get("repo-id") if isinstance(one, dict) else None
        if isinstance(repo, str) and references.is_repo_id(repo):
            number = one.get("version")
            revision = f"v{number}" if isinstance(number, int) else str(one.get("revision") or "")
            yield Reference(file=name, reason="kernel-depends", repo=repo, repo_type="kernel", revision=revision)

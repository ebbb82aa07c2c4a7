"""Kernels of the hub: the version that transformers uses by default, and the kernels that a kernel depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from packaging.version import Version

from bundler.online.inspection import references
from bundler.online.inspection.model_files import ReadFile
from bundler.online.inspection.references import Reference

_FLASH_ATTN2 = "kernels-community/flash-attn2"
_DEFAULT_VERSIONS = {
    "kernels-community/aiter-flash-attn": 2,
    "kernels-community/flash-attn4": 0,
    "kernels-community/metal-flash-sdpa": 2,
}
"""FLASH_ATTN_KERNEL_VERSIONS of transformers 5; it uses version 1 of any other kernel."""


def get_default_version(repo: str, torch: str) -> str:
    """Return the branch that transformers uses where a configuration names none.

    ``torch`` is the version of PyTorch in the bundle, "" if unknown.
    """
    if repo == _FLASH_ATTN2:
        return "v3" if torch and Version(torch).release < (2, 10) else "v4"
    return f"v{_DEFAULT_VERSIONS.get(repo, 1)}"


def find_dependencies(names: Sequence[str], read_file: ReadFile) -> list[Reference]:
    """Find the kernels that a kernel's builds name; raises UnreadableFileError."""
    dependencies: list[Reference] = []
    for name in names:
        if PurePosixPath(name).name == "metadata.json":
            dependencies += _read_dependencies(name, read_file)
    return list(dict.fromkeys(dependencies))


def _read_dependencies(name: str, read_file: ReadFile) -> Iterator[Reference]:
    dependencies = references.read_config(name, read_file).get("kernel-depends")
    for dependency in dependencies if isinstance(dependencies, list) else ():
        repo = dependency.get("repo-id") if isinstance(dependency, dict) else None
        if isinstance(repo, str) and references.is_repo_id(repo):
            number = dependency.get("version")
            revision = f"v{number}" if isinstance(number, int) else str(dependency.get("revision") or "")
            yield Reference(file=name, reason="kernel-depends", repo=repo, repo_type="kernel", revision=revision)

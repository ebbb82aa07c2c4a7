"""The one index that a package must come from: named in the manifest, PyTorch's own, or merged from all indexes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from bundler.format.lock.target import Target
from bundler.online.packages import simple_index
from bundler.online.packages.simple_index import IndexClient, IndexFile

PYTORCH_INDEX = "https://download.pytorch.org/whl"
"""The URL below which PyTorch publishes its builds, in one index for each accelerator."""
_PYTORCH_PACKAGES = frozenset(["torch", "torchvision", "torchaudio"])
_TRITON_PACKAGES: Mapping[str, frozenset[str]] = {
    "rocm": frozenset(["pytorch-triton-rocm", "triton-rocm"]),
    "xpu": frozenset(["pytorch-triton-xpu", "triton-xpu"]),
}
"""Further packages that builds for an accelerator need and that only PyTorch's index has."""


@dataclass(slots=True)
class IndexRouter:
    """Finds the one index that a package must come from; ``reasons`` says for each package why."""

    index_assignments: Iterable[tuple[str, Iterable[str]]]
    target: Target
    index: IndexClient
    folder: Path
    pytorch_index: str = PYTORCH_INDEX
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def routed_packages(self) -> frozenset[str]:
        """The packages that must come from one index."""
        return frozenset(self._explicit_indexes) | self._accelerator_packages

    @property
    def _explicit_indexes(self) -> dict[str, str]:
        return {canonicalize_name(name): url for url, names in self.index_assignments for name in names}

    @property
    def _accelerator_packages(self) -> frozenset[str]:
        if not self.target.platform_info.system.has_accelerator_builds:
            return frozenset()  # there is one build, and every index has it
        accelerator = self.target.accelerator
        return _PYTORCH_PACKAGES.union(
            *(names for prefix, names in _TRITON_PACKAGES.items() if accelerator.startswith(prefix))
        )

    def find_index(self, name: str) -> str | None:
        """Return the URL of the index for a package; None where no index has a compatible wheel."""
        if url := self._explicit_indexes.get(name):
            self.reasons[name] = "comes from the index that the manifest names for it"
            return url
        if name not in self._accelerator_packages:
            return self._write_merged_index(name)
        accelerator = self.target.accelerator
        wheels = self.index.find_wheels(name, skip_host=simple_index.PYPI_HOST)
        compatible = [wheel for wheel in wheels if self._is_compatible(wheel) and wheel.local_version == accelerator]
        if compatible:
            publishers = ", ".join(dict.fromkeys(wheel.publisher for wheel in compatible))
            self.reasons[name] = (
                f"comes from {publishers}, which pip's configuration names and which has builds for {accelerator}"
            )
            return self._write_index(name, compatible)
        self.reasons[name] = (
            f"comes from {self.pytorch_index}/{accelerator}: pip's configuration offers no build for {accelerator}"
        )
        return f"{self.pytorch_index}/{accelerator}"

    def write_sdist_index(self, name: str, sha256: frozenset[str]) -> str | None:
        """Write an index of a package's sdists that have one of these digests, and of nothing else.

        uv runs an sdist's code to learn its dependencies, so it must not see any other.

        Returns:
            The URL of the index; None where there is no such sdist.
        """
        index_url = self._explicit_indexes.get(name)
        files = self.index.list_files(index_url, name) if index_url else self.index.find_sdists(name)
        sdists = [file for file in files if not file.is_wheel and simple_index.get_sha256(file) in sha256]
        if not sdists:
            return None
        self.reasons[name] = "is built from the source code whose digest the requirements allow"
        reachable = [replace(sdist, url=simple_index.add_login(sdist.url, index_url or "")) for sdist in sdists]
        return simple_index.write_index(self.folder / f"source-{name}", name, reachable)

    def _write_merged_index(self, name: str) -> str | None:
        """Write an index of all compatible wheels of all indexes.

        uv takes the files of a version from the first index that has the version, pip from all of them.
        """
        compatible = [wheel for wheel in self.index.find_wheels(name) if self._is_compatible(wheel)]
        if not compatible:
            return None
        self.reasons[name] = "comes from any index with a compatible wheel"
        return self._write_index(name, compatible)

    def _is_compatible(self, file: IndexFile) -> bool:
        return self.target.is_compatible(file.filename)

    def _write_index(self, name: str, files: Iterable[IndexFile]) -> str:
        return simple_index.write_index(self.folder / f"only-{name}", name, files)

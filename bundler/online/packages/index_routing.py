"""Which packages come from an index of their own: those of which the manifest says so, and the builds of PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from bundler.format.lock.target import Target
from bundler.online.packages import simple_index
from bundler.online.packages.simple_index import IndexClient, IndexFile

PYTORCH_INDEX = "https://download.pytorch.org/whl"
"""Where PyTorch publishes its builds, in one index for each accelerator."""
_PYTORCH_PACKAGES = frozenset(["torch", "torchvision", "torchaudio"])
_TRITON_PACKAGES: Mapping[str, frozenset[str]] = {
    "rocm": frozenset(["pytorch-triton-rocm", "triton-rocm"]),
    "xpu": frozenset(["pytorch-triton-xpu", "triton-xpu"]),
}
"""What builds for an accelerator need besides, and what stands on PyTorch's index alone."""


@dataclass(slots=True)
class IndexRouter:
    """Finds the one index from which a package is to come; ``why`` says in words what was found."""

    index_assignments: Iterable[tuple[str, Iterable[str]]]
    target: Target
    index: IndexClient
    folder: Path
    pytorch_index: str = PYTORCH_INDEX
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def routed_packages(self) -> frozenset[str]:
        """The packages that must not come from just anywhere."""
        return frozenset(self._explicit_indexes) | self._accelerator_packages

    @property
    def _explicit_indexes(self) -> dict[str, str]:
        return {canonicalize_name(name): url for url, names in self.index_assignments for name in names}

    @property
    def _accelerator_packages(self) -> frozenset[str]:
        if not self.target.platform_info.system.has_accelerator_builds:
            return frozenset()  # there is one build for it, and every index has that
        found = [names for kind, names in _TRITON_PACKAGES.items() if self.target.accelerator.startswith(kind)]
        return _PYTORCH_PACKAGES.union(*found)

    def find_index(self, name: str) -> str | None:
        """The address of the index; None where the package has no wheel that fits on any."""
        if url := self._explicit_indexes.get(name):
            self.reasons[name] = "comes from the index that the manifest names for it"
            return url
        if name not in self._accelerator_packages:
            return self._write_merged_index(name)
        accelerator = self.target.accelerator
        offers = self.index.find_wheels(name, skip_host=simple_index.PYPI_HOST)
        fitting = [offer for offer in offers if self._is_compatible(offer) and offer.local_version == accelerator]
        if fitting:
            places = ", ".join(dict.fromkeys(offer.publisher for offer in fitting))
            self.reasons[name] = (
                f"comes from {places}, which pip's configuration names and which has builds for {accelerator}"
            )
            return self._write_index(name, fitting)
        self.reasons[name] = (
            f"comes from {self.pytorch_index}/{accelerator}: pip's configuration offers no build for {accelerator}"
        )
        return f"{self.pytorch_index}/{accelerator}"

    def write_sdist_index(self, name: str, sha256: frozenset[str]) -> str | None:
        """The address of an index that has of a package the source code with these digests alone; None: there is none.

        uv runs source code to learn what it needs, so it may not even see any other.
        """
        explicit = self._explicit_indexes.get(name)
        offers = self.index.list_files(explicit, name) if explicit else self.index.find_sdists(name)
        allowed = [offer for offer in offers if not offer.is_wheel and simple_index.get_sha256(offer) in sha256]
        if not allowed:
            return None
        self.reasons[name] = "is built from the source code whose digest the requirements allow"
        reachable = [replace(offer, url=simple_index.add_login(offer.url, explicit or "")) for offer in allowed]
        return simple_index.write_index(self.folder / f"source-{name}", name, reachable)

    def _write_merged_index(self, name: str) -> str | None:
        """An index of all wheels that fit, from wherever they are.

        uv looks for the files of a version on the first index that has the version, pip on all of them.
        """
        fitting = [offer for offer in self.index.find_wheels(name) if self._is_compatible(offer)]
        if not fitting:
            return None
        self.reasons[name] = "comes from whichever index has a wheel that fits"
        return self._write_index(name, fitting)

    def _is_compatible(self, file: IndexFile) -> bool:
        return self.target.is_compatible(file.filename)

    def _write_index(self, name: str, files: Iterable[IndexFile]) -> str:
        return simple_index.write_index(self.folder / f"only-{name}", name, files)

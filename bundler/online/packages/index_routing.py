"""Which packages come from an index of their own: those of which the manifest says so, and the builds of PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from bundler.format.lock.target import Target
from bundler.online.packages import simple_index
from bundler.online.packages.simple_index import Offer, Pages

PYTORCH = "https://download.pytorch.org/whl"
"""Where PyTorch publishes its builds, in one index for each accelerator."""
_FAMILY = frozenset(["torch", "torchvision", "torchaudio"])
_COMPANIONS: Mapping[str, frozenset[str]] = {
    "rocm": frozenset(["pytorch-triton-rocm", "triton-rocm"]),
    "xpu": frozenset(["pytorch-triton-xpu", "triton-xpu"]),
}
"""What builds for an accelerator need besides, and what stands on PyTorch's index alone."""


@dataclass(slots=True)
class Router:
    """Finds the one index from which a package is to come; ``why`` says in words what was found."""

    indexes: Iterable[tuple[str, Iterable[str]]]
    target: Target
    pages: Pages
    folder: Path
    pytorch: str = PYTORCH
    why: dict[str, str] = field(default_factory=dict)

    @property
    def concerned(self) -> frozenset[str]:
        """The packages that must not come from just anywhere."""
        return frozenset(self._explicit) | self._builds

    @property
    def _explicit(self) -> dict[str, str]:
        return {canonicalize_name(name): url for url, names in self.indexes for name in names}

    @property
    def _builds(self) -> frozenset[str]:
        if self.target.system == "macos":
            return frozenset()  # there is one build for it, and every index has that
        found = [names for kind, names in _COMPANIONS.items() if self.target.accelerator.startswith(kind)]
        return _FAMILY.union(*found)

    def route(self, name: str) -> str | None:
        """The address of the index; None where the package has no wheel that fits on any."""
        if url := self._explicit.get(name):
            self.why[name] = "comes from the index that the manifest names for it"
            return url
        if name not in self._builds:
            return self._merged(name)
        accelerator = self.target.accelerator
        offers = self.pages.offers(name, besides=simple_index.PYPI)
        fitting = [offer for offer in offers if self._fits(offer) and offer.local_version == accelerator]
        if fitting:
            places = ", ".join(dict.fromkeys(offer.publisher for offer in fitting))
            self.why[name] = (
                f"comes from {places}, which pip's configuration names and which has builds for {accelerator}"
            )
            return self._only(name, fitting)
        self.why[name] = (
            f"comes from {self.pytorch}/{accelerator}: pip's configuration offers no build for {accelerator}"
        )
        return f"{self.pytorch}/{accelerator}"

    def allowed_source(self, name: str, sha256: frozenset[str]) -> str | None:
        """The address of an index that has of a package the source code with these digests alone; None: there is none.

        uv runs source code to learn what it needs, so it may not even see any other.
        """
        explicit = self._explicit.get(name)
        offers = self.pages.on(explicit, name) if explicit else self.pages.sources(name)
        allowed = [offer for offer in offers if not offer.is_wheel and simple_index.digest_of(offer) in sha256]
        if not allowed:
            return None
        self.why[name] = "is built from the source code whose digest the requirements allow"
        reachable = [replace(offer, url=simple_index.with_login(offer.url, explicit or "")) for offer in allowed]
        return simple_index.as_index(self.folder / f"source-{name}", name, reachable)

    def _merged(self, name: str) -> str | None:
        """An index of all wheels that fit, from wherever they are.

        uv looks for the files of a version on the first index that has the version, pip on all of them.
        """
        fitting = [offer for offer in self.pages.offers(name) if self._fits(offer)]
        if not fitting:
            return None
        self.why[name] = "comes from whichever index has a wheel that fits"
        return self._only(name, fitting)

    def _fits(self, offer: Offer) -> bool:
        return self.target.fits(offer.filename)

    def _only(self, name: str, offers: Iterable[Offer]) -> str:
        return simple_index.as_index(self.folder / f"only-{name}", name, offers)

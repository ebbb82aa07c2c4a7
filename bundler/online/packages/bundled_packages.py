"""Which packages the environment will have, and which modules they bring."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from bundler.online.packages import resolution
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer.context import BuildContext

_PACKAGES_BY_MODULE = {
    "PIL": ("pillow", "pillow-simd"),
    "attr": ("attrs",),
    "bs4": ("beautifulsoup4",),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "dateutil": ("python-dateutil",),
    "google": ("protobuf",),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "yaml": ("pyyaml",),
}
"""Modules whose package bears another name. Any other module is looked for in the wheels themselves."""


@dataclass(frozen=True, slots=True)
class BundledPackages:
    """The packages of the environment; a bundle without any leaves the question to its host."""

    wheels: Sequence[ResolvedWheel]
    context: BuildContext

    def has_none(self, names: Iterable[str]) -> bool:
        """Whether the environment is known to have none of these packages."""
        return bool(self.wheels) and not self._list_names() & {canonicalize_name(name) for name in names}

    def find_missing_modules(self, modules: Iterable[str]) -> list[str]:
        """Those of these top-level modules that neither Python nor any package brings, sorted."""
        if not self.wheels:
            return []
        unknown = {
            name
            for name in modules
            if name not in sys.stdlib_module_names
            and self.has_none([name.replace("_", "-"), *_PACKAGES_BY_MODULE.get(name, ())])
        }
        for wheel in sorted(self.wheels, key=lambda one: one.size):
            if not unknown:
                break
            unknown -= self._read_modules(wheel)
        return sorted(unknown)

    def find_version(self, name: str) -> str:
        """The version of a package; "" where there is none of that name."""
        return next((one.version for one in self.wheels if canonicalize_name(one.name) == name), "")

    def _list_names(self) -> set[str]:
        return {canonicalize_name(one.name) for one in self.wheels}

    def _read_modules(self, wheel: ResolvedWheel) -> set[str]:
        """The top-level modules in a wheel, which is brought home for that: the bundle needs it anyway."""
        resolution.fetch_wheels([wheel], self.context.cache, self.context.config, self.context.reporter)
        with zipfile.ZipFile(self.context.cache.require(wheel.sha256)) as packed:
            names = packed.namelist()
        tops = {
            name.split("/", 3)[2] if ".data/" in name and name.count("/") > 1 else name.split("/")[0] for name in names
        }
        return {top.partition(".")[0] for top in tops}

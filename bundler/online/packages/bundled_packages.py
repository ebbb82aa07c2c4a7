"""The packages that the bundle's environment will have, and their modules."""

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
"""Packages of modules with another name. Any other module is looked up in the wheels themselves."""


@dataclass(frozen=True, slots=True)
class BundledPackages:
    """The packages of the environment. Without any, the host provides them and nothing is known of them here."""

    wheels: Sequence[ResolvedWheel]
    context: BuildContext

    def has_none(self, names: Iterable[str]) -> bool:
        """Tell whether the environment is known to have none of these packages."""
        return bool(self.wheels) and not self._list_names() & {canonicalize_name(name) for name in names}

    def find_missing_modules(self, modules: Iterable[str]) -> list[str]:
        """Return, sorted, the top-level modules that are in neither Python's standard library nor any package."""
        if not self.wheels:
            return []
        missing = {
            name
            for name in modules
            if name not in sys.stdlib_module_names
            and self.has_none([name.replace("_", "-"), *_PACKAGES_BY_MODULE.get(name, ())])
        }
        for wheel in sorted(self.wheels, key=lambda wheel: wheel.size):
            if not missing:
                break
            missing -= self._read_modules(wheel)
        return sorted(missing)

    def find_version(self, name: str) -> str:
        """Return the version of a package; "" where there is none of that name."""
        return next((wheel.version for wheel in self.wheels if canonicalize_name(wheel.name) == name), "")

    def _list_names(self) -> set[str]:
        return {canonicalize_name(wheel.name) for wheel in self.wheels}

    def _read_modules(self, wheel: ResolvedWheel) -> set[str]:
        """Read the top-level modules of a wheel, which is fetched for that: the bundle needs it anyway."""
        resolution.fetch_wheels([wheel], self.context.cache, self.context.config, self.context.reporter)
        with zipfile.ZipFile(self.context.cache.require(wheel.sha256)) as archive:
            names = archive.namelist()
        top_names = {
            name.split("/", 3)[2] if ".data/" in name and name.count("/") > 1 else name.split("/")[0] for name in names
        }
        return {name.partition(".")[0] for name in top_names}

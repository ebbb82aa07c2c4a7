"""Probes, one file for each loader: how to load a model and what to check.

A module here is a probe if it has

* ``LOADER``, the loader's name in requests and manifests: the module's name with hyphens for underscores; and
* ``prove(request, result)``, which loads the model in ``request.path`` on ``request.device``, writes measurements into
  ``result`` as soon as it has them, records each check with ``result.add_check`` and each warning with
  ``result.warn``, announces each slow phase with ``result.enter``, and raises ``CheckFailedError`` (or lets the
  library's error propagate) if the model fails.

A new loader is one new file and no other change in this package. The file may import its libraries at the top: a
probe is imported after the network is cut, only if a request names it, and the time of that import is measured.
Checks for any model are in ``checks``, those for anything that transformers loads are in ``files``. ``load.steps``
runs them and records the results; ``load.reranking`` is the complete load of a reranker.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from ..load.request import Request
from ..results.failures import CheckFailedError
from ..results.load_result import LoadResult


class Probe(Protocol):
    """The interface of a module in this folder."""

    LOADER: str

    def prove(self, request: Request, result: LoadResult) -> None:
        """Load the model and check it."""


def list_loaders() -> list[str]:
    """List the loaders that have a probe."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load_probe(loader: str) -> Probe:
    """Import the probe of a loader, with the libraries that it needs.

    Raises:
        CheckFailedError: There is no such probe.
    """
    if loader not in list_loaders():
        raise CheckFailedError(
            f"Unknown loader {loader!r}; known are {', '.join(list_loaders())}.",
            "Correct the model's loader in the manifest, or choose the loader files, which installs it without a smoke load.",
        )
    return cast("Probe", importlib.import_module(f"{__name__}.{loader.replace('-', '_')}"))

"""One file for each loader: how a model is loaded and what it must show.

The seam. A module here is a probe when it has

* ``LOADER``, the loader's name in requests and manifests: the module's name with hyphens for underscores; and
* ``prove(request, record)``, which loads the model in ``request.path`` on ``request.device``, writes what it measures
  into ``record`` as soon as it is known, notes each check with ``record.passed`` and each thing worth knowing with
  ``record.warn``, says with ``record.enter`` what takes long, and raises ``CheckFailed`` (or lets the library's own error pass) when the model does not keep a
  promise.

A new loader is one new file and no other change. It may import its libraries at the top: a probe is imported after
the network was cut, only when a request names it, and the time of that import is measured. What holds for any model
is in ``checks``; what holds for anything that transformers loads is in ``loading``, ``weights`` and ``vocabulary``;
``steps`` puts them in order and notes what they showed, and ``scores`` is the whole proof of a reranker.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from ..load.request import Request
from ..results.failures import CheckFailedError
from ..results.load_result import LoadResult


class Probe(Protocol):
    """What a module in this folder offers."""

    LOADER: str

    def prove(self, request: Request, result: LoadResult) -> None:
        """Loads the model and puts it to the proof."""


def list_loaders() -> list[str]:
    """The loaders that there are probes for."""
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(__path__))


def load_probe(loader: str) -> Probe:
    """The probe for a loader; imports the libraries that it needs.

    :raises CheckFailed: there is none
    """
    if loader not in list_loaders():
        raise CheckFailedError(
            f"There is no way here to prove a model of the loader {loader!r}; there is one for {', '.join(list_loaders())}.",
            "Correct the model's loader in the manifest, or carry the model with the loader files.",
        )
    return cast("Probe", importlib.import_module(f"{__name__}.{loader.replace('-', '_')}"))

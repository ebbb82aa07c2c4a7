"""Every container engine that this program knows: one for each file in ``engines/``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from bundler.offline.container import engines
from bundler.offline.container.engines.engine import Engine


def _load_engines() -> Mapping[str, Engine]:
    modules = (
        importlib.import_module(f"{engines.__name__}.{info.name}") for info in pkgutil.iter_modules(engines.__path__)
    )
    known: list[Engine] = [module.ENGINE for module in modules if hasattr(module, "ENGINE")]
    return {engine.name: engine for engine in sorted(known, key=lambda engine: engine.rank)}


ENGINES = _load_engines()
"""Engines by name, in the order in which they are tried."""

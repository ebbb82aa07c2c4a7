"""The door of the smoke load: ``python -I PAYLOAD REQUEST.json RESULT.json``.

Exit code 0: the model proved itself; 3: it failed; both times RESULT.json says all. 2: there is no usable request.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE_NAME = "bundle_payload"


def register_package() -> str:
    """The name under which the files of this folder can import each other.

    Run as a folder, this file belongs to no package and the folder leads ``sys.path``, where ``checks.py`` would
    stand before an installed library of that name. So the folder leaves the path and becomes a package instead.
    """
    if __package__:
        return __package__
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != here]
    if PACKAGE_NAME in sys.modules:  # the guard has been here before
        return PACKAGE_NAME
    spec = importlib.util.spec_from_file_location(
        PACKAGE_NAME, here / "__init__.py", submodule_search_locations=[str(here)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{here} can not be read as a Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE_NAME] = module
    spec.loader.exec_module(module)
    return PACKAGE_NAME


if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{register_package()}.smoke").main(sys.argv[1:]))

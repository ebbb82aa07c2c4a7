"""Entry point of a smoke load: ``python -I PAYLOAD REQUEST.json RESULT.json``.

Exit code 0: the model passed; 3: it failed; in both cases RESULT.json holds the result. 2: the request is not usable.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE_NAME = "bundle_payload"


def register_package() -> str:
    """Make a package of this folder, so that its files can import each other, and return the package's name.

    When Python runs a folder, this file belongs to no package and the folder is first on ``sys.path``, where its
    ``checks`` would hide an installed library of that name. So the folder is removed from the path.
    """
    if __package__:
        return __package__
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]
    if PACKAGE_NAME in sys.modules:  # the guard of the environment has registered it
        return PACKAGE_NAME
    spec = importlib.util.spec_from_file_location(
        PACKAGE_NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} can not be read as a Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE_NAME] = module
    spec.loader.exec_module(module)
    return PACKAGE_NAME


if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{register_package()}.smoke").main(sys.argv[1:]))

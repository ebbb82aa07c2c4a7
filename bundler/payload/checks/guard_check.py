"""Check that the guard of the environment ran before this load."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from ..results.failures import CheckFailedError, format_list
from ..results.load_result import LoadResult

GUARD_MODULE = "_airgap_guard"
_HINT = (
    "Install the bundle again. If that does not help, something on this host stops Python from reading the "
    "environment's .pth files. Until you find it, source .env.offline before you start Python."
)


def check_guard(variables: Mapping[str, str], result: LoadResult) -> None:
    """Check that Python ran the guard at its start and that every variable has the installer's value.

    Python ignores a broken or missing ``.pth`` file silently: only this check detects it.

    Raises:
        CheckFailedError: The guard did not run, or a variable has another value.
    """
    guard = sys.modules.get(GUARD_MODULE)
    if guard is None or not getattr(guard, "began", False):
        raise CheckFailedError("The guard of the environment did not run when Python started.", _HINT)
    wrong = [name for name, value in variables.items() if os.environ.get(name) != value]
    if wrong:
        raise CheckFailedError(f"The guard ran, but these variables have other values: {format_list(wrong)}.", _HINT)
    result.add_check(f"the guard ran before any import: {len(variables)} variables keep the libraries on this host")

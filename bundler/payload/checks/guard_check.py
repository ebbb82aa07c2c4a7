"""Whether the guard of the environment did its work before this load began."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from ..results.failures import CheckFailedError, format_list
from ..results.load_result import LoadResult

GUARD_MODULE = "_airgap_guard"
_HINT = (
    "Install the bundle again. If that does not help, something on this host keeps Python from running the .pth files "
    "of the environment; until it is found, source .env.offline before Python starts."
)


def check_guard(variables: Mapping[str, str], result: LoadResult) -> None:
    """Python ran the guard at its start, and every variable is set as the installer means it.

    A ``.pth`` file that is broken, or not there, is ignored by Python without a word: only this shows it.

    :raises CheckFailed: it did not run, or a variable is not set
    """
    guard = sys.modules.get(GUARD_MODULE)
    if guard is None or not getattr(guard, "began", False):
        raise CheckFailedError("The guard of the environment did not run when Python started.", _HINT)
    wrong = [name for name, value in variables.items() if os.environ.get(name) != value]
    if wrong:
        raise CheckFailedError(
            f"The guard ran, and these variables are not what they must be: {format_list(wrong)}.", _HINT
        )
    result.add_check(f"the guard ran before any import: {len(variables)} variables keep the libraries on this host")

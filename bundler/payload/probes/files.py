"""The probe of models that are installed as files and not loaded; the result says so."""

from __future__ import annotations

from ..load.request import Request
from ..results.failures import REBUILD_HINT, CheckFailedError, pluralize
from ..results.load_result import LoadResult

LOADER = "files"


def prove(request: Request, result: LoadResult) -> None:
    """Check only that the folder holds files.

    Raises:
        CheckFailedError: The folder does not exist or is empty.
    """
    files = [path for path in request.path.rglob("*") if path.is_file()] if request.path.is_dir() else []
    if not files:
        raise CheckFailedError(f"The folder of {request.alias} holds no files.", REBUILD_HINT)
    result.add_check(f"in place: {pluralize(files, 'file')}")
    result.warn(
        f"not loaded: {request.alias} is installed as files only, and no check shows that a library can use it."
    )

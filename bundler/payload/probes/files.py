"""Files that are carried and not loaded: the result says so, so that nobody takes them for proved."""

from __future__ import annotations

from ..load.request import Request
from ..results.failures import REBUILD_HINT, CheckFailedError, pluralize
from ..results.load_result import LoadResult

LOADER = "files"


def prove(request: Request, result: LoadResult) -> None:
    """Only that the folder holds files.

    :raises CheckFailed: it is not there, or empty
    """
    files = [path for path in request.path.rglob("*") if path.is_file()] if request.path.is_dir() else []
    if not files:
        raise CheckFailedError(f"The folder of {request.alias} holds no files.", REBUILD_HINT)
    result.add_check(f"in place: {pluralize(files, 'file')}")
    result.warn(f"not loaded: {request.alias} is carried as files, and nothing shows that a library can use it.")

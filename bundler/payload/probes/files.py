"""Files that are carried and not loaded: the result says so, so that nobody takes them for proved."""

from __future__ import annotations

from ..load.request import Request
from ..results.failures import REBUILD, CheckFailed, counted
from ..results.load_result import Record

LOADER = "files"


def prove(request: Request, record: Record) -> None:
    """Only that the folder holds files.

    :raises CheckFailed: it is not there, or empty
    """
    files = [path for path in request.path.rglob("*") if path.is_file()] if request.path.is_dir() else []
    if not files:
        raise CheckFailed(f"The folder of {request.alias} holds no files.", REBUILD)
    record.passed(f"in place: {counted(files, 'file')}")
    record.warn(f"not loaded: {request.alias} is carried as files, and nothing shows that a library can use it.")

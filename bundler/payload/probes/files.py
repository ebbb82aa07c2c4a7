"""Files that are carried and not loaded: the result says so, so that nobody takes them for proved."""

# ruff: noqa: TID252 - the folder runs under two names, so its files can only name each other relatively
from __future__ import annotations

from ..faults import REBUILD, CheckFailed
from ..record import Record
from ..request import Request

LOADER = "files"


def prove(request: Request, record: Record) -> None:
    """Only that the folder holds files.

    :raises CheckFailed: it is not there, or empty
    """
    count = sum(1 for path in request.path.rglob("*") if path.is_file()) if request.path.is_dir() else 0
    if not count:
        raise CheckFailed(f"The folder of {request.alias} holds no files.", REBUILD)
    record.passed(f"{count} files are in place")
    record.warn(f"not loaded: {request.alias} is carried as files, and nothing shows that a library can use it.")

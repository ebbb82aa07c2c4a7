"""The RECORD file of a wheel or of an installed package.

Source: packaging.python.org, "Recording installed projects" and "Binary distribution format".
"""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """One row: a file, its digest in hexadecimal and its size in bytes.

    ``algorithm`` and ``digest`` are "" and ``size`` is -1 if the row does not state them.
    """

    path: str
    algorithm: str
    digest: str
    size: int


def read_record(data: bytes) -> list[RecordEntry]:
    """Read the rows of a RECORD; blank lines are skipped.

    Raises ValueError, which names the malformed row.
    """
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return [_read_row(row) for row in rows if row]


def _read_row(row: list[str]) -> RecordEntry:
    path, stated, size = row if len(row) == 3 else ("", "", "")
    algorithm, _, digest = stated.partition("=")
    try:
        if not path or not (size == "" or (size.isascii() and size.isdecimal())):
            raise ValueError
        unpadded = digest.rstrip("=")
        content = base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise ValueError(f"{','.join(row)[:100]!a} is not a row of path, digest and size") from None
    return RecordEntry(path=path, algorithm=algorithm, digest=content.hex(), size=int(size) if size else -1)

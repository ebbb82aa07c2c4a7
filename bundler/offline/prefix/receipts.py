"""The receipt of a finished release: ``receipt.json``, written last and read before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bundler.errors import IntegrityError
from bundler.format import documents, json_files
from bundler.format.documents import describe_field
from bundler.format.hashing import Sha256
from bundler.format.lock.smoke_result import SmokeResult

NAME = "receipt.json"

Proof = Literal["new", "old", "none", "unknown"]
"""Whether the install that wrote the receipt ran its smoke loads; "unknown" is from a version that did not note it."""


@documents.allow_unknown_keys
@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What was installed, where, and the results of the smoke loads."""

    release: str
    name: str
    version: str
    sequence: int
    digest: Sha256 = describe_field("of the lock as it travels")
    reviewed_digest: str = describe_field(
        "of the lock without what the rehearsal added; empty: an older version installed it", default=""
    )
    target: str
    prefix: str
    bundle: str = describe_field("the file that it came from; empty: a pipe")
    ordinal: int = describe_field("counts the installs of a prefix")
    follows: str = describe_field("the release that was live before; empty: none")
    rehearsed: bool
    signed_by: tuple[str, ...] = describe_field("fingerprints that its signatures name")
    trusted: tuple[str, ...] = describe_field("those of them that were trusted, and checked")
    installed_by: str
    models: tuple[str, ...] = describe_field("aliases")
    homes: Mapping[str, Sha256] = describe_field("shared model folders, and the digests of what is in them")
    proof: Proof = describe_field("whether the smoke loads ran in this install", default="unknown")
    smoke: tuple[SmokeResult, ...]


def read(path: Path) -> Receipt:
    """Read the receipt of a release.

    Raises:
        IntegrityError: It is missing, damaged, or of another release.
    """
    name = path.parent.name
    try:
        receipt = json_files.read(Receipt, path)
    except FileNotFoundError as error:
        raise _make_receipt_error(path, "missing") from error
    except OSError as error:
        raise _make_receipt_error(path, f"unreadable ({error.strerror})") from error
    except documents.DocumentError as error:
        raise _make_receipt_error(path, f"damaged: {json_files.format_problems(error)}") from error
    if receipt.release != name:
        raise _make_receipt_error(path, f"damaged: release: must be {name}, the name of its folder")
    return receipt


def find_problem(path: Path) -> IntegrityError | None:
    """Return the error of reading a receipt; None if it can be read."""
    try:
        read(path)
    except IntegrityError as error:
        return error
    return None


def _make_receipt_error(path: Path, state: str) -> IntegrityError:
    hint = (
        f"install its bundle again: that repairs it; or, if another release is live: bundle remove {path.parent.name}; "
        "if a newer version of this program wrote it, use the bundle.pyz of that version"
    )
    return IntegrityError(f"the receipt of a release is {state}", where=str(path), hint=hint)

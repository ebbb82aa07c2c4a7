"""A host that takes no pickles: they can run code when they are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bundler.errors import UnsafeError
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import pickle_detection

_HINT = "ask for a bundle of a revision that has safetensors: 'bundle build --no-pickles' makes sure of it"


def refuse_named(locked: Lock) -> None:
    """Refuse what the lock lists as a pickle or is named like one; raises UnsafeError before anything is written."""
    found = {pickle.path for pickle in locked.pickles}
    _refuse(found | {one.path for one in locked.of_kind("model") if pickle_detection.named_like_one(one.path)})


def refuse_content(placed: Iterable[tuple[str, Path]]) -> None:
    """Refuse what holds pickles by its content, whatever its name and whatever the lock says of it; raises UnsafeError.

    ``placed`` are paths in the bundle, and where their content lies.
    """
    found = set()
    for name, path in placed:
        try:
            held = bool(pickle_detection.places(path, named=pickle_detection.taken_for_one(name)))
        except pickle_detection.Unreadable:
            held = True
        if held:
            found.add(name)
    _refuse(found)


def _refuse(found: set[str]) -> None:
    if found:
        listed = "\n".join(f"  {path}" for path in sorted(found))
        raise UnsafeError(f"the bundle holds pickles, which --no-pickles refuses:\n{listed}", hint=_HINT)

"""A host that takes no pickles: they can run code when they are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bundler.errors import UnsafeError
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import pickle_detection

_HINT = "ask for a bundle of a revision that has safetensors: 'bundle build --no-pickles' makes sure of it"


def refuse_listed_pickles(lock: Lock) -> None:
    """Refuse what the lock lists as a pickle or is named like one; raises UnsafeError before anything is written."""
    found = {pickle.path for pickle in lock.pickles}
    _require_none(
        found | {one.path for one in lock.list_artifacts("model") if pickle_detection.has_pickle_suffix(one.path)}
    )


def refuse_found_pickles(files: Iterable[tuple[str, Path]]) -> None:
    """Refuse what holds pickles by its content, whatever its name and whatever the lock says of it; raises UnsafeError.

    ``placed`` are paths in the bundle, and where their content lies.
    """
    found = set()
    for name, path in files:
        try:
            held = bool(pickle_detection.find_pickles(path, has_suffix=pickle_detection.has_loadable_suffix(name)))
        except pickle_detection.UnreadableFileError:
            held = True
        if held:
            found.add(name)
    _require_none(found)


def _require_none(pickle_names: set[str]) -> None:
    if pickle_names:
        listed = "\n".join(f"  {path}" for path in sorted(pickle_names))
        raise UnsafeError(f"the bundle holds pickles, which --no-pickles refuses:\n{listed}", hint=_HINT)

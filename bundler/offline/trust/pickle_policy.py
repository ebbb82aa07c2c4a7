"""The policy ``--no-pickles``: refuses pickles, since loading one can run code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bundler.errors import UnsafeError
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import pickle_detection

_HINT = "ask for a bundle of a revision with safetensors, built with 'bundle build --no-pickles'"


def refuse_listed_pickles(lock: Lock) -> None:
    """Raise UnsafeError for files that the lock lists as pickles, or whose names say so, before anything is written."""
    listed = {pickle.path for pickle in lock.pickles}
    paths = [artifact.path for artifact in lock.list_artifacts("model")]
    _require_none(listed | {path for path in paths if pickle_detection.has_pickle_suffix(path)})


def refuse_found_pickles(files: Iterable[tuple[str, Path]]) -> None:
    """Raise UnsafeError for files whose content holds pickles, whatever their names are and the lock says.

    ``files`` are pairs of the name in the bundle and the path on this host. A file that can't be read counts as pickle.
    """
    pickle_names = set()
    for name, path in files:
        try:
            holds_pickles = pickle_detection.find_pickles(path, has_suffix=pickle_detection.has_loadable_suffix(name))
        except pickle_detection.UnreadableFileError:
            pickle_names.add(name)
        else:
            pickle_names |= {name} if holds_pickles else set()
    _require_none(pickle_names)


def _require_none(pickle_names: set[str]) -> None:
    if pickle_names:
        listed = "\n".join(f"  {path}" for path in sorted(pickle_names))
        raise UnsafeError(f"the bundle holds pickles, which --no-pickles refuses:\n{listed}", hint=_HINT)

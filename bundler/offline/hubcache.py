"""The placed models as the cache that Hugging Face libraries look for.

One copy on disk serves both ways of loading: by folder, and by repo id through a cache made of links.
The cache has no ``blobs/`` and no ``trees/`` (tried: with an unpruned one snapshot_download fails, with
none it works), and its refs end without a newline (tried: snapshot_download fails with one).
"""

from __future__ import annotations

import os
from pathlib import Path

from bundler.bundle.entries import Model
from bundler.bundle.lock import Lock
from bundler.offline.releases import Release

_ASKED_FOR_IN_VAIN = ("adapter_config.json",)
"""Files that libraries ask the hub for although a model has none (tried: 30 s of retries with peft
installed); a marker in ``.no_exist`` answers for the hub."""


def create(release: Release, locked: Lock) -> None:
    """Link a release's models by alias, and by repo id where they have one."""
    for model in locked.models:
        _link(release.path / "models" / model.alias, release.shared_models / model.home)
        if model.repo_id:
            _repo(release, locked, model)


def _repo(release: Release, locked: Lock, model: Model) -> None:
    repo = release.path / "hub" / model.hub_folder
    files = [artifact.path[len(model.folder) :] for artifact in locked.files_of(model)]
    for file in files:
        _link(repo / "snapshots" / model.commit / file, release.shared_models / model.home / file)
    for revision in {"main", *model.revisions}:
        _write(repo / "refs" / revision, model.commit)
    for file in set(_ASKED_FOR_IN_VAIN) - set(files):
        _write(repo / ".no_exist" / model.commit / file, "")


def _link(link: Path, to: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(to, link.parent), target_is_directory=to.is_dir())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

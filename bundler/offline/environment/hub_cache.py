"""The placed models as the cache that Hugging Face libraries look for.

One copy on disk serves both ways of loading: by folder, and by repo id through a cache made of links.
The cache has no ``blobs/`` and no ``trees/`` (tried: with an unpruned one snapshot_download fails, with
none it works), and its refs end without a newline (tried: snapshot_download fails with one). A kernel is there twice:
as what it is, and as the model that clients take it for which know no kernels.
"""

from __future__ import annotations

import os
from pathlib import Path

from bundler.errors import UnsafeError
from bundler.format import disk
from bundler.format.lock.entries import Model
from bundler.format.lock.lockfile import Lock
from bundler.offline.environment.installed_files import Altered
from bundler.offline.prefix.releases import Release

_ASKED_FOR_IN_VAIN = ("adapter_config.json",)
"""Files that libraries ask the hub for although a model has none (tried: 30 s of retries with peft
installed); a marker in ``.no_exist`` answers for the hub."""


def create(release: Release, locked: Lock) -> None:
    """Link a release's models by alias, and by repo id where they have one; what is so already is left alone.

    Raises UnsafeError where a folder stands in place of a link.
    """
    for link, to in links(release, locked).items():
        _link(link, os.path.relpath(to, link.parent), folder=to.is_dir())
    for path, text in texts(release, locked).items():
        _write(path, text, mended=release.finished)


def faults(release: Release, locked: Lock) -> list[Altered]:
    """Links and files of the cache that are not as ``create`` makes them, and why."""
    found = [
        Altered(path=str(link), message="is no link, and must be one")
        for link in links(release, locked)
        if not link.is_symlink()
    ]
    found += [
        Altered(path=str(link), message=f"must lead to {to}, and leads to {link.readlink()}")
        for link, to in links(release, locked).items()
        if link.is_symlink() and not _leads_to(link, to)
    ]
    return found + [
        Altered(path=str(path), message="is not as it was written")
        for path, text in texts(release, locked).items()
        if not _says(path, text)
    ]


def links(release: Release, locked: Lock) -> dict[Path, Path]:
    """Every link of a release's models, and the folder or file that it leads to."""
    made: dict[Path, Path] = {}
    for model in locked.models:
        home = release.shared_models / model.home
        made[release.path / "models" / model.alias] = home
        for repo in _repos(release, locked, model):
            snapshot = repo / "snapshots" / model.commit
            made |= {snapshot / file: home / file for file in _files(locked, model)}
    return made


def texts(release: Release, locked: Lock) -> dict[Path, str]:
    """Every file of the cache that is no link, and what it says."""
    made: dict[Path, str] = {}
    for model in locked.models:
        for repo in _repos(release, locked, model):
            made |= {repo / "refs" / revision: model.commit for revision in {"main", *model.revisions}}
            vain = set(_ASKED_FOR_IN_VAIN) - set(_files(locked, model))
            made |= {repo / ".no_exist" / model.commit / file: "" for file in vain}
    return made


def _repos(release: Release, locked: Lock, model: Model) -> list[Path]:
    return [release.path / "hub" / folder for folder in locked.hub_folders(model)]


def _files(locked: Lock, model: Model) -> list[str]:
    return [artifact.path[len(model.folder) :] for artifact in locked.files_of(model)]


def _leads_to(link: Path, to: Path) -> bool:
    return link.is_symlink() and os.readlink(link) == os.path.relpath(to, link.parent)  # noqa: PTH115


def _says(path: Path, text: str) -> bool:
    try:
        return not path.is_symlink() and path.read_bytes() == text.encode()
    except OSError:
        return False


def _link(link: Path, to: str, *, folder: bool) -> None:
    if link.is_symlink() and os.readlink(link) == to:  # noqa: PTH115 (as it was written, not as a Path spells it)
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    _refuse_folder(link)
    fresh = link.with_name(f".{link.name}.partial")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(to, target_is_directory=folder)
    fresh.replace(link)


def _write(path: Path, text: str, *, mended: bool) -> None:
    if _says(path, text):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_folder(path)
    if mended:
        disk.write_whole(path, text.encode())  # in what is live: a power cut must not leave it empty
        return
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode())


def _refuse_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        hint = "remove it: what belongs there leads into the placed models"
        raise UnsafeError("a folder stands where a link or a file of this release must", where=str(path), hint=hint)

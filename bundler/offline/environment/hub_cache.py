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

_ABSENT_FILES = ("adapter_config.json",)
"""Files that libraries ask the hub for although a model has none (tried: 30 s of retries with peft
installed); a marker in ``.no_exist`` answers for the hub."""


def create_cache(release: Release, lock: Lock) -> None:
    """Link a release's models by alias, and by repo id where they have one; what is so already is left alone.

    Raises UnsafeError where a folder stands in place of a link.
    """
    for link, to in list_links(release, lock).items():
        _make_link(link, os.path.relpath(to, link.parent), is_folder=to.is_dir())
    for path, text in list_texts(release, lock).items():
        _write_text(path, text, atomic=release.is_finished)


def find_problems(release: Release, lock: Lock) -> list[Altered]:
    """Links and files of the cache that are not as ``create`` makes them, and why."""
    found = [
        Altered(path=str(link), message="is no link, and must be one")
        for link in list_links(release, lock)
        if not link.is_symlink()
    ]
    found += [
        Altered(path=str(link), message=f"must lead to {to}, and leads to {link.readlink()}")
        for link, to in list_links(release, lock).items()
        if link.is_symlink() and not _is_link_to(link, to)
    ]
    return found + [
        Altered(path=str(path), message="is not as it was written")
        for path, text in list_texts(release, lock).items()
        if not _has_text(path, text)
    ]


def list_links(release: Release, lock: Lock) -> dict[Path, Path]:
    """Every link of a release's models, and the folder or file that it leads to."""
    made: dict[Path, Path] = {}
    for model in lock.models:
        home = release.shared_models / model.host_folder
        made[release.path / "models" / model.alias] = home
        for repo in _list_repo_folders(release, lock, model):
            snapshot = repo / "snapshots" / model.commit
            made |= {snapshot / file: home / file for file in _list_model_files(lock, model)}
    return made


def list_texts(release: Release, lock: Lock) -> dict[Path, str]:
    """Every file of the cache that is no link, and what it says."""
    made: dict[Path, str] = {}
    for model in lock.models:
        for repo in _list_repo_folders(release, lock, model):
            made |= {repo / "refs" / revision: model.commit for revision in {"main", *model.revisions}}
            vain = set(_ABSENT_FILES) - set(_list_model_files(lock, model))
            made |= {repo / ".no_exist" / model.commit / file: "" for file in vain}
    return made


def _list_repo_folders(release: Release, lock: Lock, model: Model) -> list[Path]:
    return [release.path / "hub" / folder for folder in lock.list_hub_folders(model)]


def _list_model_files(lock: Lock, model: Model) -> list[str]:
    return [artifact.path[len(model.folder) :] for artifact in lock.list_files(model)]


def _is_link_to(link: Path, target: Path) -> bool:
    return link.is_symlink() and os.readlink(link) == os.path.relpath(target, link.parent)  # noqa: PTH115


def _has_text(path: Path, text: str) -> bool:
    try:
        return not path.is_symlink() and path.read_bytes() == text.encode()
    except OSError:
        return False


def _make_link(link: Path, target: str, *, is_folder: bool) -> None:
    if link.is_symlink() and os.readlink(link) == target:  # noqa: PTH115 (as it was written, not as a Path spells it)
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    _refuse_folder(link)
    fresh = link.with_name(f".{link.name}.partial")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target, target_is_directory=is_folder)
    fresh.replace(link)


def _write_text(path: Path, text: str, *, atomic: bool) -> None:
    if _has_text(path, text):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_folder(path)
    if atomic:
        disk.write_atomically(path, text.encode())  # in what is live: a power cut must not leave it empty
        return
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode())


def _refuse_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        hint = "remove it: what belongs there leads into the placed models"
        raise UnsafeError("a folder stands where a link or a file of this release must", where=str(path), hint=hint)

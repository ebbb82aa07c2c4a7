"""The installed models as a Hugging Face hub cache, made of links.

One copy on disk serves loading by folder and loading by repo id. The cache has no ``blobs/`` and no ``trees/`` (tried:
snapshot_download works without ``trees/``, and fails with an unpruned one). Its refs end without a newline (tried:
snapshot_download fails with one). A kernel is there twice: as a kernel, and as a model for clients that do not know
kernels.
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
"""Files that libraries request from the hub although the model has none; a marker in ``.no_exist`` answers instead.

Tried: without the marker, peft retries for 30 seconds.
"""


def create_cache(release: Release, lock: Lock) -> None:
    """Link a release's models by alias, and by repo id if they have one; correct links are left alone.

    Raises:
        UnsafeError: A folder is where a link must be.
    """
    for link, target in list_links(release, lock).items():
        _make_link(link, os.path.relpath(target, link.parent), is_folder=target.is_dir())
    for path, text in list_texts(release, lock).items():
        _write_text(path, text, atomic=release.is_finished)


def find_problems(release: Release, lock: Lock) -> list[Altered]:
    """Find links and files of the cache that differ from what `create_cache` makes."""
    problems = [
        Altered(path=str(link), message="must be a link, but is not")
        for link in list_links(release, lock)
        if not link.is_symlink()
    ]
    problems += [
        Altered(path=str(link), message=f"must lead to {target}, but leads to {link.readlink()}")
        for link, target in list_links(release, lock).items()
        if link.is_symlink() and not _is_link_to(link, target)
    ]
    return problems + [
        Altered(path=str(path), message="was altered")
        for path, text in list_texts(release, lock).items()
        if not _has_text(path, text)
    ]


def list_links(release: Release, lock: Lock) -> dict[Path, Path]:
    """Return every link of a release's models, and the folder or file that it leads to."""
    links: dict[Path, Path] = {}
    for model in lock.models:
        model_folder = release.shared_models / model.host_folder
        links[release.path / "models" / model.alias] = model_folder
        for repo in _list_repo_folders(release, lock, model):
            snapshot = repo / "snapshots" / model.commit
            links |= {snapshot / file: model_folder / file for file in _list_model_files(lock, model)}
    return links


def list_texts(release: Release, lock: Lock) -> dict[Path, str]:
    """Return every regular file of the cache, and its text."""
    texts: dict[Path, str] = {}
    for model in lock.models:
        for repo in _list_repo_folders(release, lock, model):
            texts |= {repo / "refs" / revision: model.commit for revision in {"main", *model.revisions}}
            absent_files = set(_ABSENT_FILES) - set(_list_model_files(lock, model))
            texts |= {repo / ".no_exist" / model.commit / file: "" for file in absent_files}
    return texts


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
    if link.is_symlink() and os.readlink(link) == target:  # noqa: PTH115 (Path would normalize it)
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    _refuse_folder(link)
    new_link = link.with_name(f".{link.name}.partial")
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(target, target_is_directory=is_folder)
    new_link.replace(link)


def _write_text(path: Path, text: str, *, atomic: bool) -> None:
    if _has_text(path, text):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_folder(path)
    if atomic:
        disk.write_atomically(path, text.encode())  # the release may be live: a power cut must not leave the file empty
        return
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode())


def _refuse_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        hint = "move it elsewhere, then install again: the installer writes that link or file"
        raise UnsafeError("this is a folder, but must be a link or a file of the release", where=str(path), hint=hint)

"""The releases of a prefix: begins, finishes, lists and discards them, and switches the live one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bundler.errors import BusyError, HostError, IntegrityError, UnsafeError, UsageError
from bundler.format import disk
from bundler.format.lock import lockfile
from bundler.format.lock.entries import APPLICATION_PART, ENVIRONMENT_PART, INSTALLER
from bundler.offline.prefix import ownership_markers, permissions
from bundler.offline.prefix import receipts as receipt_files
from bundler.offline.prefix.receipts import Receipt
from bundler.offline.prefix.release import Release, find_live

__all__ = ["Release", "find_live"]  # so that callers import one module

_LEGACY_FILES = (".work", ".parts", lockfile.LOCK_FILE)
"""Files that identify an unfinished release of a version that wrote no markers."""

_CONTENT_NAMES = (APPLICATION_PART, "assets", INSTALLER)
"""Entries of a release that have the same name in the bundle."""
_WORK_CONTENT_NAMES = ("requirements.txt", "tools", "wheels")
"""Entries of the work folder that have the same name in the bundle: what the environment is created from."""

_PREFIX_FILES = ("releases", "trust.json", "sequences.json", ".lock")
"""A folder with one of these is a prefix."""


def get_absolute_prefix(prefix: Path) -> Path:
    """Return ``prefix`` as an absolute path, with links kept."""
    return Path(os.path.abspath(prefix.expanduser()))  # noqa: PTH100 (Path.resolve would follow links)


@contextmanager
def lock_prefix(prefix: Path) -> Iterator[None]:
    """Lock a prefix against other runs.

    Raises:
        BusyError: Another run holds the lock.
        HostError: The prefix can't be written.
        UnsafeError: Other users could write to it too.
    """
    permissions.require_exclusive_access(prefix)
    from filelock import FileLock, Timeout  # noqa: PLC0415 (a sixth of the program's start; many verbs take no lock)

    # Mode 0600: any user who can open the file could hold the lock.
    holder = FileLock(prefix / ".lock", timeout=0, mode=0o600)
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        holder.acquire()
    except Timeout as error:
        hint = "wait until it ends; a killed run holds no lock"
        raise BusyError("another run is working in this prefix", where=str(prefix), hint=hint) from error
    except OSError as error:
        hint = "choose another --prefix, or ask the owner to create the folder and give it to you (chown)"
        raise HostError(f"the prefix can't be written: {error.strerror}", where=str(prefix), hint=hint) from error
    try:
        yield
    finally:
        holder.release()


@contextmanager
def begin_release(prefix: Path, name: str, digest: str) -> Iterator[Release]:
    """Create or repair a release; it goes live when the block ends without an error.

    After an error the live release is unchanged and the unfinished one is removed. After an interrupt (Ctrl-C) the
    files stay, for the next install of the same bundle.

    Raises:
        UnsafeError: Something in the prefix is not as this program makes it.
    """
    release = Release(prefix=prefix, name=name)
    refuse_linked_folders(prefix)
    permissions.refuse_unexpected_symlinks(prefix, release.path)
    digests = {receipt.release: receipt.digest for receipt in read_receipts(prefix)}
    _clear_leftovers(release, digest)
    if digests.get(name, digest) != digest:
        hint = (
            "somebody made it look like that one, or the digests collide by chance: ask its builder for a new version"
        )
        raise UnsafeError(f"another bundle is installed under the name {name}", where=str(release.path), hint=hint)
    try:
        if release.is_finished:
            with _repair_release(release):
                yield release
        else:
            with _create_release(release, digest):
                yield release
        switch_live(release)
        ownership_markers.remove_marker(release.path)
    except KeyboardInterrupt:  # the files stay, with their marker
        raise
    except BaseException:
        discard_unused_models(prefix)
        raise
    discard_unused_models(prefix)


@contextmanager
def begin_part(release: Release, digest: str, part: str, folder: Path) -> Iterator[None]:
    """Install a part of a release in ``folder``; it is listed as complete when the block ends without an error.

    After an error the part is removed; parts installed before stay. After an interrupt its files stay too, for the
    next install of the same bundle.
    """
    permissions.refuse_unexpected_symlinks(release.prefix, release.path)
    complete_parts = release.find_preinstalled_parts(digest)
    _clear_leftovers(release, digest)
    try:
        ownership_markers.add_marker(release.path)
        _keep_reusable_files(release, digest)
        yield
        clear_work(release)
        disk.sync_file_system(release.prefix)  # after a power cut the list must not name a part that is missing
        list_parts(release, digest, complete_parts | {part})
    except KeyboardInterrupt:
        raise
    except BaseException:
        if complete_parts:
            clear_work(release)
            _discard(folder)
        else:
            _discard_marked(release.path)
        raise


def _clear_leftovers(release: Release, digest: str) -> None:
    """Remove what unfinished runs of other bundles left.

    Raises:
        UnsafeError: A folder with the release's name was not made by this program.
    """
    has_begun = release.has_begun(digest)
    discard_unfinished(release.prefix, keep=release.name if has_begun else "")
    if release.path.exists() and not (has_begun or release.is_finished):
        hint = "move it elsewhere: the release needs that path"
        raise UnsafeError("this folder was not made by this program", where=str(release.path), hint=hint)


@contextmanager
def _create_release(release: Release, digest: str) -> Iterator[None]:
    """Make a release's folder, with at most the reusable files of an earlier run.

    After an error it is removed; after an interrupt it stays.
    """
    try:
        ownership_markers.add_marker(release.path)
        _keep_reusable_files(release, digest)
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        _discard_marked(release.path)
        raise


def _keep_reusable_files(release: Release, digest: str) -> None:
    """Keep the files of an earlier run that can be checked one by one, and its complete parts; remove the rest."""
    parts = release.find_preinstalled_parts(digest)
    environment = [release.venv.name] if ENVIRONMENT_PART in parts else []
    release_names = {release.work_folder.name, release.parts_path.name, *_CONTENT_NAMES, *environment}
    for folder, names in ((release.path, release_names), (release.work_folder, _WORK_CONTENT_NAMES)):
        for path in [*folder.glob("*")]:
            if path.name not in names:
                _discard(path)
                path.unlink(missing_ok=True)
    release.work_folder.mkdir(parents=True, exist_ok=True)
    if not release.has_begun(digest):
        list_parts(release, digest, parts)


def list_parts(release: Release, digest: str, parts: Iterable[str]) -> None:
    """Write the list of parts that are complete in an unfinished release."""
    disk.write_atomically(release.parts_path, "\n".join([digest, *sorted(parts)]).encode())


@contextmanager
def _repair_release(release: Release) -> Iterator[None]:
    """Keep the release whatever happens, since it may be live; only its work folder is removed."""
    _discard(release.work_folder)  # left by a killed run
    try:
        yield
    finally:
        _discard(release.work_folder)


def switch_live(release: Release) -> None:
    """Make a release live, by the atomic replacement of one link."""
    new_link = release.prefix / ".current.new"
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(Path("releases") / release.name, target_is_directory=True)
    new_link.replace(release.live_path)
    disk.sync_folder(release.prefix)


def require_live(prefix: Path) -> Release:
    """Return the live release; raise UsageError if there is none."""
    release = find_live(prefix)
    if release is None or not release.receipt_path.exists():
        raise UsageError("nothing is installed here", where=str(prefix), hint="bundle install BUNDLE --prefix DIR")
    return release


def require_prefix(prefix: Path) -> None:
    """Raise UsageError for a folder that does not exist, or in which nothing was ever installed."""
    if any((prefix / name).exists() for name in _PREFIX_FILES):
        return
    message = "this is no prefix: nothing was ever installed here" if prefix.exists() else "there is no such prefix"
    hint = "check the spelling of --prefix; bundle install BUNDLE --prefix DIR makes a prefix"
    raise UsageError(message, where=str(prefix), hint=hint)


def read_receipts(prefix: Path) -> list[Receipt]:
    """Read the receipts of the finished releases, in the order of their installs, without the damaged ones."""
    receipts = [receipt for path in _list_receipt_files(prefix) if (receipt := _read_receipt(path))]
    return sorted(receipts, key=lambda receipt: (receipt.ordinal, receipt.release))


def find_damaged_releases(prefix: Path) -> dict[str, IntegrityError]:
    """Find the finished releases whose receipt is damaged or missing, and the error for each. Their content stays."""
    paths = {path.parent.name: path for path in _list_receipt_files(prefix)}
    live = find_live(prefix)
    if live is not None and live.is_finished:
        paths[live.name] = live.receipt_path
    errors = {name: receipt_files.find_problem(path) for name, path in sorted(paths.items())}
    return {name: error for name, error in errors.items() if error is not None}


def _list_receipt_files(prefix: Path) -> list[Path]:
    return list((prefix / "releases").glob(f"[!.]*/{receipt_files.NAME}"))


def _read_receipt(path: Path) -> Receipt | None:
    """Read a receipt; None if it is damaged or of another release."""
    try:
        return receipt_files.read(path)
    except IntegrityError:
        return None


def clear_work(release: Release) -> None:
    """Remove the files that only the installer needed."""
    _discard(release.work_folder)


def refuse_linked_folders(prefix: Path) -> None:
    """Raise UnsafeError if a folder of the prefix is a link: files would be written outside the prefix."""
    for name in ("models", "releases", "var"):
        if (prefix / name).is_symlink():
            hint = "put a real folder there: everything is installed inside the prefix"
            raise UnsafeError("this is a link, but must be a folder", where=str(prefix / name), hint=hint)


def find_unfinished(prefix: Path) -> list[Path]:
    """Find the folders of unfinished releases: a run is still writing them, or was killed."""
    return sorted(
        folder
        for folder in (prefix / "releases").glob("[!.]*")
        if not Release(prefix=prefix, name=folder.name).is_finished and _is_own(folder)
    )


def _is_own(folder: Path) -> bool:
    return ownership_markers.has_marker(folder) or any((folder / name).exists() for name in _LEGACY_FILES)


def discard_unfinished(prefix: Path, keep: str = "") -> None:
    """Remove what killed runs left; never the live release, nor the one named ``keep``."""
    for folder in find_unfinished(prefix):
        if folder.name != keep:
            _discard_marked(folder)
    for folder in ownership_markers.iter_marked(prefix / "releases"):
        if folder.name != keep:  # a receipt lists it, or it does not exist
            ownership_markers.remove_marker(folder)


def discard_release(release: Release) -> None:
    """Remove a release, its receipt first: a partly removed one must not look finished."""
    ownership_markers.add_marker(release.path)
    existing = {folder.name for folder in release.shared_models.glob("[!.]*")}
    for name in _list_release_models(release) & existing:
        ownership_markers.add_marker(release.shared_models / name)
    release.receipt_path.unlink(missing_ok=True)
    disk.sync_folder(release.path)
    _discard_marked(release.path)


def list_used_models(prefix: Path) -> set[str]:
    """List the names of the model folders that releases use, by their links and by their receipts or locks."""
    folders = (prefix / "releases").glob("[!.]*")
    return {name for folder in folders for name in _list_release_models(Release(prefix=prefix, name=folder.name))}


def _list_release_models(release: Release) -> set[str]:
    names = {link.readlink().name for link in (release.path / "models").glob("*") if link.is_symlink()}
    if receipt := _read_receipt(release.receipt_path):
        return names | set(receipt.homes)
    if release.is_finished:
        with suppress(IntegrityError):  # without receipt and lock only its links are left
            names |= {model.host_folder for model in release.read_lock().models}
    return names


def find_unused_models(prefix: Path) -> list[Path]:
    """Find model folders that this program made and no release uses, and what killed runs left of others."""
    used = list_used_models(prefix)
    marked = ownership_markers.iter_marked(prefix / "models")
    unused = [folder for folder in marked if folder.name not in used and folder.exists()]
    return sorted([*unused, *find_partial_models(prefix)])


def mark_models(release: Release, moves: Sequence[tuple[Path, Path]]) -> None:
    """Mark the model folders that will be written, and remove partial ones that will not.

    ``moves`` are pairs of the path that is written and the final path.
    """
    partial_paths = {written for written, final in moves if final.parent == release.shared_models}
    for _, final in moves:
        if final.parent == release.shared_models:
            ownership_markers.add_marker(final)
    for partial in find_partial_models(release.prefix):
        if partial not in partial_paths:
            _discard(partial)


def find_partial_models(prefix: Path) -> list[Path]:
    """Find the model folders that a run was writing when it was killed."""
    return sorted(
        partial
        for folder in ownership_markers.iter_marked(prefix / "models")
        if (partial := get_partial_path(folder)).exists()
    )


def get_partial_path(model_folder: Path) -> Path:
    """Return the path at which a model folder is written before its rename; the final path carries the marker."""
    return model_folder.with_name(f".{model_folder.name}.partial")


def find_unknown_files(prefix: Path) -> list[Path]:
    """Find entries among models and releases that this program did not make; it never touches them."""
    finished = {receipt.parent for receipt in _list_receipt_files(prefix)}
    finished |= {prefix / "releases" / name for name in find_damaged_releases(prefix)}
    known = {*finished, *find_unfinished(prefix), *find_unused_models(prefix)}
    known |= {prefix / "models" / name for name in list_used_models(prefix)}
    parents = [prefix / name for name in ("models", "releases")]
    known |= {
        ownership_markers.get_marker(folder) for parent in parents for folder in ownership_markers.iter_marked(parent)
    }
    return sorted(path for parent in parents for path in parent.glob("*") if path not in known)


def discard_unused_models(prefix: Path) -> None:
    """Remove the model folders that no release uses."""
    for folder in find_unused_models(prefix):
        _discard(folder)
    for folder in [*ownership_markers.iter_marked(prefix / "models")]:  # a release uses it, or it does not exist
        ownership_markers.remove_marker(folder)


def _discard_marked(folder: Path) -> None:
    _discard(folder)
    ownership_markers.remove_marker(folder)


def _discard(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)

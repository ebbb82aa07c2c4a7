"""Which release is live, and which can be gone back to."""

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

__all__ = ["Release", "find_live"]  # besides what is below: whoever asks for releases needs no other module

_LEGACY_FILES = (".work", ".parts", lockfile.LOCK_FILE)
"""By these an unfinished release is known that was made by a version which put no marks."""

_CONTENT_NAMES = (APPLICATION_PART, "assets", INSTALLER)
"""What stands in a release as it does in the bundle."""
_WORK_CONTENT_NAMES = ("requirements.txt", "tools", "wheels")
"""The same of what the environment is made from."""

_PREFIX_FILES = ("releases", "trust.json", "sequences.json", ".lock")
"""By one of these a prefix is known."""


def get_absolute_prefix(prefix: Path) -> Path:
    """``prefix`` as an absolute path, links in it kept."""
    return Path(os.path.abspath(prefix.expanduser()))  # noqa: PTH100 (Path.resolve would follow links)


@contextmanager
def lock_prefix(prefix: Path) -> Iterator[None]:
    """Keep other runs away from a prefix.

    Raises BusyError, HostError when it can't be written, and UnsafeError where other users could write to it too.
    """
    permissions.require_exclusive_access(prefix)
    from filelock import FileLock, Timeout  # noqa: PLC0415 (a sixth of the program's start; who only looks holds nothing)

    # whoever can open it can hold it, and keep all others out
    holder = FileLock(prefix / ".lock", timeout=0, mode=0o600)
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        holder.acquire()
    except Timeout as error:
        hint = "wait until it ends; a run that was killed holds nothing"
        raise BusyError("another run is working in this prefix", where=str(prefix), hint=hint) from error
    except OSError as error:
        hint = "choose another --prefix, or have its owner create the folder and give it to you"
        raise HostError(f"the prefix can't be written: {error.strerror}", where=str(prefix), hint=hint) from error
    try:
        yield
    finally:
        holder.release()


@contextmanager
def begin_release(prefix: Path, name: str, digest: str) -> Iterator[Release]:
    """Make a release; leaving the block without an error makes it the live one.

    Whatever goes wrong, the live release stays as it was and the unfinished one is removed; only where the run is
    interrupted, what it placed stays for the next one of the same bundle. Raises UnsafeError where the prefix is not
    as this program makes it.
    """
    release = Release(prefix=prefix, name=name)
    refuse_linked_folders(prefix)
    permissions.refuse_unexpected_symlinks(prefix, release.path)
    known = {receipt.release: receipt.digest for receipt in read_receipts(prefix)}
    _clear_leftovers(release, digest)
    if known.get(name, digest) != digest:
        hint = "it was made to look like that one, or by an unheard-of chance does: ask its builder for another version"
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
    except KeyboardInterrupt:  # what is placed stays, marked as made here
        raise
    except BaseException:
        discard_unused_models(prefix)
        raise
    discard_unused_models(prefix)


@contextmanager
def begin_part(release: Release, digest: str, part: str, folder: Path) -> Iterator[None]:
    """Place a part of a release in ``home``, ahead of the rest; leaving the block without an error marks it as whole.

    Whatever goes wrong, nothing of it is left, and parts that stood there before stay; where the run is interrupted,
    what it placed stays too, for the next one of the same bundle.
    """
    permissions.refuse_unexpected_symlinks(release.prefix, release.path)
    before = release.find_preinstalled_parts(digest)
    _clear_leftovers(release, digest)
    try:
        ownership_markers.add_marker(release.path)
        _keep_reusable_files(release, digest)
        yield
        clear_work(release)
        disk.sync_file_system(release.prefix)  # after a power cut the list must not speak of more than is there
        list_parts(release, digest, before | {part})
    except KeyboardInterrupt:
        raise
    except BaseException:
        if before:
            clear_work(release)
            _discard(folder)
        else:
            _discard_marked(release.path)
        raise


def _clear_leftovers(release: Release, digest: str) -> None:
    """Remove what runs left that did not end, but for what one of the same bundle placed.

    Raises UnsafeError where somebody else has a folder under the release's name.
    """
    begun = release.has_begun(digest)
    discard_unfinished(release.prefix, keep=release.name if begun else "")
    if release.path.exists() and not (begun or release.is_finished):
        hint = "move it away: a folder of a release must stand there"
        raise UnsafeError("this folder was not made by this program", where=str(release.path), hint=hint)


@contextmanager
def _create_release(release: Release, digest: str) -> Iterator[None]:
    """A folder for a release, with at most what a run of the same bundle placed in it.

    It goes again if this fails, and stays where the run is interrupted.
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
    """Leave of an earlier run what can be looked at file by file, and the parts that it finished; note whose this is."""
    parts = release.find_preinstalled_parts(digest)
    kept = {release.parts_path.name, *_CONTENT_NAMES, *([release.venv.name] if ENVIRONMENT_PART in parts else [])}
    for folder, names in (
        (release.path, {release.work_folder.name, *kept}),
        (release.work_folder, _WORK_CONTENT_NAMES),
    ):
        for path in [*folder.glob("*")]:
            if path.name not in names:
                _discard(path)
                path.unlink(missing_ok=True)
    release.work_folder.mkdir(parents=True, exist_ok=True)
    if not release.has_begun(digest):
        list_parts(release, digest, parts)


def list_parts(release: Release, digest: str, parts: Iterable[str]) -> None:
    """Note which parts of a bundle stand whole in a release that is not finished."""
    disk.write_atomically(release.parts_path, "\n".join([digest, *sorted(parts)]).encode())


@contextmanager
def _repair_release(release: Release) -> Iterator[None]:
    """A release that stays where it is, whatever happens: it may be live."""
    _discard(release.work_folder)  # of a killed run
    try:
        yield
    finally:
        _discard(release.work_folder)


def switch_live(release: Release) -> None:
    """Make a release the live one: one atomic replacement of a link."""
    fresh = release.prefix / ".current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("releases") / release.name, target_is_directory=True)
    fresh.replace(release.live_path)
    disk.sync_folder(release.prefix)


def require_live(prefix: Path) -> Release:
    """The live release; raises UsageError where there is none."""
    release = find_live(prefix)
    if release is None or not release.receipt_path.exists():
        raise UsageError("nothing is installed here", where=str(prefix), hint="bundle install BUNDLE --prefix DIR")
    return release


def require_prefix(prefix: Path) -> None:
    """Raises UsageError for a folder that this program never installed anything in, or that is not there."""
    if any((prefix / name).exists() for name in _PREFIX_FILES):
        return
    message = "this is no prefix: nothing was ever installed here" if prefix.exists() else "there is no such prefix"
    hint = "look for a typing error in --prefix; bundle install BUNDLE --prefix DIR makes a prefix"
    raise UsageError(message, where=str(prefix), hint=hint)


def read_receipts(prefix: Path) -> list[Receipt]:
    """The receipts of the finished releases, in the order in which they were installed; ``unreadable`` names the rest."""
    found = [receipt for path in _list_receipt_files(prefix) if (receipt := _read_receipt(path))]
    return sorted(found, key=lambda one: (one.ordinal, one.release))


def find_damaged_releases(prefix: Path) -> dict[str, IntegrityError]:
    """The finished releases whose receipt is damaged, or gone, and why: nothing that they hold is touched."""
    paths = {path.parent.name: path for path in _list_receipt_files(prefix)}
    now = find_live(prefix)
    if now is not None and now.is_finished:
        paths[now.name] = now.receipt_path
    faults = {name: receipt_files.find_problem(path) for name, path in sorted(paths.items())}
    return {name: fault for name, fault in faults.items() if fault is not None}


def _list_receipt_files(prefix: Path) -> list[Path]:
    return list((prefix / "releases").glob(f"[!.]*/{receipt_files.NAME}"))


def _read_receipt(path: Path) -> Receipt | None:
    """A receipt, or None where it is damaged or speaks of another release than the one it lies in."""
    try:
        return receipt_files.read(path)
    except IntegrityError:
        return None


def clear_work(release: Release) -> None:
    """Remove what only the installer needed."""
    _discard(release.work_folder)


def refuse_linked_folders(prefix: Path) -> None:
    """What another user could plant, or an administrator make, to have this write elsewhere."""
    for name in ("models", "releases", "var"):
        if (prefix / name).is_symlink():
            hint = "put the folder itself there: what is installed never leaves the prefix"
            raise UnsafeError("this is a link, and must be a folder", where=str(prefix / name), hint=hint)


def find_unfinished(prefix: Path) -> list[Path]:
    """Folders of releases that no run has finished: one is at work on them, or was killed."""
    return sorted(
        folder
        for folder in (prefix / "releases").glob("[!.]*")
        if not Release(prefix=prefix, name=folder.name).is_finished and _is_own(folder)
    )


def _is_own(folder: Path) -> bool:
    return ownership_markers.has_marker(folder) or any((folder / name).exists() for name in _LEGACY_FILES)


def discard_unfinished(prefix: Path, keep: str = "") -> None:
    """Remove what killed runs left; never what is live, nor the release named ``but``."""
    for folder in find_unfinished(prefix):
        if folder.name != keep:
            _discard_marked(folder)
    for folder in ownership_markers.iter_marked(prefix / "releases"):
        if folder.name != keep:  # a receipt speaks of it, or it is gone
            ownership_markers.remove_marker(folder)


def discard_release(release: Release) -> None:
    """Remove a release. Its receipt goes first: one that is half gone never looks like a finished one."""
    ownership_markers.add_marker(release.path)
    for home in _list_release_models(release) & {one.name for one in (release.shared_models).glob("[!.]*")}:
        ownership_markers.add_marker(release.shared_models / home)
    release.receipt_path.unlink(missing_ok=True)
    disk.sync_folder(release.path)
    _discard_marked(release.path)


def list_used_models(prefix: Path) -> set[str]:
    """The names of the model folders that releases hold, by their links, their receipts or, without one, their locks."""
    folders = (prefix / "releases").glob("[!.]*")
    return {home for folder in folders for home in _list_release_models(Release(prefix=prefix, name=folder.name))}


def _list_release_models(release: Release) -> set[str]:
    held = {link.readlink().name for link in (release.path / "models").glob("*") if link.is_symlink()}
    if receipt := _read_receipt(release.receipt_path):
        return held | set(receipt.homes)
    if release.is_finished:
        with suppress(IntegrityError):  # then its links alone tell
            held |= {model.host_folder for model in release.read_lock().models}
    return held


def find_unused_models(prefix: Path) -> list[Path]:
    """The model folders that no release holds and that were made here, and what killed runs left there."""
    held = list_used_models(prefix)
    homes = [
        home for home in ownership_markers.iter_marked(prefix / "models") if home.name not in held and home.exists()
    ]
    return sorted([*homes, *find_partial_models(prefix)])


def mark_models(release: Release, moves: Sequence[tuple[Path, Path]]) -> None:
    """Mark the folders that models will stand in; remove what runs left of others. ``moves`` are (written as, final)."""
    written = {first for first, final in moves if final.parent == release.shared_models}
    for _, final in moves:
        if final.parent == release.shared_models:
            ownership_markers.add_marker(final)
    for left in find_partial_models(release.prefix):
        if left not in written:
            _discard(left)


def find_partial_models(prefix: Path) -> list[Path]:
    """The model folders that a run was writing when it was killed."""
    return sorted(
        partial
        for home in ownership_markers.iter_marked(prefix / "models")
        if (partial := get_partial_path(home)).exists()
    )


def get_partial_path(model_folder: Path) -> Path:
    """Where a model folder is written before it gets its name; marked as that one is."""
    return model_folder.with_name(f".{model_folder.name}.partial")


def find_unknown_files(prefix: Path) -> list[Path]:
    """What stands among models and releases and was not made by this program: it is left alone."""
    finished = {receipt.parent for receipt in _list_receipt_files(prefix)}
    finished |= {prefix / "releases" / name for name in find_damaged_releases(prefix)}
    known = {*finished, *find_unfinished(prefix), *find_unused_models(prefix)}
    known |= {prefix / "models" / home for home in list_used_models(prefix)}
    places = [prefix / name for name in ("models", "releases")]
    known |= {
        ownership_markers.get_marker(folder) for place in places for folder in ownership_markers.iter_marked(place)
    }
    return sorted(one for place in places for one in place.glob("*") if one not in known)


def discard_unused_models(prefix: Path) -> None:
    """Remove the model folders that no release holds."""
    for folder in find_unused_models(prefix):
        _discard(folder)
    for home in [*ownership_markers.iter_marked(prefix / "models")]:  # a release holds it, or it is gone
        ownership_markers.remove_marker(home)


def _discard_marked(folder: Path) -> None:
    _discard(folder)
    ownership_markers.remove_marker(folder)


def _discard(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)

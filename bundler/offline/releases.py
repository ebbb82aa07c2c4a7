"""Which release is live, and which can be gone back to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bundler.bundle import disk, lock
from bundler.bundle.lock import Lock
from bundler.errors import BusyError, HostError, IntegrityError, UnsafeError, UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release below a prefix: where everything of it is. The prefix is an absolute path."""

    prefix: Path
    name: str

    @property
    def path(self) -> Path:
        """The release's own folder."""
        return self.prefix / "releases" / self.name

    @property
    def live(self) -> Path:
        """The same through the ``current`` link: what survives an upgrade."""
        return self.prefix / "current"

    @property
    def work(self) -> Path:
        """What the installer needs only while it runs."""
        return self.path / ".work"

    @property
    def python(self) -> Path:
        """The interpreter of the release's environment."""
        return self.path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def shared_models(self) -> Path:
        """Model folders, named by digest, that releases share."""
        return self.prefix / "models"

    @property
    def writable(self) -> Path:
        """Where libraries may write: outside every release."""
        return self.prefix / "var"

    @property
    def receipt(self) -> Path:
        """Written last: a release without it was never finished."""
        return self.path / "receipt.json"

    def lock(self) -> Lock:
        """The lock that it was installed from; raises IntegrityError when its file was altered."""
        return lock.read((self.path / lock.LOCK).read_bytes(), str(self.path / lock.LOCK))


def at(prefix: Path) -> Path:
    """``prefix`` as an absolute path, links in it kept."""
    return Path(os.path.abspath(prefix.expanduser()))  # noqa: PTH100 (Path.resolve would follow links)


@contextmanager
def held(prefix: Path) -> Iterator[None]:
    """Keep other runs away from a prefix; raises BusyError, or HostError when it can't be written."""
    holder = FileLock(prefix / ".lock", timeout=0, mode=0o644)
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
def begin(prefix: Path, name: str, digest: str) -> Iterator[Release]:
    """Make a release; leaving the block without an error makes it the live one.

    Whatever goes wrong, the live release stays as it was and the unfinished one is removed. Raises
    UnsafeError where the prefix is not as this program makes it.
    """
    release = Release(prefix=prefix, name=name)
    _refuse_links(prefix)
    known = {receipt["release"]: receipt["digest"] for receipt in receipts(prefix)}
    _discard_unfinished(prefix, known)
    if known.get(name, digest) != digest:
        hint = "it was made to look like that one, or by an unheard-of chance does: ask its builder for another version"
        raise UnsafeError(f"another bundle is installed under the name {name}", where=str(release.path), hint=hint)
    try:
        if name in known:
            yield release
        else:
            with _fresh(release):
                yield release
        switch(release)
    finally:
        _discard_unheld_models(prefix)


@contextmanager
def _fresh(release: Release) -> Iterator[None]:
    """An empty folder for a release. A live one that lost its receipt is put aside, and back if this fails."""
    aside = release.path.with_name(f".{release.name}.aside")
    if release.path.exists():
        release.path.replace(aside)
    release.work.mkdir(parents=True)
    try:
        yield
    except BaseException:
        _discard(release.path)
        if aside.exists():
            aside.replace(release.path)
        raise
    _discard(aside)


def switch(release: Release) -> None:
    """Make a release the live one: one atomic replacement of a link."""
    fresh = release.prefix / ".current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("releases") / release.name, target_is_directory=True)
    fresh.replace(release.live)
    disk.sync_folder(release.prefix)


def live(prefix: Path) -> Release | None:
    """The live release, or None."""
    try:
        return Release(prefix=prefix, name=(prefix / "current").readlink().name)
    except OSError:
        return None


def required_live(prefix: Path) -> Release:
    """The live release; raises UsageError where there is none."""
    release = live(prefix)
    if release is None or not release.receipt.exists():
        raise UsageError("nothing is installed here", where=str(prefix), hint="bundle install BUNDLE --prefix DIR")
    return release


def receipts(prefix: Path) -> list[dict[str, Any]]:
    """The receipts of the finished releases, in the order in which they were installed.

    Raises IntegrityError for one that can't be read.
    """
    found = []
    for path in (prefix / "releases").glob("[!.]*/receipt.json"):
        try:
            receipt = dict(json.loads(path.read_bytes()))
            found.append((int(receipt["ordinal"]), str(receipt["release"]), str(receipt["digest"]), receipt))
        except (OSError, ValueError, TypeError, KeyError) as error:
            hint = "remove this file, or the folder that it is in, and install that bundle again"
            raise IntegrityError("the receipt of a release is damaged", where=str(path), hint=hint) from error
    return [receipt for *_, receipt in sorted(found, key=lambda one: one[:2])]


def rollback(prefix: Path) -> tuple[Release, Release]:
    """Make the release live that was live before the live one was installed; gives (from, to).

    Raises UsageError where there is none.
    """
    now = required_live(prefix)
    known = {receipt["release"]: receipt for receipt in receipts(prefix)}
    before = known[now.name]["follows"]
    if before not in known:
        hint = "bundle list shows what is installed"
        raise UsageError(f"no release was live before {now.name} was installed", where=str(prefix), hint=hint)
    then = Release(prefix=prefix, name=before)
    switch(then)
    return now, then


def clear_work(release: Release) -> None:
    """Remove what only the installer needed."""
    _discard(release.work)


def _refuse_links(prefix: Path) -> None:
    """What another user could plant, or an administrator make, to have this write elsewhere."""
    for name in ("models", "releases", "var"):
        if (prefix / name).is_symlink():
            hint = "put the folder itself there: what is installed never leaves the prefix"
            raise UnsafeError("this is a link, and must be a folder", where=str(prefix / name), hint=hint)


def _discard_unfinished(prefix: Path, finished: Container[str]) -> None:
    """Remove what killed runs left; never what is live."""
    now = live(prefix)
    for folder in (prefix / "releases").glob("*"):
        if folder.name not in finished and (now is None or folder.name != now.name):
            _discard(folder)


def _discard_unheld_models(prefix: Path) -> None:
    """Remove the model folders that no release links to."""
    links = (prefix / "releases").glob("[!.]*/models/*")
    held = {link.readlink().name for link in links if link.is_symlink()}
    for folder in (prefix / "models").glob("*"):
        if folder.name not in held:
            _discard(folder)


def _discard(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)

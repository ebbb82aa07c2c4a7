"""Which release is live, and which can be gone back to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bundler.bundle import disk, lock
from bundler.bundle.lock import Lock
from bundler.errors import BusyError, HostError, UsageError


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
def begin(prefix: Path, name: str) -> Iterator[Release]:
    """Make a release; leaving the block without an error makes it the live one.

    Whatever goes wrong, the live release stays as it was and the unfinished one is removed.
    """
    release = Release(prefix=prefix, name=name)
    if release.receipt.exists():
        yield release
    else:
        _discard(release.path)  # what a killed run left
        release.work.mkdir(parents=True)
        models = set(release.shared_models.glob("*"))
        try:
            yield release
        except BaseException:
            _discard(release.path)
            for folder in set(release.shared_models.glob("*")) - models:
                _discard(folder)
            raise
    switch(release)


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
    """The receipts of the finished releases, in the order in which they were installed."""
    found = [json.loads(path.read_bytes()) for path in (prefix / "releases").glob("*/receipt.json")]
    return sorted(found, key=lambda receipt: (receipt["ordinal"], receipt["release"]))


def rollback(prefix: Path) -> tuple[Release, Release]:
    """Make the release live that was installed before the live one; gives (from, to).

    Raises UsageError where there is none.
    """
    now = required_live(prefix)
    names = [receipt["release"] for receipt in receipts(prefix)]
    before = names[: names.index(now.name)]
    if not before:
        hint = "bundle list shows what is installed"
        raise UsageError(f"no release was installed before {now.name}", where=str(prefix), hint=hint)
    then = Release(prefix=prefix, name=before[-1])
    switch(then)
    return now, then


def clear_work(release: Release) -> None:
    """Remove what only the installer needed."""
    _discard(release.work)


def _discard(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)

"""One release below a prefix: where everything of it is, and which one is live."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundler.errors import IntegrityError
from bundler.format.lock import lockfile, platforms
from bundler.format.lock.lockfile import Lock
from bundler.offline.prefix import receipts


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
    def live_path(self) -> Path:
        """The same through the ``current`` link: what survives an upgrade."""
        return self.prefix / "current"

    @property
    def work_folder(self) -> Path:
        """What the installer needs only while it runs."""
        return self.path / ".work"

    @property
    def venv(self) -> Path:
        """The release's environment."""
        return self.path / "venv"

    @property
    def application_folder(self) -> Path:
        """The application's files."""
        return self.path / "app"

    @property
    def python(self) -> Path:
        """The interpreter of the release's environment."""
        return self.venv / platforms.detect_system().venv_python

    @property
    def shared_models(self) -> Path:
        """Model folders, named by digest, that releases share."""
        return self.prefix / "models"

    @property
    def writable_folder(self) -> Path:
        """Where libraries may write: outside every release."""
        return self.prefix / "var"

    @property
    def receipt_path(self) -> Path:
        """Written last: a release without it was never finished."""
        return self.path / receipts.NAME

    @property
    def parts_path(self) -> Path:
        """Says which parts stand here ahead of the rest of the release: the bundle's digest, then a part a line."""
        return self.path / ".parts"

    def find_preinstalled_parts(self, digest: str) -> frozenset[str]:
        """The parts of this very bundle that stand here whole although the release was never finished (see parts.py).

        Names of releases hold a part of a bundle's digest alone, so that the whole of it is compared.
        """
        listed = self._listed_parts()
        return frozenset(listed[1:] if listed[:1] == [digest] else ())

    def has_begun(self, digest: str) -> bool:
        """Whether a run for this very bundle began here and did not finish: what it placed is looked at, and kept."""
        return self._listed_parts()[:1] == [digest]

    def _listed_parts(self) -> list[str]:
        try:
            return self.parts_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    @property
    def is_finished(self) -> bool:
        """Whether it stood here whole once: it is mended where it is, never made anew elsewhere.

        What is live was finished, even where its receipt was lost since.
        """
        now = find_live(self.prefix)
        return self.receipt_path.exists() or (now is not None and now.name == self.name and self.path.is_dir())

    def read_lock(self) -> Lock:
        """The lock that it was installed from; raises IntegrityError when its file was altered or is gone."""
        path = self.path / lockfile.LOCK_FILE
        try:
            with path.open("rb") as file:
                data = file.read(lockfile.MAX_LOCK_BYTES + 1)
        except OSError as error:
            hint = "install its bundle again: that mends it"
            raise IntegrityError(f"its lock can't be read: {error.strerror}", where=str(path), hint=hint) from error
        return lockfile.read_lock(data, str(path))


def find_live(prefix: Path) -> Release | None:
    """The live release, or None."""
    try:
        return Release(prefix=prefix, name=(prefix / "current").readlink().name)
    except OSError:
        return None

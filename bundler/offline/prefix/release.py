"""One release of a prefix: its paths, and which release is live."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundler.errors import IntegrityError
from bundler.format.lock import lockfile, platforms
from bundler.format.lock.lockfile import Lock
from bundler.offline.prefix import receipts


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """The paths of a release; ``prefix`` is absolute."""

    prefix: Path
    name: str

    @property
    def path(self) -> Path:
        """The release's own folder."""
        return self.prefix / "releases" / self.name

    @property
    def live_path(self) -> Path:
        """The live release's folder through the ``current`` link, a path that survives an upgrade."""
        return self.prefix / "current"

    @property
    def work_folder(self) -> Path:
        """Files that the installer needs only while it runs."""
        return self.path / ".work"

    @property
    def venv(self) -> Path:
        """The release's environment."""
        return self.path / "venv"

    @property
    def payload_folder(self) -> Path:
        """Code that the environment's Python runs for smoke loads and for its guard."""
        return self.path / "payload"

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
        """Model folders, named by digest, shared by releases."""
        return self.prefix / "models"

    @property
    def writable_folder(self) -> Path:
        """Folder that libraries may write to, outside every release."""
        return self.prefix / "var"

    @property
    def receipt_path(self) -> Path:
        """The receipt, written last: a release without it was never finished."""
        return self.path / receipts.NAME

    @property
    def parts_path(self) -> Path:
        """File that lists the parts installed before the rest: the bundle's digest, then one part a line."""
        return self.path / ".parts"

    def find_preinstalled_parts(self, digest: str) -> frozenset[str]:
        """Find the complete parts of the bundle with this digest in an unfinished release (see part_install.py).

        The full digest is compared: the name of a release holds only the beginning of it.
        """
        lines = self._read_parts()
        return frozenset(lines[1:] if lines[:1] == [digest] else ())

    def has_begun(self, digest: str) -> bool:
        """Return whether an unfinished run of the bundle with this digest left files here that can be reused."""
        return self._read_parts()[:1] == [digest]

    def _read_parts(self) -> list[str]:
        try:
            return self.parts_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    @property
    def is_finished(self) -> bool:
        """Whether it was completely installed once, so it is repaired in place.

        The live release was finished, even if its receipt is missing now.
        """
        live = find_live(self.prefix)
        return self.receipt_path.exists() or (live is not None and live.name == self.name and self.path.is_dir())

    def read_lock(self) -> Lock:
        """Read the lock that it was installed from.

        Raises:
            IntegrityError: The file is missing or altered.
        """
        path = self.path / lockfile.LOCK_FILE
        try:
            with path.open("rb") as file:
                data = file.read(lockfile.MAX_LOCK_BYTES + 1)
        except OSError as error:
            hint = "install its bundle again: that repairs it"
            raise IntegrityError(f"its lock can't be read: {error.strerror}", where=str(path), hint=hint) from error
        return lockfile.read_lock(data, str(path))


def find_live(prefix: Path) -> Release | None:
    """Return the live release, or None."""
    try:
        return Release(prefix=prefix, name=(prefix / "current").readlink().name)
    except OSError:
        return None

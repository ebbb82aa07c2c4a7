"""What the rooms of this side share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundler.format.lock.entries import Artifact
from bundler.online.transfer import download, pip_config, remote_sizes
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter


@dataclass(kw_only=True, slots=True)
class BuildContext:
    """The shelf, pip's configuration, and where to say what happens."""

    cache: FileCache
    config: PipConfig
    reporter: Reporter
    external_paths: dict[str, Path] = field(default_factory=dict)
    """Where content that is not on the shelf lies, by sha256: a vendor's folder is not copied."""
    deferred: dict[str, download.DownloadRequest] = field(default_factory=dict)
    """What was locked by what is published of it, by sha256: it comes, and is looked into, when a bundle is built."""
    local_wheel_urls: dict[str, str] = field(default_factory=dict)
    """Where wheels of this machine's own folders lie, by sha256: a lock does not name the folders of a machine."""

    @classmethod
    def from_environment(cls, reporter: Reporter) -> BuildContext:
        """Use the cache and the pip configuration of the user who runs this."""
        return cls(cache=FileCache.from_environment(), config=pip_config.read_config(), reporter=reporter)

    def find_path(self, artifact: Artifact) -> Path | None:
        """Return where the content of an artifact lies on this machine; None where it is missing."""
        return self.external_paths.get(artifact.sha256) or self.cache.find(artifact.sha256, artifact.size)

    def require_path(self, artifact: Artifact) -> Path:
        """Where the content of an artifact lies on this machine."""
        return self.external_paths.get(artifact.sha256) or self.cache.require(artifact.sha256)

    def fetch_missing(self, downloads: Sequence[download.DownloadRequest], *, title: str) -> None:
        """Bring home what is not on the shelf, if the disk has room for it."""
        if away := [one for one in downloads if self.cache.find(one.sha256) is None]:
            remote_sizes.require_free_space(away, self.cache, self.config)
            download.fetch(away, self.cache, self.config, self.reporter, title=title)

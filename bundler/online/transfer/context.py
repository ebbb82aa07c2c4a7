"""What the modules of the online side share during a build."""

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
    """The cache, pip's configuration, the reporter, and where content lies that is not in the cache."""

    cache: FileCache
    config: PipConfig
    reporter: Reporter
    external_paths: dict[str, Path] = field(default_factory=dict)
    """Files outside the cache, by SHA-256: a model's local folder is not copied."""
    deferred: dict[str, download.DownloadRequest] = field(default_factory=dict)
    """Files locked from the hub's published digest but not downloaded yet, by SHA-256. ``build`` fetches and scans
    them."""
    local_wheel_urls: dict[str, str] = field(default_factory=dict)
    """URLs of wheels in folders of this machine, by SHA-256: a lock does not name such folders."""

    @classmethod
    def from_environment(cls, reporter: Reporter) -> BuildContext:
        """Use the cache and the pip configuration of the user who runs this."""
        return cls(cache=FileCache.from_environment(), config=pip_config.read_config(), reporter=reporter)

    def find_path(self, artifact: Artifact) -> Path | None:
        """Return where the content of an artifact lies on this machine; None where it is missing."""
        return self.external_paths.get(artifact.sha256) or self.cache.find(artifact.sha256, artifact.size)

    def require_path(self, artifact: Artifact) -> Path:
        """Return the path of an artifact's content on this machine; raise FetchError where there is none."""
        return self.external_paths.get(artifact.sha256) or self.cache.require(artifact.sha256)

    def fetch_missing(self, downloads: Sequence[download.DownloadRequest], *, title: str) -> None:
        """Fetch the files that the cache does not have, after a check of the free space."""
        if missing := [request for request in downloads if self.cache.find(request.sha256) is None]:
            remote_sizes.require_free_space(missing, self.cache, self.config)
            download.fetch(missing, self.cache, self.config, self.reporter, title=title)

"""What the rooms of this side share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundler.format.lock.entries import Artifact
from bundler.online.transfer import download, remote_sizes
from bundler.online.transfer.cache import Store
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Report


@dataclass(kw_only=True, slots=True)
class Workshop:
    """The shelf, pip's configuration, and where to say what happens."""

    store: Store
    config: PipConfig
    report: Report
    contents: dict[str, Path] = field(default_factory=dict)
    """Where content that is not on the shelf lies, by sha256: a vendor's folder is not copied."""
    awaited: dict[str, download.Wanted] = field(default_factory=dict)
    """What was locked by what is published of it, by sha256: it comes, and is looked into, when a bundle is built."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Where wheels of this machine's own folders lie, by sha256: a lock does not name the folders of a machine."""

    def path_of(self, artifact: Artifact) -> Path:
        """Where the content of an artifact lies on this machine."""
        return self.contents.get(artifact.sha256) or self.store.required(artifact.sha256)

    def bring(self, wanted: Sequence[download.Wanted], *, title: str) -> None:
        """Bring home what is not on the shelf, if the disk has room for it."""
        if away := [one for one in wanted if self.store.path_of(one.sha256) is None]:
            remote_sizes.require(away, self.store, self.config)
            download.fetch(away, self.store, self.config, self.report, title=title)

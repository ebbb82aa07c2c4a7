"""A repository on the loopback hub, and a client that fetches it into an empty cache."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from bundler.online.manifest.schema import ModelSpec
from bundler.online.models.local_sources import ModelFiles
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.context import BuildContext
from bundler.online.transfer.http import RetryPolicy
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.servers.hub_server import Hub, Repository

NAME = "org/tiny"

WEIGHTS = "model.safetensors"

CONFIG = "config.json"

FILES = {
    CONFIG: b'{"hidden_size": 4, "architectures": ["None"], "pad": "' + b"p" * 200_000 + b'"}',
    "README.md": b"---\nlicense: mit\n---\n# Tiny\n",
    ".gitattributes": b"*.safetensors filter=lfs\n",
    WEIGHTS: bytes(range(256)) * 1200,
    "1_Pooling/config.json": b"{}",
}

CARRIED = sorted(set(FILES) - {".gitattributes"})


@dataclass
class HubFetch:
    """One way to the hub: a shelf, a patience that waits for nothing but remembers, and what was said."""

    hub: Hub
    cache: FileCache
    reporter: RecordingReporter = field(default_factory=RecordingReporter)
    config: PipConfig = field(default_factory=lambda: PipConfig(timeout=10))
    waits: list[float] = field(default_factory=list)

    @property
    def repository(self) -> Repository:
        return self.hub.repositories[NAME]

    @property
    def main(self) -> str:
        return self.repository.refs["main"]

    def run(self, commit: str = "", *, vetted: bool = False, **asked: Any) -> ModelFiles:
        """What a lock is told, and then the files that a build brings."""
        found = self.collect(commit, vetted=vetted, **asked)
        shop = BuildContext(cache=self.cache, config=self.config, reporter=self.reporter)
        shop.fetch_missing([*found.deferred.values()], title="fetch models")
        return found

    def collect(self, commit: str = "", *, vetted: bool = False, **asked: Any) -> ModelFiles:
        """What a lock is told, and nothing more."""
        from bundler.online.models import hub_download, model_resolution

        patience = RetryPolicy(max_tries=5, wait=lambda _, seconds: self.waits.append(seconds))
        model = ModelSpec(**(asked if {"repo", "dataset", "kernel"} & set(asked) else {"repo": NAME} | asked))
        vet = (
            functools.partial(model_resolution._check_selection, model)
            if vetted or asked.get("loader")
            else lambda *_: None
        )
        return hub_download.collect_files(
            model, self.cache, self.config, self.reporter, commit=commit, check_selection=vet, retry_policy=patience
        )

    def check_files(self, found: ModelFiles, files: dict[str, bytes] | None = None) -> None:
        """What was gathered is what the repository holds."""
        wanted = files or {name: FILES[name] for name in CARRIED}
        assert {file.path: file.content.read_bytes() for file in found.files} == wanted

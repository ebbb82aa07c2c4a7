"""Asset provider ``url``: one file by its URL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bundler.format import paths
from bundler.format.documents import InvalidValueError
from bundler.online.assets.provider import AssetFields, AssetFile, AssetProvider
from bundler.online.transfer import urls

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class _UrlProvider(AssetProvider):
    key = "url"
    fields = ("sha256", "path", "env")

    def check(self, entry: AssetFields) -> Iterator[InvalidValueError]:
        if problem := urls.find_url_problem(entry.url or ""):
            yield InvalidValueError(problem, "url")
        for key in ("sha256", "path"):
            if not getattr(entry, key):
                yield InvalidValueError("is required with url", key)
        if entry.sha256 and not _SHA256.fullmatch(entry.sha256):
            yield InvalidValueError("must be 64 hexadecimal digits", "sha256")
        if entry.path and (problem := paths.find_path_problem(entry.path)):
            yield InvalidValueError(f"{entry.path!r} {problem}", "path")

    def list_pinned_files(self, entry: AssetFields) -> Sequence[AssetFile]:
        if not (entry.url and entry.sha256 and entry.path):
            return ()
        return (AssetFile(url=entry.url, sha256=entry.sha256.lower(), path=entry.path, publisher="manifest"),)


PROVIDER = _UrlProvider()

"""Libraries that download data when they first run: where they look for it, and how their requests are recognised.

The one table of them on the host. The smoke load and the guard read it inside the environment, the installer reads it
for ``.env.offline`` and for the fix that it prints. The builder's part is in ``bundler/online/assets``, under the same
names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AssetLibrary:
    """A library whose data a manifest names under ``assets:``, by the library's ``name``."""

    name: str
    title: str
    """The library's name in sentences."""
    variable: str
    """The environment variable that tells the library where its data is."""
    folder: str
    """The folder below ``assets/`` that the variable names."""
    url_paths: tuple[tuple[str, str], ...]
    """Patterns of paths of URLs, and the name of the data for each (a template of ``re.Match.expand``)."""
    index_file: str = ""
    """A file that the library downloads before any data; its URL does not say which data is wanted."""
    downloader: str = ""
    """The module that downloads the index."""
    argument: str = ""
    """The variable in the downloader's frames that holds the names of the data."""
    network_modules: tuple[str, ...] = ()
    """Modules of the library that only download for others; the code that called them made the request."""
    missing_data: str = ""
    """A pattern of the library's own error for missing data; its first group is the name of the data."""
    host: str = ""
    """The server of the named data; "" for any."""
    make_file_name: Callable[[str], str] | None = None
    """Returns the name in the ``folder`` under which the library looks for the file of a URL. Data from another
    server than ``host`` is then an asset by ``url``."""

    def find_name(self, url_path: str) -> str:
        """Return the name of the data that a URL's path is for; "" if it is not one of this library's."""
        for pattern, template in self.url_paths:
            if match := re.fullmatch(pattern, url_path):
                return match.expand(template)
        return ""

    def make_manifest_entry(self, name: str, host: str, url: str) -> str:
        """Return the entry of ``assets:`` that puts data into the bundle."""
        if self.make_file_name and self.host not in ("", host):
            return f"url: {url}, sha256: …, path: {self.folder}/{self.make_file_name(url)}"
        return f"{self.name}: [{name}]"


def hash_tiktoken_url(url: str) -> str:
    """Return the name under which tiktoken caches a file: the SHA-1 of its URL."""
    return hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()


LIBRARIES: Mapping[str, AssetLibrary] = {
    library.name: library
    for library in (
        AssetLibrary(
            name="tiktoken",
            title="tiktoken",
            variable="TIKTOKEN_CACHE_DIR",
            folder="tiktoken",
            url_paths=((r".*/([^/]*)\.tiktoken", r"\1"), (r".*/gpt-2/encodings/.*", "gpt2")),
            host="openaipublic.blob.core.windows.net",
            make_file_name=hash_tiktoken_url,
        ),
        AssetLibrary(
            name="nltk",
            title="NLTK",
            variable="NLTK_DATA",
            folder="nltk_data",
            url_paths=((r".*/nltk_data/(?:.*/)?([^/]*)\.zip", r"\1"),),
            index_file="index.xml",
            downloader="nltk.downloader",
            argument="info_or_id",
            network_modules=("nltk.downloader", "nltk.pathsec"),
            missing_data=r"nltk\.download\(['\"]([^'\"]+)['\"]\)",
        ),
    )
}
"""By the key of the manifest's ``assets``."""

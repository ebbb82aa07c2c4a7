"""The entries of ``assets:`` in a manifest, checked by the provider of each."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from bundler.format import documents, paths
from bundler.format.documents import FieldProblem, InvalidValueError
from bundler.online.assets.provider import SOURCE_KEYS, AssetFields, AssetFile, AssetProvider

_LOOPBACK_HOST = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")
_OTHER_KEYS = ("sha256", "path", "env", "mirror")

PROVIDERS: Mapping[str, AssetProvider] = {
    key: importlib.import_module(f"bundler.online.assets.{key}").PROVIDER for key in SOURCE_KEYS
}
"""The registry: every asset provider by its key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetSpec(AssetFields):
    """Files that something on the host reads: exactly one of url, tiktoken and nltk."""

    def __post_init__(self) -> None:
        documents.raise_together(self._list_problems())

    def _list_problems(self) -> Iterator[InvalidValueError]:
        given_keys = [key for key in SOURCE_KEYS if getattr(self, key)]
        if len(given_keys) != 1:
            expected = f"{', '.join(SOURCE_KEYS[:-1])} and {SOURCE_KEYS[-1]}"
            message = f"needs exactly one of {expected}; it has {', '.join(given_keys) or 'none'}"
            yield InvalidValueError(message, reads=SOURCE_KEYS)
        for key in _OTHER_KEYS if given_keys else ():
            if getattr(self, key) is not None and key not in PROVIDERS[given_keys[0]].fields:
                expected = " or ".join(source for source in SOURCE_KEYS if key in PROVIDERS[source].fields)
                yield InvalidValueError(f"goes with {expected}: leave it out", key, reads=[*SOURCE_KEYS])
        for source in given_keys:
            yield from PROVIDERS[source].check(self)
        if self.mirror is not None and not self.url:
            yield from self._check_mirror(self.mirror)

    def _check_mirror(self, mirror: str) -> Iterator[InvalidValueError]:
        try:
            parts = urlsplit(mirror)
        except ValueError as error:  # a bracket that is not closed
            yield InvalidValueError(f"{mirror!r} is not a URL: {error}", "mirror")
            return
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            yield InvalidValueError("must be the URL of a folder: https://HOST/FOLDER/", "mirror")
        elif self.index_url and parts.scheme == "http" and not _LOOPBACK_HOST.fullmatch(parts.hostname):
            # Only the index has the digests of its files, so nothing would protect the index itself.
            message = "over http somebody could alter the index: use https, or give each file by url and sha256"
            yield InvalidValueError(message, "mirror")

    @property
    def key(self) -> str:
        """The key of its provider; "" in an entry that has none."""
        return next((key for key in SOURCE_KEYS if getattr(self, key)), "")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the data that it asks for; () for a file by URL."""
        value = getattr(self, self.key, ())
        return value if isinstance(value, tuple) else ()

    @property
    def pinned_files(self) -> Sequence[AssetFile]:
        """Its files whose URL and SHA-256 are known without a network; files of an index are not among them."""
        return PROVIDERS[self.key].list_pinned_files(self) if self.key else ()

    @property
    def index_url(self) -> str:
        """The URL of the index that lists its files; "" if it needs none."""
        return PROVIDERS[self.key].get_index_url(self) if self.key else ""


def find_duplicates(specs: Sequence[AssetSpec]) -> list[FieldProblem]:
    """Return the files of two entries that have the same path, and the indexed names that are given twice."""
    problems = []
    path_owners: dict[str, int] = {}
    name_owners: dict[tuple[str, str], int] = {}
    for n, spec in enumerate(specs):
        for file in spec.pinned_files:
            owner = path_owners.setdefault(paths.fold_name(file.path), n)
            if owner != n and not (spec.names and spec.key == specs[owner].key):  # data may share a file
                field = "path" if spec.url else spec.key
                problems.append(FieldProblem(("assets", n, field), f"{file.path!r} is taken by assets[{owner}]"))
        for k, name in enumerate(spec.names if spec.index_url else ()):
            if (owner := name_owners.setdefault((spec.key, name), n)) != n or name in spec.names[:k]:
                message = f"{name!r} is named twice, first in assets[{owner}]"
                problems.append(FieldProblem(("assets", n, spec.key, k), message))
    return problems

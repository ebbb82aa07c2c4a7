"""What an asset provider is, and the fields that providers have in a manifest's entry under ``assets:``."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from bundler.format.documents import InvalidValueError, describe_field

SOURCE_KEYS = ("url", "tiktoken", "nltk")
"""The provider's key of each entry; ``bundler/online/assets/KEY.py`` is the provider."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetFields:
    """One entry of ``assets:``, not checked."""

    url: str | None = describe_field("where to fetch a file", default=None)
    sha256: str | None = describe_field("SHA-256 of the file at url", default=None)
    path: str | None = describe_field("path of the file at url on the host, below assets/", default=None)
    env: str | None = describe_field("variable of .env.offline that holds the path of the file at url", default=None)
    tiktoken: tuple[str, ...] = describe_field("encodings of tiktoken, such as cl100k_base", default=())
    nltk: tuple[str, ...] = describe_field("packages of NLTK's index, such as punkt_tab", default=())
    mirror: str | None = describe_field(
        "with tiktoken or nltk: URL of a folder that has the same files as the library's own server", default=None
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetFile:
    """A file to fetch; ``path`` is its place below ``assets/``.

    ``sha256`` is "" where the publisher does not state it; ``md5`` is then checked instead. ``size`` is in bytes.
    """

    url: str
    path: str
    publisher: str
    sha256: str = ""
    md5: str = ""
    size: int | None = None


class AssetProvider(ABC):
    """Where the files of an entry come from.

    A provider whose data a library downloads by itself has an entry in ``bundler/payload/network/asset_libraries.py``
    under the same key: the host's part.
    """

    key: str
    """The provider's field of `AssetFields`."""
    fields: tuple[str, ...] = ("mirror",)
    """The other fields that may stand beside it."""
    title: str = ""
    """The library's name in sentences."""
    index_hint: str = ""
    """What to do where the index can't be had."""
    calls: Mapping[str, str] = MappingProxyType({})
    """Functions of the library that load data, and the parameter that names the data; ``bundle init`` looks for them."""
    wrappers: tuple[str, ...] = ()
    """Functions of other libraries that load this library's data."""
    wrapper_parameters: tuple[str, ...] = ()
    """Their parameters that name the data."""
    wrapper_default: str = ""
    """The data that they load without such a parameter."""
    unknown_name: str = ""
    """What `find_name` does not know, for a person."""

    @abstractmethod
    def check(self, entry: AssetFields) -> Iterator[InvalidValueError]:
        """List what is wrong with the provider's own field."""

    def list_pinned_files(self, entry: AssetFields) -> Sequence[AssetFile]:
        """Return the files whose URL and SHA-256 are known without a network."""
        del entry
        return ()

    def get_index_url(self, entry: AssetFields) -> str:
        """Return the URL of an index that lists the files; "" where no index is needed.

        A provider with an index also defines `list_indexed_files`, and `find_locked_url` for a build from a lock.
        """
        del entry
        return ""

    def list_indexed_files(self, entry: AssetFields, index: bytes, where: str) -> Sequence[AssetFile]:
        """Return the files of an entry as the index describes them.

        Raises:
            ResolveError: The index is malformed, or lacks a file; ``where`` is its URL for the message.
        """
        raise NotImplementedError

    def find_locked_url(self, entry: AssetFields, path: str) -> str:
        """Return the URL of an indexed file that a lock has at ``path`` below ``assets/``; "" if the entry lacks it."""
        del entry, path
        return ""

    def find_name(self, text: str) -> str:
        """Return the name in a manifest for what code gives to a function of `calls`; "" if it has none."""
        del text
        return ""


def suggest_name(name: str, known_names: Collection[str]) -> str:
    """Return a sentence part that helps with an unknown name: the nearest one, or all of them where they are few."""
    if near := difflib.get_close_matches(name, known_names, n=1):
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(sorted(known_names))}" if len(known_names) <= 20 else "no known name is similar"

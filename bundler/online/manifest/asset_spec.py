"""What a manifest asks for of other files: one by its address, or the data that a library fetches by itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from bundler.format import documents, paths
from bundler.format.documents import FieldProblem, InvalidValueError, describe_field
from bundler.online.manifest import tiktoken_files

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOOPBACK_HOST = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")
_SOURCE_KEYS = ("url", "tiktoken", "nltk")


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetFile:
    """A file whose address and SHA-256 are known before anything is asked; ``path`` is where it goes below assets/."""

    url: str
    sha256: str
    path: str
    publisher: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetSpec:
    """Files that something on the host reads: exactly one of url, tiktoken and nltk."""

    url: str | None = describe_field("where to fetch a file", default=None)
    sha256: str | None = describe_field("what the file at url must be", default=None)
    path: str | None = describe_field("where the file at url goes, below assets/", default=None)
    env: str | None = describe_field("variable of .env.offline that names the place of the file at url", default=None)
    tiktoken: tuple[str, ...] = describe_field("encodings of tiktoken, such as cl100k_base", default=())
    nltk: tuple[str, ...] = describe_field("packages of NLTK's index, such as punkt_tab", default=())
    mirror: str | None = describe_field(
        "with tiktoken or nltk: a folder's address below which stands what stands on the library's own server",
        default=None,
    )

    def __post_init__(self) -> None:
        documents.raise_together(self._faults())

    def _faults(self) -> Iterator[InvalidValueError]:
        given = [name for name in _SOURCE_KEYS if getattr(self, name)]
        if len(given) != 1:
            message = f"needs exactly one of url, tiktoken and nltk; it has {', '.join(given) or 'none'}"
            yield InvalidValueError(message, reads=_SOURCE_KEYS)
        yield from self._faults_of_file() if self.url else self._faults_of_names(given)
        for name in self.tiktoken:
            if name not in tiktoken_files.ENCODING_FILES:
                advice = suggest_name(name, tiktoken_files.ENCODING_FILES)
                yield InvalidValueError(
                    f"{name!r} is no encoding of tiktoken {tiktoken_files.TIKTOKEN_VERSION}; {advice}", "tiktoken"
                )
        for name in self.nltk:
            if not _PACKAGE_NAME.fullmatch(name):
                yield InvalidValueError(f"{name!r} is not the name of a package, such as punkt_tab", "nltk")

    def _faults_of_file(self) -> Iterator[InvalidValueError]:
        if why := fault_of_address(self.url or ""):
            yield InvalidValueError(why, "url")
        for key in ("sha256", "path"):
            if not getattr(self, key):
                yield InvalidValueError("is required with url", key)
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            yield InvalidValueError("must be 64 hexadecimal digits", "sha256")
        if self.path and (why := paths.find_path_problem(self.path)):
            yield InvalidValueError(f"{self.path!r} {why}", "path")
        if self.mirror is not None:
            yield InvalidValueError("goes with tiktoken or nltk: leave it out", "mirror")

    def _faults_of_names(self, given: Collection[str]) -> Iterator[InvalidValueError]:
        for key in ("sha256", "path", "env") if given else ():
            if getattr(self, key) is not None:
                yield InvalidValueError("goes with url: leave it out", key, reads=["url"])
        if self.mirror is None:
            return
        try:
            parts = urlsplit(self.mirror)
        except ValueError as error:  # a bracket that is not closed
            yield InvalidValueError(f"{self.mirror!r} is no address: {error}", "mirror")
            return
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            yield InvalidValueError("must be the address of a folder: https://HOST/FOLDER/", "mirror")
        # tiktoken's files have digests of their own; of NLTK's only the index says them.
        elif self.nltk and parts.scheme == "http" and not _LOOPBACK_HOST.fullmatch(parts.hostname):
            yield InvalidValueError(
                "over http the index could be altered on the way: take https, or give each file by url and sha256",
                "mirror",
            )

    @property
    def known_files(self) -> tuple[AssetFile, ...]:
        """Its files, as far as they are known without asking: of NLTK's packages none is."""
        if self.url and self.sha256 and self.path:
            return (AssetFile(url=self.url, sha256=self.sha256.lower(), path=self.path, publisher="manifest"),)
        asked = dict.fromkeys(file for name in self.tiktoken for file in tiktoken_files.ENCODING_FILES.get(name, ()))
        return tuple(
            AssetFile(
                url=join_url(self.mirror, urlsplit(url).path) if self.mirror else url,
                sha256=sha256,
                path=tiktoken_files.get_cache_path(url),  # of the library's own address, wherever the bytes come from
                publisher=f"tiktoken {tiktoken_files.TIKTOKEN_VERSION}",
            )
            for url, sha256 in asked
        )


def fault_of_address(address: str) -> str:
    """Why nothing can be fetched from an address, or "": http, https, file and paths of this machine will do."""
    try:
        scheme = urlsplit(address).scheme
    except ValueError as error:  # a bracket that is not closed
        return f"{address!r} is no address: {error}"
    if len(scheme) > 1 and scheme.lower() not in ("http", "https", "file"):  # a drive of Windows has one letter
        return f"nothing can be fetched by {scheme!r}: give an address that begins with https:// or http://"
    return ""


def suggest_name(name: str, known_names: Collection[str]) -> str:
    """The name that one may have been meant to be, or all there are if a person can read them, in words."""
    if near := difflib.get_close_matches(name, known_names, n=1):
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(sorted(known_names))}" if len(known_names) <= 20 else "nor is any like it"


def join_url(base: str, path: str) -> str:
    """The address of what stands at ``path`` below a folder's address."""
    return f"{base.rstrip('/')}/{path.lstrip('/')}"


def find_duplicates(specs: Sequence[AssetSpec]) -> list[FieldProblem]:
    """Files of two entries that would stand in one place, and packages that are named twice."""
    faults = []
    taken: dict[str, int] = {}
    for n, asset in enumerate(specs):
        key = "path" if asset.url else "tiktoken"
        for file in asset.known_files:
            first = taken.setdefault(paths.fold_name(file.path), n)
            if first != n and not (asset.tiktoken and specs[first].tiktoken):  # encodings may share a file
                faults.append(FieldProblem(("assets", n, key), f"{file.path!r} is taken by assets[{first}]"))
    named: dict[str, int] = {}
    for n, asset in enumerate(specs):
        for k, name in enumerate(asset.nltk):
            if name in named:
                faults.append(
                    FieldProblem(("assets", n, "nltk", k), f"{name!r} is named twice, first in assets[{named[name]}]")
                )
            named.setdefault(name, n)
    return faults

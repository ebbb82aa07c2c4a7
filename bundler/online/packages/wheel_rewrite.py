"""Reproducible form of a wheel that was built here: the same files give the same bytes, whatever packed them."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from bundler.errors import UnsafeError
from bundler.format import paths

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_ZIP_UNIX = 3
_HINT = "the package's build makes an invalid wheel: ask the package's author"


def rewrite_wheel(source: Path, folder: Path, platform: str = "") -> Path:
    """Write a built wheel into ``folder`` with its members sorted, uncompressed, of one time, and a new RECORD last.

    ``platform`` replaces the platform part of its tags. Raises UnsafeError for an invalid wheel.
    """
    filename = _make_filename(source.name, platform)
    try:
        with zipfile.ZipFile(source) as archive:
            members = {
                info.filename: _read_member(archive, info, source.name)
                for info in archive.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnsafeError(
            f"the built wheel can't be read as a zip file: {error}", where=source.name, hint=_HINT
        ) from error
    dist_info = _find_dist_info(members, source.name)
    record_path = f"{dist_info}/RECORD"
    members.pop(record_path, None)
    if platform:
        members[f"{dist_info}/WHEEL"] = (_set_tags(members[f"{dist_info}/WHEEL"][0], filename), False)
    path = folder / filename
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members, key=lambda name: (f"{dist_info}/" in name, name)):
            content, executable = members[name]
            archive.writestr(_make_zip_info(name, executable=executable), content)
        archive.writestr(_make_zip_info(record_path, executable=False), _make_record(members, record_path))
    return path


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, wheel: str) -> tuple[bytes, bool]:
    """Return the bytes of a member, and whether it is executable."""
    mode = info.external_attr >> 16
    if problem := paths.find_path_problem(info.filename) or ("is a link" if stat.S_ISLNK(mode) else ""):
        raise UnsafeError(f"{info.filename!r} in the wheel {problem}", where=wheel, hint=_HINT)
    return archive.read(info), bool(mode & stat.S_IXUSR)


def _find_dist_info(members: Mapping[str, object], wheel: str) -> str:
    folders = {name.partition("/")[0] for name in members if name.endswith(".dist-info/WHEEL") and name.count("/") == 1}
    if len(folders) != 1:
        raise UnsafeError("the wheel has no .dist-info/WHEEL, or several", where=wheel, hint=_HINT)
    return folders.pop()


def _make_filename(filename: str, platform: str) -> str:
    try:
        parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise UnsafeError(f"{filename!r} is not a valid wheel name", where=filename, hint=_HINT) from error
    return f"{filename.removesuffix('.whl').rpartition('-')[0]}-{platform}.whl" if platform else filename


def _set_tags(text: bytes, filename: str) -> bytes:
    """Set the tags in WHEEL to those of the file's name (packaging.python.org, "Binary distribution format")."""
    lines = [line for line in text.decode("utf-8").splitlines() if line and not line.startswith("Tag:")]
    tags = sorted(str(tag) for tag in parse_wheel_filename(filename)[3])
    return "".join(f"{line}\n" for line in [*lines, *(f"Tag: {tag}" for tag in tags)]).encode()


def _make_record(members: Mapping[str, tuple[bytes, bool]], record_path: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, (content, _) in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(content)])
    writer.writerow([record_path, "", ""])
    return text.getvalue().encode()


def _make_zip_info(name: str, *, executable: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _ZIP_EPOCH)
    info.create_system = _ZIP_UNIX
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    return info

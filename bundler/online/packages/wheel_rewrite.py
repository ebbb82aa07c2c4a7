"""A wheel that was built here in its one form: the same files give the same bytes, whatever packed them."""

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
_HINT = "the package's build makes a wheel that no installer should take: ask its author"


def rewrite_wheel(source: Path, folder: Path, platform: str = "") -> Path:
    """Write a built wheel anew into ``folder``: members sorted, stored, of one time, RECORD computed and last.

    ``platform`` replaces the platform part of its tags. Raises UnsafeError for what is no wheel that may travel.
    """
    filename = _make_filename(source.name, platform)
    try:
        with zipfile.ZipFile(source) as packed:
            members = {
                info.filename: _read_member(packed, info, source.name)
                for info in packed.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnsafeError(f"what was built is no zip file: {error}", where=source.name, hint=_HINT) from error
    info = _find_dist_info(members, source.name)
    members.pop(f"{info}/RECORD", None)
    if platform:
        members[f"{info}/WHEEL"] = (_set_tags(members[f"{info}/WHEEL"][0], filename), False)
    path = folder / filename
    with zipfile.ZipFile(path, "w") as packed:
        for name, (content, executable) in sorted(members.items(), key=lambda one: (f"{info}/" in one[0], one[0])):
            packed.writestr(_make_zip_info(name, executable=executable), content)
        packed.writestr(_make_zip_info(f"{info}/RECORD", executable=False), _make_record(members, f"{info}/RECORD"))
    return path


def _read_member(packed: zipfile.ZipFile, info: zipfile.ZipInfo, wheel: str) -> tuple[bytes, bool]:
    """The bytes of a member, and whether it is a program."""
    mode = info.external_attr >> 16
    if why := paths.find_path_problem(info.filename) or ("is a link" if stat.S_ISLNK(mode) else ""):
        raise UnsafeError(f"{info.filename!r} in the wheel {why}", where=wheel, hint=_HINT)
    return packed.read(info), bool(mode & stat.S_IXUSR)


def _find_dist_info(members: Mapping[str, object], wheel: str) -> str:
    found = {name.partition("/")[0] for name in members if name.endswith(".dist-info/WHEEL") and name.count("/") == 1}
    if len(found) != 1:
        raise UnsafeError("the wheel has no .dist-info/WHEEL, or several", where=wheel, hint=_HINT)
    return found.pop()


def _make_filename(filename: str, platform: str) -> str:
    try:
        parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise UnsafeError(f"{filename!r} is no name of a wheel", where=filename, hint=_HINT) from error
    return f"{filename.removesuffix('.whl').rpartition('-')[0]}-{platform}.whl" if platform else filename


def _set_tags(text: bytes, filename: str) -> bytes:
    """WHEEL with the tags that the file's name says (packaging.python.org, "Binary distribution format")."""
    kept = [line for line in text.decode("utf-8").splitlines() if line and not line.startswith("Tag:")]
    tags = sorted(str(tag) for tag in parse_wheel_filename(filename)[3])
    return "".join(f"{line}\n" for line in [*kept, *(f"Tag: {tag}" for tag in tags)]).encode()


def _make_record(members: Mapping[str, tuple[bytes, bool]], record_path: str) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, (content, _) in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(content)])
    rows.writerow([record_path, "", ""])
    return text.getvalue().encode()


def _make_zip_info(name: str, *, executable: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _ZIP_EPOCH)
    info.create_system = _ZIP_UNIX
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    return info

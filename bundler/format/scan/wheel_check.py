"""What a wheel would write, and whether it is what it says: asked of the file, before any installer opens it.

A wheel is data here: its zip, METADATA, WHEEL, RECORD and entry points are read by the rules of the binary
distribution format (packaging.python.org, "Binary distribution format", "Recording installed projects").
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from itertools import product
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, canonicalize_version, parse_wheel_filename

from bundler.errors import UnsafeError
from bundler.format import hashing, paths
from bundler.format.lock.entries import Artifact
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import strict_zip
from bundler.format.scan.strict_zip import Entry, Malformed
from bundler.format.scan.wheel_record import read_record
from bundler.progress import Report, counted

_SCHEMES = ("purelib", "platlib", "scripts", "headers", "data")
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")
"""Files that sign RECORD and so can't stand in it."""
_ALGORITHMS = ("sha256", "sha384", "sha512")
_MOST_UNPACKED = 100
"""Times its own size that a wheel may unpack to, beyond ``_SMALL``; what packs best unpacks to twenty times."""
_SMALL = 256 << 20
_OF_THE_ENVIRONMENT = re.compile(r"pyvenv\.cfg|(bin|Scripts)/(python|activate)[^/]*", re.IGNORECASE)
"""What makes an environment one: no package may put something else there."""
_PROGRAMS = {"console_scripts", "gui_scripts", "default"}
"""Groups of entry points that are written as programs; ``DEFAULT`` stands for every group where configparser reads."""
_CLIMBS = re.compile(r"(^|[\\/=:\s])\.\.([\\/=:\s]|$)")
_AT_START = ("sitecustomize.py", "usercustomize.py")
_SHIM = "distutils-precedence.pth"
_START_OF_SETUPTOOLS = "2638ce9e2500e572a5e0de7faed6661eb569d1b696fcba07b0dd223da5f5d224"
"""SHA-256 of that file, the same in each setuptools since 64: it only turns a shim of its own on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A wheel's file, its name in the bundle, and the package that it must be; "" where the lock names none."""

    path: Path
    name: str
    package: str = ""
    version: str = ""


def of(locked: Lock, path_of: Callable[[Artifact], Path]) -> list[Wheel]:
    """The wheels of a lock, packages and tools; ``path_of`` says where the content of each lies."""
    packages = {package.wheel: package for package in locked.python.packages}
    tools = [Wheel(path=path_of(tool), name=tool.path) for tool in locked.of_kind("tool")]
    return tools + [
        Wheel(
            path=path_of(wheel),
            name=wheel.path,
            package=packages[wheel.path].name,
            version=packages[wheel.path].version,
        )
        for wheel in locked.of_kind("wheel")
    ]


@dataclass(kw_only=True, slots=True)
class _Read:
    """What was found out about one wheel. ``writes`` are places in the environment with the digest of what goes there."""

    wheel: Wheel
    faults: list[str] = field(default_factory=list)
    writes: dict[str, str] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    start_of_setuptools: bool = False
    contents: list[tuple[Entry, str]] = field(default_factory=list)


def refuse(wheels: Iterable[Wheel], report: Report, *, contents: bool) -> None:
    """Raises UnsafeError that names every fault of every wheel.

    Warns of what is no fault and yet should be known: code that runs whenever Python starts, and files that two
    wheels write differently. With ``contents``, every file is unpacked in memory, a piece at a time, and compared
    with RECORD: for the side that builds. The other has compared the wheel's bytes with the lock's digest, so that
    RECORD can lie about nothing that is installed, and unpacking a wheel twice would cost a sixth of the install
    (measured); a file that unpacks to more than it states is refused by uv and by pip (tried).
    """
    read = [_read(wheel) for wheel in wheels]
    if contents:
        _compare_all(read, report)
    if faults := [f"  {one.wheel.name}: {fault}" for one in read for fault in one.faults]:
        more = f"\n  and {len(faults) - 50} more" if len(faults) > 50 else ""
        raise UnsafeError(
            "these wheels are not what they say, or would write where they must not:\n" + "\n".join(faults[:50]) + more,
            hint="do not install them: tell the builder, who can ask for another version or another index",
        )
    for one in read:
        if one.runs:
            report.warn(f"{one.wheel.name} runs code whenever this environment's Python starts: {', '.join(one.runs)}")
        if one.start_of_setuptools:
            report.note(f"{one.wheel.name} runs its usual line whenever this environment's Python starts: {_SHIM}")
    _warn_of_overwriting(read, report)


def _compare_all(read: Sequence[_Read], report: Report) -> None:
    parts = [(one, entry, digest) for one in read if not one.faults for entry, digest in one.contents]
    parts.sort(key=lambda part: part[1].size, reverse=True)
    with report.stage("check wheels", sum(entry.size for _, entry, _ in parts)) as stage:
        wrong = hashing.side_by_side(_compare, parts, stage.advance)
    for (one, _, _), why in zip(parts, wrong, strict=True):
        one.faults += [why] if why else []


def _warn_of_overwriting(read: Sequence[_Read], report: Report) -> None:
    written: dict[str, dict[str, str]] = {}
    for one in read:
        for place, digest in one.writes.items():
            written.setdefault(place, {})[one.wheel.name] = digest
    twice = {place: by for place, by in written.items() if len(set(by.values())) > 1}
    if twice:
        place, by = next(iter(twice.items()))
        report.warn(
            f"{counted(len(twice), 'file')} with more than one wheel to write it, each otherwise, such as {place} "
            f"by {' and '.join(by)}: the last one stays"
        )


def _read(wheel: Wheel) -> _Read:
    found = _Read(wheel=wheel)
    try:
        entries = strict_zip.entries(wheel.path)
        names = {entry.name: entry for entry in entries}
        found.faults += _wrong_names(wheel, [entry.name for entry in entries])
        found.faults += _bomb(wheel, entries)
        stem = _stem(names)
        _check_identity(found, names, stem)
        recorded = _recorded(found, names, stem)
        for entry in entries:
            place = _place(found, entry.name, stem)
            found.writes[place] = recorded.get(entry.name, "")
            if "/" not in place.removeprefix("site-packages/"):
                _note_start(found, entry)
        _check_entry_points(found, names, stem)
        found.contents = [(entry, recorded[entry.name]) for entry in entries if recorded.get(entry.name)]
    except Malformed as error:
        found.faults.append(str(error))
    return found


def _wrong_names(wheel: Wheel, names: list[str]) -> list[str]:
    """Names that climb, or that two files share on some file system."""
    wrong = [f"{name!a} {why}" for name in names if (why := _fault_of(name))]
    wrong += [f"{name!a} stands twice" for name, count in Counter(names).items() if count > 1]
    if not wrong and not _for_linux_alone(wheel):  # there, names that differ by case alone are two files
        wrong = paths.clashes(names)
    return wrong[:20]


def _fault_of(name: str) -> str:
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is absolute"
    if "\\" in name:
        return "holds a backslash"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "climbs out of its folder, or has an empty part"
    return "holds a character that may not be shown" if paths.unprintable_in(name) else ""


def _for_linux_alone(wheel: Wheel) -> bool:
    return "linux" in wheel.name.removesuffix(".whl").rpartition("-")[2]


def _bomb(wheel: Wheel, entries: list[Entry]) -> list[str]:
    unpacked, packed = sum(entry.size for entry in entries), wheel.path.stat().st_size
    if unpacked > max(_SMALL, _MOST_UNPACKED * packed):
        return [f"it claims to unpack to {unpacked:,} bytes, {unpacked // max(packed, 1)} times its own size"]
    return []


def _stem(names: dict[str, Entry]) -> str:
    """``NAME-VERSION`` as the wheel spells it: what its folders begin with."""
    infos = sorted({name.partition("/")[0] for name in names if name.partition("/")[0].endswith(".dist-info")})
    if len(infos) != 1:
        raise Malformed(f"it has {len(infos)} .dist-info folders and must have one: {', '.join(infos)}")
    if missing := [name for name in ("METADATA", "WHEEL", "RECORD") if f"{infos[0]}/{name}" not in names]:
        raise Malformed(f"it has no {' and no '.join(missing)}")
    return infos[0].removesuffix(".dist-info")


def _check_identity(found: _Read, names: dict[str, Entry], stem: str) -> None:
    """File name, folder, METADATA, WHEEL and lock must speak of one package, version and kind of Python."""
    wheel = found.wheel
    try:
        name, version, _, tags = parse_wheel_filename(Path(wheel.name).name)
    except InvalidWheelFilename as error:
        raise Malformed(f"its file name is not that of a wheel: {error}") from error
    metadata = _headers(wheel, names[f"{stem}.dist-info/METADATA"])
    said = {
        "its folder": stem.partition("-")[::2],
        "METADATA": (metadata.get("Name", ""), metadata.get("Version", "")),
        **({"the lock": (wheel.package, wheel.version)} if wheel.package else {}),
    }
    for who, (other, at) in said.items():
        if (canonicalize_name(other), canonicalize_version(at)) != (name, canonicalize_version(version)):
            found.faults.append(f"{who} says {other!a} {at!a}, its file name {name} {version}")
    about = _headers(wheel, names[f"{stem}.dist-info/WHEEL"])
    if not about.get("Wheel-Version", "").strip().startswith("1."):
        found.faults.append(f"WHEEL has version {about.get('Wheel-Version', '')!a}, which is not known")
    # Platforms are left out: wheels are renamed when they are found to fit more of them, and that is not always said.
    stated = [one.strip() for one in about.get_all("Tag", [])]
    kinds = {(python, abi) for one in stated for python, abi in product(*_tag_parts(one))}
    if kinds and not {(tag.interpreter, tag.abi) for tag in tags} & kinds:
        found.faults.append(f"WHEEL says {', '.join(stated[:3])}, which its file name does not")


def _tag_parts(tag: str) -> tuple[list[str], list[str]]:
    python, _, rest = tag.partition("-")
    return python.split("."), rest.partition("-")[0].split(".")


def _headers(wheel: Wheel, entry: Entry) -> Message:
    return HeaderParser().parsestr(strict_zip.text(wheel.path, entry).decode("utf-8", "replace"))


def _recorded(found: _Read, names: dict[str, Entry], stem: str) -> dict[str, str]:
    """Each file's digest as ``ALGORITHM=HEX``; files without one are left out."""
    record = f"{stem}.dist-info/RECORD"
    try:
        rows = read_record(strict_zip.text(found.wheel.path, names[record], 64 << 20))
    except ValueError as error:
        raise Malformed(f"RECORD can't be read: {error}") from error
    listed = {row.path: row for row in rows}
    free = {record, *(f"{stem}.dist-info/{name}" for name in _SIGNATURES)}
    if unlisted := sorted(names.keys() - listed.keys() - free):
        found.faults.append(f"RECORD does not list {unlisted[0]!a}{_and_more(unlisted)}")
    if lacking := sorted(listed.keys() - names.keys() - free):
        found.faults.append(f"RECORD lists {lacking[0]!a}{_and_more(lacking)}, which it does not hold")
    if len(listed) != len(rows):
        found.faults.append("RECORD lists a file twice")
    wrong: list[str] = []
    known: dict[str, str] = {}
    for name in sorted(listed.keys() & names.keys() - free):
        row = listed[name]
        if row.algorithm not in _ALGORITHMS:
            wrong.append(f"RECORD has no digest of {name!a} that can be relied on")
        elif row.size not in (-1, names[name].size):
            wrong.append(f"RECORD says {row.size} bytes of {name!a}, it has {names[name].size}")
        known[name] = f"{row.algorithm}={row.digest}"
    found.faults += wrong[:20]
    return known


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _compare(part: tuple[_Read, Entry, str], advance: Callable[[int], None]) -> str:
    """What is wrong with the content of one file."""
    read, entry, recorded = part
    algorithm, _, stated = recorded.partition("=")
    hashed = hashlib.new(algorithm)
    fd = hashing.open_to_read(read.wheel.path)
    try:
        for piece in strict_zip.content(fd, entry):
            hashed.update(piece)
            advance(len(piece))
    except Malformed as error:
        return str(error)
    finally:
        os.close(fd)
    return "" if hashed.hexdigest() == stated else f"{entry.name!a} is not what RECORD says"


def _place(found: _Read, name: str, stem: str) -> str:
    """Where a file goes, from the environment's folder; faults where that is none of a wheel's business."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return f"site-packages/{name}"
    scheme, _, inside = rest.partition("/")
    if first != f"{stem}.data" or scheme not in _SCHEMES or not inside:
        found.faults.append(f"{name!a} belongs to no place of an environment")
        return name
    place = {
        "purelib": f"site-packages/{inside}",
        "platlib": f"site-packages/{inside}",
        "scripts": f"bin/{inside}",
        "headers": f"include/{stem.partition('-')[0]}/{inside}",
        "data": inside,
    }[scheme]
    if _OF_THE_ENVIRONMENT.fullmatch(place):
        found.faults.append(f"{name!a} would take the place of {place}, which belongs to the environment")
    return place


def _note_start(found: _Read, entry: Entry) -> None:
    """Code that runs at each start of Python is common (setuptools has some), and worth knowing."""
    name = entry.name.rpartition("/")[2]
    if name in _AT_START:
        found.runs.append(name)
    if name.endswith(".pth"):
        text = strict_zip.text(found.wheel.path, entry)
        if name == _SHIM and _is_setuptools(found.wheel) and hashlib.sha256(text).hexdigest() == _START_OF_SETUPTOOLS:
            found.start_of_setuptools = True
        elif any(line.startswith((b"import ", b"import\t")) for line in text.splitlines()):
            found.runs.append(name)


def _is_setuptools(wheel: Wheel) -> bool:
    return wheel.name.rpartition("/")[2].startswith("setuptools-")


def _check_entry_points(found: _Read, names: dict[str, Entry], stem: str) -> None:
    """The installer writes a program for each; its name must stay in bin/.

    Installers read this file in more than one way: what any of them could take for a line, a group or a name is looked
    at.
    """
    entry = names.get(f"{stem}.dist-info/entry_points.txt")
    if entry is None:
        return
    try:
        lines = strict_zip.text(found.wheel.path, entry).decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        found.faults.append("its entry points are not UTF-8")
        return
    groups: set[str] = set()
    for line in lines:
        text = line.strip()
        if paths.unprintable_in(text.replace("\t", " ")):
            found.faults.append(f"its entry points have a character that ends a line for some readers: {text[:60]!a}")
        elif text.startswith("[") and not text.endswith("]"):
            found.faults.append(f"its entry points have a line that is no group and no name: {text[:60]!a}")
        elif text.startswith("["):  # what is set in may belong to the value above it
            groups = {text.strip("[]").strip().lower(), *(groups if line != line.lstrip() else ())}
        elif text and not text.startswith("#"):
            if _CLIMBS.search(text):
                found.faults.append(f"its entry point {text[:60]!a} climbs out of its folder")
            if groups & _PROGRAMS:
                _check_program(found, text)


def _check_program(found: _Read, text: str) -> None:
    for name in dict.fromkeys(re.split(mark, text, maxsplit=1)[0].strip() for mark in ("[=:]", "=")):
        if not name or _fault_of(name) or "/" in name:
            found.faults.append(f"its entry point {name!a} would be written outside of bin/")
        elif _OF_THE_ENVIRONMENT.fullmatch(f"bin/{name}"):
            found.faults.append(f"its entry point {name!a} would take the place of the environment's own")
        found.writes.setdefault(f"bin/{name}", f"entry point of {found.wheel.name}")

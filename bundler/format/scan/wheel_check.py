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
from bundler.format.lock.platforms import SYSTEMS
from bundler.format.scan import strict_zip
from bundler.format.scan.strict_zip import MalformedZipError, ZipEntry
from bundler.format.scan.wheel_record import read_record
from bundler.progress import Reporter, pluralize

_SCHEMES = ("purelib", "platlib", "scripts", "headers", "data")
_RECORD_SIGNATURES = ("RECORD.jws", "RECORD.p7s")
"""Files that sign RECORD and so can't stand in it."""
_ALGORITHMS = ("sha256", "sha384", "sha512")
_MAX_UNPACK_RATIO = 100
"""Times its own size that a wheel may unpack to, beyond ``_SMALL``; what packs best unpacks to twenty times."""
_UNPACK_ALLOWANCE = 256 << 20
_SCRIPTS_FOLDERS = "|".join(sorted({system.scripts_folder for system in SYSTEMS.values()}))
_ENVIRONMENT_FILE = re.compile(rf"pyvenv\.cfg|({_SCRIPTS_FOLDERS})/(python|activate)[^/]*", re.IGNORECASE)
"""What makes an environment one: no package may put something else there."""
_SCRIPT_GROUPS = {"console_scripts", "gui_scripts", "default"}
"""Groups of entry points that are written as programs; ``DEFAULT`` stands for every group where configparser reads."""
_PARENT_REFERENCE = re.compile(r"(^|[\\/=:\s])\.\.([\\/=:\s]|$)")
_STARTUP_FILES = ("sitecustomize.py", "usercustomize.py")
_SETUPTOOLS_PTH = "distutils-precedence.pth"
_SETUPTOOLS_PTH_SHA256 = "2638ce9e2500e572a5e0de7faed6661eb569d1b696fcba07b0dd223da5f5d224"
"""SHA-256 of that file, the same in each setuptools since 64: it only turns a shim of its own on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelFile:
    """A wheel's file, its name in the bundle, and the package that it must be; "" where the lock names none."""

    path: Path
    name: str
    package: str = ""
    version: str = ""


def list_wheels(lock: Lock, find_content: Callable[[Artifact], Path]) -> list[WheelFile]:
    """The wheels of a lock, packages and tools; ``path_of`` says where the content of each lies."""
    packages = {package.wheel: package for package in lock.python.packages}
    tools = [WheelFile(path=find_content(tool), name=tool.path) for tool in lock.list_artifacts("tool")]
    return tools + [
        WheelFile(
            path=find_content(wheel),
            name=wheel.path,
            package=packages[wheel.path].name,
            version=packages[wheel.path].version,
        )
        for wheel in lock.list_artifacts("wheel")
    ]


@dataclass(kw_only=True, slots=True)
class _WheelFindings:
    """What was found out about one wheel. ``writes`` are places in the environment with the digest of what goes there."""

    wheel: WheelFile
    problems: list[str] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)
    startup_files: list[str] = field(default_factory=list)
    has_setuptools_pth: bool = False
    recorded_files: list[tuple[ZipEntry, str]] = field(default_factory=list)


def check_wheels(wheels: Iterable[WheelFile], reporter: Reporter, *, compare_contents: bool) -> None:
    """Raises UnsafeError that names every fault of every wheel.

    Warns of what is no fault and yet should be known: code that runs whenever Python starts, and files that two
    wheels write differently. With ``contents``, every file is unpacked in memory, a piece at a time, and compared
    with RECORD: for the side that builds. The other has compared the wheel's bytes with the lock's digest, so that
    RECORD can lie about nothing that is installed, and unpacking a wheel twice would cost a sixth of the install
    (measured); a file that unpacks to more than it states is refused by uv and by pip (tried).
    """
    all_findings = [_inspect_wheel(wheel) for wheel in wheels]
    if compare_contents:
        _compare_contents(all_findings, reporter)
    if faults := [f"  {one.wheel.name}: {fault}" for one in all_findings for fault in one.problems]:
        more = f"\n  and {len(faults) - 50} more" if len(faults) > 50 else ""
        raise UnsafeError(
            "these wheels are not what they say, or would write where they must not:\n" + "\n".join(faults[:50]) + more,
            hint="do not install them: tell the builder, who can ask for another version or another index",
        )
    for one in all_findings:
        if one.startup_files:
            reporter.warn(
                f"{one.wheel.name} runs code whenever this environment's Python starts: {', '.join(one.startup_files)}"
            )
        if one.has_setuptools_pth:
            reporter.note(
                f"{one.wheel.name} runs its usual line whenever this environment's Python starts: {_SETUPTOOLS_PTH}"
            )
    _warn_about_overwrites(all_findings, reporter)


def _compare_contents(all_findings: Sequence[_WheelFindings], reporter: Reporter) -> None:
    parts = [(one, entry, digest) for one in all_findings if not one.problems for entry, digest in one.recorded_files]
    parts.sort(key=lambda part: part[1].size, reverse=True)
    with reporter.stage("check wheels", sum(entry.size for _, entry, _ in parts)) as stage:
        wrong = hashing.map_parallel(_compare_file, parts, stage.advance)
    for (one, _, _), why in zip(parts, wrong, strict=True):
        one.problems += [why] if why else []


def _warn_about_overwrites(all_findings: Sequence[_WheelFindings], reporter: Reporter) -> None:
    written: dict[str, dict[str, str]] = {}
    for one in all_findings:
        for place, digest in one.targets.items():
            written.setdefault(place, {})[one.wheel.name] = digest
    twice = {place: by for place, by in written.items() if len(set(by.values())) > 1}
    if twice:
        place, by = next(iter(twice.items()))
        reporter.warn(
            f"{pluralize(len(twice), 'file')} with more than one wheel to write it, each otherwise, such as {place} "
            f"by {' and '.join(by)}: the last one stays"
        )


def _inspect_wheel(wheel: WheelFile) -> _WheelFindings:
    found = _WheelFindings(wheel=wheel)
    try:
        entries = strict_zip.read_entries(wheel.path)
        names = {entry.name: entry for entry in entries}
        found.problems += _find_bad_names(wheel, [entry.name for entry in entries])
        found.problems += _check_unpacked_size(wheel, entries)
        stem = _find_stem(names)
        _check_identity(found, names, stem)
        recorded = _read_digests(found, names, stem)
        for entry in entries:
            place = _find_target(found, entry.name, stem)
            found.targets[place] = recorded.get(entry.name, "")
            if "/" not in place.removeprefix("site-packages/"):
                _note_startup_code(found, entry)
        _check_entry_points(found, names, stem)
        found.recorded_files = [(entry, recorded[entry.name]) for entry in entries if recorded.get(entry.name)]
    except MalformedZipError as error:
        found.problems.append(str(error))
    return found


def _find_bad_names(wheel: WheelFile, names: list[str]) -> list[str]:
    """Names that climb, or that two files share on some file system."""
    wrong = [f"{name!a} {why}" for name in names if (why := _find_name_problem(name))]
    wrong += [f"{name!a} is listed twice" for name, count in Counter(names).items() if count > 1]
    if not wrong and not _is_linux_only(wheel):  # there, names that differ by case alone are two files
        wrong = paths.find_collisions(names)
    return wrong[:20]


def _find_name_problem(name: str) -> str:
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is absolute"
    if "\\" in name:
        return "holds a backslash"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "climbs out of its folder, or has an empty part"
    return "holds a character that may not be shown" if paths.find_unprintable(name) else ""


def _is_linux_only(wheel: WheelFile) -> bool:
    return "linux" in wheel.name.removesuffix(".whl").rpartition("-")[2]


def _check_unpacked_size(wheel: WheelFile, entries: list[ZipEntry]) -> list[str]:
    unpacked, packed = sum(entry.size for entry in entries), wheel.path.stat().st_size
    if unpacked > max(_UNPACK_ALLOWANCE, _MAX_UNPACK_RATIO * packed):
        return [f"it claims to unpack to {unpacked:,} bytes, {unpacked // max(packed, 1)} times its own size"]
    return []


def _find_stem(names: dict[str, ZipEntry]) -> str:
    """``NAME-VERSION`` as the wheel spells it: what its folders begin with."""
    infos = sorted({name.partition("/")[0] for name in names if name.partition("/")[0].endswith(".dist-info")})
    if len(infos) != 1:
        raise MalformedZipError(f"it has {len(infos)} .dist-info folders and must have one: {', '.join(infos)}")
    if missing := [name for name in ("METADATA", "WHEEL", "RECORD") if f"{infos[0]}/{name}" not in names]:
        raise MalformedZipError(f"it has no {' and no '.join(missing)}")
    return infos[0].removesuffix(".dist-info")


def _check_identity(findings: _WheelFindings, names: dict[str, ZipEntry], stem: str) -> None:
    """File name, folder, METADATA, WHEEL and lock must speak of one package, version and kind of Python."""
    wheel = findings.wheel
    try:
        name, version, _, tags = parse_wheel_filename(Path(wheel.name).name)
    except InvalidWheelFilename as error:
        raise MalformedZipError(f"its file name is not that of a wheel: {error}") from error
    metadata = _read_headers(wheel, names[f"{stem}.dist-info/METADATA"])
    said = {
        "its folder": stem.partition("-")[::2],
        "METADATA": (metadata.get("Name", ""), metadata.get("Version", "")),
        **({"the lock": (wheel.package, wheel.version)} if wheel.package else {}),
    }
    for who, (other, at) in said.items():
        if (canonicalize_name(other), canonicalize_version(at)) != (name, canonicalize_version(version)):
            findings.problems.append(f"{who} says {other!a} {at!a}, its file name {name} {version}")
    about = _read_headers(wheel, names[f"{stem}.dist-info/WHEEL"])
    if not about.get("Wheel-Version", "").strip().startswith("1."):
        findings.problems.append(f"WHEEL has version {about.get('Wheel-Version', '')!a}, which is not known")
    # Platforms are left out: wheels are renamed when they are found to fit more of them, and that is not always said.
    stated = [one.strip() for one in about.get_all("Tag", [])]
    kinds = {(python, abi) for one in stated for python, abi in product(*_split_tag(one))}
    if kinds and not {(tag.interpreter, tag.abi) for tag in tags} & kinds:
        findings.problems.append(f"WHEEL says {', '.join(stated[:3])}, which its file name does not")


def _split_tag(tag: str) -> tuple[list[str], list[str]]:
    python, _, rest = tag.partition("-")
    return python.split("."), rest.partition("-")[0].split(".")


def _read_headers(wheel: WheelFile, entry: ZipEntry) -> Message:
    return HeaderParser().parsestr(strict_zip.read_small(wheel.path, entry).decode("utf-8", "replace"))


def _read_digests(findings: _WheelFindings, names: dict[str, ZipEntry], stem: str) -> dict[str, str]:
    """Each file's digest as ``ALGORITHM=HEX``; files without one are left out."""
    record = f"{stem}.dist-info/RECORD"
    try:
        rows = read_record(strict_zip.read_small(findings.wheel.path, names[record], 64 << 20))
    except ValueError as error:
        raise MalformedZipError(f"RECORD can't be read: {error}") from error
    listed = {row.path: row for row in rows}
    free = {record, *(f"{stem}.dist-info/{name}" for name in _RECORD_SIGNATURES)}
    if unlisted := sorted(names.keys() - listed.keys() - free):
        findings.problems.append(f"RECORD does not list {unlisted[0]!a}{_format_more(unlisted)}")
    if lacking := sorted(listed.keys() - names.keys() - free):
        findings.problems.append(f"RECORD lists {lacking[0]!a}{_format_more(lacking)}, which it does not hold")
    if len(listed) != len(rows):
        findings.problems.append("RECORD lists a file twice")
    wrong: list[str] = []
    known: dict[str, str] = {}
    for name in sorted(listed.keys() & names.keys() - free):
        row = listed[name]
        if row.algorithm not in _ALGORITHMS:
            wrong.append(f"RECORD has no digest of {name!a} that can be relied on")
        elif row.size not in (-1, names[name].size):
            wrong.append(f"RECORD says {row.size} bytes of {name!a}, it has {names[name].size}")
        known[name] = f"{row.algorithm}={row.digest}"
    findings.problems += wrong[:20]
    return known


def _format_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _compare_file(part: tuple[_WheelFindings, ZipEntry, str], advance: Callable[[int], None]) -> str:
    """What is wrong with the content of one file."""
    findings, entry, recorded = part
    algorithm, _, stated = recorded.partition("=")
    hashed = hashlib.new(algorithm)
    fd = hashing.open_to_read(findings.wheel.path)
    try:
        for piece in strict_zip.iter_content(fd, entry):
            hashed.update(piece)
            advance(len(piece))
    except MalformedZipError as error:
        return str(error)
    finally:
        os.close(fd)
    return "" if hashed.hexdigest() == stated else f"{entry.name!a} is not what RECORD says"


def _find_target(findings: _WheelFindings, name: str, stem: str) -> str:
    """Where a file goes, from the environment's folder; faults where that is none of a wheel's business."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return f"site-packages/{name}"
    scheme, _, inside = rest.partition("/")
    if first != f"{stem}.data" or scheme not in _SCHEMES or not inside:
        findings.problems.append(f"{name!a} belongs to no place of an environment")
        return name
    place = {
        "purelib": f"site-packages/{inside}",
        "platlib": f"site-packages/{inside}",
        "scripts": f"bin/{inside}",
        "headers": f"include/{stem.partition('-')[0]}/{inside}",
        "data": inside,
    }[scheme]
    if _ENVIRONMENT_FILE.fullmatch(place):
        findings.problems.append(f"{name!a} would take the place of {place}, which belongs to the environment")
    return place


def _note_startup_code(findings: _WheelFindings, entry: ZipEntry) -> None:
    """Code that runs at each start of Python is common (setuptools has some), and worth knowing."""
    name = entry.name.rpartition("/")[2]
    if name in _STARTUP_FILES:
        findings.startup_files.append(name)
    if name.endswith(".pth"):
        text = strict_zip.read_small(findings.wheel.path, entry)
        if (
            name == _SETUPTOOLS_PTH
            and _is_setuptools(findings.wheel)
            and hashlib.sha256(text).hexdigest() == _SETUPTOOLS_PTH_SHA256
        ):
            findings.has_setuptools_pth = True
        elif any(line.startswith((b"import ", b"import\t")) for line in text.splitlines()):
            findings.startup_files.append(name)


def _is_setuptools(wheel: WheelFile) -> bool:
    return wheel.name.rpartition("/")[2].startswith("setuptools-")


def _check_entry_points(findings: _WheelFindings, names: dict[str, ZipEntry], stem: str) -> None:
    """The installer writes a program for each; its name must stay in bin/.

    Installers read this file in more than one way: what any of them could take for a line, a group or a name is looked
    at.
    """
    entry = names.get(f"{stem}.dist-info/entry_points.txt")
    if entry is None:
        return
    try:
        lines = strict_zip.read_small(findings.wheel.path, entry).decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        findings.problems.append("its entry points are not UTF-8")
        return
    groups: set[str] = set()
    for line in lines:
        text = line.strip()
        if paths.find_unprintable(text.replace("\t", " ")):
            findings.problems.append(
                f"its entry points have a character that ends a line for some readers: {text[:60]!a}"
            )
        elif text.startswith("[") and not text.endswith("]"):
            findings.problems.append(f"its entry points have a line that is no group and no name: {text[:60]!a}")
        elif text.startswith("["):  # what is set in may belong to the value above it
            groups = {text.strip("[]").strip().lower(), *(groups if line != line.lstrip() else ())}
        elif text and not text.startswith("#"):
            if _PARENT_REFERENCE.search(text):
                findings.problems.append(f"its entry point {text[:60]!a} climbs out of its folder")
            if groups & _SCRIPT_GROUPS:
                _check_script_name(findings, text)


def _check_script_name(findings: _WheelFindings, text: str) -> None:
    for name in dict.fromkeys(re.split(mark, text, maxsplit=1)[0].strip() for mark in ("[=:]", "=")):
        if not name or _find_name_problem(name) or "/" in name:
            findings.problems.append(f"its entry point {name!a} would be written outside of bin/")
        elif _ENVIRONMENT_FILE.fullmatch(f"bin/{name}"):
            findings.problems.append(f"its entry point {name!a} would take the place of the environment's own")
        findings.targets.setdefault(f"bin/{name}", f"entry point of {findings.wheel.name}")

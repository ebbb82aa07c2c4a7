"""Checks of wheels before any installer opens them: what they would write, and whether their metadata agrees.

A wheel is only data here. Source: packaging.python.org, "Binary distribution format", "Recording installed projects".
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
"""Files that sign RECORD and so can't be listed in it."""
_ALGORITHMS = ("sha256", "sha384", "sha512")
_MAX_UNPACK_RATIO = 100
"""How many times its own size a wheel may unpack to, above `_UNPACK_ALLOWANCE`; real ones stay below twenty times."""
_UNPACK_ALLOWANCE = 256 << 20
"""Bytes that any wheel may unpack to."""
_SCRIPTS_FOLDERS = "|".join(sorted({system.scripts_folder for system in SYSTEMS.values()}))
_ENVIRONMENT_FILE = re.compile(rf"pyvenv\.cfg|({_SCRIPTS_FOLDERS})/(python|activate)[^/]*", re.IGNORECASE)
"""Files of the virtual environment itself, which no package may replace."""
_SCRIPT_GROUPS = {"console_scripts", "gui_scripts", "default"}
"""Groups of entry points that become programs. For configparser ``DEFAULT`` belongs to every group."""
_PARENT_REFERENCE = re.compile(r"(^|[\\/=:\s])\.\.([\\/=:\s]|$)")
_STARTUP_FILES = ("sitecustomize.py", "usercustomize.py")
_SETUPTOOLS_PTH = "distutils-precedence.pth"
_SETUPTOOLS_PTH_SHA256 = "2638ce9e2500e572a5e0de7faed6661eb569d1b696fcba07b0dd223da5f5d224"
"""SHA-256 of that file, the same since setuptools 64. It only enables the package's own shim of distutils."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelFile:
    """The file of a wheel, its name in the bundle, and the package that the lock says it is ("": none)."""

    path: Path
    name: str
    package: str = ""
    version: str = ""


def list_wheels(lock: Lock, find_content: Callable[[Artifact], Path]) -> list[WheelFile]:
    """List the wheels of a lock, packages and tools. ``find_content`` returns the file of each."""
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
    """What is known about one wheel. ``targets`` are paths in the environment with the digest of the file that goes there."""

    wheel: WheelFile
    problems: list[str] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)
    startup_files: list[str] = field(default_factory=list)
    has_setuptools_pth: bool = False
    recorded_files: list[tuple[ZipEntry, str]] = field(default_factory=list)


def check_wheels(wheels: Iterable[WheelFile], reporter: Reporter, *, compare_contents: bool) -> None:
    """Check wheels, and warn of code that runs at each start of Python and of files that wheels write differently.

    Only the builder compares contents. The host has compared the wheel with the digest in the lock, and unpacking it
    twice would cost a sixth of the install (measured). uv and pip refuse a file that unpacks to more than its stated
    size (tried).

    Args:
        wheels: the wheels to check.
        reporter: gets progress and warnings.
        compare_contents: whether to unpack every file in memory, piece by piece, and compare it with RECORD.

    Raises:
        UnsafeError: The message has every problem of every wheel.
    """
    all_findings = [_inspect_wheel(wheel) for wheel in wheels]
    if compare_contents:
        _compare_contents(all_findings, reporter)
    if problems := [f"  {findings.wheel.name}: {text}" for findings in all_findings for text in findings.problems]:
        more = f"\n  and {len(problems) - 50} more" if len(problems) > 50 else ""
        raise UnsafeError(
            "these wheels contradict themselves or would write where they must not:\n"
            + "\n".join(problems[:50])
            + more,
            hint="do not install them: tell the builder, who can choose another version or another index",
        )
    for findings in all_findings:
        if findings.startup_files:
            files = ", ".join(findings.startup_files)
            reporter.warn(f"{findings.wheel.name} runs code whenever this environment's Python starts: {files}")
        if findings.has_setuptools_pth:
            reporter.note(
                f"{findings.wheel.name} runs its usual line whenever this environment's Python starts: {_SETUPTOOLS_PTH}"
            )
    _warn_about_overwrites(all_findings, reporter)


def _compare_contents(all_findings: Sequence[_WheelFindings], reporter: Reporter) -> None:
    parts = [
        (findings, entry, digest)
        for findings in all_findings
        if not findings.problems
        for entry, digest in findings.recorded_files
    ]
    parts.sort(key=lambda part: part[1].size, reverse=True)
    with reporter.stage("check wheels", sum(entry.size for _, entry, _ in parts)) as stage:
        problems = hashing.map_parallel(_compare_file, parts, stage.advance)
    for (findings, _, _), problem in zip(parts, problems, strict=True):
        findings.problems += [problem] if problem else []


def _warn_about_overwrites(all_findings: Sequence[_WheelFindings], reporter: Reporter) -> None:
    digests: dict[str, dict[str, str]] = {}
    for findings in all_findings:
        for target, digest in findings.targets.items():
            digests.setdefault(target, {})[findings.wheel.name] = digest
    overwritten = {target: by_wheel for target, by_wheel in digests.items() if len(set(by_wheel.values())) > 1}
    if overwritten:
        target, by_wheel = next(iter(overwritten.items()))
        reporter.warn(
            f"{pluralize(len(overwritten), 'file')} with different content in several wheels, such as {target} in "
            f"{' and '.join(by_wheel)}: the last one installed wins"
        )


def _inspect_wheel(wheel: WheelFile) -> _WheelFindings:
    findings = _WheelFindings(wheel=wheel)
    try:
        entries = strict_zip.read_entries(wheel.path)
        names = {entry.name: entry for entry in entries}
        findings.problems += _find_bad_names(wheel, [entry.name for entry in entries])
        findings.problems += _check_unpacked_size(wheel, entries)
        stem = _find_stem(names)
        _check_identity(findings, names, stem)
        recorded = _read_digests(findings, names, stem)
        for entry in entries:
            target = _find_target(findings, entry.name, stem)
            findings.targets[target] = recorded.get(entry.name, "")
            if "/" not in target.removeprefix("site-packages/"):
                _note_startup_code(findings, entry)
        _check_entry_points(findings, names, stem)
        findings.recorded_files = [(entry, recorded[entry.name]) for entry in entries if recorded.get(entry.name)]
    except MalformedZipError as error:
        findings.problems.append(str(error))
    return findings


def _find_bad_names(wheel: WheelFile, names: list[str]) -> list[str]:
    """List names that leave their folder, and names that are one file on some file system."""
    problems = [f"{name!a} {problem}" for name in names if (problem := _find_name_problem(name))]
    problems += [f"{name!a} is listed twice" for name, count in Counter(names).items() if count > 1]
    if not problems and not _is_linux_only(wheel):  # on Linux, names that differ only by case are two files
        problems = paths.find_collisions(names)
    return problems[:20]


def _find_name_problem(name: str) -> str:
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is absolute"
    if "\\" in name:
        return "contains a backslash"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "leads out of its folder, or has an empty part"
    return "contains an unprintable character" if paths.find_unprintable(name) else ""


def _is_linux_only(wheel: WheelFile) -> bool:
    return "linux" in wheel.name.removesuffix(".whl").rpartition("-")[2]


def _check_unpacked_size(wheel: WheelFile, entries: list[ZipEntry]) -> list[str]:
    unpacked_size, size = sum(entry.size for entry in entries), wheel.path.stat().st_size
    if unpacked_size > max(_UNPACK_ALLOWANCE, _MAX_UNPACK_RATIO * size):
        return [f"it would unpack to {unpacked_size:,} bytes, {unpacked_size // max(size, 1)} times its own size"]
    return []


def _find_stem(names: dict[str, ZipEntry]) -> str:
    """Return ``NAME-VERSION`` as in the names of the wheel's folders."""
    folders = sorted({name.partition("/")[0] for name in names if name.partition("/")[0].endswith(".dist-info")})
    if len(folders) != 1:
        raise MalformedZipError(f"it has {len(folders)} .dist-info folders and must have one: {', '.join(folders)}")
    if missing := [name for name in ("METADATA", "WHEEL", "RECORD") if f"{folders[0]}/{name}" not in names]:
        raise MalformedZipError(f"it has no {' and no '.join(missing)}")
    return folders[0].removesuffix(".dist-info")


def _check_identity(findings: _WheelFindings, names: dict[str, ZipEntry], stem: str) -> None:
    """Check that file name, folder, METADATA, WHEEL and lock agree on package, version and kind of Python."""
    wheel = findings.wheel
    try:
        name, version, _, tags = parse_wheel_filename(Path(wheel.name).name)
    except InvalidWheelFilename as error:
        raise MalformedZipError(f"its file name is not that of a wheel: {error}") from error
    metadata = _read_headers(wheel, names[f"{stem}.dist-info/METADATA"])
    identities = {
        "its folder": stem.partition("-")[::2],
        "METADATA": (metadata.get("Name", ""), metadata.get("Version", "")),
        **({"the lock": (wheel.package, wheel.version)} if wheel.package else {}),
    }
    for source, (other_name, other_version) in identities.items():
        if (canonicalize_name(other_name), canonicalize_version(other_version)) != (
            name,
            canonicalize_version(version),
        ):
            findings.problems.append(f"{source} says {other_name!a} {other_version!a}, its file name {name} {version}")
    wheel_headers = _read_headers(wheel, names[f"{stem}.dist-info/WHEEL"])
    if not wheel_headers.get("Wheel-Version", "").strip().startswith("1."):
        findings.problems.append(f"WHEEL has an unknown version: {wheel_headers.get('Wheel-Version', '')!a}")
    # Platform tags are not compared: some wheels are renamed for more platforms without a change of WHEEL.
    stated_tags = [tag.strip() for tag in wheel_headers.get_all("Tag", [])]
    kinds = {(python, abi) for tag in stated_tags for python, abi in product(*_split_tag(tag))}
    if kinds and not {(tag.interpreter, tag.abi) for tag in tags} & kinds:
        findings.problems.append(f"WHEEL says {', '.join(stated_tags[:3])}, its file name does not")


def _split_tag(tag: str) -> tuple[list[str], list[str]]:
    python, _, rest = tag.partition("-")
    return python.split("."), rest.partition("-")[0].split(".")


def _read_headers(wheel: WheelFile, entry: ZipEntry) -> Message:
    return HeaderParser().parsestr(strict_zip.read_small(wheel.path, entry).decode("utf-8", "replace"))


def _read_digests(findings: _WheelFindings, names: dict[str, ZipEntry], stem: str) -> dict[str, str]:
    """Read RECORD. Returns the digest of each file as ``ALGORITHM=HEX``, without files that have none."""
    record = f"{stem}.dist-info/RECORD"
    try:
        rows = read_record(strict_zip.read_small(findings.wheel.path, names[record], 64 << 20))
    except ValueError as error:
        raise MalformedZipError(f"RECORD can't be read: {error}") from error
    listed = {row.path: row for row in rows}
    exempt = {record, *(f"{stem}.dist-info/{name}" for name in _RECORD_SIGNATURES)}
    if unlisted := sorted(names.keys() - listed.keys() - exempt):
        findings.problems.append(f"RECORD does not list {unlisted[0]!a}{_format_more(unlisted)}")
    if missing := sorted(listed.keys() - names.keys() - exempt):
        findings.problems.append(f"RECORD lists {missing[0]!a}{_format_more(missing)}, which the wheel does not have")
    if len(listed) != len(rows):
        findings.problems.append("RECORD lists a file twice")
    problems: list[str] = []
    digests: dict[str, str] = {}
    for name in sorted(listed.keys() & names.keys() - exempt):
        row = listed[name]
        if row.algorithm not in _ALGORITHMS:
            problems.append(f"RECORD has no secure digest of {name!a}")
        elif row.size not in (-1, names[name].size):
            problems.append(f"RECORD says {row.size} bytes for {name!a}, which has {names[name].size}")
        digests[name] = f"{row.algorithm}={row.digest}"
    findings.problems += problems[:20]
    return digests


def _format_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _compare_file(part: tuple[_WheelFindings, ZipEntry, str], advance: Callable[[int], None]) -> str:
    """Compare one file with RECORD. Returns what is wrong, or ""."""
    findings, entry, recorded = part
    algorithm, _, stated = recorded.partition("=")
    digest = hashlib.new(algorithm)
    fd = hashing.open_to_read(findings.wheel.path)
    try:
        for piece in strict_zip.iter_content(fd, entry):
            digest.update(piece)
            advance(len(piece))
    except MalformedZipError as error:
        return str(error)
    finally:
        os.close(fd)
    return "" if digest.hexdigest() == stated else f"{entry.name!a} differs from RECORD"


def _find_target(findings: _WheelFindings, name: str, stem: str) -> str:
    """Return the path of a file in the environment, and note a problem if a wheel may not write there."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return f"site-packages/{name}"
    scheme, _, inside = rest.partition("/")
    if first != f"{stem}.data" or scheme not in _SCHEMES or not inside:
        findings.problems.append(f"{name!a} does not belong to an environment")
        return name
    target = {
        "purelib": f"site-packages/{inside}",
        "platlib": f"site-packages/{inside}",
        "scripts": f"bin/{inside}",
        "headers": f"include/{stem.partition('-')[0]}/{inside}",
        "data": inside,
    }[scheme]
    if _ENVIRONMENT_FILE.fullmatch(target):
        findings.problems.append(f"{name!a} would replace {target}, a file of the environment itself")
    return target


def _note_startup_code(findings: _WheelFindings, entry: ZipEntry) -> None:
    """Note code that runs at each start of Python. It is common (setuptools has some), but users should know."""
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
    """Check the entry points, for which an installer writes programs: each name must stay in the scripts folder.

    Installers read this file in different ways. Everything that one of them could read as a line, group or name is
    checked.
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
                f"its entry points have a character that some readers take for a line end: {text[:60]!a}"
            )
        elif text.startswith("[") and not text.endswith("]"):
            findings.problems.append(f"its entry points have a line that is neither a group nor a name: {text[:60]!a}")
        elif text.startswith("["):  # an indented line may belong to the value above it
            groups = {text.strip("[]").strip().lower(), *(groups if line != line.lstrip() else ())}
        elif text and not text.startswith("#"):
            if _PARENT_REFERENCE.search(text):
                findings.problems.append(f"its entry point {text[:60]!a} leads out of its folder")
            if groups & _SCRIPT_GROUPS:
                _check_script_name(findings, text)


def _check_script_name(findings: _WheelFindings, text: str) -> None:
    for name in dict.fromkeys(re.split(mark, text, maxsplit=1)[0].strip() for mark in ("[=:]", "=")):
        if not name or _find_name_problem(name) or "/" in name:
            findings.problems.append(f"its entry point {name!a} would be written outside the scripts folder")
        elif _ENVIRONMENT_FILE.fullmatch(f"bin/{name}"):
            findings.problems.append(f"its entry point {name!a} would replace a file of the environment itself")
        findings.targets.setdefault(f"bin/{name}", f"entry point of {findings.wheel.name}")

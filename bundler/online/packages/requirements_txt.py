"""Reads requirements as pip does: lines, files within files, and the options that stand in them.

What comes out is flat: every requirement as one line with the place it stood, and pip's configuration with what
the files add to it (pip.pypa.io, "Requirements File Format").
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from bundler.errors import ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages import simple_index
from bundler.online.transfer import http, pip_config
from bundler.online.transfer.http import PATIENCE
from bundler.online.transfer.pip_config import PipConfig, as_url
from bundler.process import without_secrets
from bundler.progress import Report

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_OPTION = re.compile(r"\s--?[a-z]")
_DEEPEST = 20

_SHORT = {"-r": "--requirement", "-c": "--constraint", "-i": "--index-url", "-f": "--find-links", "-e": "--editable"}
_MEANINGLESS = frozenset(["--only-binary", "--prefer-binary", "--require-hashes", "--use-feature"])
"""Options that ask for what is so anyway."""

_SYSTEMS = {
    "linux": ("linux", "Linux", "posix"),
    "macos": ("darwin", "Darwin", "posix"),
    "windows": ("win32", "Windows", "nt"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One requirement, the digests that it allows (none: any), and where it stands."""

    requirement: Requirement
    sha256: frozenset[str] = frozenset()
    where: str = ""

    @property
    def name(self) -> str:
        """The normalised name of the package."""
        return canonicalize_name(self.requirement.name)

    def applies(self, target: Target) -> bool:
        """Whether its marker, if it has one, holds on the target."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate(markers_of(target))


@dataclass(slots=True)
class Read:
    """What was read: requirements, constraints, and pip's configuration with the options of the files."""

    config: PipConfig
    requirements: list[Line] = field(default_factory=list)
    constraints: list[Line] = field(default_factory=list)

    def sha256_of(self, name: str) -> frozenset[str]:
        """The digests that lines allow for a package; empty when none says."""
        return frozenset().union(*(line.sha256 for line in self.requirements + self.constraints if line.name == name))


def read(
    lines: Iterable[str], files: Iterable[Path], constraints: Iterable[Path], config: PipConfig, report: Report
) -> Read:
    """Everything that is asked for, and what constrains it; raises ResolveError, which names the line."""
    found = Read(config=config)
    reader = _Reader(found, report)
    for line in lines:
        found.requirements.append(_line(line, "the manifest", ""))
    for path in files:
        reader.file(path.absolute().as_uri(), found.requirements)
    for url in (*(path.absolute().as_uri() for path in constraints), *config.constraints):
        reader.file(url, found.constraints)
    return found


def fault_of(text: str, path: Path | None = None) -> str:
    """What is wrong with a requirement, with what to do about it; "" where nothing is.

    ``path`` is the file that it stands in, None for the manifest: what it names by a path is beside that.
    """
    try:
        _line(text, "", path.absolute().as_uri() if path else "")
    except ResolveError as error:
        return f"{error}: {error.hint}" if error.hint else str(error)
    return ""


def faults_of(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are no requirements, with what is wrong; its options are looked at when it is read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return [(1, f"can't be read: {error.strerror}")]
    except UnicodeDecodeError:
        return [(1, "is not a text in UTF-8")]
    lines = [(number, line) for number, line in _logical(text) if not line.startswith("-")]
    return [(number, why) for number, line in lines if (why := fault_of(line, path))]


def markers_of(target: Target) -> dict[str, str]:
    """The values of environment markers on a target (packaging.python.org, "Dependency specifiers")."""
    sys_platform, platform_system, os_name = _SYSTEMS[target.system]
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{target.python}.0",
        "os_name": os_name,
        "platform_machine": "AMD64" if target.system == "windows" else target.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": platform_system,
        "platform_version": "",
        "python_full_version": f"{target.python}.0",
        "python_version": target.python,
        "sys_platform": sys_platform,
        "extra": "",
    }


class _Reader:
    def __init__(self, found: Read, report: Report) -> None:
        self._found = found
        self._report = report

    def file(self, url: str, into: list[Line], depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise ResolveError("requirements files include one another", where=_shown(url))
        for number, text in _logical(self._text(url)):
            where = f"{_shown(url)}:{number}"
            if text.startswith("-"):
                self._option(text, where, url, into, depth)
            else:
                into.append(_line(text, where, url))

    def _text(self, url: str) -> str:
        path = pip_config.local_path(url)
        try:
            if path is not None:
                return path.read_text(encoding="utf-8-sig")
            with pip_config.session(self._found.config, [url]) as session:
                return http.patiently(lambda: _page(session, url), url, PATIENCE).decode("utf-8-sig")
        except OSError as error:
            raise ResolveError(f"can't be read: {http.words(error)}", where=_shown(url)) from error
        except UnicodeDecodeError as error:
            raise ResolveError("is not a text in UTF-8", where=_shown(url)) from error

    def _option(self, text: str, where: str, url: str, into: list[Line], depth: int) -> None:
        try:
            name, *values = shlex.split(text.replace("=", " ", 1) if re.match(r"--[a-z-]+=", text) else text)
        except ValueError as error:
            raise ResolveError(f"{without_secrets(text)!r} has a quote that does not end", where=where) from error
        if name[:2] in _SHORT and name[2:]:
            name, values = name[:2], [name[2:], *values]
        name = _SHORT.get(name, name)
        value = values[0] if values else ""
        if name in ("--requirement", "--constraint") and value:
            self.file(_beside(url, value), into if name == "--requirement" else self._found.constraints, depth + 1)
        elif changed := _with_option(self._found.config, name, value, url):
            self._found.config = changed
        elif name == "--editable":
            raise _no_wheel(value, where)
        elif name == "--no-binary":
            self._report.warn(f"{where}: {text} is passed over: only wheels cross the gap")
        elif name not in _MEANINGLESS:
            raise ResolveError(
                f"{without_secrets(text)!r} is not an option that can be honoured here", where=where, hint="remove it"
            )


def _with_option(config: PipConfig, name: str, value: str, url: str) -> PipConfig | None:
    """The configuration with an option of the file at ``url``; None where it is no option of a configuration."""
    here = _beside(url, value)
    changes: dict[str, dict[str, Any]] = {
        "--index-url": {"index_url": here},
        "--extra-index-url": {"extra_index_urls": (*config.extra_index_urls, here)},
        "--find-links": {"find_links": (*config.find_links, here)},
        "--trusted-host": {"trusted_hosts": (*config.trusted_hosts, value)},
    }
    switches: dict[str, dict[str, Any]] = {"--no-index": {"no_index": True}, "--pre": {"pre": True}}
    change = (changes if value else switches).get(name)
    return replace(config, **change) if change else None


def _page(session: requests.Session, url: str) -> bytes:
    with http.ask(session, "GET", url, {}) as response:
        if not response.ok:
            raise http.refused(response, url)
        return http.content(response)


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines with what belongs together joined, comments gone and variables filled in; each with its number."""
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            pending += line[:-1]
            continue
        whole = _COMMENT.sub("", pending + line).strip()
        if whole:
            yield first, _VARIABLE.sub(lambda found: os.environ.get(found[1]) or found[0], whole)
        pending, first = "", 0
    if pending.strip():
        yield first, pending.strip()


def _line(text: str, where: str, url: str) -> Line:
    options = _OPTION.search(text)
    wanted = text[: options.start()].strip() if options else text.strip()
    hashes = re.findall(r"--hash[= ](\S+)", text)
    sha256 = frozenset(one.partition(":")[2].lower() for one in hashes if one.startswith("sha256:"))
    if hashes and not sha256:
        raise ResolveError(f"{wanted} allows no sha256, and only that is checked", where=where)
    try:
        requirement = Requirement(_named(wanted, url))
    except InvalidRequirement as error:
        if re.match(r"(\.|/|~|[A-Za-z]:\\|file:|\w+\+)|.*://", wanted):
            raise _no_wheel(wanted, where) from None
        hint = "write it as pip takes it, such as torch==2.13.0"
        raise ResolveError(f"{without_secrets(wanted)!r} is no requirement", where=where, hint=hint) from error
    if requirement.url and not _wheel_name(requirement.url):
        raise _no_wheel(wanted, where)
    return Line(requirement=requirement, sha256=sha256, where=where)


def _named(wanted: str, url: str) -> str:
    """A bare address or path of a wheel as a requirement that says whose it is; anything else as it is."""
    location, marker, rest = wanted.partition(" ;")
    name = _wheel_name(location)
    if not name or re.match(r"[\w.-]+(\[[^]]*\])?\s*@", location):
        return wanted
    return f"{parse_wheel_filename(name)[0]} @ {_beside(url, location)}{marker}{rest}"


def _wheel_name(location: str) -> str:
    name = simple_index.filename_of(location)
    if "+" in urlsplit(location).scheme:
        return ""
    try:
        parse_wheel_filename(name)
    except InvalidWheelFilename:
        return ""
    return name


def _beside(url: str, location: str) -> str:
    """What ``location`` means in the file at ``url``: paths are relative to that file."""
    if (path := pip_config.local_path(url)) is not None:
        return as_url(location, path.parent if url else None)
    return urljoin(url, location)


def _no_wheel(wanted: str, where: str) -> ResolveError:
    hint = "build it here (pip wheel --no-deps) into a find-links folder and ask for it by name, or give a .whl address"
    return ResolveError(
        f"{without_secrets(wanted)} is source code, and only wheels cross the gap", where=where, hint=hint
    )


def _shown(url: str) -> str:
    path = pip_config.local_path(url)
    return http.address(url) if path is None else str(path)

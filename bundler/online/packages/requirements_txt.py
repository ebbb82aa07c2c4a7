"""Reader of requirements as pip reads them: lines, included files, and options (pip.pypa.io, "Requirements File Format").

The result is flat: each requirement with the place where it stands, and pip's configuration with the options of the
files.
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
from bundler.online.transfer import http, http_session, pip_config
from bundler.online.transfer.http import DEFAULT_RETRY_POLICY
from bundler.online.transfer.pip_config import PipConfig, make_url
from bundler.process import redact
from bundler.progress import Reporter

_ENV_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_INLINE_OPTION = re.compile(r"\s--?[a-z]")
_MAX_DEPTH = 20

_SHORT_OPTIONS = {
    "-r": "--requirement",
    "-c": "--constraint",
    "-i": "--index-url",
    "-f": "--find-links",
    "-e": "--editable",
}
_IGNORED_OPTIONS = frozenset(["--only-binary", "--prefer-binary", "--require-hashes", "--use-feature"])
"""Options that change nothing: only wheels with a checked digest are taken anyway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequirementLine:
    """One requirement, the digests that it allows (empty: any), and the place where it stands."""

    requirement: Requirement
    allowed_sha256: frozenset[str] = frozenset()
    where: str = ""

    @property
    def name(self) -> str:
        """The normalized name of the package."""
        return canonicalize_name(self.requirement.name)

    def is_applicable(self, target: Target) -> bool:
        """Tell whether the requirement applies to the target: it has no marker, or one that is true there."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate(get_marker_environment(target))


@dataclass(slots=True)
class RequirementsSpec:
    """Requirements, constraints, and pip's configuration with the options of the files."""

    config: PipConfig
    requirements: list[RequirementLine] = field(default_factory=list)
    constraints: list[RequirementLine] = field(default_factory=list)

    def get_allowed_sha256(self, name: str) -> frozenset[str]:
        """Return the digests that the lines allow for a package; empty where none restricts them."""
        return frozenset().union(
            *(line.allowed_sha256 for line in self.requirements + self.constraints if line.name == name)
        )


def read_requirements(
    lines: Iterable[str], files: Iterable[Path], constraints: Iterable[Path], config: PipConfig, reporter: Reporter
) -> RequirementsSpec:
    """Read requirements of the manifest, requirements files and constraints; raise ResolveError with the line."""
    spec = RequirementsSpec(config=config)
    reader = _RequirementsReader(spec, reporter)
    for line in lines:
        spec.requirements.append(_parse_line(line, "the manifest", ""))
    for path in files:
        reader.read_file(path.absolute().as_uri(), spec.requirements)
    for url in (*(path.absolute().as_uri() for path in constraints), *config.constraints):
        reader.read_file(url, spec.constraints)
    return spec


def find_requirement_problem(text: str, path: Path | None = None) -> str:
    """Return what is wrong with a requirement, and what to do; "" where nothing is.

    ``path`` is the requirements file, None for the manifest; paths in the requirement are relative to it.
    """
    try:
        _parse_line(text, "", path.absolute().as_uri() if path else "")
    except ResolveError as error:
        return f"{error}: {error.hint}" if error.hint else str(error)
    return ""


def list_file_problems(path: Path) -> list[tuple[int, str]]:
    """Return the invalid requirements of a file, each as line number and problem; options are checked when it is read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return [(1, f"can't be read: {error.strerror}")]
    except UnicodeDecodeError:
        return [(1, "is not UTF-8 text")]
    lines = [(number, line) for number, line in _join_lines(text) if not line.startswith("-")]
    return [(number, problem) for number, line in lines if (problem := find_requirement_problem(line, path))]


def get_marker_environment(target: Target) -> dict[str, str]:
    """Return the values of environment markers on a target (packaging.python.org, "Dependency specifiers")."""
    platform = target.platform_info
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{target.python}.0",
        "os_name": platform.system.os_name,
        "platform_machine": platform.platform_machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": platform.system.platform_system,
        "platform_version": "",
        "python_full_version": f"{target.python}.0",
        "python_version": target.python,
        "sys_platform": platform.system.sys_platform,
        "extra": "",
    }


class _RequirementsReader:
    def __init__(self, spec: RequirementsSpec, reporter: Reporter) -> None:
        self._spec = spec
        self._reporter = reporter

    def read_file(self, url: str, lines: list[RequirementLine], depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise ResolveError(
                "requirements files include one another",
                where=_format_location(url),
                hint="remove the -r or -c line that closes the loop",
            )
        for number, text in _join_lines(self._read_text(url)):
            where = f"{_format_location(url)}:{number}"
            if text.startswith("-"):
                self._apply_option(text, where, url, lines, depth)
            else:
                lines.append(_parse_line(text, where, url))

    def _read_text(self, url: str) -> str:
        path = pip_config.get_local_path(url)
        try:
            if path is not None:
                return path.read_text(encoding="utf-8-sig")
            with http_session.open_session(self._spec.config, [url]) as session:
                return http.retry(lambda: _fetch_text(session, url), url, DEFAULT_RETRY_POLICY).decode("utf-8-sig")
        except OSError as error:
            raise ResolveError(
                f"can't be read: {http.describe_cause(error)}",
                where=_format_location(url),
                hint="check that the file exists and that you may read it",
            ) from error
        except UnicodeDecodeError as error:
            raise ResolveError(
                "is not UTF-8 text", where=_format_location(url), hint="save the file as UTF-8"
            ) from error

    def _apply_option(self, text: str, where: str, url: str, lines: list[RequirementLine], depth: int) -> None:
        try:
            name, *values = shlex.split(text.replace("=", " ", 1) if re.match(r"--[a-z-]+=", text) else text)
        except ValueError as error:
            raise ResolveError(
                f"{redact(text)!r} has a quote that is not closed", where=where, hint="close the quote"
            ) from error
        if name[:2] in _SHORT_OPTIONS and name[2:]:
            name, values = name[:2], [name[2:], *values]
        name = _SHORT_OPTIONS.get(name, name)
        value = values[0] if values else ""
        if name in ("--requirement", "--constraint") and value:
            self.read_file(
                _resolve_location(url, value), lines if name == "--requirement" else self._spec.constraints, depth + 1
            )
        elif config := _add_option(self._spec.config, name, value, url):
            self._spec.config = config
        elif name == "--editable":
            raise _make_source_error(value, where)
        elif name == "--no-binary":
            self._reporter.warn(f"{where}: {text} is ignored: a bundle holds only wheels")
        elif name not in _IGNORED_OPTIONS:
            raise ResolveError(f"the option {redact(text)!r} is not supported", where=where, hint="remove it")


def _add_option(config: PipConfig, name: str, value: str, url: str) -> PipConfig | None:
    """Return the configuration with an option of the file at ``url``; None where the option is not a setting."""
    location = _resolve_location(url, value)
    changes: dict[str, dict[str, Any]] = {
        "--index-url": {"index_url": location},
        "--extra-index-url": {"extra_index_urls": (*config.extra_index_urls, location)},
        "--find-links": {"find_links": (*config.find_links, location)},
        "--trusted-host": {"trusted_hosts": (*config.trusted_hosts, value)},
    }
    switches: dict[str, dict[str, Any]] = {"--no-index": {"no_index": True}, "--pre": {"pre": True}}
    change = (changes if value else switches).get(name)
    return replace(config, **change) if change else None


def _fetch_text(session: requests.Session, url: str) -> bytes:
    with http.send_request(session, "GET", url, {}) as response:
        if not response.ok:
            raise http.make_response_error(response, url)
        return http.read_body(response)


def _join_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers: continuations joined, comments removed, variables replaced."""
    pending, first_number = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first_number = first_number or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            pending += line[:-1]
            continue
        joined = _COMMENT.sub("", pending + line).strip()
        if joined:
            yield first_number, _ENV_VARIABLE.sub(lambda match: os.environ.get(match[1]) or match[0], joined)
        pending, first_number = "", 0
    if pending.strip():
        yield first_number, pending.strip()


def _parse_line(text: str, where: str, url: str) -> RequirementLine:
    options = _INLINE_OPTION.search(text)
    specifier = text[: options.start()].strip() if options else text.strip()
    hashes = re.findall(r"--hash[= ](\S+)", text)
    sha256 = frozenset(value.partition(":")[2].lower() for value in hashes if value.startswith("sha256:"))
    if hashes and not sha256:
        raise ResolveError(
            f"{specifier} has hashes, but no sha256, the only kind that is checked",
            where=where,
            hint="add --hash=sha256:…",
        )
    try:
        requirement = Requirement(_add_package_name(specifier, url))
    except InvalidRequirement as error:
        if re.match(r"(\.|/|~|[A-Za-z]:\\|file:|\w+\+)|.*://", specifier):
            raise _make_source_error(specifier, where) from None
        hint = "write it as for pip, such as torch==2.13.0"
        raise ResolveError(f"{redact(specifier)!r} is not a valid requirement", where=where, hint=hint) from error
    if requirement.url and not _get_wheel_name(requirement.url):
        raise _make_source_error(specifier, where)
    return RequirementLine(requirement=requirement, allowed_sha256=sha256, where=where)


def _add_package_name(requirement: str, url: str) -> str:
    """Put the package name before the bare URL or path of a wheel; return anything else as it is."""
    location, marker, rest = requirement.partition(" ;")
    name = _get_wheel_name(location)
    if not name or re.match(r"[\w.-]+(\[[^]]*\])?\s*@", location):
        return requirement
    return f"{parse_wheel_filename(name)[0]} @ {_resolve_location(url, location)}{marker}{rest}"


def _get_wheel_name(location: str) -> str:
    name = simple_index.get_filename(location)
    if "+" in urlsplit(location).scheme:
        return ""
    try:
        parse_wheel_filename(name)
    except InvalidWheelFilename:
        return ""
    return name


def _resolve_location(url: str, location: str) -> str:
    """Return the URL of a location in the file at ``url``: a path is relative to that file."""
    if (path := pip_config.get_local_path(url)) is not None:
        return make_url(location, path.parent if url else None)
    return urljoin(url, location)


def _make_source_error(requirement: str, where: str) -> ResolveError:
    hint = (
        "build a wheel (pip wheel --no-deps) into a find-links folder and require it by name, or give the URL of a .whl"
    )
    return ResolveError(f"{redact(requirement)} is source code, and a bundle holds only wheels", where=where, hint=hint)


def _format_location(url: str) -> str:
    path = pip_config.get_local_path(url)
    return http.redact_url(url) if path is None else str(path)

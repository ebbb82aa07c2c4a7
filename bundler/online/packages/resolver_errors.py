"""What uv refused, in words that say what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from bundler.errors import BundleError, IntegrityError, ProgramError, ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages.simple_index import PYPI_HOST, IndexClient
from bundler.online.packages.uv_compile import ResolverFailureError
from bundler.online.transfer import http

_MAX_LINES = 30
_NO_SOLUTION = "No solution found when resolving dependencies"
_PACKAGE_NOT_FOUND = re.compile(r"Because (\S+) was not found in the (?:package registry|provided package locations)")
_NO_WHEEL = re.compile(r"([A-Za-z0-9._-]+)(?:[=<>!~]\S*)? ha(?:s|ve) no (?:usable wheels|wheels with)")
_FETCH_FAILED = re.compile(r"(?:Failed to fetch: `?|Failed to read `--find-links` URL: |Failed to download `)([^\s`]+)")
_BUILD_FAILED = re.compile(r"Failed to (?:download and )?build `([^`]+)`")
_OPTION_HINT = re.compile(r"hint: .*`--")
_HTTP_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d+[^)]*)\)")


def find_packages_without_wheel(output: str) -> set[str]:
    """The packages that, as uv explains, have no wheel for the target."""
    return {name.lower() for name in _NO_WHEEL.findall(_unwrap_lines(output))}


def _unwrap_lines(text: str) -> str:
    return " ".join(text.split())  # where lines break is a matter of taste, which changes


def explain_failure(
    failure: ResolverFailureError, target: Target, index: IndexClient, *, can_build: bool = False
) -> BundleError:
    """uv's refusal as an error that names what failed, for which target, and the way out; its own words are kept.

    ``buildable``: whether the manifest may name packages to be built from source code.
    """
    raw = str(failure)
    words = _trim_output(raw)
    if unbuilt := _BUILD_FAILED.search(raw):
        last = "\n".join(raw.splitlines()[-_MAX_LINES:])
        return _make_altered_error(unbuilt[1], last) if "Hash mismatch" in raw else make_build_error(unbuilt[1], last)
    if found := _FETCH_FAILED.search(raw):
        return _make_connection_error(found[1], words)
    if missing := find_packages_without_wheel(words):
        sourced = [name for name in sorted(missing) if can_build and index.find_sdists(name)]
        return make_no_wheel_error(", ".join(sorted(missing)), target, words, sourced)
    if unknown := _PACKAGE_NOT_FOUND.search(_unwrap_lines(words)):
        return _make_unknown_package_error(unknown[1], words, index)
    if _NO_SOLUTION not in raw:
        hint = "what uv says names the file or setting; pip config list shows what it was told"
        return ResolveError(f"packages can't be looked up\n{words}", where="python", hint=hint)
    hint = "loosen one of the versions that are asked for, or take a constraint away"
    return ResolveError(f"no set of packages fits together for {target}\n{words}", where="python", hint=hint)


def make_digest_error(kind: str, name: str) -> ResolveError:
    """No file of a package has a digest that the requirements allow."""
    hint = "correct the --hash in the requirements or lock anew, or find out why the index has another file"
    return ResolveError(f"no {kind} of {name} has a digest that is allowed", where=name, hint=hint)


def make_build_error(package: str, output: str) -> ProgramError:
    """Source code that was to be built can't be; ``words`` are the last that its build said."""
    hint = (
        "see the last lines: often a compiler or headers are missing here (on Debian: apt install build-essential "
        "python3-dev), or a build requirement that has no wheel; or build the wheel elsewhere into a folder that pip's "
        "find-links names"
    )
    return ProgramError(f"{package} can't be built into a wheel here:\n{output}", where=package, hint=hint)


def _make_altered_error(package: str, output: str) -> IntegrityError:
    hint = "the file there was altered or damaged, or something in between answers instead: ask who runs it"
    return IntegrityError(
        f"the source code of {package} is not what its index says\n{output}", where=package, hint=hint
    )


def make_no_wheel_error(
    names: str, target: Target, output: str = "", sdist_packages: Sequence[str] = ()
) -> ResolveError:
    """There is no wheel of a package for the target; ``sourced`` have source code that the manifest may name."""
    newer_libc = f", a host whose C library is newer than {target.libc}" if target.libc else ""
    hint = (
        f"ask for an older or a newer version{newer_libc}, or build the wheel yourself on such a machine "
        f"(pip wheel --no-deps {names.partition(',')[0]}) into a folder that pip's find-links names"
    )
    if sdist_packages:
        line = f"python: {{build_from_source: [{', '.join(sdist_packages)}]}}"
        hint = (
            f"to run its source code here and carry the wheel that it gives, write into the manifest {line}; or {hint}"
        )
    said = f"there is no wheel of {names} for {target}; source code does not cross the gap"
    return ResolveError("\n".join(filter(None, [said, output])), where=names, hint=hint)


def _make_unknown_package_error(name: str, output: str, index: IndexClient) -> ResolveError:
    index.find_wheels(name, skip_host=PYPI_HOST)  # uv keeps to itself that an index wants a password
    for page, status in index.denied_pages.items():
        hint = "give user and password in pip's index address or in netrc, or ask for access"
        return ResolveError(f"{name} can't be looked up: the index answers {status}\n{output}", where=page, hint=hint)
    addresses = [*index.config.indexes, *index.config.find_links]
    places = ", ".join(dict.fromkeys(urlsplit(url).hostname or url for url in addresses)) or "no index"
    hint = "see whether the name is right; a private index goes into pip's configuration or python.indexes"
    return ResolveError(f"there is no package {name} on {places}\n{output}", where=name, hint=hint)


def _make_connection_error(url: str, output: str) -> ResolveError:
    host = urlsplit(url).hostname or url
    status = _HTTP_STATUS.search(output)
    if "certificate" in output:
        hint = "if a proxy or index here has a certificate of its own, tell pip: pip config set global.cert FILE"
        return ResolveError(
            f"the certificate of {host} is not trusted\n{output}", where=http.redact_url(url), hint=hint
        )
    why = f"answers {status[1]}" if status else "can't be reached"
    hint = f"see whether {host} can be reached from here, and pip's proxy and index addresses (pip config list)"
    return ResolveError(f"{host} {why}\n{output}", where=http.redact_url(url), hint=hint)


def _trim_output(output: str) -> str:
    """uv's words without what speaks of its own switches, and not too many of them."""
    lines = [line.removeprefix("error: ").removeprefix("  cause: ") for line in output.splitlines()]
    kept = [
        line for line in lines if line.strip() and not line.startswith(_NO_SOLUTION) and not _OPTION_HINT.match(line)
    ]
    return "\n".join(kept if len(kept) <= _MAX_LINES else [*kept[:_MAX_LINES], "…"])

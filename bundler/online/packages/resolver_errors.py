"""Explanations of the resolver's failures: what failed, for which target, and what to do."""

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
    """Return the packages that, according to uv's output, have no wheel for the target."""
    return {name.lower() for name in _NO_WHEEL.findall(_unwrap_lines(output))}


def _unwrap_lines(text: str) -> str:
    return " ".join(text.split())  # uv's line breaks differ between its versions


def explain_failure(
    failure: ResolverFailureError, target: Target, index: IndexClient, *, can_build: bool = False
) -> BundleError:
    """Return the error for a failure, with what to do; the message ends with uv's own output.

    ``can_build``: whether the manifest may name packages to build from source code.
    """
    full_output = str(failure)
    output = _trim_output(full_output)
    if match := _BUILD_FAILED.search(full_output):
        last_lines = "\n".join(full_output.splitlines()[-_MAX_LINES:])
        make_error = _make_altered_error if "Hash mismatch" in full_output else make_build_error
        return make_error(match[1], last_lines)
    if match := _FETCH_FAILED.search(full_output):
        return _make_connection_error(match[1], output)
    if names := find_packages_without_wheel(output):
        sdist_packages = [name for name in sorted(names) if can_build and index.find_sdists(name)]
        return make_no_wheel_error(", ".join(sorted(names)), target, output, sdist_packages)
    if match := _PACKAGE_NOT_FOUND.search(_unwrap_lines(output)):
        return _make_unknown_package_error(match[1], output, index)
    if _NO_SOLUTION not in full_output:
        hint = "uv's output names the file or setting; pip config list shows pip's settings, which uv uses"
        return ResolveError(f"uv can't look up the packages\n{output}", where="python", hint=hint)
    hint = "loosen one of the required versions, or remove a constraint"
    return ResolveError(f"no versions fit together for {target}\n{output}", where="python", hint=hint)


def make_digest_error(kind: str, name: str) -> ResolveError:
    """Return the error for a package without a file whose digest the requirements allow."""
    hint = "correct --hash in the requirements, or lock again, or find out why the index has another file"
    return ResolveError(f"no {kind} of {name} has an allowed digest", where=name, hint=hint)


def make_build_error(package: str, output: str) -> ProgramError:
    """Return the error for a failed build; ``output`` are the last lines of the build."""
    hint = (
        "read the last lines: often a compiler or headers are missing here (on Debian: apt install build-essential "
        "python3-dev), or a build requirement has no wheel; or build the wheel elsewhere into a folder that pip's "
        "find-links names"
    )
    return ProgramError(f"can't build a wheel of {package} here:\n{output}", where=package, hint=hint)


def _make_altered_error(package: str, output: str) -> IntegrityError:
    return IntegrityError(
        f"the source code of {package} has another digest than its index states\n{output}",
        where=package,
        hint=http.ALTERED_FILE_HINT,
    )


def make_no_wheel_error(
    names: str, target: Target, output: str = "", sdist_packages: Sequence[str] = ()
) -> ResolveError:
    """Return the error for packages without a wheel for the target; ``sdist_packages`` could be built here."""
    newer_libc = f", choose a host with a newer C library than {target.libc}" if target.libc else ""
    hint = (
        f"require an older or a newer version{newer_libc}, or build the wheel on a machine like the target "
        f"(pip wheel --no-deps {names.partition(',')[0]}) into a folder that pip's find-links names"
    )
    if sdist_packages:
        line = f"python: {{build_from_source: [{', '.join(sdist_packages)}]}}"
        hint = f"to run its source code here and bundle the wheel, add to the manifest {line}; or {hint}"
    message = f"there is no wheel of {names} for {target}, and a bundle holds only wheels"
    return ResolveError("\n".join(filter(None, [message, output])), where=names, hint=hint)


def _make_unknown_package_error(name: str, output: str, index: IndexClient) -> ResolveError:
    index.find_wheels(name, skip_host=PYPI_HOST)  # uv does not say that an index requires a password
    for page, status in index.denied_pages.items():
        return ResolveError(
            f"{name} can't be looked up: the index answers {status}\n{output}", where=page, hint=http.ACCESS_HINT
        )
    urls = [*index.config.indexes, *index.config.find_links]
    hosts = ", ".join(dict.fromkeys(urlsplit(url).hostname or url for url in urls)) or "no index"
    hint = "check the spelling; a private index goes into pip's configuration or python.indexes"
    return ResolveError(f"there is no package {name} on {hosts}\n{output}", where=name, hint=hint)


def _make_connection_error(url: str, output: str) -> ResolveError:
    host = urlsplit(url).hostname or url
    status = _HTTP_STATUS.search(output)
    if "certificate" in output:
        return ResolveError(
            f"the certificate of {host} is not trusted\n{output}",
            where=http.redact_url(url),
            hint=http.CERTIFICATE_HINT,
        )
    problem = f"answers {status[1]}" if status else "can't be reached"
    hint = f"check that this machine can reach {host}, and pip's proxy and index URLs (pip config list)"
    return ResolveError(f"{host} {problem}\n{output}", where=http.redact_url(url), hint=hint)


def _trim_output(output: str) -> str:
    """Return the first lines of uv's output, without hints about uv's own options."""
    lines = [line.removeprefix("error: ").removeprefix("  cause: ") for line in output.splitlines()]
    lines = [
        line for line in lines if line.strip() and not line.startswith(_NO_SOLUTION) and not _OPTION_HINT.match(line)
    ]
    return "\n".join(lines if len(lines) <= _MAX_LINES else [*lines[:_MAX_LINES], "…"])

"""What uv refused, in words that say what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from bundler.errors import BundleError, IntegrityError, ProgramError, ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages.simple_index import PYPI, Pages
from bundler.online.packages.uv_compile import RefusalError
from bundler.online.transfer import http

_MOST_LINES = 30
_USUAL = "No solution found when resolving dependencies"
_UNKNOWN = re.compile(r"Because (\S+) was not found in the (?:package registry|provided package locations)")
_NO_WHEEL = re.compile(r"([A-Za-z0-9._-]+)(?:[=<>!~]\S*)? ha(?:s|ve) no (?:usable wheels|wheels with)")
_UNFETCHED = re.compile(r"(?:Failed to fetch: `?|Failed to read `--find-links` URL: |Failed to download `)([^\s`]+)")
_UNBUILT = re.compile(r"Failed to (?:download and )?build `([^`]+)`")
_OF_SWITCHES = re.compile(r"hint: .*`--")
_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d+[^)]*)\)")


def without_wheel(words: str) -> set[str]:
    """The packages that, as uv explains, have no wheel for the target."""
    return {name.lower() for name in _NO_WHEEL.findall(_on_one_line(words))}


def _on_one_line(words: str) -> str:
    return " ".join(words.split())  # where lines break is a matter of taste, which changes


def explained(refusal: RefusalError, target: Target, shelf: Pages, *, buildable: bool = False) -> BundleError:
    """uv's refusal as an error that names what failed, for which target, and the way out; its own words are kept.

    ``buildable``: whether the manifest may name packages to be built from source code.
    """
    raw = str(refusal)
    words = _trimmed(raw)
    if unbuilt := _UNBUILT.search(raw):
        last = "\n".join(raw.splitlines()[-_MOST_LINES:])
        return _altered(unbuilt[1], last) if "Hash mismatch" in raw else not_built(unbuilt[1], last)
    if found := _UNFETCHED.search(raw):
        return _unreached(found[1], words)
    if missing := without_wheel(words):
        sourced = [name for name in sorted(missing) if buildable and shelf.sources(name)]
        return no_wheel(", ".join(sorted(missing)), target, words, sourced)
    if unknown := _UNKNOWN.search(_on_one_line(words)):
        return _unknown(unknown[1], words, shelf)
    if _USUAL not in raw:
        hint = "what uv says names the file or setting; pip config list shows what it was told"
        return ResolveError(f"packages can't be looked up\n{words}", where="python", hint=hint)
    hint = "loosen one of the versions that are asked for, or take a constraint away"
    return ResolveError(f"no set of packages fits together for {target}\n{words}", where="python", hint=hint)


def not_allowed(what: str, name: str) -> ResolveError:
    """No file of a package has a digest that the requirements allow."""
    hint = "correct the --hash in the requirements or lock anew, or find out why the index has another file"
    return ResolveError(f"no {what} of {name} has a digest that is allowed", where=name, hint=hint)


def not_built(what: str, words: str) -> ProgramError:
    """Source code that was to be built can't be; ``words`` are the last that its build said."""
    hint = (
        "see the last lines: often a compiler or headers are missing here (on Debian: apt install build-essential "
        "python3-dev), or a build requirement that has no wheel; or build the wheel elsewhere into a folder that pip's "
        "find-links names"
    )
    return ProgramError(f"{what} can't be built into a wheel here:\n{words}", where=what, hint=hint)


def _altered(what: str, words: str) -> IntegrityError:
    hint = "the file there was altered or damaged, or something in between answers instead: ask who runs it"
    return IntegrityError(f"the source code of {what} is not what its index says\n{words}", where=what, hint=hint)


def no_wheel(names: str, target: Target, words: str = "", sourced: Sequence[str] = ()) -> ResolveError:
    """There is no wheel of a package for the target; ``sourced`` have source code that the manifest may name."""
    newer_libc = f", a host whose C library is newer than {target.libc}" if target.libc else ""
    hint = (
        f"ask for an older or a newer version{newer_libc}, or build the wheel yourself on such a machine "
        f"(pip wheel --no-deps {names.partition(',')[0]}) into a folder that pip's find-links names"
    )
    if sourced:
        line = f"python: {{build_from_source: [{', '.join(sourced)}]}}"
        hint = (
            f"to run its source code here and carry the wheel that it gives, write into the manifest {line}; or {hint}"
        )
    said = f"there is no wheel of {names} for {target}; source code does not cross the gap"
    return ResolveError("\n".join(filter(None, [said, words])), where=names, hint=hint)


def _unknown(name: str, words: str, shelf: Pages) -> ResolveError:
    shelf.offers(name, besides=PYPI)  # uv keeps to itself that an index wants a password
    for page, status in shelf.denied.items():
        hint = "give user and password in pip's index address or in netrc, or ask for access"
        return ResolveError(f"{name} can't be looked up: the index answers {status}\n{words}", where=page, hint=hint)
    addresses = [*shelf.config.indexes, *shelf.config.find_links]
    places = ", ".join(dict.fromkeys(urlsplit(url).hostname or url for url in addresses)) or "no index"
    hint = "see whether the name is right; a private index goes into pip's configuration or python.indexes"
    return ResolveError(f"there is no package {name} on {places}\n{words}", where=name, hint=hint)


def _unreached(url: str, words: str) -> ResolveError:
    host = urlsplit(url).hostname or url
    status = _STATUS.search(words)
    if "certificate" in words:
        hint = "if a proxy or index here has a certificate of its own, tell pip: pip config set global.cert FILE"
        return ResolveError(f"the certificate of {host} is not trusted\n{words}", where=http.address(url), hint=hint)
    why = f"answers {status[1]}" if status else "can't be reached"
    hint = f"see whether {host} can be reached from here, and pip's proxy and index addresses (pip config list)"
    return ResolveError(f"{host} {why}\n{words}", where=http.address(url), hint=hint)


def _trimmed(words: str) -> str:
    """uv's words without what speaks of its own switches, and not too many of them."""
    lines = [line.removeprefix("error: ").removeprefix("  cause: ") for line in words.splitlines()]
    kept = [line for line in lines if line.strip() and not line.startswith(_USUAL) and not _OF_SWITCHES.match(line)]
    return "\n".join(kept if len(kept) <= _MOST_LINES else [*kept[:_MOST_LINES], "…"])

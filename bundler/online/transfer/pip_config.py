"""What pip was told on this machine.

pip is asked by its own command, so that files, sections and environment count as they do for ``pip install``.
"""

from __future__ import annotations

import ast
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import url2pathname

from bundler import process
from bundler.errors import ProgramError, UsageError

PYPI_INDEX = "https://pypi.org/simple"
_SECTIONS = ("global", "install", ":env:")
_ALIASES = {"pypi-url": "index-url", "default-timeout": "timeout"}
_TRUE_VALUES = ("y", "yes", "t", "true", "on", "1")
_FALSE_VALUES = ("n", "no", "f", "false", "off", "0")
_HINT = "pip config debug shows where each value comes from, pip config edit changes it"
_INHERITED_VARIABLES = ("PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "PIP_TOOLS_CACHE_DIR")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipConfig:
    """What ``pip install`` would go by here. Addresses may hold passwords, so they are not in its repr.

    Indexes, find-links and constraints are addresses with a scheme (paths as ``file:``).
    """

    index_url: str = field(default=PYPI_INDEX, repr=False)
    extra_index_urls: tuple[str, ...] = field(default=(), repr=False)
    find_links: tuple[str, ...] = field(default=(), repr=False)
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    cert: str = ""
    client_cert: str = ""
    proxy: str = field(default="", repr=False)
    timeout: float | None = None
    retries: int = 5
    constraints: tuple[str, ...] = field(default=(), repr=False)
    pre: bool = False

    @property
    def indexes(self) -> tuple[str, ...]:
        """Every index that counts, extra ones first: what a house builds itself goes before what the world has."""
        return () if self.no_index else (*self.extra_index_urls, self.index_url)


def read_config() -> PipConfig:
    """pip's configuration; raises ProgramError when pip can't say it, UsageError for a value that makes no sense."""
    said = _read_settings()
    proxy = said.get("proxy", "")
    # requests, which pip is built on, reads these unless a proxy is set; so pip reads them.
    from_environment = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    return PipConfig(
        index_url=make_url(said.get("index-url", PYPI_INDEX)),
        extra_index_urls=tuple(map(make_url, said.get("extra-index-url", "").split())),
        find_links=tuple(map(make_url, said.get("find-links", "").split())),
        no_index=_parse_bool("no-index", said.get("no-index", "0")),
        trusted_hosts=tuple(said.get("trusted-host", "").split()),
        cert=str(Path(said["cert"]).expanduser()) if "cert" in said else "" if proxy else from_environment,
        client_cert=str(Path(said["client-cert"]).expanduser()) if "client-cert" in said else "",
        proxy=proxy,
        timeout=_parse_number("timeout", said["timeout"]) if "timeout" in said else None,
        retries=int(_parse_number("retries", said.get("retries", "5"))),
        constraints=tuple(map(make_url, said.get("constraint", "").split())),
        pre=_parse_bool("pre", said.get("pre", "0")),
    )


def make_url(location: str, folder: Path | None = None) -> str:
    """A path or address as an address; a path is relative to ``folder``, or to the working folder."""
    if _has_scheme(location):
        return location
    return (folder or Path.cwd()).joinpath(Path(location).expanduser()).absolute().as_uri()


def get_local_path(url: str) -> Path | None:
    """The path that a ``file:`` address or a plain path means; None for any other address."""
    if not _has_scheme(url):
        return Path(url)
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme.lower() == "file" else None


def strip_credentials(url: str) -> str:
    """An address without user, password and fragment."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def make_uv_env(config: PipConfig, empty_folder: Path) -> dict[str, str]:
    """What uv must be told to go by the same configuration, as variables: others can read a command line.

    ``nothing`` is an empty folder. It stands for the index when there is to be none, because uv's own switch for
    that is no variable and would shut out indexes of single packages too.
    """
    *first, last = config.indexes or (empty_folder.as_uri(),)
    told = {
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_INDEX": " ".join(first),
        "UV_DEFAULT_INDEX": last,
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # pip gives all indexes equal weight
        "UV_FIND_LINKS": ",".join(_escape_commas(url) for url in config.find_links if _is_available(url)),
        "UV_INSECURE_HOST": " ".join(config.trusted_hosts),
        "UV_HTTP_RETRIES": str(config.retries),
        "UV_HTTP_TIMEOUT": str(max(1, math.ceil(config.timeout))) if config.timeout else "",
        "UV_PRERELEASE": "allow" if config.pre else "",
        "SSL_CLIENT_CERT": config.client_cert,
    }
    if config.cert:
        told["SSL_CERT_DIR" if Path(config.cert).is_dir() else "SSL_CERT_FILE"] = config.cert
    else:
        told["UV_SYSTEM_CERTS"] = "1"  # pip trusts what the system trusts, uv alone would not
    if config.proxy:
        proxy = config.proxy if "://" in config.proxy else f"http://{config.proxy}"
        told |= dict.fromkeys(_list_spellings("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy)
    told = {name: value for name, value in told.items() if value}
    if config.proxy:
        told |= dict.fromkeys(_list_spellings("NO_PROXY"), "")  # pip makes no exception from a proxy it was given
    return told


def make_pip_env(config: PipConfig) -> dict[str, str]:
    """The variables of a run of pip that is to go by this configuration and by no other."""
    told = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_INDEX_URL": config.index_url,
        "PIP_EXTRA_INDEX_URL": " ".join(config.extra_index_urls),
        "PIP_FIND_LINKS": " ".join(_escape_commas(url) for url in config.find_links),
        "PIP_NO_INDEX": "1" if config.no_index else "",
        "PIP_TRUSTED_HOST": " ".join(config.trusted_hosts),
        "PIP_CERT": config.cert,
        "PIP_CLIENT_CERT": config.client_cert,
        "PIP_PROXY": config.proxy,
        "PIP_TIMEOUT": str(config.timeout) if config.timeout else "",
        "PIP_RETRIES": str(config.retries),
        "PIP_PRE": "1" if config.pre else "",
    }
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    # Whose code is run to build a package need not know the hub's token.
    rest = process.inherit_env(drop_prefixes=("PIP_", "HF_"))
    return rest | kept | {name: value for name, value in told.items() if value}


def _read_settings() -> dict[str, str]:
    """Every setting that counts for ``pip install``, the stronger sections over the weaker; empty ones don't count."""
    listed = list(_parse_settings(_run_pip_config("list")))
    values = dict(listed)
    for full, times in Counter(full for full, _ in listed).items():
        if times > 1:
            # Newer pip lists a key once for each file that has it, and not in the order in which they count.
            values[full] = _run_pip_config("get", full).rstrip("\r\n")
    found: dict[str, str] = {}
    for section in _SECTIONS:
        here = {full.partition(".")[2]: value for full, value in values.items() if full.partition(".")[0] == section}
        found |= {_ALIASES.get(name, name): value for name, value in here.items() if value}
    return found


def _run_pip_config(*arguments: str) -> str:
    # A configured 'quiet' would silence the answer, and a locale could mangle it.
    loud = process.inherit_env(PIP_QUIET="0", PIP_VERBOSE="0")
    command = [sys.executable, "-I", "-X", "utf8", "-m", "pip", "config", *arguments]
    return process.run(command, env=loud, hint=_HINT).stdout


def _parse_settings(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        name, _, literal = line.partition("=")
        try:
            yield name, str(ast.literal_eval(literal))
        except (SyntaxError, ValueError) as error:
            raise ProgramError(f"pip config list says {name!r} in a way that is not known", where="pip") from error


def _parse_bool(name: str, value: str) -> bool:
    if value.lower() not in _TRUE_VALUES + _FALSE_VALUES:
        raise UsageError(f"{value!r} is neither yes nor no", where=f"pip's configuration: {name}", hint=_HINT)
    return value.lower() in _TRUE_VALUES


def _parse_number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UsageError(f"{value!r} is not a number", where=f"pip's configuration: {name}", hint=_HINT) from error


def _has_scheme(location: str) -> bool:
    # One letter before a colon is a drive of Windows.
    return len(urlsplit(location).scheme) > 1


def _is_available(url: str) -> bool:
    """Whether find-links may be asked for: pip passes over a folder that is missing, uv would stop."""
    path = get_local_path(url)
    return path is None or path.exists()


def _escape_commas(url: str) -> str:
    """An address without the character that ends it in a list for uv; spaces are escaped in any address."""
    return quote(url, safe="/:@%?&=#+$!*'();[]~").replace(",", "%2C")


def _list_spellings(*names: str) -> list[str]:
    """Variables in every spelling that is set here: programs differ in which they prefer."""
    return [*names, *(name.lower() for name in names if name.lower() in os.environ)]

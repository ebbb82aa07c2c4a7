"""The configuration of pip on this machine.

``pip config`` itself lists it, so that files, sections and environment variables count as they do for
``pip install``.
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
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit
from urllib.request import url2pathname

from bundler import process
from bundler.errors import ProgramError, UsageError

PYPI_INDEX = "https://pypi.org/simple"
_SECTIONS = ("global", "install", ":env:")
_ALIASES = {"pypi-url": "index-url", "default-timeout": "timeout"}
_TRUE_VALUES = ("y", "yes", "t", "true", "on", "1")
_FALSE_VALUES = ("n", "no", "f", "false", "off", "0")
_CONFIG_HINT = "pip config debug shows where each value comes from, pip config edit changes it"
_INHERITED_VARIABLES = ("PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "PIP_TOOLS_CACHE_DIR")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipConfig:
    """The settings that ``pip install`` would use here.

    Indexes, find-links and constraints are URLs with a scheme; a path is a ``file:`` URL. URLs may hold passwords, so
    the repr leaves them out. ``timeout`` is in seconds.
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
        """Every index in use, the extra ones first: an organization's own builds come before public ones."""
        return () if self.no_index else (*self.extra_index_urls, self.index_url)


def read_config() -> PipConfig:
    """Read the configuration of pip.

    Raises:
        ProgramError: ``pip config`` fails, or prints lines in an unknown form.
        UsageError: a value is invalid.
    """
    settings = _read_settings()
    proxy = settings.get("proxy", "")
    # pip uses requests, which reads these variables unless a proxy is set.
    ca_bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    return PipConfig(
        index_url=make_url(settings.get("index-url", PYPI_INDEX)),
        extra_index_urls=tuple(map(make_url, settings.get("extra-index-url", "").split())),
        find_links=tuple(map(make_url, settings.get("find-links", "").split())),
        no_index=_parse_bool("no-index", settings.get("no-index", "0")),
        trusted_hosts=tuple(settings.get("trusted-host", "").split()),
        cert=str(Path(settings["cert"]).expanduser()) if "cert" in settings else "" if proxy else ca_bundle,
        client_cert=str(Path(settings["client-cert"]).expanduser()) if "client-cert" in settings else "",
        proxy=proxy,
        timeout=_parse_number("timeout", settings["timeout"]) if "timeout" in settings else None,
        retries=int(_parse_number("retries", settings.get("retries", "5"))),
        constraints=tuple(map(make_url, settings.get("constraint", "").split())),
        pre=_parse_bool("pre", settings.get("pre", "0")),
    )


def make_url(location: str, folder: Path | None = None) -> str:
    """Return a path or URL as a URL; a path is relative to ``folder``, or to the working directory."""
    if _has_scheme(location):
        return location
    return (folder or Path.cwd()).joinpath(Path(location).expanduser()).absolute().as_uri()


def get_local_path(url: str) -> Path | None:
    """Return the path of a ``file:`` URL or a plain path; None for any other URL."""
    if not _has_scheme(url):
        return Path(url)
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme.lower() == "file" else None


def strip_credentials(url: str) -> str:
    """Return a URL without user, password and fragment."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def have_same_origin(first: SplitResult, second: SplitResult) -> bool:
    """Tell whether two URLs have the same scheme, host and port."""
    return (first.scheme, first.hostname, first.port) == (second.scheme, second.hostname, second.port)


def make_uv_env(config: PipConfig, empty_folder: Path) -> dict[str, str]:
    """Return the environment variables that make uv use this configuration.

    Variables, because other users can read a command line.

    Args:
        config: The configuration of pip.
        empty_folder: The index of uv where pip uses none. uv's option ``--no-index`` has no variable, and would
            exclude the indexes of single packages too.
    """
    *extra_urls, default_url = config.indexes or (empty_folder.as_uri(),)
    env = {
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_INDEX": " ".join(extra_urls),
        "UV_DEFAULT_INDEX": default_url,
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # pip gives all indexes equal weight
        "UV_FIND_LINKS": ",".join(_escape_commas(url) for url in config.find_links if _is_available(url)),
        "UV_INSECURE_HOST": " ".join(config.trusted_hosts),
        "UV_HTTP_RETRIES": str(config.retries),
        "UV_HTTP_TIMEOUT": str(max(1, math.ceil(config.timeout))) if config.timeout else "",
        "UV_PRERELEASE": "allow" if config.pre else "",
        "SSL_CLIENT_CERT": config.client_cert,
    }
    if config.cert:
        env["SSL_CERT_DIR" if Path(config.cert).is_dir() else "SSL_CERT_FILE"] = config.cert
    else:
        env["UV_SYSTEM_CERTS"] = "1"  # pip trusts the system's certificates, uv does not by default
    if config.proxy:
        proxy = config.proxy if "://" in config.proxy else f"http://{config.proxy}"
        env |= dict.fromkeys(_list_spellings("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy)
    env = {name: value for name, value in env.items() if value}
    if config.proxy:
        env |= dict.fromkeys(_list_spellings("NO_PROXY"), "")  # pip ignores NO_PROXY where its own proxy is set
    return env


def make_pip_env(config: PipConfig) -> dict[str, str]:
    """Return the environment variables that make pip use this configuration and no other."""
    settings = {
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
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    # Code that builds a package must not see the hub's token.
    env = process.inherit_env(drop_prefixes=("PIP_", "HF_"))
    return env | inherited | {name: value for name, value in settings.items() if value}


def _read_settings() -> dict[str, str]:
    """Read the settings of ``pip install``: later sections override earlier ones, empty values are left out."""
    pairs = list(_parse_settings(_run_pip_config("list")))
    values = dict(pairs)
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            # Newer pip lists a key once for each file that has it, and not by precedence.
            values[key] = _run_pip_config("get", key).rstrip("\r\n")
    settings: dict[str, str] = {}
    for section in _SECTIONS:
        options = {key.partition(".")[2]: value for key, value in values.items() if key.partition(".")[0] == section}
        settings |= {_ALIASES.get(name, name): value for name, value in options.items() if value}
    return settings


def _run_pip_config(*arguments: str) -> str:
    # A configured 'quiet' would suppress the output, and a locale could change its encoding.
    env = process.inherit_env(PIP_QUIET="0", PIP_VERBOSE="0")
    command = [sys.executable, "-I", "-X", "utf8", "-m", "pip", "config", *arguments]
    return process.run(command, env=env, hint=_CONFIG_HINT).stdout


def _parse_settings(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        name, _, literal = line.partition("=")
        try:
            yield name, str(ast.literal_eval(literal))
        except (SyntaxError, ValueError) as error:
            raise ProgramError(
                f"pip config list prints {name!r} in an unknown form", where="pip", hint=_CONFIG_HINT
            ) from error


def _parse_bool(name: str, value: str) -> bool:
    if value.lower() not in _TRUE_VALUES + _FALSE_VALUES:
        raise UsageError(
            f"{value!r} is not a boolean, such as yes or no", where=f"pip's configuration: {name}", hint=_CONFIG_HINT
        )
    return value.lower() in _TRUE_VALUES


def _parse_number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UsageError(
            f"{value!r} is not a number", where=f"pip's configuration: {name}", hint=_CONFIG_HINT
        ) from error


def _has_scheme(location: str) -> bool:
    # A single letter before a colon is a Windows drive.
    return len(urlsplit(location).scheme) > 1


def _is_available(url: str) -> bool:
    """Tell whether a find-links location exists: pip skips a missing folder, uv would fail."""
    path = get_local_path(url)
    return path is None or path.exists()


def _escape_commas(url: str) -> str:
    """Escape what separates the URLs in a list for uv or pip: commas and spaces."""
    return quote(url, safe="/:@%?&=#+$!*'();[]~").replace(",", "%2C")


def _list_spellings(*names: str) -> list[str]:
    """List variables in each spelling that is set here, since programs prefer different ones."""
    return [*names, *(name.lower() for name in names if name.lower() in os.environ)]

"""One resolution by uv, for a target that may differ from this machine."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uv
from packaging.utils import canonicalize_name

from bundler import process
from bundler.errors import ProgramError, ResolveError
from bundler.format.lock.target import Target
from bundler.online.packages import simple_index
from bundler.online.packages.requirements_txt import RequirementLine, RequirementsSpec
from bundler.online.transfer import pip_config
from bundler.online.transfer.pip_config import PipConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REQUEST_NAME = "your-request"
"""The name of the whole request in uv's explanation of a conflict."""
_GLIBC_MINORS = (17, 28, *range(31, 41))
"""Minor versions of glibc 2 that uv knows as platforms."""
_INHERITED_VARIABLES = ("UV_CACHE_DIR",)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageFile:
    """A wheel or sdist that uv found: its URL, and its SHA-256 ("" where the index states only another digest)."""

    url: str
    sha256: str = ""

    @property
    def filename(self) -> str:
        """The file's name, which holds the wheel's tags."""
        return simple_index.get_filename(self.url)


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedPackage:
    """A package at one version, with the wheels of it that uv lists.

    ``is_direct_url``: the request gives the URL of the wheel. ``sdist`` is set where the package has no wheel and may
    be built.
    """

    name: str
    version: str
    files: tuple[PackageFile, ...]
    is_direct_url: bool = False
    sdist: PackageFile | None = None


class ResolverFailureError(Exception):
    """The resolver found no solution or failed; the message is its own output, with passwords masked."""


def compile_requirements(
    spec: RequirementsSpec,
    target: Target,
    package_indexes: Mapping[str, str],
    folder: Path,
    *,
    no_deps: bool = False,
    source_packages: Iterable[str] = (),
    pins: Iterable[str] = (),
) -> tuple[tuple[PinnedPackage, ...], list[str]]:
    """Resolve requirements for a target.

    Args:
        spec: The requirements, constraints and pip's configuration.
        target: The target.
        package_indexes: The URL of the one index of some packages. Each of these becomes a direct dependency, since
            uv assigns an index only to those.
        folder: A private folder: its files hold passwords.
        no_deps: Leave dependencies out.
        source_packages: Packages to build from source code. uv runs their code to learn their dependencies, and the
            code of no other package.
        pins: Versions that are chosen already, as ``name==version``.

    Returns:
        Every package, and uv's warnings.

    Raises:
        ResolverFailureError: uv finds no solution.
    """
    output = folder / "pylock.found.toml"
    output.unlink(missing_ok=True)  # uv would prefer the versions in it
    (folder / "pyproject.toml").write_text(_make_pyproject(package_indexes, target), encoding="utf-8")
    (folder / "requirements.in").write_text(_format_requirements(spec.requirements), encoding="utf-8")
    (folder / "constraints.txt").write_text(_format_requirements(spec.constraints), encoding="utf-8")
    pin_lines = "".join(f"{pin}\n" for pin in pins)
    (folder / "pins.txt").write_text(pin_lines, encoding="utf-8")
    command = [
        *(find_uv(), "pip", "compile", "--no-header", "--no-progress", "--color", "never"),
        *("pyproject.toml", "requirements.in"),
        *(["--constraints", "constraints.txt"] if spec.constraints else []),
        *(["--constraints", "pins.txt"] if pin_lines else []),
        *("--format", "pylock.toml", "--output-file", output.name, "--only-binary", ":all:"),
        *(part for name in sorted(source_packages) for part in ("--no-binary", name)),
        *("--python", sys.executable, "--python-version", target.python, "--python-platform", get_uv_platform(target)),
        *(["--no-deps"] if no_deps else []),
    ]
    result = process.run(command, env=_make_env(spec.config, target, folder), cwd=folder, accepted_codes=range(3))
    messages = process.redact(result.stderr.replace(str(folder) + os.sep, "")).strip()
    if result.returncode:
        raise ResolverFailureError(messages)
    with output.open("rb") as file:
        document = tomllib.load(file)
    packages = tuple(_parse_package(package, folder) for package in document.get("packages", []))
    return packages, [line.removeprefix("warning: ") for line in messages.splitlines() if line.startswith("warning: ")]


def get_uv_platform(target: Target) -> str:
    """Return uv's name of the target's platform, with the newest C library that is not newer than the target's."""
    names = target.platform_info.uv_names
    if not target.libc:
        return names[""]
    name, major, minor = target.libc_version
    if name not in names:
        hint = f"set target.libc to a version of {' or '.join(names)}"
        message = f"packages can't be resolved for {target.platform} with {target.libc}: uv does not know that platform"
        raise ResolveError(message, where="target.libc", hint=hint)
    if name != "glibc":
        return names[name]
    minors = [known_minor for known_minor in _GLIBC_MINORS if (2, known_minor) <= (major, minor)]
    if not minors:
        hint = "wheels need glibc 2.17 or newer: choose such a host, or change target.libc"
        raise ResolveError(f"packages can't be resolved for {target.libc}", where="target.libc", hint=hint)
    return names["glibc"].format(minor=max(minors))


def find_uv() -> str:
    """Return the path of uv's program; raise ProgramError where it is not installed."""
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise ProgramError("uv is not installed in this environment", where="uv", hint="pip install uv") from error


def _make_env(config: PipConfig, target: Target, folder: Path) -> dict[str, str]:
    empty_folder = folder / "empty"
    empty_folder.mkdir(exist_ok=True)
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    env = pip_config.make_uv_env(config, empty_folder) | dict(target.platform_info.system.uv_env)
    return process.inherit_env(drop_prefixes=("UV_", "HF_")) | inherited | env


def _make_pyproject(package_indexes: Mapping[str, str], target: Target) -> str:
    """Return a pyproject.toml whose dependencies are the packages with an index of their own."""
    names = sorted(package_indexes)
    lines = [
        "[project]",
        f"name = {_quote(_REQUEST_NAME)}",
        'version = "0"',
        f"requires-python = {_quote(f'>={target.python}')}",
        f"dependencies = {json.dumps(names)}",
        "[tool.uv.sources]",
        *(f"{_quote(name)} = {{ index = {_quote(f'index-{number}')} }}" for number, name in enumerate(names)),
    ]
    for number, name in enumerate(names):
        lines += [
            "[[tool.uv.index]]",
            f"name = {_quote(f'index-{number}')}",
            f"url = {_quote(package_indexes[name])}",
            "explicit = true",
        ]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return json.dumps(text)  # a JSON string is also a TOML basic string


def _format_requirements(lines: Iterable[RequirementLine]) -> str:
    return "".join(f"{line.requirement}\n" for line in lines)


def _parse_package(package: Mapping[str, Any], folder: Path) -> PinnedPackage:
    """Parse a package of pylock.toml (packaging.python.org, "pylock.toml Specification")."""
    index_wheels, archive, sdist = package.get("wheels", []), package.get("archive"), package.get("sdist")
    if not index_wheels and not archive and not sdist:
        hint = "require it by name and version, or by the URL of a .whl"
        raise ProgramError(
            f"uv resolved {package['name']} to neither a wheel nor an sdist", where="uv pip compile", hint=hint
        )
    wheels = index_wheels or ([archive] if archive else [])
    return PinnedPackage(
        name=canonicalize_name(package["name"]),
        version=package["version"],
        files=tuple(_parse_file(wheel, folder) for wheel in wheels),
        is_direct_url=bool(archive),
        sdist=_parse_file(sdist, folder) if sdist and not wheels else None,
    )


def _parse_file(entry: Mapping[str, Any], folder: Path) -> PackageFile:
    url = entry.get("url") or (folder / entry["path"]).resolve().as_uri()
    return PackageFile(url=pip_config.strip_credentials(url), sha256=entry.get("hashes", {}).get("sha256", "").lower())


def find_named_packages(text: str, names: Iterable[str]) -> set[str]:
    """Return those of these packages that uv's output names."""
    words = set(re.findall(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", text.lower()))
    return {name for name in names if name in words}

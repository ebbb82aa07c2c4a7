"""One resolution by uv, for a machine that is not this one."""

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

REQUEST_NAME = "your-request"
"""What uv calls the whole of what was asked for when it explains a conflict."""
_GLIBC_MINORS = (17, 28, *range(31, 41))
"""Minor versions of glibc 2 that uv knows as platforms."""
_INHERITED_VARIABLES = ("UV_CACHE_DIR",)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageFile:
    """A wheel that uv found: its address, and its SHA-256 ("" where there is another digest alone)."""

    url: str
    sha256: str = ""

    @property
    def filename(self) -> str:
        """The file's name, which says what it fits."""
        return simple_index.get_filename(self.url)


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedPackage:
    """A package at one version, with the wheels of it that uv thinks fit; ``by_address``: asked for as one file.

    ``source`` is the source code to build it from, where it has no wheel and may be built.
    """

    name: str
    version: str
    files: tuple[PackageFile, ...]
    is_direct_url: bool = False
    sdist: PackageFile | None = None


class ResolverFailureError(Exception):
    """No solution was found, or it could not be looked for: the resolver's own words, without passwords."""


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
    """Every package at the version that fits the others and the target, and what uv warns of.

    ``routes`` says of some packages from which index alone they come; each becomes a direct dependency, for only
    of those does uv heed it. ``folder`` is private: passwords stand in the files there. ``alone`` leaves
    dependencies out. ``sources`` are packages to take as source code, which uv runs to learn what they need; of no
    other package is any code run. ``pins`` are versions that are chosen already. Raises RefusalError.
    """
    out = folder / "pylock.found.toml"
    out.unlink(missing_ok=True)  # uv would prefer the versions that it finds there
    (folder / "pyproject.toml").write_text(_make_pyproject(package_indexes, target), encoding="utf-8")
    (folder / "requirements.in").write_text(_format_requirements(spec.requirements), encoding="utf-8")
    (folder / "constraints.txt").write_text(_format_requirements(spec.constraints), encoding="utf-8")
    chosen = "".join(f"{pin}\n" for pin in pins)
    (folder / "pins.txt").write_text(chosen, encoding="utf-8")
    command = [
        *(find_uv(), "pip", "compile", "--no-header", "--no-progress", "--color", "never"),
        *("pyproject.toml", "requirements.in"),
        *(["--constraints", "constraints.txt"] if spec.constraints else []),
        *(["--constraints", "pins.txt"] if chosen else []),
        *("--format", "pylock.toml", "--output-file", out.name, "--only-binary", ":all:"),
        *(part for name in sorted(source_packages) for part in ("--no-binary", name)),
        *("--python", sys.executable, "--python-version", target.python, "--python-platform", get_uv_platform(target)),
        *(["--no-deps"] if no_deps else []),
    ]
    done = process.run(command, env=_make_env(spec.config, target, folder), cwd=folder, accepted_codes=range(3))
    said = process.redact(done.stderr.replace(str(folder) + os.sep, "")).strip()
    if done.returncode:
        raise ResolverFailureError(said)
    with out.open("rb") as file:
        document = tomllib.load(file)
    pinned = tuple(_parse_package(package, folder) for package in document.get("packages", []))
    return pinned, [line.removeprefix("warning: ") for line in said.splitlines() if line.startswith("warning: ")]


def get_uv_platform(target: Target) -> str:
    """uv's name for a platform, with the newest C library that is not above the target's floor."""
    names = target.platform_info.uv_names
    if not target.libc:
        return names[""]
    name, major, minor = target.libc_version
    if name != "glibc":
        return names[name]
    fitting = [known for known in _GLIBC_MINORS if (2, known) <= (major, minor)]
    if not fitting:
        hint = "wheels are made for glibc 2.17 and newer: take a host with that, or another floor in target.libc"
        raise ResolveError(f"packages can't be resolved for {target.libc}", where="target.libc", hint=hint)
    return names["glibc"].format(minor=max(fitting))


def find_uv() -> str:
    """Where uv is; raises ProgramError."""
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise ProgramError("uv is not installed beside this tool", where="uv", hint="pip install uv") from error


def _make_env(config: PipConfig, target: Target, folder: Path) -> dict[str, str]:
    nothing = folder / "nothing"
    nothing.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    told = pip_config.make_uv_env(config, nothing) | dict(target.platform_info.system.uv_env)
    return process.inherit_env(drop_prefixes=("UV_", "HF_")) | kept | told


def _make_pyproject(package_indexes: Mapping[str, str], target: Target) -> str:
    """A project whose dependencies are the packages that are to come from an index of their own."""
    names = sorted(package_indexes)
    lines = [
        "[project]",
        f"name = {_quote(REQUEST_NAME)}",
        'version = "0"',
        f"requires-python = {_quote(f'>={target.python}')}",
        f"dependencies = {json.dumps(names)}",
        "[tool.uv.sources]",
        *(f"{_quote(name)} = {{ index = {_quote(f'index-{n}')} }}" for n, name in enumerate(names)),
    ]
    for n, name in enumerate(names):
        lines += [
            "[[tool.uv.index]]",
            f"name = {_quote(f'index-{n}')}",
            f"url = {_quote(package_indexes[name])}",
            "explicit = true",
        ]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return json.dumps(text)  # a JSON string is a TOML basic string as well


def _format_requirements(lines: Iterable[RequirementLine]) -> str:
    return "".join(f"{line.requirement}\n" for line in lines)


def _parse_package(package: Mapping[str, Any], folder: Path) -> PinnedPackage:
    """A package of pylock.toml (packaging.python.org, "pylock.toml Specification")."""
    listed, archive, source = package.get("wheels", []), package.get("archive"), package.get("sdist")
    if not listed and not archive and not source:
        raise ProgramError(f"uv resolved {package['name']} to something that is no wheel", where="uv pip compile")
    wheels = listed or ([archive] if archive else [])
    return PinnedPackage(
        name=canonicalize_name(package["name"]),
        version=package["version"],
        files=tuple(_parse_file(one, folder) for one in wheels),
        is_direct_url=bool(archive),
        sdist=_parse_file(source, folder) if source and not wheels else None,
    )


def _parse_file(entry: Mapping[str, Any], folder: Path) -> PackageFile:
    url = entry.get("url") or (folder / entry["path"]).resolve().as_uri()
    return PackageFile(url=pip_config.strip_credentials(url), sha256=entry.get("hashes", {}).get("sha256", "").lower())


def find_named_packages(text: str, names: Iterable[str]) -> set[str]:
    """Which of these packages an explanation speaks of."""
    spoken = set(re.findall(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", text.lower()))
    return {name for name in names if name in spoken}

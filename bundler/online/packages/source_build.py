"""Builds of wheels from source code, for packages without a wheel; the cache keeps them."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename
from packaging.version import Version

from bundler import process
from bundler.errors import ProgramError, ResolveError, UnsafeError
from bundler.format import documents, json_files
from bundler.format.hashing import Sha256, compute_sha256
from bundler.format.lock.lockfile import ZIP_EPOCH
from bundler.format.lock.target import Target, detect_target
from bundler.online.packages import platform_difference, resolver_errors, wheel_rewrite
from bundler.online.transfer import pip_config
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Reporter

_OUTPUT_VERSION = 1
"""Grows when this module makes other bytes from the same sdist."""
_MANYLINUX_GLIBC = re.compile(r"-manylinux_(\d+)_(\d+)_")
_AUDITWHEEL_HINT = "build the wheel yourself, and put it into a folder that pip's find-links names"
_FIND_LINKS_HINT = "or build the wheel on such a machine into a folder that pip's find-links names"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheel:
    """A wheel in the cache: its file name, size in bytes and SHA-256."""

    filename: str
    size: int
    sha256: Sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class Sdist:
    """An sdist in the cache: its package, file name and SHA-256."""

    name: str
    version: str
    filename: str
    sha256: Sha256

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def build_wheel(sdist: Sdist, target: Target, config: PipConfig, cache: FileCache, reporter: Reporter) -> BuiltWheel:
    """Build the wheel of an sdist, or return the one that was built before on a machine like this.

    Raises:
        ProgramError: The build fails.
        ResolveError: The wheel is not compatible with the target.
        UnsafeError: The build makes no valid wheel of the package.
    """
    key = f"built-wheel-{compute_sha256(f'{_OUTPUT_VERSION} {detect_target()} {sdist.sha256}'.encode())}"
    wheel = _find_built_wheel(key, cache)
    if wheel is None:
        reporter.note(f"building {sdist} from source code: {sdist.filename}")
        with _build_in_scratch(sdist, config, cache) as path:
            size, sha256 = cache.copy_in(path)
            wheel = BuiltWheel(filename=path.name, size=size, sha256=sha256)
        cache.record_key(key, cache.put_bytes(json.dumps(documents.encode(wheel)).encode()))
    _require_compatible(wheel.filename, sdist, target)
    return wheel


def _find_built_wheel(key: str, cache: FileCache) -> BuiltWheel | None:
    path = cache.find_by_key(key)
    if path is None:
        return None
    try:
        wheel = json_files.read(BuiltWheel, path)
    except (OSError, documents.DocumentError):  # a damaged file: the wheel is built again
        return None
    return wheel if cache.find(wheel.sha256, wheel.size) else None


@contextmanager
def _build_in_scratch(sdist: Sdist, config: PipConfig, cache: FileCache) -> Iterator[Path]:
    """Build a wheel in a temporary folder, and yield it in its normal form."""
    with tempfile.TemporaryDirectory(prefix="airgap-bundler-") as scratch:
        folder = Path(scratch).resolve()
        output_folder, rewritten_folder = folder / "out", folder / "rewritten"
        rewritten_folder.mkdir()
        archive = folder / sdist.filename
        archive.symlink_to(cache.require(sdist.sha256))
        _run_build(sdist, archive, output_folder, config)
        wheels = sorted(output_folder.glob("*.whl"))
        if len(wheels) != 1:
            hint = "ask the package's author, or require a version that has a wheel"
            raise UnsafeError(f"the build of {sdist} made {len(wheels)} wheels", where=sdist.filename, hint=hint)
        rewritten = wheel_rewrite.rewrite_wheel(wheels[0], rewritten_folder)
        _require_same_package(rewritten.name, sdist)
        platform = _find_platform_tag(rewritten, sdist)
        yield wheel_rewrite.rewrite_wheel(wheels[0], rewritten_folder, platform) if platform else rewritten


def _run_build(sdist: Sdist, archive: Path, output: Path, config: PipConfig) -> None:
    """Build with pip in an isolated environment; build requirements are wheels, so that no other source code runs."""
    command: list[str | Path] = [
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--quiet", "--wheel-dir", output),
        *("--only-binary", ":all:", "--no-binary", sdist.name, archive),
    ]
    env = pip_config.make_pip_env(config) | {
        "SOURCE_DATE_EPOCH": str(ZIP_EPOCH),
        "PYTHONHASHSEED": "0",
        "TZ": "UTC",
        # Debug information names temporary folders, which differ each time.
        **{name: f"{os.environ.get(name, '')} -g0".strip() for name in ("CFLAGS", "CXXFLAGS")},
    }
    try:
        process.run(command, env=env, cwd=archive.parent)
    except ProgramError as error:
        raise resolver_errors.make_build_error(str(sdist), str(error)) from error


def _require_same_package(filename: str, sdist: Sdist) -> None:
    name, version, *_ = parse_wheel_filename(filename)
    if (name, version) != (sdist.name, Version(sdist.version)):
        hint = "the index and the build give different names or versions: ask the package's author"
        raise UnsafeError(f"the source code of {sdist} builds {filename}", where=sdist.filename, hint=hint)


def _find_platform_tag(wheel: Path, sdist: Sdist) -> str:
    """Return the platform tag for the oldest C library that the wheel's code runs with; "" where its own tag is right.

    A build on Linux has the tag linux_x86_64, whatever C library it was linked with. Raises ResolveError where the
    wheel needs libraries of this machine that no platform tag covers.
    """
    tags = parse_wheel_filename(wheel.name)[3]
    if not any(tag.platform.startswith("linux_") for tag in tags):
        return ""
    command: list[str | Path] = [sys.executable, "-m", "auditwheel", "show", "--json", wheel]
    result = process.run(command, accepted_codes=range(256), cwd=wheel.parent)
    try:
        report = json.loads(result.stdout)
    except ValueError:
        output = process.redact(result.stderr[-1000:])
        raise ProgramError(
            f"auditwheel can't read the wheel of {sdist}:\n{output}", where="auditwheel", hint=_AUDITWHEEL_HINT
        ) from None
    if "no ELF executable" in report.get("error", ""):
        return ""  # the wheel holds no compiled code
    if "error" in report:
        raise ProgramError(
            f"auditwheel can't read the wheel of {sdist}: {report['error']}",
            where="auditwheel",
            hint=_AUDITWHEEL_HINT,
        )
    if report["overall_tag"].startswith("linux_"):
        libraries = ", ".join(sorted(Path(name).name for name in report.get("external_libs", {})))
        problem = f"needs {libraries} of this machine" if libraries else "runs only on this machine"
        hint = "build it yourself, add the libraries to it (auditwheel repair), and put it into a find-links folder"
        raise ResolveError(f"the wheel that was built from {sdist} {problem}", where=sdist.name, hint=hint)
    return str(report["overall_tag"])


def _require_compatible(filename: str, sdist: Sdist, target: Target) -> None:
    if target.is_compatible(filename):
        return
    reasons = [platform_difference.describe_differences(target)]
    glibc = _MANYLINUX_GLIBC.search(filename)
    if glibc and target.libc.startswith("glibc-") and target.libc_version[1:] < (int(glibc[1]), int(glibc[2])):
        reasons.insert(0, f"it needs glibc {glibc[1]}.{glibc[2]}")
    explanation = ": " + "; ".join(filter(None, reasons)) if any(reasons) else ""
    hint = f"build the bundle on a machine like the target, require a version that has a wheel, {_FIND_LINKS_HINT}"
    raise ResolveError(
        f"{sdist} has no wheel for {target}, and the one that was built here from its source code, {filename}, "
        f"does not fit there{explanation}",
        where=sdist.name,
        hint=hint,
    )

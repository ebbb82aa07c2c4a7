"""A wheel out of source code, for a package that has none: built here and kept on the shelf."""

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
"""Grows when this room makes other bytes of the same source."""
_MANYLINUX_GLIBC = re.compile(r"-manylinux_(\d+)_(\d+)_")
_FIND_LINKS_HINT = "or build the wheel on such a machine into a folder that pip's find-links names"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheel:
    """A wheel on the shelf: its file name, size in bytes and SHA-256."""

    filename: str
    size: int
    sha256: Sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class Sdist:
    """A package's source code on the shelf: the archive's file name and SHA-256."""

    name: str
    version: str
    filename: str
    sha256: Sha256

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def build_wheel(sdist: Sdist, target: Target, config: PipConfig, cache: FileCache, reporter: Reporter) -> BuiltWheel:
    """The wheel of a package's source code; one that was built before on a machine like this is not built again.

    Raises ProgramError when the build fails, ResolveError where the wheel does not fit the target, UnsafeError when
    it is none.
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
    note = cache.find_by_key(key)
    if note is None:
        return None
    try:
        wheel = json_files.read(BuiltWheel, note)
    except (OSError, documents.DocumentError):  # a damaged note: built once more
        return None
    return wheel if cache.find(wheel.sha256, wheel.size) else None


@contextmanager
def _build_in_scratch(sdist: Sdist, config: PipConfig, cache: FileCache) -> Iterator[Path]:
    """The wheel in its one form, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="airgap-bundler-") as scratch:
        folder = Path(scratch).resolve()
        out, form = folder / "out", folder / "form"
        form.mkdir()
        archive = folder / sdist.filename
        archive.symlink_to(cache.require(sdist.sha256))
        _run_build(sdist, archive, out, config)
        found = sorted(out.glob("*.whl"))
        if len(found) != 1:
            raise UnsafeError(f"the build of {sdist} gave {len(found)} wheels", where=sdist.filename)
        plain = wheel_rewrite.rewrite_wheel(found[0], form)
        _require_same_package(plain.name, sdist)
        platform = _find_platform_tag(plain, sdist)
        yield wheel_rewrite.rewrite_wheel(found[0], form, platform) if platform else plain


def _run_build(sdist: Sdist, archive: Path, output: Path, config: PipConfig) -> None:
    """Build with pip, isolated; what the build itself needs comes as wheels, so that no other source code runs."""
    command: list[str | Path] = [
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--quiet", "--wheel-dir", output),
        *("--only-binary", ":all:", "--no-binary", sdist.name, archive),
    ]
    environment = pip_config.make_pip_env(config) | {
        "SOURCE_DATE_EPOCH": str(ZIP_EPOCH),
        "PYTHONHASHSEED": "0",
        "TZ": "UTC",
        # What a compiler says for a debugger names folders of this machine, which differ each time.
        **{name: f"{os.environ.get(name, '')} -g0".strip() for name in ("CFLAGS", "CXXFLAGS")},
    }
    try:
        process.run(command, env=environment, cwd=archive.parent)
    except ProgramError as error:
        raise resolver_errors.make_build_error(str(sdist), str(error)) from error


def _require_same_package(filename: str, sdist: Sdist) -> None:
    name, version, *_ = parse_wheel_filename(filename)
    if (name, version) != (sdist.name, Version(sdist.version)):
        hint = "what the index says of the package and what its build says differ: ask its author"
        raise UnsafeError(f"the source code of {sdist} builds {filename}", where=sdist.filename, hint=hint)


def _find_platform_tag(wheel: Path, sdist: Sdist) -> str:
    """The platform tag that says how old a C library the wheel's programs run with; "" where its own tag is right.

    A build on Linux calls itself linux_x86_64, whatever C library it was linked with. Raises ResolveError when it
    needs libraries of this machine that no platform tag promises.
    """
    tags = parse_wheel_filename(wheel.name)[3]
    if not any(tag.platform.startswith("linux_") for tag in tags):
        return ""
    command: list[str | Path] = [sys.executable, "-m", "auditwheel", "show", "--json", wheel]
    done = process.run(command, accepted_codes=range(256), cwd=wheel.parent)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        words = process.redact(done.stderr[-1000:])
        raise ProgramError(f"auditwheel can't read the wheel of {sdist}:\n{words}", where="auditwheel") from None
    if "no ELF executable" in said.get("error", ""):
        return ""  # nothing in it was compiled
    if "error" in said:
        raise ProgramError(f"auditwheel can't read the wheel of {sdist}: {said['error']}", where="auditwheel")
    if said["overall_tag"].startswith("linux_"):
        libraries = ", ".join(sorted(Path(name).name for name in said.get("external_libs", {})))
        needs = f"needs {libraries} of this machine" if libraries else "is tied to this machine"
        hint = "build it yourself, take the libraries into it (auditwheel repair), and put it where find-links looks"
        raise ResolveError(f"the wheel that was built of {sdist} {needs}", where=sdist.name, hint=hint)
    return str(said["overall_tag"])


def _require_compatible(filename: str, sdist: Sdist, target: Target) -> None:
    if target.is_compatible(filename):
        return
    reasons = [platform_difference.describe_differences(target)]
    needed = _MANYLINUX_GLIBC.search(filename)
    if needed and target.libc.startswith("glibc-") and target.libc_version[1:] < (int(needed[1]), int(needed[2])):
        reasons.insert(0, f"it needs glibc {needed[1]}.{needed[2]}")
    why = ": " + "; ".join(filter(None, reasons)) if any(reasons) else ""
    hint = f"build the bundle on a machine like the target, ask for a version that has a wheel, {_FIND_LINKS_HINT}"
    raise ResolveError(
        f"{sdist} has no wheel for {target}, and the one that was built here from its source code, {filename}, "
        f"does not fit there{why}",
        where=sdist.name,
        hint=hint,
    )

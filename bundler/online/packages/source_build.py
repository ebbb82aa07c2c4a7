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
from bundler.format.hashing import Sha256, digest_of
from bundler.format.lock.lockfile import EPOCH
from bundler.format.lock.target import Target, this_machine
from bundler.online.packages import platform_difference, resolver_errors, wheel_rewrite
from bundler.online.transfer import pip_config
from bundler.online.transfer.cache import Store
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import Report

_FORM = 1
"""Grows when this room makes other bytes of the same source."""
_GLIBC = re.compile(r"-manylinux_(\d+)_(\d+)_")
_FIND_LINKS = "or build the wheel on such a machine into a folder that pip's find-links names"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheel:
    """A wheel on the shelf: its file name, size in bytes and SHA-256."""

    filename: str
    size: int
    sha256: Sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A package's source code on the shelf: the archive's file name and SHA-256."""

    name: str
    version: str
    filename: str
    sha256: Sha256

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def built(source: Source, target: Target, config: PipConfig, store: Store, report: Report) -> BuiltWheel:
    """The wheel of a package's source code; one that was built before on a machine like this is not built again.

    Raises ProgramError when the build fails, ResolveError where the wheel does not fit the target, UnsafeError when
    it is none.
    """
    key = f"built-wheel-{digest_of(f'{_FORM} {this_machine()} {source.sha256}'.encode())}"
    wheel = _kept(key, store)
    if wheel is None:
        report.note(f"building {source} from source code: {source.filename}")
        with _made(source, config, store) as path:
            size, sha256 = store.copy_in(path)
            wheel = BuiltWheel(filename=path.name, size=size, sha256=sha256)
        store.remember(key, store.put_bytes(json.dumps(documents.encode(wheel)).encode()))
    _require_fit(wheel.filename, source, target)
    return wheel


def _kept(key: str, store: Store) -> BuiltWheel | None:
    note = store.recalled(key)
    if note is None:
        return None
    try:
        wheel = json_files.read(BuiltWheel, note)
    except (OSError, documents.Faults):  # a damaged note: built once more
        return None
    return wheel if store.path_of(wheel.sha256, wheel.size) else None


@contextmanager
def _made(source: Source, config: PipConfig, store: Store) -> Iterator[Path]:
    """The wheel in its one form, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="airgap-bundler-") as scratch:
        folder = Path(scratch).resolve()
        out, form = folder / "out", folder / "form"
        form.mkdir()
        archive = folder / source.filename
        archive.symlink_to(store.required(source.sha256))
        _run(source, archive, out, config)
        found = sorted(out.glob("*.whl"))
        if len(found) != 1:
            raise UnsafeError(f"the build of {source} gave {len(found)} wheels", where=source.filename)
        plain = wheel_rewrite.rewritten(found[0], form)
        _require_own(plain.name, source)
        platform = _platform_of(plain, source)
        yield wheel_rewrite.rewritten(found[0], form, platform) if platform else plain


def _run(source: Source, archive: Path, out: Path, config: PipConfig) -> None:
    """Build with pip, isolated; what the build itself needs comes as wheels, so that no other source code runs."""
    command: list[str | Path] = [
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--quiet", "--wheel-dir", out),
        *("--only-binary", ":all:", "--no-binary", source.name, archive),
    ]
    environment = pip_config.pip_environment(config) | {
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "PYTHONHASHSEED": "0",
        "TZ": "UTC",
        # What a compiler says for a debugger names folders of this machine, which differ each time.
        **{name: f"{os.environ.get(name, '')} -g0".strip() for name in ("CFLAGS", "CXXFLAGS")},
    }
    try:
        process.run(command, environment=environment, folder=archive.parent)
    except ProgramError as error:
        raise resolver_errors.not_built(str(source), str(error)) from error


def _require_own(filename: str, source: Source) -> None:
    name, version, *_ = parse_wheel_filename(filename)
    if (name, version) != (source.name, Version(source.version)):
        hint = "what the index says of the package and what its build says differ: ask its author"
        raise UnsafeError(f"the source code of {source} builds {filename}", where=source.filename, hint=hint)


def _platform_of(wheel: Path, source: Source) -> str:
    """The platform tag that says how old a C library the wheel's programs run with; "" where its own tag is right.

    A build on Linux calls itself linux_x86_64, whatever C library it was linked with. Raises ResolveError when it
    needs libraries of this machine that no platform tag promises.
    """
    tags = parse_wheel_filename(wheel.name)[3]
    if not any(tag.platform.startswith("linux_") for tag in tags):
        return ""
    command: list[str | Path] = [sys.executable, "-m", "auditwheel", "show", "--json", wheel]
    done = process.run(command, accept=range(256), folder=wheel.parent)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        words = process.without_secrets(done.stderr[-1000:])
        raise ProgramError(f"auditwheel can't read the wheel of {source}:\n{words}", where="auditwheel") from None
    if "no ELF executable" in said.get("error", ""):
        return ""  # nothing in it was compiled
    if "error" in said:
        raise ProgramError(f"auditwheel can't read the wheel of {source}: {said['error']}", where="auditwheel")
    if said["overall_tag"].startswith("linux_"):
        libraries = ", ".join(sorted(Path(name).name for name in said.get("external_libs", {})))
        needs = f"needs {libraries} of this machine" if libraries else "is tied to this machine"
        hint = "build it yourself, take the libraries into it (auditwheel repair), and put it where find-links looks"
        raise ResolveError(f"the wheel that was built of {source} {needs}", where=source.name, hint=hint)
    return str(said["overall_tag"])


def _require_fit(filename: str, source: Source, target: Target) -> None:
    if target.fits(filename):
        return
    reasons = [platform_difference.differences(target)]
    needed = _GLIBC.search(filename)
    if needed and target.libc.startswith("glibc-") and target.libc_version[1:] < (int(needed[1]), int(needed[2])):
        reasons.insert(0, f"it needs glibc {needed[1]}.{needed[2]}")
    why = ": " + "; ".join(filter(None, reasons)) if any(reasons) else ""
    hint = f"build the bundle on a machine like the target, ask for a version that has a wheel, {_FIND_LINKS}"
    raise ResolveError(
        f"{source} has no wheel for {target}, and the one that was built here from its source code, {filename}, "
        f"does not fit there{why}",
        where=source.name,
        hint=hint,
    )

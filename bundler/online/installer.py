"""The installer, ``bundle.pyz``: one file that needs only Python.

It holds this program without the online side, and the pure-Python packages that it imports, with their licences. The
same program gives the same bytes: entries are sorted, not compressed, and have one date.
"""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path, PurePosixPath

from packaging.specifiers import SpecifierSet

from bundler import template_files
from bundler.errors import BundleError, HostError, UsageError
from bundler.format import disk
from bundler.format.hashing import compute_sha256

PACKAGES = (
    *("annotated-doc", "filelock", "Jinja2", "MarkupSafe", "packaging", "securesystemslib", "shellingham", "tqdm"),
    "typer",
)
"""Distributions that travel inside.

MarkupSafe travels without its compiled module, which it can do without. rich does not travel: typer imports it only for
markup.
"""

MIN_PYTHON = "3.10"
"""The oldest Python of a host; bundler/__main__.py refuses older ones."""

_SHEBANG = b"#!/usr/bin/env python3\n"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_EXCLUDED_PACKAGES = ("online",)
_EXCLUDED_SUFFIXES = (".so", ".pyd", ".dylib", ".c", ".pyi")


def build_installer() -> bytes:
    """Build ``bundle.pyz`` and return its bytes; raises BundleError where a package that it needs is not installed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(_list_entries()):
            info = zipfile.ZipInfo(name, _ZIP_EPOCH)
            info.create_system = 3  # Unix, on any builder
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content)
    return _SHEBANG + buffer.getvalue()


def write_installer(path: Path, data: bytes) -> bool:
    """Write the installer as an executable file.

    Returns:
        False where the file exists already and has the same bytes.

    Raises:
        UsageError: another file has this name. It may be an installer that a host trusts, so it is not overwritten.
        HostError: the folder does not exist.
    """
    if not path.parent.is_dir():
        hint = f"create it: mkdir -p {shlex.quote(str(path.parent))}"
        raise HostError("there is no such folder", where=str(path.parent), hint=hint)
    if path.is_file() and path.read_bytes() == data:
        return False
    if path.exists() or path.is_symlink():
        raise UsageError(
            "another file has this name, and an installer never overwrites a file",
            where=str(path),
            hint=f"compare its SHA-256 with the one of this version, {compute_sha256(data)}; then move that file, or give "
            "another name with -o",
        )
    disk.write_atomically(path, data, 0o755)
    return True


def _list_entries() -> Iterator[tuple[str, bytes]]:
    root = resources.files("bundler")
    with resources.as_file(root) as folder:
        yield "__main__.py", (folder / "__main__.py").read_bytes()
        for path in folder.rglob("*"):
            name = path.relative_to(folder)
            if path.is_file() and name.parts[0] not in _EXCLUDED_PACKAGES and path.suffix == ".py":
                yield str(PurePosixPath("bundler", *name.parts)), path.read_bytes()
    for template in template_files.find_folder().iterdir():
        if template.name.endswith(".j2"):
            yield f"bundler/templates/{template.name}", template.read_bytes()
    for package in PACKAGES:
        yield from _list_distribution_files(package)


def _list_distribution_files(package: str) -> Iterator[tuple[str, bytes]]:
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        hint = f"pip install {package}"
        raise BundleError(f"can't build the installer: {package} is not installed here", hint=hint) from error
    supported = SpecifierSet(distribution.metadata["Requires-Python"] or "")
    if not supported.contains(MIN_PYTHON):
        hint = "install this program into a new virtual environment"
        raise BundleError(f"{package} {distribution.version} does not run on Python {MIN_PYTHON}", hint=hint)
    if distribution.files is None:
        hint = "install this program into a new virtual environment, with pip"
        raise BundleError(f"can't build the installer: {package} has no list of its files (RECORD)", hint=hint)
    for file in distribution.files:
        folder = file.parts[0]
        is_licence = folder.endswith(".dist-info") and any(
            word in file.name.upper() for word in ("LICEN", "NOTICE", "AUTHORS")
        )
        is_code = (
            file.suffix not in _EXCLUDED_SUFFIXES
            and not folder.endswith(".dist-info")
            and folder != ".."
            and file.suffix == ".py"
        )
        if is_licence or is_code:
            yield str(PurePosixPath(*file.parts)), Path(str(distribution.locate_file(file))).read_bytes()

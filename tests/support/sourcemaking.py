"""Makes archives of source code that build themselves: a backend in the tree, which needs nothing but Python and gcc."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

_BACKEND = """
import hashlib, os, pathlib, subprocess, sys, sysconfig, zipfile

NAME, VERSION, REQUIRES, COMPILED, LIBRARIES, MARK = {settings!r}


def build_wheel(folder, config_settings=None, metadata_directory=None):
    if MARK:
        with open(MARK, "a") as runs:
            runs.write(NAME + "\\n")
    tag = "py3-none-any"
    members = {{NAME + ".py": ("VERSION = %r\\n" % VERSION).encode()}}
    if COMPILED:
        tag = "cp%d%d-cp%d%d-linux_%s" % (*sys.version_info[:2], *sys.version_info[:2], os.uname().machine)
        flags = os.environ.get("CFLAGS", "").split()
        where = ["-I", sysconfig.get_path("include")]
        out = os.path.abspath("_" + NAME + ".so")
        command = ["gcc", "-shared", "-fPIC", "-g", *flags, *where, os.path.abspath("ext.c"), "-o", out, *LIBRARIES]
        subprocess.run(command, check=True)
        members["_" + NAME + sysconfig.get_config_var("EXT_SUFFIX")] = pathlib.Path(out).read_bytes()
    name = "%s-%s-%s.whl" % (NAME, VERSION, tag)
    info = "%s-%s.dist-info/" % (NAME, VERSION)
    requires = "".join("Requires-Dist: %s\\n" % one for one in REQUIRES)
    text = "Metadata-Version: 2.1\\nName: %s\\nVersion: %s\\n%s" % (NAME, VERSION, requires)
    members[info + "METADATA"] = text.encode()
    pure = str(not COMPILED).lower()
    wheel = "Wheel-Version: 1.0\\nGenerator: a test\\nRoot-Is-Purelib: %s\\nTag: %s\\n" % (pure, tag)
    members[info + "WHEEL"] = wheel.encode()
    members[info + "RECORD"] = b""
    with zipfile.ZipFile(os.path.join(folder, name), "w", zipfile.ZIP_DEFLATED) as packed:
        for member, data in members.items():
            packed.writestr(member, data)  # with the time of now
    return name
"""
_EXTENSION = """
#include <Python.h>
{code}
static PyObject *answer(PyObject *self, PyObject *none) {{ return PyLong_FromLong({answer}); }}
static PyMethodDef methods[] = {{{{"answer", answer, METH_NOARGS, ""}}, {{0}}}};
static struct PyModuleDef module = {{PyModuleDef_HEAD_INIT, "_{name}", "", -1, methods}};
PyMODINIT_FUNC PyInit__{name}(void) {{ return PyModule_Create(&module); }}
"""


def make_backend(
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    compiled: bool = False,
    libraries: Iterable[str] = (),
    mark: Path | None = None,
) -> str:
    """A module that builds the package."""
    return _BACKEND.format(settings=(name, version, list(requires), compiled, list(libraries), str(mark or "")))


def make_source(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    build_requires: Iterable[str] = (),
    compiled: bool = False,
    code: str = "",
    answer: str = "42",
    libraries: Iterable[str] = (),
    backend: str = "",
    mark: Path | None = None,
) -> Path:
    """Write an archive of source code; its build adds a line to ``mark``. ``backend`` stands in for a build that works.

    ``code`` stands in the C extension before the function whose result is ``answer``.
    """
    lines = [
        "[build-system]",
        f"requires = {list(build_requires)}",
        'build-backend = "backend"',
        'backend-path = ["."]',
    ]
    members = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": "\n".join(lines),
        "backend.py": backend
        or make_backend(name, version, requires=requires, compiled=compiled, libraries=libraries, mark=mark),
        "ext.c": _EXTENSION.format(name=name, code=code, answer=answer),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with gzip.GzipFile(path, "wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for member, text in members.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path

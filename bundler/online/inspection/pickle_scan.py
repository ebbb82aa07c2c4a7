"""A scan of a model's pickles: what each would import when it is loaded, found without loading it."""

from __future__ import annotations

import importlib.metadata
import io
import keyword
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from picklescan import scanner
from picklescan.scanner import Global, SafetyLevel, ScanResult

from bundler.errors import UnsafeError
from bundler.format import paths
from bundler.format.lock.entries import PickleFile
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import pickle_detection, pickle_opcodes
from bundler.format.scan.pickle_detection import PickleLocation
from bundler.format.scan.pickle_machine import STDLIB_MODULES, PickleImport, TooLargeError
from bundler.progress import Reporter

SCANNER = f"picklescan {importlib.metadata.version('picklescan')}"
FIX_HINT = (
    "use a revision of the model that has safetensors, or let the build convert its weights: "
    "'convert: safetensors'; leave out a file that nothing loads with 'exclude'"
)
_COMPRESSION_MAGIC = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"x\x01",
    b"x\x5e",
    b"x\x9c",
    b"x\xda",
    b"\x04\x22\x4d\x18",
    b"]\x00",
    b"ZF",
)
"""First bytes of files that joblib compresses; the scanner would see no pickle in them."""

_HARMLESS_GLOBALS = {
    **dict.fromkeys(
        ("builtins", "__builtin__"),
        {
            "bool",
            "bytearray",
            "bytes",
            "complex",
            "dict",
            "float",
            "frozenset",
            "int",
            "list",
            "long",
            "object",
            "range",
        }
        | {"set", "slice", "str", "tuple", "unicode", "xrange"},
    ),
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "copy_reg": {"_reconstructor"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "types": {"SimpleNamespace"},
}
"""Names of the standard library that only build data; any other name of it is refused.

The scanner's list of dangerous names had gaps many times, and importlib is on neither of its lists.
"""

_CHAINED_READERS = ("NDArrayWrapper", "NumpyArrayWrapper", "ZNDArrayWrapper")
"""Classes that joblib puts into its pickles for arrays, in any library that has a copy of joblib.

Loading one reads the bytes that follow, or another file, as a pickle of its own.
"""

_MAX_SCAN_BYTES = 64 << 10
"""Bytes of a file that the scanner gets where our reader finds no pickle: in a large file it would search for hours."""

logging.getLogger("picklescan").setLevel(logging.CRITICAL + 1)  # we report what it finds


class _RefusedFileError(Exception):
    """A file may not travel; the message goes on after the name of the file."""


def scan_files(alias: str, files: Iterable[tuple[str, Path]], reporter: Reporter) -> tuple[PickleFile, ...]:
    """Find the pickles among a model's files, and what each imports.

    Only pickled bytes are read, not the tensors beside them.

    Args:
        alias: the model.
        files: names in the model, each with the path of its content.
        reporter: gets a warning for each pickle with imports that the scanner does not know.

    Raises:
        UnsafeError: names every file that is dangerous or can't be scanned.
    """
    pickles, problems = [], []
    for name, content in files:
        try:
            pickle = _scan_file(f"models/{alias}/{name}", content)
        except _RefusedFileError as error:
            problems.append(f"  {name} {error}")
            continue
        if pickle is not None:
            pickles.append(pickle)
            if pickle.globals:
                imports = paths.escape(", ".join(pickle.globals))
                reporter.warn(f"{alias}: {name} is a pickle that imports {imports}, which {SCANNER} does not know")
    if problems:
        listed = "\n".join(problems)
        raise UnsafeError(
            f"loading {alias} could run code of its author:\n{listed}", where=f"models: {alias}", hint=FIX_HINT
        )
    return tuple(pickles)


def refuse_pickles(lock: Lock) -> None:
    """Raise UnsafeError that lists all pickles of a lock, and all files with the suffix of one."""
    pickle_paths = {pickle.path for pickle in lock.pickles}
    pickle_paths |= {
        artifact.path for artifact in lock.list_artifacts("model") if pickle_detection.has_pickle_suffix(artifact.path)
    }
    if pickle_paths:
        listed = "\n".join(f"  {path}" for path in sorted(pickle_paths))
        raise UnsafeError(
            f"--no-pickles refuses these files, which are or are named like pickles:\n{listed}", hint=FIX_HINT
        )


def _scan_file(path: str, content: Path) -> PickleFile | None:
    """Scan one file; None where it is no pickle. Raises _RefusedFileError."""
    try:
        locations = pickle_detection.find_pickles(content)
        if not locations and not pickle_detection.has_loadable_suffix(path):
            return None
        if not locations and _is_compressed(content):
            raise _RefusedFileError("is compressed, so its content can't be scanned")
        imports, is_complete = _find_imports(content, locations)
        scanned = _run_scanner(path, content, is_pickle=bool(locations))
    except (pickle_detection.UnreadableFileError, TooLargeError) as error:
        raise _RefusedFileError(str(error)) from error
    if unknown := sorted({_format_import(item) for item in imports if not _is_valid_name(item)}):
        raise _RefusedFileError(
            f"imports names that it computes while loading, or that are no names: {', '.join(unknown)}"
        )
    rated = [*scanned, *_rate_imports(imports)]
    if dangerous := sorted({f"{item.module}.{item.name}" for item in rated if _is_dangerous(item)}):
        raise _RefusedFileError(f"imports {paths.escape(', '.join(dangerous))}")
    if not is_complete:
        raise _RefusedFileError("can't be read to its end, and a loader may run it all the same")
    if not locations and not rated:
        return None  # another format, or an old pickle that imports nothing and so can do nothing
    suspicious = tuple(sorted({f"{item.module}.{item.name}" for item in rated if item.safety != SafetyLevel.Innocuous}))
    return PickleFile(
        path=path, scanner=SCANNER, verdict="suspicious" if suspicious else "innocuous", globals=suspicious
    )


def _is_compressed(content: Path) -> bool:
    with content.open("rb") as file:
        return file.read(pickle_detection.HEAD_BYTES).startswith(_COMPRESSION_MAGIC)


def _find_imports(content: Path, locations: tuple[PickleLocation, ...]) -> tuple[frozenset[PickleImport], bool]:
    """Find what an unpickler would import, and whether everything that is certainly a pickle is complete."""
    imports: set[PickleImport] = set()
    is_complete = True
    for name, offset in locations or (("", 0),):
        with _open_content(content, name) as source:
            source.seek(offset)
            for number, trace in enumerate(pickle_opcodes.trace_pickles(source)):
                imports |= trace.imports
                is_certain = bool(trace.imports) or (bool(locations) and number == 0)
                is_complete &= trace.is_complete or not is_certain
                if trace.uses_extensions and (trace.is_complete or is_certain):
                    raise _RefusedFileError(
                        "imports by number (copyreg extensions), and only its loader knows the names"
                    )
    return frozenset(imports), is_complete


@contextmanager
def _open_content(content: Path, name: str) -> Iterator[IO[bytes]]:
    if not name:
        with content.open("rb") as file:
            yield file
        return
    try:
        with zipfile.ZipFile(content) as archive, archive.open(name) as member:
            yield io.BufferedReader(cast("io.RawIOBase", member))
    except TooLargeError:
        raise
    except pickle_detection.ZIP_ERRORS as error:
        raise pickle_detection.UnreadableFileError(f"holds {paths.escape(name)}, which can't be unpacked") from error


def _is_valid_name(imported: PickleImport) -> bool:
    parts = [*imported.module.split("."), *imported.name.split(".")]
    return imported.is_known and imported.has_valid_name and not any(map(keyword.iskeyword, parts))


def _format_import(imported: PickleImport) -> str:
    return paths.escape(f"{imported.module}.{imported.name}") if imported.is_known else "?"


def _rate_imports(imports: frozenset[PickleImport]) -> list[Global]:
    """Let the scanner rate each import: it gets a pickle that imports them and does nothing else."""
    opcodes = b"".join(_encode_string(item.module) + _encode_string(item.name) + b"\x93" for item in imports)
    rated = list(scanner.scan_pickle_bytes(io.BytesIO(opcodes + b"."), "imports").globals)
    if {(item.module, item.name) for item in rated} != {(item.module, item.name) for item in imports}:
        raise _RefusedFileError("has imports that the scanner does not rate")
    return rated


def _encode_string(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _is_dangerous(imported: Global) -> bool:
    is_stdlib = imported.module.partition(".")[0] in STDLIB_MODULES
    is_harmless = imported.safety == SafetyLevel.Innocuous or imported.name in _HARMLESS_GLOBALS.get(
        imported.module, ()
    )
    reads_on = imported.name.rpartition(".")[2] in _CHAINED_READERS
    return (
        imported.safety == SafetyLevel.Dangerous
        or (is_stdlib and not is_harmless)
        or reads_on
        or _is_indirect(imported)
    )


def _is_indirect(imported: Global) -> bool:
    """Return whether a name leads from its module into another one: ``torch.os.system``."""
    *parents, _ = imported.name.split(".")
    return any(part in STDLIB_MODULES or part.startswith("_") or part.islower() for part in parents)


class _BoundedReader(io.BufferedReader):
    """A file of which no more than ``max_bytes``, and no more than it has, is read at once.

    A pickle may state any length, and a plain read would allocate memory for it.
    """

    def __init__(self, content: Path, max_bytes: int | None) -> None:
        super().__init__(io.FileIO(content))
        size = os.fstat(self.fileno()).st_size
        self._end = size if max_bytes is None else min(size, max_bytes)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._end - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))

    def readline(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._end - self.tell())
        return super().readline(left if size is None or size < 0 else min(size, left))


def _run_scanner(path: str, content: Path, *, is_pickle: bool) -> list[Global]:
    """Return what the scanner finds by itself; raises _RefusedFileError where it fails at what is certainly a pickle."""
    suffix = PurePosixPath(path).suffix.lower()
    try:
        with _BoundedReader(content, None if is_pickle else _MAX_SCAN_BYTES) as file:
            result: ScanResult = scanner.scan_bytes(file, path, suffix)
    except ImportError:
        return []  # it needs NumPy for arrays, which is not installed; our own reader has read them
    except Exception as error:  # a hostile file may raise anything in the scanner: the file is refused
        if not is_pickle:
            return []  # the scanner fails at other data; our own reader has found what it would import
        raise _RefusedFileError(f"makes the scanner fail ({type(error).__name__}: {error})") from error
    return list(result.globals)

"""What a model's pickles would import when they are loaded, found without loading them."""

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
    "take a revision of the model that has safetensors, or have its weights turned into them with "
    "'convert: safetensors'; 'exclude' leaves a file behind that nothing loads"
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
"""How files begin that joblib compresses; the scanner would see no pickle in them."""

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
"""What of Python's own library builds data and nothing else. Any other of it is refused: the scanner's list of what
is dangerous was found to have holes many times, and importlib stands on neither of its lists."""

_CHAINED_READERS = ("NDArrayWrapper", "NumpyArrayWrapper", "ZNDArrayWrapper")
"""What joblib puts into its pickles for arrays, wherever a library keeps a copy of it: loading it reads what follows, or
another file, as a pickle of its own."""

_MAX_SCAN_BYTES = 64 << 10
"""Bytes that the scanner is given of a file in which CPython's reading finds no pickle: it reads on through data that
means nothing, for hours where a file is large."""

logging.getLogger("picklescan").setLevel(logging.CRITICAL + 1)  # what it finds is said by us


def scan_files(alias: str, files: Iterable[tuple[str, Path]], reporter: Reporter) -> tuple[PickleFile, ...]:
    """The pickles among a model's files, and what each imports; ``files`` are their paths and where their content lies.

    Only what is unpickled is read, not the tensors beside it. Raises UnsafeError that names every file which is
    dangerous, or which can't be looked into.
    """
    found, refused = [], []
    for name, content in files:
        try:
            pickle = _scan_file(f"models/{alias}/{name}", content)
        except UnsafeError as error:
            refused.append(f"  {name} {error}")
            continue
        if pickle is not None:
            found.append(pickle)
            if pickle.globals:
                listed = paths.escape(", ".join(pickle.globals))
                reporter.warn(f"{alias}: {name} is a pickle that imports {listed}, which {SCANNER} does not know")
    if refused:
        listed = "\n".join(refused)
        raise UnsafeError(
            f"loading {alias} could run code of strangers:\n{listed}", where=f"models: {alias}", hint=FIX_HINT
        )
    return tuple(found)


def refuse_pickles(lock: Lock) -> None:
    """Refuse pickles altogether; raises UnsafeError that lists them."""
    found = {pickle.path for pickle in lock.pickles}
    found |= {
        artifact.path for artifact in lock.list_artifacts("model") if pickle_detection.has_pickle_suffix(artifact.path)
    }
    if found:
        listed = "\n".join(f"  {path}" for path in sorted(found))
        raise UnsafeError(f"--no-pickles refuses what is or is named like a pickle:\n{listed}", hint=FIX_HINT)


def _scan_file(path: str, content: Path) -> PickleFile | None:
    """What was found in a file, or None where it is no pickle; raises UnsafeError with the rest of a sentence."""
    try:
        held = pickle_detection.find_pickles(content)
        if not held and not pickle_detection.has_loadable_suffix(path):
            return None
        if not held and _is_compressed(content):
            raise UnsafeError("is compressed: nothing can be known of what is in it")
        imports, whole = _find_imports(content, held)
        scanned = _run_scanner(path, content, is_pickle=bool(held))
    except (pickle_detection.UnreadableFileError, TooLargeError) as error:
        raise UnsafeError(str(error)) from error
    if unknown := sorted({_format_import(one) for one in imports if not _is_valid_name(one)}):
        raise UnsafeError(f"imports what is put together while it is loaded, or can be no name: {', '.join(unknown)}")
    found = [*scanned, *_rate_imports(imports)]
    if dangerous := sorted({f"{one.module}.{one.name}" for one in found if _is_dangerous(one)}):
        raise UnsafeError(f"imports {paths.escape(', '.join(dangerous))}")
    if not whole:
        raise UnsafeError("can't be read to its end, which a loader may not mind")
    if not held and not found:
        return None  # another format, or an old pickle that imports nothing and so can do nothing
    left = tuple(sorted({f"{one.module}.{one.name}" for one in found if one.safety != SafetyLevel.Innocuous}))
    return PickleFile(path=path, scanner=SCANNER, verdict="suspicious" if left else "innocuous", globals=left)


def _is_compressed(content: Path) -> bool:
    with content.open("rb") as opened:
        return opened.read(pickle_detection.HEAD_BYTES).startswith(_COMPRESSION_MAGIC)


def _find_imports(content: Path, places: tuple[PickleLocation, ...]) -> tuple[frozenset[PickleImport], bool]:
    """What an unpickler would import, and whether all that surely is a pickle comes to its end."""
    found: set[PickleImport] = set()
    whole = True
    for name, at in places or (("", 0),):
        with _open_content(content, name) as source:
            source.seek(at)
            for number, read in enumerate(pickle_opcodes.trace_pickles(source)):
                found |= read.imports
                sure = bool(read.imports) or (bool(places) and number == 0)
                whole &= read.is_complete or not sure
                if read.uses_extensions and (read.is_complete or sure):
                    raise UnsafeError("imports by a number, which only a run of its loader gives a name")
    return frozenset(found), whole


@contextmanager
def _open_content(content: Path, name: str) -> Iterator[IO[bytes]]:
    if not name:
        with content.open("rb") as opened:
            yield opened
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
    """What the scanner says of each import, asked by a pickle that does nothing but import them."""
    asked = b"".join(_encode_string(one.module) + _encode_string(one.name) + b"\x93" for one in imports)
    judged = list(scanner.scan_pickle_bytes(io.BytesIO(asked + b"."), "imports").globals)
    if {(one.module, one.name) for one in judged} != {(one.module, one.name) for one in imports}:
        raise UnsafeError("imports what the scanner gives no answer to")
    return judged


def _encode_string(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _is_dangerous(imported: Global) -> bool:
    own = imported.module.partition(".")[0] in STDLIB_MODULES
    known = imported.safety == SafetyLevel.Innocuous or imported.name in _HARMLESS_GLOBALS.get(imported.module, ())
    reads_on = imported.name.rpartition(".")[2] in _CHAINED_READERS
    return imported.safety == SafetyLevel.Dangerous or (own and not known) or reads_on or _is_indirect(imported)


def _is_indirect(imported: Global) -> bool:
    """Whether a name leads from its module to what another keeps: torch has an attribute ``os`` as well."""
    *way, _ = imported.name.split(".")
    return any(part in STDLIB_MODULES or part.startswith("_") or part.islower() for part in way)


class _BoundedReader(io.BufferedReader):
    """A file that is asked for no more than its first ``most`` bytes, and no more than it has: a pickle may state any
    length, and memory is set aside for it."""

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
    """What the scanner finds by its own reading; raises UnsafeError where it fails at what surely is a pickle."""
    ending = PurePosixPath(path).suffix.lower()
    try:
        with _BoundedReader(content, None if is_pickle else _MAX_SCAN_BYTES) as opened:
            result: ScanResult = scanner.scan_bytes(opened, path, ending)
    except ImportError:
        return []  # it reads arrays by NumPy, which is not here; they were read already
    except Exception as error:  # a hostile file may raise anything in it: whatever it is, the file is refused
        if not is_pickle:
            return []  # it stumbles over data; what an unpickler would import of it was read already
        raise UnsafeError(f"can't be looked into by the scanner ({type(error).__name__}: {error})") from error
    return list(result.globals)

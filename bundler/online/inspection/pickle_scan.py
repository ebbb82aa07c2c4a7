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
from bundler.format.lock.entries import Pickle
from bundler.format.lock.lockfile import Lock
from bundler.format.scan import pickle_detection, pickle_opcodes
from bundler.format.scan.pickle_detection import Place
from bundler.format.scan.pickle_machine import OWN, Import, TooLargeError
from bundler.progress import Report

SCANNER = f"picklescan {importlib.metadata.version('picklescan')}"
REMEDY = (
    "take a revision of the model that has safetensors, or have its weights turned into them with "
    "'convert: safetensors'; 'exclude' leaves a file behind that nothing loads"
)
_COMPRESSED = (
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

_DATA = {
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

_READS_ON = ("NDArrayWrapper", "NumpyArrayWrapper", "ZNDArrayWrapper")
"""What joblib puts into its pickles for arrays, wherever a library keeps a copy of it: loading it reads what follows, or
another file, as a pickle of its own."""

_ENOUGH = 64 << 10
"""Bytes that the scanner is given of a file in which CPython's reading finds no pickle: it reads on through data that
means nothing, for hours where a file is large."""

logging.getLogger("picklescan").setLevel(logging.CRITICAL + 1)  # what it finds is said by us


def scan(alias: str, files: Iterable[tuple[str, Path]], report: Report) -> tuple[Pickle, ...]:
    """The pickles among a model's files, and what each imports; ``files`` are their paths and where their content lies.

    Only what is unpickled is read, not the tensors beside it. Raises UnsafeError that names every file which is
    dangerous, or which can't be looked into.
    """
    found, refused = [], []
    for name, content in files:
        try:
            pickle = _scanned(f"models/{alias}/{name}", content)
        except UnsafeError as error:
            refused.append(f"  {name} {error}")
            continue
        if pickle is not None:
            found.append(pickle)
            if pickle.globals:
                listed = paths.shown(", ".join(pickle.globals))
                report.warn(f"{alias}: {name} is a pickle that imports {listed}, which {SCANNER} does not know")
    if refused:
        listed = "\n".join(refused)
        raise UnsafeError(
            f"loading {alias} could run code of strangers:\n{listed}", where=f"models: {alias}", hint=REMEDY
        )
    return tuple(found)


def refuse(locked: Lock) -> None:
    """Refuse pickles altogether; raises UnsafeError that lists them."""
    found = {pickle.path for pickle in locked.pickles}
    found |= {artifact.path for artifact in locked.of_kind("model") if pickle_detection.named_like_one(artifact.path)}
    if found:
        listed = "\n".join(f"  {path}" for path in sorted(found))
        raise UnsafeError(f"--no-pickles refuses what is or is named like a pickle:\n{listed}", hint=REMEDY)


def _scanned(path: str, content: Path) -> Pickle | None:
    """What was found in a file, or None where it is no pickle; raises UnsafeError with the rest of a sentence."""
    try:
        held = pickle_detection.places(content)
        if not held and not pickle_detection.taken_for_one(path):
            return None
        if not held and _is_compressed(content):
            raise UnsafeError("is compressed: nothing can be known of what is in it")
        imports, whole = _imports(content, held)
        scanned = _result(path, content, surely=bool(held))
    except (pickle_detection.Unreadable, TooLargeError) as error:
        raise UnsafeError(str(error)) from error
    if unknown := sorted({_named(one) for one in imports if not _is_a_name(one)}):
        raise UnsafeError(f"imports what is put together while it is loaded, or can be no name: {', '.join(unknown)}")
    found = [*scanned, *_judged(imports)]
    if dangerous := sorted({f"{one.module}.{one.name}" for one in found if _is_dangerous(one)}):
        raise UnsafeError(f"imports {paths.shown(', '.join(dangerous))}")
    if not whole:
        raise UnsafeError("can't be read to its end, which a loader may not mind")
    if not held and not found:
        return None  # another format, or an old pickle that imports nothing and so can do nothing
    left = tuple(sorted({f"{one.module}.{one.name}" for one in found if one.safety != SafetyLevel.Innocuous}))
    return Pickle(path=path, scanner=SCANNER, verdict="suspicious" if left else "innocuous", globals=left)


def _is_compressed(content: Path) -> bool:
    with content.open("rb") as opened:
        return opened.read(pickle_detection.HEAD).startswith(_COMPRESSED)


def _imports(content: Path, held: tuple[Place, ...]) -> tuple[frozenset[Import], bool]:
    """What an unpickler would import, and whether all that surely is a pickle comes to its end."""
    found: set[Import] = set()
    whole = True
    for name, at in held or (("", 0),):
        with _opened(content, name) as source:
            source.seek(at)
            for number, read in enumerate(pickle_opcodes.read_all(source)):
                found |= read.imports
                sure = bool(read.imports) or (bool(held) and number == 0)
                whole &= read.ended or not sure
                if read.extended and (read.ended or sure):
                    raise UnsafeError("imports by a number, which only a run of its loader gives a name")
    return frozenset(found), whole


@contextmanager
def _opened(content: Path, name: str) -> Iterator[IO[bytes]]:
    if not name:
        with content.open("rb") as opened:
            yield opened
        return
    try:
        with zipfile.ZipFile(content) as archive, archive.open(name) as member:
            yield io.BufferedReader(cast("io.RawIOBase", member))
    except TooLargeError:
        raise
    except pickle_detection.BROKEN_ZIP as error:
        raise pickle_detection.Unreadable(f"holds {paths.shown(name)}, which can't be unpacked") from error


def _is_a_name(one: Import) -> bool:
    parts = [*one.module.split("."), *one.name.split(".")]
    return one.known and one.named and not any(map(keyword.iskeyword, parts))


def _named(one: Import) -> str:
    return paths.shown(f"{one.module}.{one.name}") if one.known else "?"


def _judged(imports: frozenset[Import]) -> list[Global]:
    """What the scanner says of each import, asked by a pickle that does nothing but import them."""
    asked = b"".join(_text(one.module) + _text(one.name) + b"\x93" for one in imports)
    judged = list(scanner.scan_pickle_bytes(io.BytesIO(asked + b"."), "imports").globals)
    if {(one.module, one.name) for one in judged} != {(one.module, one.name) for one in imports}:
        raise UnsafeError("imports what the scanner gives no answer to")
    return judged


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _is_dangerous(one: Global) -> bool:
    own = one.module.partition(".")[0] in OWN
    known = one.safety == SafetyLevel.Innocuous or one.name in _DATA.get(one.module, ())
    reads_on = one.name.rpartition(".")[2] in _READS_ON
    return one.safety == SafetyLevel.Dangerous or (own and not known) or reads_on or _leads_elsewhere(one)


def _leads_elsewhere(one: Global) -> bool:
    """Whether a name leads from its module to what another keeps: torch has an attribute ``os`` as well."""
    *way, _ = one.name.split(".")
    return any(part in OWN or part.startswith("_") or part.islower() for part in way)


class _Bounded(io.BufferedReader):
    """A file that is asked for no more than its first ``most`` bytes, and no more than it has: a pickle may state any
    length, and memory is set aside for it."""

    def __init__(self, content: Path, most: int | None) -> None:
        super().__init__(io.FileIO(content))
        size = os.fstat(self.fileno()).st_size
        self._end = size if most is None else min(size, most)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._end - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))

    def readline(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._end - self.tell())
        return super().readline(left if size is None or size < 0 else min(size, left))


def _result(path: str, content: Path, *, surely: bool) -> list[Global]:
    """What the scanner finds by its own reading; raises UnsafeError where it fails at what surely is a pickle."""
    ending = PurePosixPath(path).suffix.lower()
    try:
        with _Bounded(content, None if surely else _ENOUGH) as opened:
            result: ScanResult = scanner.scan_bytes(opened, path, ending)
    except ImportError:
        return []  # it reads arrays by NumPy, which is not here; they were read already
    except Exception as error:  # a hostile file may raise anything in it: whatever it is, the file is refused
        if not surely:
            return []  # it stumbles over data; what an unpickler would import of it was read already
        raise UnsafeError(f"can't be looked into by the scanner ({type(error).__name__}: {error})") from error
    return list(result.globals)

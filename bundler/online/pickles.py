"""What a model's pickles would import when they are loaded, found without loading them."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import pickletools
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from picklescan import scanner
from picklescan.scanner import Global, SafetyLevel, ScanResult

from bundler.bundle import paths, pickles
from bundler.bundle.entries import Pickle
from bundler.bundle.lock import Lock
from bundler.errors import UnsafeError
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
    b"]\x00\x00",
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
    found |= {artifact.path for artifact in locked.of_kind("model") if pickles.named_like_one(artifact.path)}
    if found:
        listed = "\n".join(f"  {path}" for path in sorted(found))
        raise UnsafeError(f"--no-pickles refuses what is or is named like a pickle:\n{listed}", hint=REMEDY)


def _scanned(path: str, content: Path) -> Pickle | None:
    """What was found in a file, or None where it is no pickle; raises UnsafeError with the rest of a sentence."""
    with content.open("rb") as opened:
        head = opened.read(pickles.HEAD)
    if not head:
        return None
    inside = _pickles_inside(head, content)
    sure = pickles.begins_like_one(head) or inside > 0
    named = pickles.named_like_one(path)
    if not sure and not named:
        return None
    if named and not sure and head.startswith(_COMPRESSED):
        raise UnsafeError("is compressed: nothing can be known of what is in it")
    result = _result(path, content)
    if sure and (result.scan_err or result.scanned_files < inside):
        raise UnsafeError("can't be read to its end by the scanner, which a loader may not mind")
    if dangerous := sorted({f"{one.module}.{one.name}" for one in result.globals if _is_dangerous(one)}):
        raise UnsafeError(f"imports {paths.shown(', '.join(dangerous))}")
    if not sure and not result.globals:
        return None  # another format, or an old pickle that imports nothing and so can do nothing
    unknown = tuple(sorted({f"{g.module}.{g.name}" for g in result.globals if g.safety != SafetyLevel.Innocuous}))
    return Pickle(path=path, scanner=SCANNER, verdict="suspicious" if unknown else "innocuous", globals=unknown)


def _is_dangerous(one: Global) -> bool:
    own = one.module.partition(".")[0] in {*sys.stdlib_module_names, "__builtin__", "copy_reg"}
    known = one.safety == SafetyLevel.Innocuous or one.name in _DATA.get(one.module, ())
    return one.safety == SafetyLevel.Dangerous or (own and not known)


class _Bounded(io.BufferedReader):
    """A file that is asked for no more than it has: a pickle may state any length, and memory is set aside for it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read(size)
        return super().read(min(size, max(0, os.fstat(self.fileno()).st_size - self.tell())))


def _result(path: str, content: Path) -> ScanResult:
    """What the scanner says; raises UnsafeError where it fails."""
    ending = PurePosixPath(path).suffix.lower()
    try:
        with _Bounded(io.FileIO(content)) as opened:
            return scanner.scan_bytes(opened, path, ending)
    except Exception as error:  # a hostile file may raise anything in it: whatever it is, the file is refused
        if isinstance(error, ValueError) and _ends_before_it_imports(content):
            return ScanResult([])
        raise UnsafeError(f"can't be looked into by the scanner ({type(error).__name__}: {error})") from error


def _ends_before_it_imports(content: Path) -> bool:
    """Whether an unpickler fails at an import for which nothing is on its stack, and imports nothing before.

    The scanner gives up there. NumPy's arrays are such files: their first byte, 0x93, is that import.
    """
    pushed = 0
    with _Bounded(io.FileIO(content)) as opened:
        for opcode, _, _ in pickletools.genops(opened):
            if opcode.name == "STACK_GLOBAL":
                return pushed < 2
            if opcode.name in {"GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}:
                return False
            pushed += len(opcode.stack_after)
    return False


def _pickles_inside(head: bytes, content: Path) -> int:
    """How many pickles a zip archive holds; raises UnsafeError where two readers could see different ones."""
    if not head.startswith(pickles.ZIP):
        return 0
    try:
        with zipfile.ZipFile(content) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return 0
    found = [name for name in names if name.lower().endswith(".pkl")]
    # torch looks a member up whatever its case, and takes another of two that bear one name than the scanner does
    if len({name.lower() for name in names}) < len(names) or any(not name.endswith(".pkl") for name in found):
        raise UnsafeError("holds members that a loader and the scanner would not read as the same")
    return len(found)

"""Pickles are found by name and by content, and what they would import is said without loading them."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import random
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.errors import UnsafeError
from bundler.format.scan import pickle_detection as telling
from bundler.format.scan import pickle_machine, pickle_opcodes
from bundler.offline.trust import pickle_policy as arriving
from bundler.online.inspection import pickle_scan
from bundler.progress import RecordingReporter
from tests.support.picklemaking import (
    ARRAY,
    BY_MEMO,
    NO_FILE,
    REBUILD,
    RUNS,
    SYSTEM,
    Reduced,
    archive,
    moved,
    safetensors,
    tar,
    two_tables,
)

ZERO = b"I1\0 and more\n0"
ZERO_MEMO = b"Np0\0 and more\n0"
ELSEWHERE = b"\x80\x04\x8c\x0ctorch._utils\x8c\x09os.system\x93."
GARBAGE = b"\xff and no pickle"
HIDDEN = archive(w__data_dot_pkl=RUNS)
WRAPPED = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)R}b"
DANGEROUS = {
    "by reduce": ("w.bin", pickle.dumps(SYSTEM), "imports posix.system"),
    "of the first protocol": ("w.pt", pickle.dumps(SYSTEM, 0), "imports posix.system"),
    "by inst": ("w.pt", b"(S'true'\nios\nsystem\n.", "imports os.system"),
    "by names on the stack": ("w.pkl", b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "imports os.system"),
    "cut short after the import": ("w.ckpt", pickle.dumps(SYSTEM)[:-3], "imports posix.system"),
    "what the scanner has on no list": (
        "w.bin",
        pickle.dumps(Reduced(importlib.import_module, "os")),
        "imports importlib.import_module",
    ),
    "as torch.save writes": ("w.bin", archive(w__data_dot_pkl=pickle.dumps(SYSTEM)), "imports posix.system"),
    "under a name that says nothing": ("w.dat", archive(w__data_dot_pkl=pickle.dumps(SYSTEM)), "imports posix.system"),
    "behind other members": (
        "notes",
        archive(a=b"x" * 5000, w__data_dot_pkl=pickle.dumps(SYSTEM)),
        "imports posix.system",
    ),
    "a second one in other case": (
        "w.pt",
        archive(w__data_dot_pkl=REBUILD, w__DATA_dot_pkl=pickle.dumps(SYSTEM)),
        "would read differently",
    ),
    "compressed": ("w.joblib", b"\x1f\x8b" + b"x" * 100, "is compressed"),
    "before a length that no file has": (
        "w.bin",
        pickle.dumps(SYSTEM, 0)[:-1] + b"\x8e" + NO_FILE,
        "imports posix.system",
    ),
    "an import before one without a name": ("w.bin", b"cos\nsystem\n\x93", "imports os.system"),
    "a broken archive": ("w.pth", archive(w__data_dot_pkl=REBUILD)[:60], "can be read in more than one way"),
    "a number in another base": ("w.bin", b"\x80\x02I0x1\n0" + RUNS, "imports os.system"),
    "the same under a name that says nothing": ("w.dat", b"\x80\x02I0x1\n0" + RUNS, "imports os.system"),
    "the same without its protocol": ("pytorch_model.bin", b"I0x1\n0" + RUNS, "imports os.system"),
    "the same as torch.save writes": ("w.dat", archive(w__data_dot_pkl=b"\x80\x02I0x1\n0" + RUNS), "imports os.system"),
    "behind tensors": ("w.dat", archive(w__data__0=b"x" * 900, w__data_dot_pkl=RUNS), "imports os.system"),
    "a module by way of the memo": ("w.bin", BY_MEMO, "imports os.system"),
    "a name that a call makes": (
        "w.bin",
        b"\x80\x02\x8c\x02oscoperator\nadd\n)R\x93.",
        "imports names that it computes while loading",
    ),
    "a name that is none": ("w.bin", b"\x80\x02cos path\nsystem\n.", "or that are no names"),
    "a second pickle behind the first": ("w.bin", pickle.dumps(1) + pickle.dumps(SYSTEM), "imports posix.system"),
    "a pickle without an end": ("w.dat", b"\x80\x02]", "can't be read to its end"),
    "an extension": ("w.bin", b"\x80\x02\x82\x01.", "by number"),
    "a number with a zero byte in it": ("w.bin", ZERO + RUNS, "imports os.system"),
    "a number of the memo with a zero byte": ("w.bin", ZERO_MEMO + RUNS, "imports os.system"),
    "beside a name that the scanner can't read": (
        "w.bin",
        b"\x80\x02I0x1\n0" + RUNS[:-1] + "ca\u00e9\nx\n.".encode(),
        "imports os.system",
    ),
    "a module by its name of Python 2": ("w.bin", b"\x80\x02ccommands\ngetoutput\n.", "imports commands.getoutput"),
    "a module that newer Pythons lack": ("w.bin", b"\x80\x02cpipes\nTemplate\n.", "imports pipes.Template"),
    "an attribute that is another module": ("w.bin", ELSEWHERE, "imports torch._utils.os.system"),
    "before what only its loader reads": ("w.joblib", WRAPPED + b"\0\0" + RUNS, "numpy_pickle.NumpyArrayWrapper"),
    "what joblib loads as a pickle of its own": ("w.joblib", WRAPPED + b".", "joblib.numpy_pickle.NumpyArrayWrapper"),
    "what joblib loads from another file": (
        "w.pkl",
        b"cjoblib.numpy_pickle_compat\nNDArrayWrapper\n)\x81.",
        "joblib.numpy_pickle_compat.NDArrayWrapper",
    ),
    "a copy of joblib in a library": (
        "w.dat",
        b"csklearn.externals.joblib.numpy_pickle\nZNDArrayWrapper\n)\x81.",
        "joblib.numpy_pickle.ZNDArrayWrapper",
    ),
    "a zip behind other content": ("w.dat", b"x" * 5000 + moved(HIDDEN, 5000), "imports os.system"),
    "a zip behind other content that its table does not count": ("w.dat", b"x" * 5000 + HIDDEN, "in more than one way"),
    "a zip before other content": ("w.dat", b"x" + moved(HIDDEN, 1) + b"x" * 5000, "in more than one way"),
    "a second table of contents": (
        "w.dat",
        two_tables(archive(w__data_dot_pkl=REBUILD), archive(a=b"x" * 900, w__data_dot_pkl=RUNS)),
        "in more than one way",
    ),
    "the first protocol under a name that says nothing": ("weights.dat", pickle.dumps(SYSTEM, 0), "posix.system"),
    "the second protocol under a name that says nothing": ("state", pickle.dumps(SYSTEM, 1), "posix.system"),
    "a newer one that leaves its protocol out": ("state", pickle.dumps(SYSTEM, 2)[2:], "imports posix.system"),
    "one in frames that leaves its protocol out": ("state", pickle.dumps(SYSTEM, 4)[2:], "imports posix.system"),
    "a call before what is no pickle": ("state", RUNS[:-1] + GARBAGE, "imports os.system"),
    "a call with a list, which unpicklers written in Python take": (
        "state",
        b"cos\nsystem\n](S'true'\neR" + GARBAGE,
        "imports os.system",
    ),
    "by inst before what is no pickle": ("state", b"(S'true'\nios\nsystem\n" + GARBAGE, "imports os.system"),
    "by obj before what is no pickle": ("state", b"(cos\nsystem\nS'true'\no" + GARBAGE, "imports os.system"),
    "a class before what is no pickle": ("state", b"cpoplib\nPOP3\nS'host'\n\x85\x81" + GARBAGE, "imports poplib.POP3"),
    "a class with names before what is no pickle": ("state", b"cpoplib\nPOP3\n)}\x92" + GARBAGE, "imports poplib.POP3"),
    "a module that is given other functions": ("state", b"cos\npath\n}S'join'\ncos\nsystem\nsb" + GARBAGE, "os.system"),
    "a list that is given more": ("state", b"csys\npath\nS'/tmp'\na" + GARBAGE, "imports sys.path"),
    "a list that is given all of several": ("state", b"csys\npath\n(S'/tmp'\ne" + GARBAGE, "imports sys.path"),
    "a dictionary that is given more": ("state", b"cos\nenviron\nS'PATH'\nS'/tmp'\ns" + GARBAGE, "imports os.environ"),
    "a dictionary that is given all of several": (
        "state",
        b"cos\nenviron\n(S'PATH'\nS'/tmp'\nu" + GARBAGE,
        "imports os.environ",
    ),
    "an import that is given another": (
        "state",
        b"cjson\ncodecs\ncpickle\n__dict__\nb" + GARBAGE,
        "imports json.codecs",
    ),
    "what its loader is given to call": ("state", b"cos\nsystem\n.", "imports os.system"),
    "behind pickles that do nothing": ("state", b"N.N." + RUNS, "imports os.system"),
    "behind the end of a frame": (
        "state",
        b"\x95" + (3).to_bytes(8, "little") + b"\x8c\x20N" + b"x" * 31 + b".",
        "imports names that it computes while loading",
    ),
    "a name that is longer than any": (
        "state",
        b"ctorch\n" + b"_utils." * 10_000 + b"os.system\n(S'true'\ntR.",
        "imports names that it computes while loading",
    ),
    "named like safetensors": ("model.safetensors", RUNS, "imports os.system"),
    "what begins like safetensors and is cut": (
        "model.safetensors",
        safetensors(4915840)[:-1],
        "can't be read to its end",
    ),
    "the seventieth in a file": ("w.bin", pickle.dumps(1) * 70 + RUNS, "imports os.system"),
    "an array in a member of any name": ("w.npz", archive(a=ARRAY), "imports os.system"),
    "an array that is none": ("w.npy", RUNS, "imports os.system"),
    "by inst where nothing is marked": ("w.pt", b"ios\nsystem\n", "imports os.system"),
    "a name that a zip cuts short": (
        "w.pt",
        archive(**{"w/data.pkl_x": RUNS}).replace(b"data.pkl_x", b"data.pkl\0x"),
        "would read differently",
    ),
    "a member whose checksum is wrong": (
        "w.pt",
        archive(w__data_dot_pkl=REBUILD).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
        "can't be unpacked",
    ),
    "a string across the end of its frame": (
        "w.bin",
        b"\x80\x04\x95" + (3).to_bytes(8, "little") + b"\x8c\x20N" + b"x" * 31 + b".",
        "imports names that it computes while loading",
    ),
    "an end within its frame": (
        "w.bin",
        b"\x80\x04\x95" + (9).to_bytes(8, "little") + b"N.",
        "imports names that it computes",
    ),
    "a tar with one part of it": ("w.dat", tar(storages=RUNS), "is a tar in the format of torch"),
    "a tar as torch once wrote": (
        "w.tar",
        tar(pickle=RUNS, storages=b"", tensors=b""),
        "is a tar in the format of torch",
    ),
    "a zip with a second end": ("w.dat", archive(w__data_dot_pkl=RUNS) + b"PK\5\6", "in more than one way"),
    "an array of objects": ("w.npy", ARRAY, "imports os.system"),
    "an array of objects among others": ("w.npz", archive(a_dot_npy=ARRAY), "imports os.system"),
}


def scan_pickle(
    tmp_path: Path, name: str, data: bytes, report: RecordingReporter | None = None
) -> list[tuple[str, tuple[str, ...]]]:
    (tmp_path / "content").write_bytes(data)
    found = pickle_scan.scan_files("m", [(name, tmp_path / "content")], report or RecordingReporter())
    assert {one.scanner for one in found} <= {pickle_scan.SCANNER}
    assert {one.path for one in found} <= {f"models/m/{name}"}
    return [(one.verdict, one.globals) for one in found]


@pytest.mark.parametrize("case", DANGEROUS)
def test_what_could_run_code_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, data, why = DANGEROUS[case]
    with pytest.raises(UnsafeError, match="loading m could run code of its author") as caught:
        scan_pickle(tmp_path, name, data)
    assert f"  {name} " in str(caught.value)
    assert why in str(caught.value)
    assert "safetensors" in caught.value.hint


def test_all_that_is_dangerous_is_named_at_once(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(SYSTEM))
    with pytest.raises(UnsafeError) as caught:
        pickle_scan.scan_files("m", [(name, tmp_path / name) for name in ("a.bin", "b.bin")], RecordingReporter())
    assert str(caught.value).count("imports posix.system") == 2


def test_weights_that_only_rebuild_tensors_are_innocuous(tmp_path: Path) -> None:
    assert scan_pickle(tmp_path, "w.bin", archive(w__data_dot_pkl=REBUILD, w__data__0=b"\0" * 64)) == [
        ("innocuous", ())
    ]
    assert scan_pickle(tmp_path, "notes", pickle.dumps({"a": 1})) == [("innocuous", ())]


def test_what_the_scanner_does_not_know_is_said_and_kept(tmp_path: Path) -> None:
    report = RecordingReporter()
    data = b"\x80\x02ctorch._utils\n_rebuild_parameter\ncargparse\nNamespace\n."
    unknown = ("argparse.Namespace", "torch._utils._rebuild_parameter")
    assert scan_pickle(tmp_path, "w.bin", data, report) == [("suspicious", unknown)]
    assert "w.bin is a pickle that imports argparse.Namespace, torch._utils._rebuild_parameter" in report.warnings[0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("w.bin", b"w" * 5000),
        ("empty.pt", b""),
        ("vectors.bin", bytes(range(256)) * 10),
        ("model.safetensors", safetensors()),
        ("long.safetensors", safetensors(0x4B0280)),
        ("notes.zip", archive(a=b"text")),
        ("config.json", b"{}"),
        ("lengths.bin", b"\x8e" + NO_FILE + b"w" * 5000),
        ("lengths.dat", b"\x8d" + NO_FILE),
        ("array.bin", ARRAY.replace(b"'|O'", b"'<f4'").replace(RUNS, bytes(4))),
        ("array.npy", ARRAY.replace(b"'|O'", b"'<f4'").replace(RUNS, bytes(4))),
        ("photos.tar", tar(a=b"x", b=b"y")),
        ("fields.npy", ARRAY.replace(b"'|O'", b"[('Of', '<i4', (1,))]").replace(RUNS, bytes(4))),
        ("text.bin", b"I am a list of words\ncat\ndog\nsystem\n"),
        ("extension.bin", b"\x82\x01" + bytes(64)),
        ("after a number.bin", b"K\x01\x93" + bytes(128)),
    ],
)
def test_what_is_no_pickle_is_none(name: str, data: bytes, tmp_path: Path) -> None:
    assert scan_pickle(tmp_path, name, data) == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02I0x1\n0" + RUNS,
        b"I0x1\n0" + RUNS,
        BY_MEMO,
        ARRAY[ARRAY.index(RUNS) :],
        ZERO + RUNS,
        ZERO_MEMO + RUNS,
        b"L0x1L\n0" + RUNS,
        b"\x80\x02Nq\x070h\x070" + RUNS,
        RUNS[:-1] + GARBAGE,
        b"(S'true'\nios\nsystem\n" + GARBAGE,
        b"(cos\nsystem\nS'true'\no" + GARBAGE,
    ],
    ids=range(11),
)
def test_those_would_really_run(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython's own unpickler calls what they name, whatever follows: here a function that only counts."""
    called: list[str] = []

    def system(command: str) -> None:
        called.append(command)

    monkeypatch.setattr(os, "system", system)
    with suppress(pickle.UnpicklingError):
        pickle.loads(data)  # noqa: S301 (made above)
    assert called == ["true"]


@pytest.mark.parametrize("case", DANGEROUS)
def test_a_host_that_takes_no_pickles_refuses_the_same_files(case: str, tmp_path: Path) -> None:
    name, data, _ = DANGEROUS[case]
    (tmp_path / "content").write_bytes(data)
    if not telling.has_pickle_suffix(name):
        with pytest.raises(UnsafeError, match=name):
            arriving.refuse_found_pickles([(name, tmp_path / "content")])


class Recording(pickle.Unpickler):
    """Notes what a pickle imports, and imports nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.asked: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.asked.add(f"{module}.{name}")
        return lambda *_: Anything()


class Anything(dict[Any, Any]):
    """Takes whatever state an object is given."""

    def __setstate__(self, state: object) -> None: ...

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...


JUNK = st.sampled_from(
    [b"", b"N0", b"I0x1\n0", b"]0", b"\x80\x04", b"K\x07\x940", b"(1", b"L7L\n0", b"F0x1p3\n0", b"S'os'\n0"]
)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.integers(), st.text(max_size=5), st.binary(max_size=5), st.floats(allow_nan=False),
        st.sampled_from([Path("x"), os.system, Reduced(os.system, "x"), complex(1, 2), range(3), slice(1), Counter("a")]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3),
                            st.tuples(inner, inner)),
    max_leaves=6,
)  # fmt: skip


@given(VALUES, st.integers(0, 5), st.lists(JUNK, max_size=4))
def test_whatever_an_unpickler_asks_for_was_read(value: object, protocol: int, junk: list[bytes]) -> None:
    data = pickle.dumps(value, protocol)
    begin = 2 if protocol >= 2 else 0
    data = data[:begin] + b"".join(junk) + data[begin:]
    recording = Recording(data)
    try:
        recording.load()
    except Exception:  # noqa: BLE001 (what it asked for until then counts)
        ended = False
    else:
        ended = True
    read = pickle_opcodes.trace_pickle(io.BytesIO(data))
    found = {f"{one.module}.{one.name}" for one in read.imports}
    assert recording.asked <= found or not all(one.is_known for one in read.imports)
    assert read.is_complete or not ended


def test_random_weights_are_none() -> None:
    numbers = random.Random(7)
    read = [pickle_opcodes.trace_pickle(io.BytesIO(numbers.randbytes(2000))) for _ in range(5000)]
    assert sum(bool(one.imports or (one.is_complete and one.uses_extensions)) for one in read) <= 5


def test_values_below_marks_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "_MAX_VALUES", 1000)
    with pytest.raises(pickle_machine.TooLargeError):
        pickle_opcodes.trace_pickle(io.BytesIO(b"NNNNNNNNN(" * 200))
    assert pickle_opcodes.trace_pickle(io.BytesIO(b"(NNNNNNNNN1" * 200 + b"N.")).is_complete


def test_a_file_that_goes_on_and_on_is_not_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one pickle or in many: somebody waits for this."""
    monkeypatch.setattr(pickle_opcodes, "MAX_STEPS", 1000)
    for data in (b"N0" * 2000 + b"N.", b"N." * 2000):
        with pytest.raises(pickle_machine.TooLargeError, match="more opcodes than are followed"):
            list(pickle_opcodes.trace_pickles(io.BytesIO(data)))


def test_data_that_is_no_pickle_does_not_keep_the_scanner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is an opcode that fails; the scanner alone would go on, at some microseconds for each."""
    asked: list[int] = []
    inner = pickle_scan._BoundedReader.read

    def heard(self: pickle_scan._BoundedReader, size: int = -1) -> bytes:
        asked.append(size)
        return inner(self, size)

    monkeypatch.setattr(pickle_scan._BoundedReader, "read", heard)
    content = tmp_path / "b.bin"
    content.write_bytes(b"b" * (3 << 20))
    assert pickle_scan.scan_files("m", [("b.bin", content)], RecordingReporter()) == ()
    assert 0 < len(asked) < 1 << 20


@given(st.binary(max_size=300))
def test_data_that_is_no_pickle_is_read_to_no_harm(data: bytes) -> None:
    recording = Recording(data)
    with suppress(Exception):
        recording.load()
    read = pickle_opcodes.trace_pickle(io.BytesIO(data))
    assert recording.asked <= {f"{one.module}.{one.name}" for one in read.imports} or not all(
        one.is_known for one in read.imports
    )


def test_tensors_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("w/data.pkl", REBUILD)
        packed.writestr("w/data/0", bytes(64 << 20))

    def read() -> int:
        return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])

    before = read()
    assert pickle_scan.scan_files("m", [("w.bin", path)], RecordingReporter())
    assert read() - before < 1 << 20

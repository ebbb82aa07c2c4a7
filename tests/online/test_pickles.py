"""Pickles are found by name and by content, and what they would import is said without loading them."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.bundle import pickles as telling
from bundler.errors import UnsafeError
from bundler.online import pickles
from bundler.progress import Collected

REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nctorch\nFloatStorage\nccollections\nOrderedDict\n."


class Reduced:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


def archive(**members: bytes) -> bytes:
    """A zip archive; ``__`` in a name stands for a slash, ``_dot_`` for a dot."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, data in members.items():
            packed.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return out.getvalue()


SYSTEM = Reduced(os.system, "true")
NO_FILE = (1 << 62).to_bytes(8, "little")
"""The length of bytes in a pickle, of which there are not as many in the world."""
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
        "would not read as the same",
    ),
    "compressed": ("w.joblib", b"\x1f\x8b" + b"x" * 100, "is compressed"),
    "before a length that no file has": (
        "w.bin",
        pickle.dumps(SYSTEM, 0)[:-1] + b"\x8e" + NO_FILE,
        "imports posix.system",
    ),
    "an import before one without a name": ("w.bin", b"cos\nsystem\n\x93", "can't be looked into by the scanner"),
    "a broken archive": ("w.pth", archive(w__data_dot_pkl=REBUILD)[:60], "can't be looked into by the scanner"),
}


def scanned(
    tmp_path: Path, name: str, data: bytes, report: Collected | None = None
) -> list[tuple[str, tuple[str, ...]]]:
    (tmp_path / "content").write_bytes(data)
    found = pickles.scan("m", [(name, tmp_path / "content")], report or Collected())
    assert {one.scanner for one in found} <= {pickles.SCANNER}
    assert {one.path for one in found} <= {f"models/m/{name}"}
    return [(one.verdict, one.globals) for one in found]


@pytest.mark.parametrize("case", DANGEROUS)
def test_what_could_run_code_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, data, why = DANGEROUS[case]
    with pytest.raises(UnsafeError, match="loading m could run code of strangers") as caught:
        scanned(tmp_path, name, data)
    assert f"  {name} " in str(caught.value)
    assert why in str(caught.value)
    assert "safetensors" in caught.value.hint


def test_all_that_is_dangerous_is_named_at_once(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(SYSTEM))
    with pytest.raises(UnsafeError) as caught:
        pickles.scan("m", [(name, tmp_path / name) for name in ("a.bin", "b.bin")], Collected())
    assert str(caught.value).count("imports posix.system") == 2


def test_weights_that_only_rebuild_tensors_are_innocuous(tmp_path: Path) -> None:
    assert scanned(tmp_path, "w.bin", archive(w__data_dot_pkl=REBUILD, w__data__0=b"\0" * 64)) == [("innocuous", ())]
    assert scanned(tmp_path, "notes", pickle.dumps({"a": 1})) == [("innocuous", ())]


def test_what_the_scanner_does_not_know_is_said_and_kept(tmp_path: Path) -> None:
    report = Collected()
    data = b"\x80\x02ctorch._utils\n_rebuild_parameter\ncargparse\nNamespace\n."
    unknown = ("argparse.Namespace", "torch._utils._rebuild_parameter")
    assert scanned(tmp_path, "w.bin", data, report) == [("suspicious", unknown)]
    assert "w.bin is a pickle that imports argparse.Namespace, torch._utils._rebuild_parameter" in report.warnings[0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("w.bin", b"w" * 5000),
        ("empty.pt", b""),
        ("vectors.bin", bytes(range(256)) * 10),
        ("model.safetensors", (640).to_bytes(8, "little") + b'{"w":' + b" " * 700),
        ("notes.zip", archive(a=b"text")),
        ("config.json", b"{}"),
        ("lengths.bin", b"\x8e" + NO_FILE + b"w" * 5000),
        ("lengths.dat", b"\x8d" + NO_FILE),
        ("array.bin", b"\x93NUMPY\x01\0" + bytes(128)),
        ("after a number.bin", b"K\x01\x93" + bytes(128)),
    ],
)
def test_what_is_no_pickle_is_none(name: str, data: bytes, tmp_path: Path) -> None:
    assert scanned(tmp_path, name, data) == []


def test_tensors_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("w/data.pkl", REBUILD)
        packed.writestr("w/data/0", bytes(64 << 20))

    def read() -> int:
        return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])

    before = read()
    assert pickles.scan("m", [("w.bin", path)], Collected())
    assert read() - before < 1 << 20


def test_the_first_bytes_tell_a_pickle_whatever_its_name() -> None:
    assert telling.begins_like_one(pickle.dumps(1))
    assert telling.begins_like_one(archive(w__data_dot_pkl=b"x"))
    assert not telling.begins_like_one((640).to_bytes(8, "little") + b"{}")
    assert not telling.begins_like_one(archive(text=b"x"))
    assert not telling.begins_like_one(b"")
    assert [telling.named_like_one(name) for name in ("a/W.BIN", "w.pt", "w.safetensors")] == [True, True, False]

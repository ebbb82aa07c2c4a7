"""Where pickles stand, told by what is in a file; and what is no pickle, whatever its bytes look like."""

from __future__ import annotations

import json
import pickle
import random
import sysconfig
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.format.scan import pickle_detection
from tests.support.paths import ROOT
from tests.support.picklemaking import ARRAY, RUNS, SYSTEM, archive, moved, safetensors, tar

Written = Callable[[bytes], Path]
NUMBERS = ARRAY.replace(b"'|O'", b"'<f4'").replace(RUNS, bytes(4))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("files") / "w"

    def write(data: bytes) -> Path:
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (archive(w__data__0=b"x" * 900, w__data_dot_pkl=RUNS), [("w/data.pkl", 0)]),
        (b"#!x\n" + moved(archive(w__data_dot_pkl=RUNS), 4), [("w/data.pkl", 0)]),
        (b"N." + moved(archive(w__data_dot_pkl=RUNS), 2), [("w/data.pkl", 0)]),
        (RUNS + moved(archive(w__data_dot_pkl=RUNS), len(RUNS)), [("w/data.pkl", 0), ("", 0)]),
        (tar(a=b"x") + moved(archive(w__data_dot_pkl=RUNS), len(tar(a=b"x"))), [("w/data.pkl", 0)]),
        (archive(a_dot_npy=ARRAY), [("a.npy", ARRAY.index(RUNS)), ("", 0)]),
        (ARRAY, [("", ARRAY.index(RUNS))]),
        (pickle.dumps(1), [("", 0)]),
        (pickle.dumps(SYSTEM, 0), [("", 0)]),
        (RUNS[:-1] + b"\xff", [("", 0)]),
        (safetensors(0x4B0280)[:-1], [("", 0)]),
        (safetensors(0x4B0280).replace(b"{", b"[", 1), [("", 0)]),
        (safetensors(0x4B0280).replace(b"4]", b"9]"), [("", 0)]),
    ],
    ids=range(13),
)
def test_where_pickles_stand(data: bytes, expected: list[tuple[str, int]], written: Written) -> None:
    assert list(pickle_detection.find_pickles(written(data))) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        pickle.dumps(1, 0),
        safetensors(),
        safetensors(0x4B0280),
        archive(text=b"x"),
        b"#!x\n" + archive(text=b"x"),
        tar(a=b"x"),
        tar(a=archive(text=b"x")),
        NUMBERS,
        archive(a_dot_npy=NUMBERS),
        b"PK\5\6" + bytes(300),
        b"cat\ndog\n",
        b"car\nbus\ncat\ndog\nbird\n",
        b"import os\nimport sys\n",
        b"class A:\n    pass\n",
        b"p" + b"andas and others " * 100 + b"\n",
        b"g" + b"reen " * 100_000,
        b"c" + b"razy " * 100_000,
        b"I " + b"like " * 100_000,
        b"S" + b"ome " * 100_000,
        b"IQ== 0\nIg== 1\n",
        b"#version: 0.2\nc a\nca t\n",
        b"[PAD]\n[UNK]\nthe\n",
        b"\x82\x01.",
        b"\x84aroberta",
    ],
    ids=range(26),
)
def test_what_is_no_pickle(data: bytes, written: Written) -> None:
    assert pickle_detection.find_pickles(written(data)) == ()


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)


@settings(deadline=None)  # it writes a file
@given(st.lists(st.tuples(WORDS, WORDS).map(" ".join), max_size=30))
def test_text_is_none(written: Written, lines: list[str]) -> None:
    """Merges, tokens with their numbers, sentences, code: in each line a space."""
    assert pickle_detection.find_pickles(written("\n".join(lines).encode())) == ()


@settings(deadline=None)  # it writes a file
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_documents_are_none(written: Written, document: object) -> None:
    for text in (json.dumps({"m": document}), json.dumps({"m": document}, ensure_ascii=False, indent=1)):
        assert pickle_detection.find_pickles(written(text.encode("utf-8", "replace"))) == ()


def test_lists_of_words_and_random_data_are_none(written: Written) -> None:
    """One word a line: hardly ever is a list a pickle as well that puts something into what it imports."""
    numbers = random.Random(7)
    found = 0
    for _ in range(1500):
        words = ["".join(numbers.choices("etaoinshrdlcumwfgypbvkjxqz", k=numbers.randint(2, 9))) for _ in range(200)]
        for order in (words, sorted(words), [word.capitalize() for word in words]):
            found += len(pickle_detection.find_pickles(written("\n".join(order).encode())))
        assert pickle_detection.find_pickles(written(numbers.randbytes(2000))) == ()
    assert found <= 2


def test_real_files_are_none() -> None:
    """Those of this project, and those that its packages brought here: code, text, data and libraries."""
    places = [ROOT / "bundler", ROOT / "docs", ROOT / "manifests", Path(sysconfig.get_path("purelib"))]
    files = (path for place in places for path in sorted(place.rglob("*")) if path.is_file() and not path.is_symlink())
    looked_at = [path for path in islice(files, 6000) if path.suffix not in (".whl", ".pkl", ".pickle")]
    assert len(looked_at) > 500
    assert [path for path in looked_at if pickle_detection.find_pickles(path)] == []


@pytest.mark.parametrize(
    "data",
    [
        tar(pickle=b""),
        archive(a=b"x") + b"PK\5\6",
        b"x" + archive(w__data_dot_pkl=RUNS),
        archive(w__data_dot_pkl=RUNS) + b"x",
        b"N" * 5_000_001,
    ],
    ids=["tar", "two ends", "what stands before is not counted", "something behind it", "more than is followed"],
)
def test_content_that_readers_could_see_in_two_ways(data: bytes, written: Written) -> None:
    with pytest.raises(pickle_detection.UnreadableFileError):
        pickle_detection.find_pickles(written(data))


@pytest.mark.parametrize("size", [1 << 30, 1 << 35])
def test_no_more_is_read_than_tells(size: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as made:
        made.write(safetensors()[:-4])
        made.truncate(size)

    def read() -> int:
        return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])

    before = read()
    assert pickle_detection.find_pickles(path) == ()
    assert read() - before < 200_000


def test_a_name_that_libraries_unpickle_makes_any_import_count(written: Written) -> None:
    path = written(b"cnumpy\nfloat32\n\xff")
    assert (pickle_detection.find_pickles(path), pickle_detection.find_pickles(path, has_suffix=True)) == (
        (),
        (("", 0),),
    )
    assert [pickle_detection.has_loadable_suffix(name) for name in ("a/W.BIN", "w.npy", "w.dat")] == [True, True, False]


def test_the_first_bytes_tell_a_pickle_whatever_its_name() -> None:
    assert pickle_detection.has_pickle_start(pickle.dumps(1))
    assert not pickle_detection.has_pickle_start((640).to_bytes(8, "little") + b"{}")
    assert not pickle_detection.has_pickle_start(b"")
    assert [pickle_detection.has_pickle_suffix(name) for name in ("a/W.BIN", "w.pt", "w.safetensors")] == [
        True,
        True,
        False,
    ]

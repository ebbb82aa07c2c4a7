"""Fuzzed bundles, locks and wheels: by what a bundle is made of in every run, guided by coverage in the long one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.format.lock import lockfile
from bundler.format.tar import tar_layout
from tests.format.fuzz import harness
from tests.support.forging import GOOD, make_head, make_lock_text, member
from tests.support.paths import ROOT
from tests.support.wheelmaking import make_wheel

MOST_MEMORY = 64 << 20
"""Bytes that reading may take, for bundles of a tenth of a megabyte."""

BOUNDED = settings(max_examples=120, deadline=None)
PLAN = tar_layout.compute_layout(lockfile.read_lock(make_lock_text(GOOD), ""), None)
OFFSETS = st.one_of(
    st.integers(0, len(GOOD)),
    st.sampled_from([at for one in PLAN.members for at in (one.header_offset, one.content_offset, one.end)]),
)


def read(data: bytes) -> None:
    """Whatever was done to a good bundle is seen, and costs little memory."""
    tracemalloc.start()
    try:
        survey = harness.read(data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert (survey is not None and not survey.damages) == (data == GOOD)


@BOUNDED
@given(st.lists(st.tuples(OFFSETS, st.binary(min_size=1, max_size=16)), min_size=1, max_size=8))
def test_bytes_are_overwritten(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(GOOD)
    for at, new in changes:
        data[at : at + len(new)] = new
    read(bytes(data))


@BOUNDED
@given(OFFSETS, OFFSETS, OFFSETS)
def test_a_part_is_put_elsewhere(start: int, end: int, to: int) -> None:
    part = GOOD[min(start, end) : max(start, end)]
    read(GOOD[:to] + part + GOOD[to:])


@BOUNDED
@given(OFFSETS, OFFSETS)
def test_a_part_is_left_out(start: int, end: int) -> None:
    read(GOOD[: min(start, end)] + GOOD[max(start, end) :])


@BOUNDED
@given(st.permutations([one.name for one in PLAN.members[3:]]))
def test_members_change_places(order: list[str]) -> None:
    start = PLAN.members[3].header_offset
    parts = [GOOD[one.header_offset : one.end + one.padding] for one in map(member, order)]
    read(GOOD[:start] + b"".join(parts) + GOOD[PLAN.end_offset :])


def places(document: object, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON document."""
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else [])
    )
    return [where, *(place for key, value in inside for place in places(value, (*where, key)))]


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.floats(),
        st.sampled_from(["../x", "/x", "models/m/x", "C:\\x", "\ud800", "\x00", "9" * 5000, "glibc-2.99", "NaN", "sNaN"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(json.loads(make_lock_text(GOOD)))[1:]), JSON)
def test_a_field_of_the_lock_is_another(place: tuple[Any, ...], value: object) -> None:
    document = json.loads(make_lock_text(GOOD))
    at: Any = document
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    data = text.encode("utf-8", "surrogatepass") + b"\n"
    harness.read_lock(data)
    harness.read(make_head(data))


@BOUNDED
@given(st.binary(max_size=600))
def test_anything_at_all(data: bytes) -> None:
    for target in harness.TARGETS:
        target(data)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    text = b"[console_scripts]\nalpha = alpha:main\n"
    files = {
        "alpha-1.0.dist-info/entry_points.txt": text,
        "alpha-1.0.data/scripts/x": b"#!python\n",
        "a.pth": b"import x",
    }
    return make_wheel(tmp_path_factory.mktemp("wheel"), "alpha", "1.0", files=files).read_bytes()


@BOUNDED
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), min_size=1, max_size=6))
def test_a_wheel_is_overwritten(wheel: bytes, changes: list[tuple[float, bytes]]) -> None:
    data = bytearray(wheel)
    for share, new in changes:
        at = int(share * (len(data) - 1))
        data[at : at + len(new)] = new
    harness.read_wheel(bytes(data))


@pytest.mark.long
def test_guided_by_coverage(wheel: bytes, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """No crash but our errors, no hang of 20 s, no more than 1 GiB, for a minute and a half."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    short = GOOD[: member("models/m/w.bin").content_offset + 600]
    for name, seed in {
        "bundle": b"\0" + GOOD, "cut": b"\0" + short, "head": b"\0" + GOOD[:9000],
        "lock": b"\1" + make_lock_text(GOOD), "wheel": b"\2" + wheel,
    }.items():  # fmt: skip
        (corpus / name).write_bytes(seed)
    seconds = int(os.environ.get("FUZZ_SECONDS", "90"))
    options = ["-timeout=20", "-rss_limit_mb=1024", "-max_len=100000", "-print_final_stats=1", "-len_control=0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.format.fuzz.guided", corpus, f"-max_total_time={seconds}", *options],
        check=False, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    ran = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert ran is not None
    record_property("executions", f"{ran[1]} in {seconds} s, {len(list(corpus.iterdir()))} inputs kept")
    assert int(ran[1]) > 100
    assert {path.name for path in tmp_path.iterdir()} == {"corpus"}

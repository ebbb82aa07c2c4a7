"""Every byte of a small bundle changed, and every length that it can be cut to: nothing goes unseen or unnamed."""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest

from bundler.errors import IntegrityError, UnsafeError
from bundler.format.lock import lockfile
from bundler.format.tar import archive, tar_layout
from bundler.format.tar.damage import DamagedError, DamageReport
from bundler.progress import RecordingReporter
from tests.support.bundles import make_bundle_bytes, make_lock

CONTENTS = {
    "bundle.pyz": b"#!/usr/bin/env python3\n",
    "models/m/a.json": b"{}",
    "models/m/same.json": b"{}",
    "models/m/empty": b"",
    "models/m/w.bin": b"w" * 700,
}
SIGNATURE = b'{"payload":"","payloadType":"","signatures":[]}' * 8
BATCH = 512

Wrong = tuple[int, int, str]
"""Where, which bits, and what was wrong with the answer."""


def small(*, signed: bool) -> bytes:
    return make_bundle_bytes(
        make_lock(CONTENTS, head_size=lockfile.HEAD_ALIGNMENT), CONTENTS, SIGNATURE if signed else None
    )


def read_damage_report(data: bytes) -> DamageReport | str:
    """What reading says in the end; words alone where the lock itself could not be read."""
    try:
        with archive.open_bundle(io.BytesIO(data), allow_damage=True) as carried:
            return carried.check_content(RecordingReporter())
    except DamagedError as error:
        return error.damage_report
    except (IntegrityError, UnsafeError) as error:
        return str(error)


def lock_of_range(data: bytes) -> range:
    size = tar_layout.parse_size(data[: tar_layout.ALIGNMENT], lockfile.LOCK_FILE)
    assert size is not None
    return range(tar_layout.ALIGNMENT, tar_layout.ALIGNMENT + size)


def find_unseen_flips(good: bytes, places: Sequence[tuple[int, int]]) -> list[Wrong]:
    """The flips that a reader did not see, or laid at another byte's door."""
    lockfile.read_lock = functools.lru_cache(maxsize=8)(
        lockfile.read_lock
    )  # a pure function; most flips leave the lock alone
    data, wrong = bytearray(good), list[Wrong]()
    locked = lock_of_range(good)
    for at, bits in places:
        data[at] ^= bits
        found = read_damage_report(bytes(data))
        data[at] ^= bits
        if isinstance(found, DamageReport):
            named = any(damage.start <= at < damage.end for damage in found.damages)
            if not named:
                wrong.append((at, bits, found.text if found.damages else "not seen"))
        elif at not in locked:
            wrong.append((at, bits, found))
    return wrong


def cut(good: bytes, places: Sequence[tuple[int, int]]) -> list[Wrong]:
    """The lengths at which a reader did not see the cut, or did not say where it is."""
    lockfile.read_lock = functools.lru_cache(maxsize=8)(lockfile.read_lock)
    wrong = list[Wrong]()
    after_lock = lock_of_range(good).stop
    for at, _ in places:
        found = read_damage_report(good[:at])
        if isinstance(found, DamageReport):
            if not found.damages or found.found != at or found.whole_to > at:
                wrong.append((at, 0, found.text))
        elif at >= after_lock:
            wrong.append((at, 0, found))
    return wrong


def run_on_every_core(
    act: Callable[[bytes, Sequence[tuple[int, int]]], list[Wrong]], good: bytes, places: list[tuple[int, int]]
) -> list[Wrong]:
    batches = [places[n : n + BATCH] for n in range(0, len(places), BATCH)]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return [one for found in pool.map(functools.partial(act, good), batches) for one in found]


def busy(good: bytes) -> list[int]:
    """Every offset outside of the head's slack, and every 37th in it: thousands of equal dots in one comment."""
    start = good.index(b"." * 4096)
    slack = range(start, good.index(b"bundle.pyz\0", start))
    return [at for at in range(len(good)) if at not in slack or at % 37 == 0]


def flip_all(good: bytes, places: list[tuple[int, int]], record: Callable[[str, object], None]) -> None:
    wrong = run_on_every_core(find_unseen_flips, good, places)
    record("flips", f"{len(places)} tried, {len(places) - len(wrong)} detected and named")
    assert wrong == []


def cut_all(good: bytes, places: Sequence[int], record: Callable[[str, object], None]) -> None:
    wrong = run_on_every_core(cut, good, [(at, 0) for at in places])
    record("cuts", f"{len(places)} tried, {len(places) - len(wrong)} detected and placed")
    assert wrong == []


SIGNED = pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])


@SIGNED
def test_a_flipped_bit_of_any_byte_is_seen_and_named(
    signed: bool, record_property: Callable[[str, object], None]
) -> None:
    good = small(signed=signed)
    flip_all(good, [(at, 1 << at % 8) for at in busy(good)], record_property)


@SIGNED
def test_a_cut_is_seen_and_placed(signed: bool, record_property: Callable[[str, object], None]) -> None:
    good = small(signed=signed)
    cut_all(good, busy(good), record_property)


@pytest.mark.long
@SIGNED
def test_a_flip_in_every_byte_is_seen_and_named(signed: bool, record_property: Callable[[str, object], None]) -> None:
    good = small(signed=signed)
    flip_all(good, [(at, 1 << at % 8) for at in range(len(good))], record_property)


@pytest.mark.long
@SIGNED
def test_every_length_that_it_is_cut_to_is_seen_and_placed(
    signed: bool, record_property: Callable[[str, object], None]
) -> None:
    good = small(signed=signed)
    cut_all(good, range(len(good)), record_property)

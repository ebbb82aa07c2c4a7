"""The shelf: whole files under their own digests, whoever else puts some there."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bundler.errors import FetchError
from bundler.format.hashing import compute_sha256
from bundler.online.transfer.cache import FileCache

DATA = b"some bytes" * 1000
DIGEST = compute_sha256(DATA)


def list_leftovers(store: FileCache) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file() and "files" not in path.parts]


def test_what_is_put_here_is_found_by_its_digest(cache: FileCache) -> None:
    assert cache.put_bytes(DATA) == DIGEST
    assert cache.require(DIGEST).read_bytes() == DATA
    assert cache.find(DIGEST, len(DATA)) == cache.require(DIGEST)
    assert list_leftovers(cache) == []


def test_what_is_not_here_is_not_found(cache: FileCache) -> None:
    assert cache.find(DIGEST) is None
    with pytest.raises(FetchError, match=DIGEST):
        cache.require(DIGEST)


def test_files_are_read_only(cache: FileCache) -> None:
    cache.put_bytes(DATA)
    assert stat.S_IMODE(cache.require(DIGEST).stat().st_mode) == 0o444


def test_an_empty_file_has_a_place_too(cache: FileCache) -> None:
    assert cache.require(cache.put_bytes(b"")).read_bytes() == b""


def test_a_file_that_a_crash_emptied_does_not_count(cache: FileCache) -> None:
    cache.put_bytes(DATA)
    place = cache.require(DIGEST)
    place.chmod(0o644)
    place.write_bytes(b"")
    assert cache.find(DIGEST) is None
    cache.put_bytes(DATA)
    assert cache.require(DIGEST).read_bytes() == DATA


def test_a_file_of_another_size_does_not_count(cache: FileCache) -> None:
    cache.put_bytes(DATA)
    assert cache.find(DIGEST, len(DATA) + 1) is None


def test_adopt_hashes_and_moves(cache: FileCache) -> None:
    with cache.temporary_path() as path:
        path.write_bytes(DATA)
        assert cache.move_in(path) == (len(DATA), DIGEST)
        assert not path.exists()
    assert cache.require(DIGEST).read_bytes() == DATA


def test_adopting_what_is_here_already_takes_it_away(cache: FileCache) -> None:
    cache.put_bytes(DATA)
    with cache.temporary_path() as path:
        path.write_bytes(DATA)
        assert cache.move_in(path) == (len(DATA), DIGEST)
    assert list_leftovers(cache) == []


def test_copy_in_leaves_the_source(cache: FileCache, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    assert cache.copy_in(source) == (len(DATA), DIGEST)
    assert source.read_bytes() == DATA
    assert cache.require(DIGEST).read_bytes() == DATA
    assert list_leftovers(cache) == []


def test_a_copy_that_fails_leaves_nothing(cache: FileCache, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cache.copy_in(tmp_path / "nothing")
    assert list_leftovers(cache) == []


def test_drop(cache: FileCache) -> None:
    cache.put_bytes(DATA)
    cache.remove(DIGEST)
    cache.remove(DIGEST)
    assert cache.find(DIGEST) is None


def test_a_fresh_name_is_free_and_gone_afterwards(cache: FileCache) -> None:
    with cache.temporary_path() as one, cache.temporary_path() as other:
        assert one != other
        assert not one.exists()
        one.write_bytes(DATA)
    assert list_leftovers(cache) == []


def test_several_that_put_the_same_do_not_harm_one_another(cache: FileCache) -> None:
    together = threading.Barrier(8)

    def put() -> str:
        together.wait()
        return cache.put_bytes(DATA)

    with ThreadPoolExecutor(8) as pool:
        assert {one.result() for one in [pool.submit(put) for _ in range(8)]} == {DIGEST}
    assert cache.require(DIGEST).read_bytes() == DATA
    assert list_leftovers(cache) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", DIGEST.upper(), DIGEST[:-1], DIGEST + "/x"])
def test_only_digests_are_names(cache: FileCache, name: str) -> None:
    for ask in (cache.find, cache.remove, cache.get_partial_path):
        with pytest.raises(ValueError, match="64 lower-case"):
            ask(name)


def test_where_the_shelf_of_this_user_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert FileCache.from_environment().root == Path.home() / ".cache" / "airgap-bundler"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which the specification says to ignore")
    assert FileCache.from_environment().root == Path.home() / ".cache" / "airgap-bundler"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert FileCache.from_environment().root == tmp_path / "caches" / "airgap-bundler"
    monkeypatch.setenv("BUNDLE_CACHE", str(tmp_path / "shelf"))
    assert FileCache.from_environment().root == tmp_path / "shelf"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUNDLE_CACHE", "here")
    assert FileCache.from_environment().root == tmp_path / "here"

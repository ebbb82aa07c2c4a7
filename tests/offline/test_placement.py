"""How much room a bundle takes, counted before any of its content is checked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import pytest

from bundler.format.tar import archive
from bundler.format.tar.reader import FileReader
from bundler.offline import placement
from tests.support.bundles import PackedBundle

WHEEL = "tools/a-1-py3-none-any.whl"


def wheel(count: int) -> bytes:
    """A zip of empty files, which is all table of contents."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for number in range(count):
            packed.writestr(f"{number:060}", b"")
    return out.getvalue()


@pytest.mark.parametrize("count", [100, 60_000])
def test_a_table_of_contents_that_is_too_large_is_not_read(
    pack: Callable[..., PackedBundle], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Nothing has hashed it yet: whoever spoiled the medium could have it take all the memory there is."""
    content = wheel(count)
    packed, seen = pack({"bundle.pyz": b"x", WHEEL: content}), []
    read = FileReader.read

    def counted(self: FileReader, at: int, size: int) -> bytes:
        seen.append(size)
        return read(self, at, size)

    with archive.open_bundle(packed.path) as carried:
        (artifact,) = carried.lock.list_artifacts("tool")
        monkeypatch.setattr(FileReader, "read", counted)
        taken = placement._estimate_unpacked_size(carried, artifact)
    assert taken == (0 if count == 100 else 4 * len(content))
    assert sum(seen) < 1 << 20

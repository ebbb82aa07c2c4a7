"""Bundles as a forger would make them: every lie told in the lock, the sums and the headers alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bundler.format.hashing import compute_sha256
from bundler.format.lock import entries, lockfile
from bundler.format.lock.entries import Artifact, Model
from bundler.format.lock.lockfile import Lock
from bundler.format.tar import tar_layout
from bundler.format.tar.tar_layout import ALIGNMENT, BLOCK_BYTES
from tests.support.bundles import SMALL, make_bundle_bytes, make_lock

T = TypeVar("T")

CONTENTS = SMALL | {"models/m/z.txt": b"{}", "assets/words.txt": b"words"}
"""With a hard link: z.txt is config.json again."""

GOOD = make_bundle_bytes(make_lock(CONTENTS, head_size=lockfile.HEAD_ALIGNMENT), CONTENTS)


def unchecked(made_as: type[T], known: T, /, **changes: Any) -> T:
    """A value like ``known`` that its constructor was not asked about."""
    made = made_as.__new__(made_as)
    names = [field.name for field in made_as.__dataclass_fields__.values()]  # type: ignore[attr-defined]
    for name in names:
        object.__setattr__(made, name, changes.get(name, getattr(known, name)))
    return made


def forge_bundle(change: Callable[[list[tuple[str, entries.ArtifactKind, bytes]]], object], **changes: Any) -> bytes:
    """A bundle whose lock, sums, headers and content agree with each other after ``change``."""
    good = make_lock(CONTENTS, head_size=lockfile.HEAD_ALIGNMENT)
    files = [(artifact.path, artifact.kind, CONTENTS[artifact.path]) for artifact in good.artifacts]
    change(files)
    artifacts = tuple(
        unchecked(Artifact, good.artifacts[0], path=path, kind=kind, size=len(data), sha256=compute_sha256(data))
        for path, kind, data in files
    )
    owned = [(a.sha256, a.path.removeprefix("models/m/")) for a in artifacts if a.kind == "model"]
    digest = lockfile.compute_files_digest(owned)
    models = (unchecked(Model, good.models[0], digest=digest, commit=digest[:40]),)
    told = unchecked(Lock, good, artifacts=artifacts, models=models, **changes)
    return make_bundle_bytes(told, _Contents(files))


class _Contents(Mapping[str, bytes]):
    """Contents by path, where two may share one."""

    def __init__(self, files: list[tuple[str, entries.ArtifactKind, bytes]]) -> None:
        self._files = files

    def __getitem__(self, path: str) -> bytes:
        return next(data for name, _, data in self._files if name == path)

    def __iter__(self) -> Any:
        return iter([name for name, _, _ in self._files])

    def __len__(self) -> int:
        return len(self._files)


def make_head(text: bytes, claimed: int | None = None) -> bytes:
    """The start of a bundle whose bundle.json is ``text``, or claims to be of another size; then zeros."""
    good = tar_layout.compute_layout(make_lock(CONTENTS), None).members[0]
    size = len(text) if claimed is None else claimed
    header = unchecked(tar_layout.Member, good, size=size).make_header()
    return header + text + bytes(-len(text) % BLOCK_BYTES) + bytes(2 * ALIGNMENT)


def member(name: str, data: bytes = GOOD) -> tar_layout.Member:
    """A member of a good bundle."""
    plan = tar_layout.compute_layout(lockfile.read_lock(make_lock_text(data), ""), None)
    return next(one for one in plan.members if one.name == name)


def make_lock_text(data: bytes) -> bytes:
    """The bytes of bundle.json."""
    size = tar_layout.parse_size(data[:ALIGNMENT], lockfile.LOCK_FILE)
    assert size is not None
    return data[ALIGNMENT : ALIGNMENT + size]


def replace_head(of: str, /, **fields: bytes) -> bytes:
    """A good bundle in which one member's ustar block says otherwise, with a checksum that is right."""
    at = member(of).content_offset - BLOCK_BYTES
    block = bytearray(GOOD[at : at + BLOCK_BYTES])
    for field, value in fields.items():
        start, length = _FIELDS[field]
        block[start : start + length] = value.ljust(length, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return GOOD[:at] + bytes(block) + GOOD[at + BLOCK_BYTES :]


_FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "size": (124, 12),
    "type": (156, 1),
    "link": (157, 100),
    "prefix": (345, 155),
}


def add_records(name: str, records: bytes, kind: bytes = b"x") -> bytes:
    """A good bundle in which a header of ``kind`` with these records stands before a member's ustar block."""
    one = member(name)
    at = one.content_offset - BLOCK_BYTES
    block = bytearray(BLOCK_BYTES)
    block[:13] = b"././@LongLink" if kind == b"L" else b"./PaxHeaders/"
    block[100:108] = block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % len(records)
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[257:265] = b"ustar\0" + b"00"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return GOOD[:at] + bytes(block) + records + bytes(-len(records) % BLOCK_BYTES) + GOOD[at:]


def record(keyword: bytes, value: bytes) -> bytes:
    return tar_layout._make_record(keyword, value)
